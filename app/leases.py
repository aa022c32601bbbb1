"""Leases on rows: one worker at a time on a transfer, zip, batch or file, with fencing tokens.

A queue may deliver a job twice, in parallel or not at all, and a worker may be killed at any
instruction. So work on a row starts by claiming its lease, a heartbeat renews it, and every write
of the result is conditional on the token (`Lease.is_mine`). A lapsed lease may be claimed by
another worker, and the late one's writes then change nothing.

The same rows record when their work was last queued, so that lost jobs are queued again; and so do
assets' versions, which are claimed without a lease (services/picturing.py).
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, Update, and_, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from app.clock import db_now
from app.db import db, discard, is_away, release, transaction
from app.errors import Outage
from app.models import Archive, AssetVersion, Batch, Inspection, Transfer

log = logging.getLogger(__name__)

# The tables with leases. Each row belongs to one transfer, except an Inspection's: to one upload.
Row = type[Transfer] | type[Archive] | type[Batch] | type[Inspection]
# The tables that record when their rows' work was last queued.
Queued = Row | type[AssetVersion]
# The `again` method of the job (app/jobs.py) that does this work.
Again = Callable[[Iterable[tuple[uuid.UUID, int]]], None]
LEASE_SECONDS = 25
HEARTBEAT_SECONDS = 8
# How long to leave a transfer alone after its n-th failed attempt.
BACKOFF_SECONDS = (5, 15, 30, 60, 120, 300, 600)
# The backoff after an outage of storage or the database: that says nothing about the transfer, so
# it does not count as an attempt either.
OUTAGE_SECONDS = 4


@dataclass(frozen=True)
class Waiting:
    """The rows that wait for workers: how many, and the oldest one's age; and how many are held."""

    count: int
    oldest_seconds: float | None
    held_count: int


class Lease:
    """One claim of one row; `lost` is set when another worker may have claimed it."""

    def __init__(self, row: Row, row_id: uuid.UUID, attempt: int) -> None:
        self.row = row
        self.row_id = row_id
        self.token = uuid.uuid4()
        self.attempt = attempt
        self.is_forgiven = False
        self.lost = threading.Event()

    @property
    def transfer_id(self) -> uuid.UUID:
        """The id of the row's transfer, where the row belongs to one."""
        return self.row_id

    @property
    def is_mine(self) -> ColumnElement[bool]:
        """The condition on every write of this work's result: the row still has this token."""
        return self.row.lease_token == self.token

    @property
    def mine(self) -> Update:
        """An UPDATE of the row, which changes nothing once the claim is lost; add its values."""
        return (
            update(self.row)
            .where(_is_of(self.row, self.row_id), self.is_mine)
            .execution_options(synchronize_session=False)
        )

    @property
    def still_mine(self) -> Select[uuid.UUID]:
        """A SELECT ... FOR UPDATE of the row's key, which finds nothing once the claim is lost."""
        found = select(_key_of(self.row)).where(_is_of(self.row, self.row_id), self.is_mine)
        return found.with_for_update()

    def forgive(self) -> None:
        """Do not count this attempt as a failure. Repeatable."""
        self.is_forgiven = True


@contextmanager
def hold(row: Row, row_id: uuid.UUID, is_wanted: ColumnElement[bool]) -> Iterator[Lease | None]:
    """Work on a row alone; yields None if another worker has it, or `is_wanted` is not true of it.

    Leaving the block gives the lease back. After an exception the row cannot be claimed for a
    backoff that grows with each attempt, or for OUTAGE_SECONDS after an outage (`is_outage`). If
    the process dies, the lease lapses after at most LEASE_SECONDS.
    """
    lease = _claim(row, row_id, is_wanted)
    if lease is None:
        yield None
        return
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(db.engine, lease, done), daemon=True)
    heart.start()
    try:
        yield lease
    except BaseException as error:
        seconds = BACKOFF_SECONDS[min(lease.attempt, len(BACKOFF_SECONDS)) - 1]
        if is_outage(error):
            seconds = OUTAGE_SECONDS
            lease.forgive()
        _give_back(lease, timedelta(seconds=seconds))
        raise
    else:
        _give_back(lease)
    finally:
        done.set()
        heart.join()


def is_free(row: Row = Transfer) -> ColumnElement[bool]:
    """The condition that no worker holds the row's lease."""
    return or_(row.lease_until.is_(None), row.lease_until < db_now())


def is_unattended(row: Row, queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that no worker holds the row and it was not queued since `queued_before`."""
    return and_(is_free(row), is_unqueued(row, queued_before))


def is_unqueued(row: Queued, queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that the row's work was not queued since `queued_before`."""
    return or_(row.queued_at.is_(None), row.queued_at <= queued_before)


def remind(row: Queued, condition: ColumnElement[bool], again: Again) -> int:
    """Queue the work on these rows after the commit; returns how many. Call in transaction()."""
    key = _key_of(row)
    noted = db.session.execute(
        update(row)
        .where(condition)
        .values(queued_at=db_now(), queue_count=row.queue_count + 1)
        .returning(key, row.queue_count)
        .execution_options(synchronize_session=False)
    ).all()
    if noted:
        again((row_id, count) for row_id, count in noted)
    return len(noted)


def remind_stuck(row: Queued, is_stuck: ColumnElement[bool], again: Again) -> int:
    """Queue the work on all rows that are stuck, in one statement; returns how many.

    The rows decide, whatever the queue still holds. Locked rows are left for the next run (SKIP
    LOCKED), because waiting for one would delay all the others.
    """
    key = _key_of(row)
    stuck = (
        select(key.label("key"))
        .where(is_stuck)
        .with_for_update(skip_locked=True)
        # A CTE is evaluated once; a plain subquery may be run again and lock more.
        .cte("stuck")
    )
    with transaction():
        return remind(row, key.in_(select(stuck.c.key)), again)


def waiting(row: type[Archive] | type[Inspection], is_wanted: ColumnElement[bool]) -> Waiting:
    """How many rows to be worked on wait for workers and for how long, and how many are held."""
    is_held = and_(row.lease_token.is_not(None), row.lease_until >= db_now())
    waits_for = func.extract("epoch", db_now() - func.min(row.created_at).filter(~is_held))
    count, seconds, held_count = db.session.execute(
        select(func.count().filter(~is_held), waits_for, func.count().filter(is_held))
        .select_from(row)
        .where(is_wanted)
    ).one()
    release()
    return Waiting(count, None if seconds is None else float(seconds), held_count)


def _is_of(row: Row, row_id: uuid.UUID) -> ColumnElement[bool]:
    return _key_of(row) == row_id


def _key_of(row: Queued) -> InstrumentedAttribute[uuid.UUID]:
    keys: dict[Queued, InstrumentedAttribute[uuid.UUID]] = {
        Transfer: Transfer.id,
        Archive: Archive.transfer_id,
        Batch: Batch.transfer_id,
        Inspection: Inspection.upload_id,
        AssetVersion: AssetVersion.id,
    }
    return keys[row]


def is_outage(error: BaseException) -> bool:
    """Whether storage or the database was away, so that the work itself has not failed."""
    return isinstance(error, Outage) or is_away(error)


def _claim(row: Row, row_id: uuid.UUID, is_wanted: ColumnElement[bool]) -> Lease | None:
    lease = Lease(row, row_id, attempt=0)
    with transaction():
        attempt = db.session.scalar(
            update(row)
            .where(_is_of(row, row_id), is_wanted, is_free(row))
            .values(
                lease_token=lease.token,
                lease_until=db_now() + timedelta(seconds=LEASE_SECONDS),
                attempt_count=row.attempt_count + 1,
            )
            .returning(row.attempt_count)
            .execution_options(synchronize_session=False)
        )
    if attempt is None:
        return None
    lease.attempt = attempt
    return lease


def _beat(engine: Engine, lease: Lease, done: threading.Event) -> None:
    """Renew until done; on its own connection, because the work's may be in a transaction."""
    renew = lease.mine.values(lease_until=db_now() + timedelta(seconds=LEASE_SECONDS))
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            with engine.begin() as connection:
                if connection.execute(renew).rowcount == 0:
                    lease.lost.set()
                    return
        except Exception:
            # The database may be back before the lease lapses; the token decides, not this thread.
            log.exception("could not renew a lease")


def _give_back(lease: Lease, leave_alone: timedelta = timedelta(0)) -> None:
    discard()
    with transaction():
        db.session.execute(
            lease.mine.values(
                lease_token=None,
                lease_until=db_now() + leave_alone,
                # The sweep may queue the row as soon as it can be claimed again.
                queued_at=None,
                attempt_count=lease.attempt - lease.is_forgiven,
            )
        )
