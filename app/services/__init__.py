"""The business. Functions named by a verb change something, in a transaction of their own or of
their caller; conditions (`is_...`) and finders (`..._of`, `find_...`) only read.

Only this package opens transactions, apart from leases.py, which it uses.
"""
