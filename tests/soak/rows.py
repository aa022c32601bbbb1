"""What the rows really say, asked past the sabotage; and one transfer's story, for whoever debugs."""

import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import psycopg2
import redis

from app import jobs
from tests.lab.lab import Lab
from tests.lab.truth import Truth

_TRANSFER = """
    SELECT state::text, failure::text, attempt_count, queue_count,
    lease_token IS NOT NULL, extract(epoch FROM now() - queued_at)::int,
    extract(epoch FROM lease_until - now())::int, extract(epoch FROM now() - created_at)::int
    FROM transfers WHERE id = %s"""
_FILES = """
    SELECT f.path, f.problem::text, u.state::text, u.method::text, u.size,
    u.checksum_algorithm::text, u.key, u.s3_upload_id
    FROM files f JOIN uploads u ON u.id = f.upload_id
    WHERE f.transfer_id = %s ORDER BY f.position"""
_EVENTS = """
    SELECT action, extract(epoch FROM now() - at)::int FROM audit_events
    WHERE transfer_id = %s ORDER BY id"""


def ask(lab: Lab, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """One statement on a connection past the sabotage; again if it was among those that ended."""
    return _ask(lab.truth, query, *values)


def _ask(truth: Truth, query: str, *values: Any) -> list[tuple[Any, ...]]:
    for _ in range(20):
        with contextlib.suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
            return truth.rows(query, *values)
        time.sleep(0.2)
    return truth.rows(query, *values)


def explain(truth: Truth, transfer_id: str) -> str:
    """Everything that rows and bucket say of a transfer now: a finding should explain itself."""
    found = _ask(truth, _TRANSFER, transfer_id)
    if not found:
        return f"no transfer {transfer_id}"
    lines = [f"transfer {transfer_id}: {_told(found[0])}"]
    objects, open_ids = truth.objects(), truth.open_uploads()
    for path, problem, upload, method, size, checksum, key, s3_id in _ask(
        truth, _FILES, transfer_id
    ):
        lines.append(
            f"{path!r} of {size:,}: {upload} {method}, problem {problem or 'none'}, "
            f"checksum {checksum or 'none'}, {'an' if key in objects else 'no'} object, "
            + (f"multipart {'open' if s3_id in open_ids else 'gone'}" if s3_id else "no multipart")
        )
    events = (f"{action} {_ago(ago)}" for action, ago in _ask(truth, _EVENTS, transfer_id))
    return "\n    ".join([*lines, "events: " + ", ".join(events)])


def tell_row(lab: Lab, transfer_id: str) -> str:
    """The transfer's own row, in one line."""
    return _told(ask(lab, _TRANSFER, transfer_id)[0])


def queued(lab: Lab, name: str) -> int:
    """How many reminders wait in a queue."""
    with contextlib.closing(redis.Redis.from_url(lab.environ["REDIS_URL"])) as client:
        return client.llen(f"rq:queue:{name}")


def tell_queue(lab: Lab) -> str:
    """How much waits in each queue, and what every worker is at that Redis remembers.

    It forgets the living when it is flushed, and remembers the dead for a while.
    """
    client = redis.Redis.from_url(lab.environ["REDIS_URL"], decode_responses=True)
    waiting = [f"{name} {client.llen(f'rq:queue:{name}')}" for name in jobs.QUEUES]
    workers = []
    for key in sorted(client.smembers("rq:workers")):
        known = client.hgetall(key)
        job = known.get("current_job", "").partition("-")[0]
        beat = known.get("last_heartbeat", "")[11:19]
        workers.append(f"{known.get('state', 'gone')} {job} (heard of at {beat})")
    client.close()
    now = f"{datetime.now(UTC):%H:%M:%S}"
    return f"queues at {now}: {', '.join(waiting)}; workers: {', '.join(workers) or 'none'}"


def _told(row: tuple[Any, ...]) -> str:
    state, failure, attempts, reminders, is_held, queued, lease, age = row
    return (
        f"{state}, made {age} s ago, failure {failure or 'none'}, "
        f"{attempts} attempts, {reminders} reminders, the last {_ago(queued)}, "
        f"{'held by somebody' if is_held else 'held by nobody'}, "
        f"lease {'none' if lease is None else f'for {lease} s'}"
    )


def _ago(seconds: int | None) -> str:
    return "never" if seconds is None else f"{seconds} s ago"
