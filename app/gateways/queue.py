"""The job queue. The only file that imports rq.

Redis holds reminders of work, never its state: losing all of it delays work until the next sweep.
Jobs are serialised as JSON and carry only ids.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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
from rq.worker_registration import register

from app.circuit import Circuit
from app.config import Settings
from app.db import db
from app.redaction import redacted

log = logging.getLogger(__name__)

# Raised where Redis refuses or does not answer.
QueueError = redis.RedisError

# Heroku kills a process 30 s after SIGTERM; a worker stops before that, see BeelineWorker.
STOP_SECONDS = 20
# How long it may take after that, for what RQ writes to Redis.
FAREWELL_SECONDS = 3
# After a failure, do not try Redis again for this long.
REST_SECONDS = 3.0
# How long RQ keeps a failed job with its traceback, which is also in the log. While the database is
# down the schedule alone adds one every few seconds, and they take up Redis memory.
FAILURE_SECONDS = 600


class Work(Protocol):
    """What the queue needs to know about a job: app/jobs.py has the table."""

    @property
    def name(self) -> str:
        """Short and unique."""

    @property
    def path(self) -> str:
        """The dotted name of the function to call."""

    @property
    def queue(self) -> str:
        """The name of the queue it goes to."""

    @property
    def timeout_seconds(self) -> int:
        """The longest time that one run may take."""


@dataclass(frozen=True)
class Memory:
    """Redis's version, the bytes it uses, the most it may use (0: no limit), and what it does then.

    `policy` is its maxmemory-policy.
    """

    version: str
    used: int
    most: int
    policy: str


@dataclass(frozen=True)
class Listening:
    """A process that takes jobs: from which queues, and when it was last heard of."""

    queues: frozenset[str]
    age_seconds: float


class JobQueue:
    """Jobs in Redis. Every call has a short timeout, so that no request hangs on it."""

    def bind(self, settings: Settings) -> None:
        """Take the settings; opens no connection."""
        self._url = settings.redis_url
        self._redis = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=1.5,
            socket_connect_timeout=1.5,
            # One retry, for a connection that Redis has closed while it was idle.
            retry=Retry(NoBackoff(), 1),
        )
        # Shared by everything in this process that uses Redis.
        self.circuit = Circuit(REST_SECONDS)

    def put(self, work: Work, *ids: str, attempt: int = 0) -> None:
        """Queue `work` for these ids; raises redis.RedisError.

        The attempt is part of the job's id, so that a new reminder differs from the previous one.
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
        """Queue `work` for each (id, attempt) that has no reminder in the queue any more.

        When the queue is long, duplicates would only make it longer. Raises redis.RedisError.
        """
        known = self._waiting(work)
        for one, attempt in reminders:
            if _reminder_of(work, one) not in known:
                self.put(work, one, attempt=attempt)

    def put_once(self, work: Work, slot: int, seconds: int) -> bool:
        """Queue `work` unless a clock has done so for this slot, or an earlier one still waits.

        So with no worker running, at most one waits. Returns whether it was queued. Raises
        redis.RedisError.
        """
        with self._asking():
            if not self._redis.set(_tick_of(work, slot), "1", nx=True, ex=2 * seconds):
                return False
        if _reminder_of(work) in self._waiting(work):
            return False
        self.put(work, attempt=slot)
        return True

    def _waiting(self, work: Work) -> set[str]:
        """The id prefixes of all reminders in the queue of `work`."""
        with self._asking():
            waiting = self._queue(work.queue).get_job_ids()
        return {job_id.rpartition("-")[0] for job_id in waiting}

    def check(self) -> None:
        """Raise redis.RedisError unless Redis answers and accepts writes."""
        with self._asking():
            # Not PING, which a full Redis or a read-only replica answers too.
            self._redis.set("beeline:ready", "1", ex=60)

    def memory(self) -> Memory | None:
        """What Redis says about its memory; None if our user may not ask. Raises redis.RedisError.

        Some hosted Redis keep INFO, and no more of what we use, from the users that they give out.
        """
        with self._asking():
            try:
                # All sections: before Redis 7 it takes the name of one at most.
                told: dict[str, Any] = self._redis.info()
            except redis.ResponseError:
                return None
        return Memory(
            version=str(told["redis_version"]),
            used=int(told["used_memory"]),
            most=int(told.get("maxmemory", 0)),
            policy=str(told.get("maxmemory_policy", "")),
        )

    def processes(self) -> list[Listening]:
        """The processes that take jobs from queues; raises redis.RedisError.

        One that was killed is listed for up to 80 seconds.
        """
        with self._asking():
            known = Worker.all(connection=self._redis, serializer=JSONSerializer)
        now = datetime.now(UTC)
        return [
            Listening(frozenset(one.queue_names()), max(0.0, (now - heard).total_seconds()))
            for one in known
            if (heard := one.last_heartbeat) is not None
        ]

    def was_queued_by_clock(self, work: Work, seconds: int) -> bool:
        """Whether a clock has queued `work`, which is due every `seconds`, within two such times.

        The clock's machine may be a minute ahead or behind. Raises redis.RedisError.
        """
        slot, reach = int(time.time() // seconds), 60 // seconds + 2
        keys = [_tick_of(work, one) for one in range(slot - reach, slot + reach + 1)]
        with self._asking():
            return bool(self._redis.exists(*keys))

    def waiting_counts(self, names: Iterable[str]) -> dict[str, int]:
        """How many jobs wait in each of these queues; raises redis.RedisError."""
        with self._asking():
            return {name: self._queue(name).count for name in names}

    def failed_counts(self, names: Iterable[str]) -> dict[str, int]:
        """How many jobs of each of these queues have failed within FAILURE_SECONDS.

        Raises redis.RedisError.
        """
        with self._asking():
            return {name: self._queue(name).failed_job_registry.count for name in names}

    def _asking(self) -> AbstractContextManager[None]:
        away = redis.ConnectionError("the queue did not answer a moment ago")
        return self.circuit.guard((redis.RedisError,), away)

    def run_worker(self, app: Flask, names: list[str], stopping: threading.Event) -> None:
        """Work on these queues, in order of priority, until SIGTERM or SIGINT.

        Survives outages of Redis.
        """
        # Raised by the signal handler if the RQ worker is idle or has ended.
        with suppress(StopRequested):
            while not stopping.is_set():
                # RQ gives up when Redis hangs, sometimes without an exception; a new worker
                # reconnects once Redis is back.
                try:
                    self._make_worker(app, names, stopping).work(logging_level="WARNING")
                except redis.RedisError as error:
                    log.warning("the queue does not answer: %s", error)
                stopping.wait(1)

    def _make_worker(
        self, app: Flask, names: list[str], stopping: threading.Event
    ) -> "BeelineWorker":
        """Make a worker with a connection of its own: it blocks on Redis for seconds at a time."""
        connection = redis.Redis.from_url(
            self._url,
            socket_connect_timeout=3,
            # RQ sets the read timeout itself, and our own loop does the retrying.
            retry=Retry(NoBackoff(), 1),
        )
        worker = BeelineWorker(
            [Queue(name, connection=connection, serializer=JSONSerializer) for name in names],
            connection=connection,
            serializer=JSONSerializer,
            # With the defaults it takes 13 minutes to notice that a worker was killed in a job.
            worker_ttl=20,
            maintenance_interval=10,
            job_monitoring_interval=5,
        )
        worker.app, worker.stopping = app, stopping
        return worker

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self._redis, serializer=JSONSerializer)


def _reminder_of(work: Work, *ids: str) -> str:
    """The id prefix shared by all reminders of the same work."""
    return "-".join((work.name.replace(".", "_"), *ids))


def _tick_of(work: Work, slot: int) -> str:
    """The key that is there once `work` was queued for this slot."""
    return f"beeline:tick:{work.name}:{slot}"


class BeelineWorker(Worker):
    """An RQ worker that stops within STOP_SECONDS of SIGTERM without losing work.

    Each job runs in a forked child. On SIGTERM no new job is taken, and the child is signalled: it
    finishes or gives its lease back. If it is still running after STOP_SECONDS it is killed, and
    its lease expires. A Redis that hangs does not keep the worker for longer either.
    """

    app: Flask
    stopping: threading.Event
    # The longest wait between two attempts to reconnect to Redis.
    max_connection_wait_time = 4.0

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop at the first signal and ignore further ones (Heroku repeats SIGTERM)."""
        for known in (signal.SIGINT, signal.SIGTERM):
            signal.signal(known, signal.SIG_IGN)
        log.info("worker stops")
        self.stopping.set()
        if self.horse_pid:
            self.kill_horse(signal.SIGTERM)
        last_resort = threading.Timer(STOP_SECONDS, self._end)
        last_resort.daemon = True
        last_resort.start()
        # As RQ's own _shutdown() does, but without writing to Redis, which may be down.
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        self._stop_requested = True

    def _end(self) -> None:
        """Kill the child if there is one, and soon after, if that was not enough, the process."""
        # Not kill_horse(): without a child, it would kill all processes of our own group.
        if child := self.horse_pid:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        time.sleep(FAREWELL_SECONDS)
        # RQ waits for half a minute or more until a Redis that hangs has heard that we leave.
        log.warning("worker ends without waiting for the queue")
        os._exit(0)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell Redis that we work, and on which queues if it has lost that; repeatable.

        RQ says it only once: after a Redis that keeps nothing had restarted, a worker that takes
        every job would pass for one that does not run.
        """
        super().heartbeat(timeout, pipeline)
        if pipeline is None and self.connection.sadd(self.redis_workers_keys, self.key):
            self.connection.hset(self.key, mapping=self.serialize())
            register(self)

    def setup_work_horse_signals(self) -> None:
        """Let the child survive SIGTERM, which only sets `stopping` for its job to see."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda signum, frame: self.stopping.set())

    def perform_job(self, job: RqJob, queue: Queue) -> bool:
        """Run one job inside the application, with database connections of its own."""
        with self.app.app_context():
            # A forked child must not share connections that the parent may have open.
            db.engine.dispose(close=False)
            return super().perform_job(job, queue)

    def handle_job_failure(
        self, job: RqJob, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        """Redact the traceback, which RQ keeps in Redis: PostgreSQL's errors may quote a row."""
        super().handle_job_failure(job, queue, started_job_registry, redacted(exc_string))

    def handle_exception(self, job: RqJob, *exc_info: Any) -> None:
        """Log the error with the job's name."""
        log.error("job failed", exc_info=exc_info, extra={"job": job.func_name})
