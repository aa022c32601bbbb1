"""Crash points, so that tests can kill a process at every step; inert without BEELINE_CRASH_AT.

An operation of several steps names them in order: `process.1`, `process.2` ... A process started
with BEELINE_CRASH_AT=process.2 ends there as if by SIGKILL: nothing is cleaned up.
"""

import os

AT = os.environ.get("BEELINE_CRASH_AT")


def point(step: str) -> None:
    """End the process with status 137 if this is the step that BEELINE_CRASH_AT names."""
    if step == AT:
        os._exit(137)
