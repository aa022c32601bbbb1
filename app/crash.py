"""A crash on demand, so that tests can die at every step; inert unless the environment says so.

Each operation of several steps names them in order: `process.1`, `process.2` ... A process
started with BEELINE_CRASH_AT=process.2 ends there as by SIGKILL: nothing is cleaned up.
"""

import os

AT = os.environ.get("BEELINE_CRASH_AT")


def point(step: str) -> None:
    """Die here if this is the step asked for."""
    if step == AT:
        os._exit(137)
