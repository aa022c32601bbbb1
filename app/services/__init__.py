"""The business logic: verbs change something, conditions and finders only read.

Verbs do so in a transaction of their own or of their caller; conditions are named `is_...`, finders
`..._of` or `find_...`. Only this package opens transactions, apart from leases.py, which it uses.
"""
