"""The job queue in our words. The only file that imports rq.

Redis holds reminders, never the truth: losing all of it delays work until the next sweep.
Jobs are serialised as JSON and carry ids only.
"""

import logging
import signal
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from types import FrameType
from typing import Any, Protocol

import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.worker.base import WorkerStatus

from app.circuit import Circuit
from app.config import Settings
from app.db import db
from app.redaction import redacted

log = logging.getLogger(__name__)

# The platform kills 30 s after SIGTERM (Heroku); we are gone before, see BeelineWorker.
STOP_SECONDS = 20
# After a failure Redis is left alone so long.
REST_SECONDS = 3.0
# How long RQ keeps a failed job with its traceback, which the log has too. While the database is
# away the schedule alone brings one every few seconds, and what is kept takes the queue's room.
FAILURE_SECONDS = 600


class Work(Protocol):
    """What the queue needs to know of a job: app/jobs.py has the table."""

    @property
    def name(self) -> str:
        """Short and unique."""

    @property
    def path(self) -> str:
        """The dotted name of the function that does it."""

    @property
    def queue(self) -> str:
        """Where it waits."""

    @property
    def timeout_seconds(self) -> int:
        """After how long it is given up."""


class JobQueue:
    """Redis, bound late; every call has a short timeout so that no request hangs on it."""

    def bind(self, settings: Settings) -> None:
        """Take the settings; opens no connection."""
        self._url = settings.redis_url
        self._redis = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=1.5,
            socket_connect_timeout=1.5,
            # One more try, for a connection that Redis closed while it was idle.
            retry=Retry(NoBackoff(), 1),
        )
        # For everything that asks Redis in this process: it is away for all of them.
        self.circuit = Circuit(REST_SECONDS)

    def put(self, work: Work, *ids: str, attempt: int = 0) -> None:
        """Queue `work` for these ids; raises redis.RedisError.

        The attempt is part of the job's id, so that each reminder can be told from the last.
        """
        job_id = f"{_reminder_of(work, *ids)}-{attempt}" if attempt else None
        with self._asking():
            self._queue(work.queue).enqueue(
                work.path,
                *ids,
                job_id=job_id,
                job_timeout=work.timeout_seconds,
                result_ttl=0,
                failure_ttl=FAILURE_SECONDS,
            )

    def put_again(self, work: Work, reminders: Iterable[tuple[str, int]]) -> None:
        """Queue `work` for each (id, attempt) of which no reminder waits here any more.

        Where work waits for long, each reminder of it would only make it wait longer. Raises
        redis.RedisError.
        """
        known = self._waiting(work)
        for one, attempt in reminders:
            if _reminder_of(work, one) not in known:
                self.put(work, one, attempt=attempt)

    def put_once(self, work: Work, slot: int, seconds: int) -> bool:
        """Queue `work` unless a clock has done so for this slot, or the last one still waits.

        Where nobody takes it for a night, or ever, it waits once. Raises redis.RedisError.
        """
        key = f"beeline:tick:{work.name}:{slot}"
        with self._asking():
            if not self._redis.set(key, "1", nx=True, ex=2 * seconds):
                return False
        if _reminder_of(work) in self._waiting(work):
            return False
        self.put(work, attempt=slot)
        return True

    def _waiting(self, work: Work) -> set[str]:
        """What the ids of the reminders begin with that wait where `work` does."""
        with self._asking():
            waiting = self._queue(work.queue).get_job_ids()
        return {job_id.rpartition("-")[0] for job_id in waiting}

    def check(self) -> None:
        """Raise redis.RedisError unless Redis answers, and takes what is queued."""
        with self._asking():
            # Not a ping: one that is full, or only a replica, answers all the same.
            self._redis.set("beeline:ready", "1", ex=60)

    def _asking(self) -> AbstractContextManager[None]:
        away = redis.ConnectionError("the queue did not answer a moment ago")
        return self.circuit.guard((redis.RedisError,), away)

    def run_worker(self, app: Flask, names: list[str], stopping: threading.Event) -> None:
        """Work on these queues, first one first, until SIGTERM or SIGINT; survives Redis."""
        # Raised by the signal where it finds an RQ worker that is between two jobs, or has ended.
        with suppress(StopRequested):
            while not stopping.is_set():
                # RQ gives up when Redis hangs, and may even fail to say so; a new worker finds
                # it when it is back.
                try:
                    self._make_worker(app, names, stopping).work(logging_level="WARNING")
                except redis.RedisError as error:
                    log.warning("the queue does not answer: %s", error)
                stopping.wait(1)

    def _make_worker(
        self, app: Flask, names: list[str], stopping: threading.Event
    ) -> "BeelineWorker":
        """A worker blocks on Redis for seconds at a time, so it has a connection of its own."""
        connection = redis.Redis.from_url(
            self._url,
            socket_connect_timeout=3,
            # How long it waits for an answer is up to RQ, and our own loop does the repeating.
            retry=Retry(NoBackoff(), 1),
        )
        worker = BeelineWorker(
            [Queue(name, connection=connection, serializer=JSONSerializer) for name in names],
            connection=connection,
            serializer=JSONSerializer,
            # With the defaults a killed worker's job is noticed after 13 minutes.
            worker_ttl=20,
            maintenance_interval=10,
            job_monitoring_interval=5,
        )
        worker.app, worker.stopping = app, stopping
        return worker

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self._redis, serializer=JSONSerializer)


def _reminder_of(work: Work, *ids: str) -> str:
    """What the ids of all reminders of the same work begin with."""
    return "-".join((work.name.replace(".", "_"), *ids))


class BeelineWorker(Worker):
    """An RQ worker that leaves within STOP_SECONDS of SIGTERM without losing work.

    Each job runs in a forked child. On SIGTERM no new job is taken; the child is told, and
    finishes or gives its lease back; whoever is still there at the end is killed, and its lease
    lapses.
    """

    app: Flask
    stopping: threading.Event
    # Redis is looked for again this often at least, however long it has been away.
    max_connection_wait_time = 4.0

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: leave. Further ones say nothing new (Heroku repeats SIGTERM)."""
        for known in (signal.SIGINT, signal.SIGTERM):
            signal.signal(known, signal.SIG_IGN)
        log.info("worker stops")
        self.stopping.set()
        if self.horse_pid:
            self.kill_horse(signal.SIGTERM)
            last_resort = threading.Timer(STOP_SECONDS, self.kill_horse)
            last_resort.daemon = True
            last_resort.start()
        # As RQ's own _shutdown() does, but without telling Redis, which may be away just now.
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        self._stop_requested = True

    def setup_work_horse_signals(self) -> None:
        """The child goes on after SIGTERM, and its job sees `stopping`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda signum, frame: self.stopping.set())

    def perform_job(self, job: RqJob, queue: Queue) -> bool:
        """Run one job inside the application, with database connections of its own."""
        with self.app.app_context():
            # What the parent may have open must not be shared by a forked child.
            db.engine.dispose(close=False)
            return super().perform_job(job, queue)

    def handle_job_failure(
        self, job: RqJob, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        """RQ keeps the traceback in Redis, and PostgreSQL's part of it may repeat a whole row."""
        super().handle_job_failure(job, queue, started_job_registry, redacted(exc_string))

    def handle_exception(self, job: RqJob, *exc_info: Any) -> None:
        """One line with the job's name and the reason."""
        log.error("job failed", exc_info=exc_info, extra={"job": job.func_name})
