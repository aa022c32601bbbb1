"""A soak: people use a whole Beeline while it is sabotaged, and at the end nothing is out of place.

    make soak MINUTES=10 SEED=7

`plan.py` makes from the seed what people will do and what will break, `people.py` lives those
lives, `sabotage.py` breaks things, `operator.py` sweeps and lets time pass, `invariants.py` says
what must be true in the end, and `__main__.py` puts it all together. The same seed is the same
plan; how the threads and processes meet is up to the machine, so a failure may take a few runs
of its seed to come again.
"""
