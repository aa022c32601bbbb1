"""`python worker.py [queue ...]` runs jobs; `python worker.py clock` queues them by schedule;
`python worker.py sqs` processes the messages of the event queue.

Any number of each may run: jobs and mails are claimed in the database, and of several clocks only
one queues each tick.
"""

import logging
import signal
import sys
import threading
import time

import click
from flask import Flask

from app import create_app, get_ready, jobs
from app.config import ConfigError
from app.extensions import events, queue
from app.services import event_queue

log = logging.getLogger("beeline.worker")
# The pause after a failure of the event queue or the database.
REST_SECONDS = 3


def clock(stop: threading.Event) -> None:
    """Queue each job of the schedule at its interval until `stop` is set; survives Redis errors."""
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
                # All that is due is tried again in a second: if the clock died, every sweep would
                # stop. Not the others now, which would fail for the same reason and fill the log.
                log.warning("could not queue %s: %s", job.name, error)
                break
        stop.wait(1)


def listen(app: Flask, stop: threading.Event) -> None:
    """Process the event queue until `stop` is set; outlives failures of queue and database."""
    if not events.listens:
        # Keep running: a supervisor that runs every line of the Procfile would otherwise restart
        # this again and again, or stop when it does.
        log.info("SQS_QUEUE_URL is not set: there is nothing to listen to")
        stop.wait()
        return
    event_queue.check_queue()
    while not stop.is_set():
        try:
            with app.app_context():
                event_queue.take_messages()
        except Exception as error:
            log.warning("could not work on the event queue: %s", error)
            stop.wait(REST_SECONDS)


def _stop_by_signal(stop: threading.Event) -> None:
    for known in (signal.SIGTERM, signal.SIGINT):
        signal.signal(known, lambda signum, frame: stop.set())


def _refuse_unknown(words: list[str]) -> None:
    """Exit and list the queues if one does not exist: a worker would wait on it forever."""
    for word in words:
        if word not in jobs.QUEUES:
            known = ", ".join(jobs.QUEUES)
            said = f"There is no queue {word}. Name some of {known}; or only clock, or only sqs."
            click.echo(said, err=True)
            sys.exit(2)


def main(words: list[str]) -> None:
    """Run the clock, the listener, or a worker on the named queues (on all if none is named)."""
    if words not in (["clock"], ["sqs"]):
        _refuse_unknown(words)
    try:
        app = create_app()
    except ConfigError as error:
        error.show()
        sys.exit(1)
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
