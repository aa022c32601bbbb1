"""Beeline against its peers, in turn, on one machine: only the ratios mean anything.

`turns.py` takes the turns and prints the table, `place.py` is the endpoint and the Beelines in
front of it, `line.py` a slow line, `sink.py` storage that discards the bytes, `chromium.py` the
browser, `peers.py` the competitors. Every other file is one benchmark, listed in `__main__.py`;
docs/speed.md says how to read them.
"""
