"""`python worker.py [queue ...]` runs jobs; `python worker.py clock` queues them by schedule.

Any number of either may run: jobs are claimed in the database, and of several clocks one puts
each tick.
"""

import logging
import signal
import sys
import threading
import time

from app import create_app, jobs
from app.extensions import queue

log = logging.getLogger("beeline.worker")


def clock(stop: threading.Event) -> None:
    """Queue each job of the schedule at its interval until told to stop; survives Redis."""
    done: dict[str, int] = {}
    while not stop.is_set():
        for seconds, job in jobs.SCHEDULE:
            slot = int(time.time() // seconds)
            if done.get(job.name) == slot:
                continue
            try:
                queue.put_once(job, slot, seconds)
                done[job.name] = slot
            except Exception as error:
                # Tried again in a second: a clock that dies would stop every sweep.
                log.warning("could not queue %s: %s", job.name, error)
        stop.wait(1)


def main(words: list[str]) -> None:
    """Run the clock, or a worker on the named queues (all of them when none is named)."""
    app = create_app()
    if words == ["clock"]:
        stop = threading.Event()
        for known in (signal.SIGTERM, signal.SIGINT):
            signal.signal(known, lambda signum, frame: stop.set())
        clock(stop)
    else:
        queue.run_worker(app, words or jobs.QUEUES, jobs.stopping)


if __name__ == "__main__":
    main(sys.argv[1:])
