"""Completing files one by one, while others of their transfer are still being sent.

This only saves time: what is not done here, for any reason, is done by the final check
(checking.py). A file is tried because its sender says that all of it was sent, and completed only
if storage says so.
"""

import logging
import time
import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, update

from app import crash, jobs, leases
from app.db import db, release, transaction
from app.models import File, State, Transfer, Upload, UploadState
from app.services import blocklist, completing
from app.services.checking import FILES_PER_ROUND, TURN_SECONDS, record_completed
from app.services.completing import Outcome
from app.services.sending import remind_of_sent
from app.services.transfers import files_of

log = logging.getLogger(__name__)


def complete_sent(transfer_id: str) -> None:
    """Job: complete the files of an unfinished transfer that its sender says were sent whole.

    One that storage does not confirm stays open for the final check, and is not tried again before
    it is named again. Safe to run twice, concurrently, and again after a crash at any point. "That
    is all" takes the lease away: what is being completed then is recorded by the final check.
    """
    with leases.hold(Transfer, uuid.UUID(transfer_id), Transfer.state == State.INIT) as lease:
        if lease is None:
            return
        _complete_sent(lease)
        # Nothing has failed, so this does not count as an attempt.
        lease.forgive()
    # More were named after the last query while the lease was taken; or the turn was over.
    if _is_waiting(lease.transfer_id):
        with transaction():
            remind_of_sent(lease.transfer_id)


def _complete_sent(lease: leases.Lease) -> None:
    """Complete what is named as sent, until nothing is left or the turn is over."""
    turn_ends = time.monotonic() + TURN_SECONDS
    while batch := files_of(lease.transfer_id, _is_sent(), limit=FILES_PER_ROUND):
        if jobs.stopping.is_set() or lease.lost.is_set() or time.monotonic() > turn_ends:
            return
        release()
        crash.point("unlock.1")
        outcomes = completing.complete_all([file.upload for file in batch])
        crash.point("unlock.2")
        if not _settle(lease, outcomes):
            return
        crash.point("unlock.4")


def _is_sent() -> ColumnElement[bool]:
    """The condition that an upload is open, not waiting for the block list, and named as sent."""
    is_open = and_(Upload.state == UploadState.OPEN, ~blocklist.is_pending())
    return and_(is_open, Upload.sent_at.is_not(None))


def _is_waiting(transfer_id: uuid.UUID) -> bool:
    waiting = bool(files_of(transfer_id, _is_sent(), limit=1))
    release()
    return waiting


def _settle(lease: leases.Lease, outcomes: Sequence[Outcome]) -> bool:
    """Record what is complete, clear `sent_at` of the others; returns whether the lease is ours."""
    done = [outcome.upload_id for outcome in outcomes if outcome.problem is None]
    refuted = [outcome.upload_id for outcome in outcomes if outcome.problem is not None]
    with transaction():
        if not record_completed(lease, [one for one in outcomes if one.problem is None]):
            return False
        for statement in (
            update(Upload).where(Upload.id.in_(refuted)).values(sent_at=None),
            # A problem that an earlier check has named.
            update(File).where(File.upload_id.in_(done)).values(problem=None),
        ):
            db.session.execute(statement.execution_options(synchronize_session=False))
        crash.point("unlock.3")
    if refuted:
        log.info("files were said to be sent and are not whole", extra={"count": len(refuted)})
    return True
