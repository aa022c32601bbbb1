"""`python worker.py [queue ...]` runs jobs; `python worker.py clock` queues them by schedule;
`python worker.py sqs` does what arrives in the event queue.

Any number of each may run: jobs and mails are claimed in the database, and of several clocks one
puts each tick.
"""

import logging
import signal
import sys
import threading
import time

import click
from flask import Flask

from app import create_app, get_ready, jobs
from app.extensions import events, queue
from app.services import listening

log = logging.getLogger("beeline.worker")
# After a failure of the event queue or the database.
REST_SECONDS = 3


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


def listen(app: Flask, stop: threading.Event) -> None:
    """Work on the event queue until told to stop; survives queue and database."""
    if not events.listens:
        # It stays, so that whatever runs every line of the Procfile does not start it again and
        # again, or end with it.
        log.info("SQS_QUEUE_URL is not set: there is nothing to listen to")
        stop.wait()
        return
    listening.check_queue()
    while not stop.is_set():
        try:
            with app.app_context():
                listening.take_messages()
        except Exception as error:
            log.warning("could not work on the event queue: %s", error)
            stop.wait(REST_SECONDS)


def _stop_by_signal(stop: threading.Event) -> None:
    for known in (signal.SIGTERM, signal.SIGINT):
        signal.signal(known, lambda signum, frame: stop.set())


def _refuse_unknown(words: list[str]) -> None:
    """End with the queues that there are: at any other a worker would wait for ever."""
    for word in words:
        if word not in jobs.QUEUES:
            known = ", ".join(jobs.QUEUES)
            said = f"There is no queue {word}. Name some of {known}; or only clock, or only sqs."
            click.echo(said, err=True)
            sys.exit(2)


def main(words: list[str]) -> None:
    """Run the clock, the listener, or a worker on the named queues (all when none is named)."""
    if words not in (["clock"], ["sqs"]):
        _refuse_unknown(words)
    app = create_app()
    if words == ["clock"]:
        stop = threading.Event()
        _stop_by_signal(stop)
        clock(stop)
    elif words == ["sqs"]:
        _stop_by_signal(jobs.stopping)
        listen(app, jobs.stopping)
    else:
        get_ready()
        queue.run_worker(app, words or jobs.QUEUES, jobs.stopping)


if __name__ == "__main__":
    main(sys.argv[1:])
