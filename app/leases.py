"""Who is working on a transfer: a lease in its row, with a token that fences out the late.

Queues deliver twice, at once, or not at all; a worker may be killed at any instruction. So the
work on a transfer starts by claiming its lease, a heartbeat renews it, and every write of the
result names the token (`Lease.is_mine`). A lease that lapses may be claimed by another, and the
late one's writes then change nothing.
"""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import ColumnElement, Engine, or_, update

from app.clock import db_now
from app.db import db, discard, is_away, transaction
from app.errors import Outage
from app.models import State, Transfer

log = logging.getLogger(__name__)

LEASE_SECONDS = 25
HEARTBEAT_SECONDS = 8
# How long to leave a transfer alone after its n-th failed attempt.
BACKOFF_SECONDS = (5, 15, 30, 60, 120, 300, 600)
# And after one that failed because storage or the database was away: that says nothing about
# the transfer, so it does not count as an attempt either.
OUTAGE_SECONDS = 4


class Lease:
    """One claim of one transfer; `lost` is set when somebody else may be at it."""

    def __init__(self, transfer_id: uuid.UUID, attempt: int) -> None:
        self.transfer_id = transfer_id
        self.token = uuid.uuid4()
        self.attempt = attempt
        self.lost = threading.Event()

    @property
    def is_mine(self) -> ColumnElement[bool]:
        """The condition that every write of this work's result carries."""
        return Transfer.lease_token == self.token

    def forgive(self) -> None:
        """Nothing has failed here: this attempt is none of those that are counted."""
        self.attempt -= 1


@contextmanager
def hold(transfer_id: uuid.UUID, state: State) -> Iterator[Lease | None]:
    """Work on a transfer alone while it is in `state`; None if another does, or it is not in it.

    Leaving the block gives the lease back; leaving it by an exception keeps others away for a
    backoff that grows with each attempt, or a moment when something was merely away
    (`is_outage`). Dying in it costs others LEASE_SECONDS.
    """
    lease = _claim(transfer_id, state)
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


def is_free() -> ColumnElement[bool]:
    """The condition that nobody works on a transfer now."""
    return or_(Transfer.lease_until.is_(None), Transfer.lease_until < db_now())


def is_outage(error: BaseException) -> bool:
    """Whether storage or the database was away, and the work itself has not failed."""
    return isinstance(error, Outage) or is_away(error)


def _claim(transfer_id: uuid.UUID, state: State) -> Lease | None:
    lease = Lease(transfer_id, attempt=0)
    with transaction():
        attempt = db.session.scalar(
            update(Transfer)
            .where(Transfer.id == transfer_id, Transfer.state == state, is_free())
            .values(
                lease_token=lease.token,
                lease_until=db_now() + timedelta(seconds=LEASE_SECONDS),
                attempt_count=Transfer.attempt_count + 1,
            )
            .returning(Transfer.attempt_count)
            .execution_options(synchronize_session=False)
        )
    if attempt is None:
        return None
    lease.attempt = attempt
    return lease


def _beat(engine: Engine, lease: Lease, done: threading.Event) -> None:
    """Renew until done; on a connection of its own, because the work's may be in a transaction."""
    renew = (
        update(Transfer)
        .where(Transfer.id == lease.transfer_id, lease.is_mine)
        .values(lease_until=db_now() + timedelta(seconds=LEASE_SECONDS))
    )
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            with engine.begin() as connection:
                if connection.execute(renew).rowcount == 0:
                    lease.lost.set()
                    return
        except Exception:
            # The database may be back before the lease lapses; the fence decides, not we.
            log.exception("could not renew a lease")


def _give_back(lease: Lease, leave_alone: timedelta = timedelta(0)) -> None:
    discard()
    with transaction():
        db.session.execute(
            update(Transfer)
            .where(Transfer.id == lease.transfer_id, lease.is_mine)
            .values(
                lease_token=None,
                lease_until=db_now() + leave_alone,
                # The sweep may put it into the queue as soon as it may be claimed.
                queued_at=None,
                attempt_count=lease.attempt,
            )
            .execution_options(synchronize_session=False)
        )
