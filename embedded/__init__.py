"""What `make run` starts in place of each real service whose address is not set.

The application knows nothing of this package: it reads addresses from its environment and cannot
tell whether an embedded or a real service answers.
"""
