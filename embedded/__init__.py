"""Everything `make run` starts where no address of a real service is set.

The application knows nothing of this package: it reads addresses from its environment, and whether
an embedded or a real service answers there is none of its business.
"""
