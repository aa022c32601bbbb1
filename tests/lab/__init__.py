"""The fault laboratory: proxies that misbehave on demand, a whole Beeline behind them, and people.

`proxy.py` stands before anything that speaks TCP, `s3faults.py` answers for S3, `stack.py` starts
and ends processes, `people.py` uses them as browsers do, `truth.py` looks at what is really there,
and `lab.py` puts it all together.
"""
