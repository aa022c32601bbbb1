"""The fault lab: a whole Beeline behind proxies that misbehave on demand, and people who use it.

`proxy.py` is a proxy for any TCP service, `s3faults.py` one for S3, `stack.py` starts and ends
processes, `people.py` uses them as browsers do, `truth.py` checks what is really in the database
and in storage, and `lab.py` puts it all together.
"""
