"""Beeline against its peers, in turn, on one machine: only the ratios mean anything.

`turns.py` takes the turns and prints the table, `place.py` is the endpoint and the Beelines before
it, `line.py` a slow line, `sink.py` a storage that forgets, `chromium.py` the browser, `peers.py`
the others. Each further file is one benchmark, named in `__main__.py`; docs/speed.md says how to
read them.
"""
