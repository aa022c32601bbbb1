"""From "that is all" to READY: a worker completes and verifies every file, under a lease.

Safe to run twice, concurrently, and again after a crash at any point. What cannot be completed is
named and sent again, and nothing that is safe is lost.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, cast, func, literal, select, update
from sqlalchemy.orm import InstrumentedAttribute

from app import crash, jobs, leases, lifecycle
from app.clock import db_now
from app.config import settings
from app.db import db, discard, release, transaction
from app.errors import Invalid, PartsMissing, SizeMismatch, Unavailable
from app.models import Failure, File, Method, Problem, State, Transfer, Upload, UploadState
from app.services import (
    archives,
    audit,
    blocklist,
    completing,
    delivery,
    file_requests,
    planning,
    previews,
    removal,
    uploads,
    webhook_news,
)
from app.services.completing import Outcome
from app.services.transfers import files_of, refuse_ended

log = logging.getLogger(__name__)

# Files completed between two checks of the lease and of whether to stop.
FILES_PER_ROUND = 32
# As everywhere, one request asks storage about at most this many files.
MOST_LOOKED_AT = 500
# Turn length. A transfer of very many files then re-queues itself, so that others get a turn.
TURN_SECONDS = 60
# Give up after this many failed or killed attempts, and show the sender the failure; with the
# backoff between them that is about twenty minutes. Outages do not count, nor do turns that end.
MOST_ATTEMPTS = 8


def finalize(transfer: Transfer) -> Transfer:
    """Check and complete every file in the background: the sender said "that is all".

    Repeating it is success and queues nothing more. Raises Invalid for a transfer without files,
    Gone for one that has ended, even before the sweep, and Blocked.
    """
    with transaction():
        # Locked first, so that no file can be removed between the check and the move.
        db.session.execute(select(Transfer.id).where(Transfer.id == transfer.id).with_for_update())
        if not db.session.scalar(select(File.id).where(File.transfer_id == transfer.id).limit(1)):
            raise Invalid({"files": "must not be empty"})
        is_allowed = Transfer.quarantined_at.is_(None)
        if lifecycle.move(transfer.id, State.PROCESSING, is_allowed, failure=None):
            _remind(transfer.id)
            audit.note("complete", transfer.id)
    return refuse_ended(transfer.id)


def finalize_arrived(transfer: Transfer) -> Transfer:
    """Finalize as finalize() does, but ask storage first: raises PartsMissing or SizeMismatch.

    Storage is not asked about a transfer that has been finalized before. With very many files, only
    process() finds what is missing.
    """
    if transfer.state is State.INIT:
        files = files_of(transfer.id)
        if len(files) > MOST_LOOKED_AT:
            # Some clients send nothing for empty files, so check_arrived() has to.
            files = [file for file in files if file.size == 0]
        check_arrived(files)
    return finalize(transfer)


def check_arrived(files: Sequence[File]) -> None:
    """Raise PartsMissing or SizeMismatch for the first of these that has not arrived whole.

    An early answer for a waiting client: what counts is what process() finds.
    """
    waiting = [file.upload for file in files if file.upload.state is not UploadState.COMPLETE]
    arrivals = uploads.arrivals(waiting)
    found = list(zip(waiting, arrivals, strict=True))
    empty = [
        upload
        for upload, arrival in found
        if arrival.missing and upload.size == 0 and upload.method is Method.MULTIPART
    ]
    uploads.put_nothing(empty)
    sent = {upload.id for upload in empty}
    for upload, arrival in found:
        if upload.id in sent:
            continue
        if arrival.missing:
            raise PartsMissing(missing=list(arrival.missing))
        if arrival.size != upload.size:
            raise SizeMismatch(expected=upload.size, found=arrival.size)


def process(transfer_id: str) -> None:
    """Job: complete and verify every file of a transfer, then make it READY.

    A file that turns out short or lost puts the transfer back to INIT with that file named; nothing
    else is lost. Safe to run twice, concurrently, and again after a crash at any point.
    """
    is_processing = Transfer.state == State.PROCESSING
    with leases.hold(Transfer, uuid.UUID(transfer_id), is_processing) as lease:
        if lease is None:
            return
        if lease.attempt > MOST_ATTEMPTS:
            _give_up(lease)
            return
        with noting_failure(lease):
            is_done = complete_files(lease, _settle)
        if not is_done:
            lease.forgive()
    if not is_done:
        # Queue it now, not with the next sweep: another worker continues from what the rows say.
        with transaction():
            _remind(lease.transfer_id)


def complete_files(
    lease: leases.Lease, settle: Callable[[leases.Lease, dict[uuid.UUID, Outcome]], None]
) -> bool:
    """Complete the files that are still open, then call `settle` with those that failed.

    Returns False if the turn is over or the process has to stop: another worker should go on.
    """
    turn_ends = time.monotonic() + TURN_SECONDS
    waiting = files_of(lease.transfer_id, _is_open(), with_coming=True)
    failed: dict[uuid.UUID, Outcome] = {}
    while waiting:
        if jobs.stopping.is_set() or time.monotonic() > turn_ends:
            return False
        if lease.lost.is_set():
            return True
        batch, waiting = waiting[:FILES_PER_ROUND], waiting[FILES_PER_ROUND:]
        release()
        crash.point("process.1")
        outcomes = completing.complete_all([file.upload for file in batch])
        crash.point("process.3")
        record_completed(lease, [outcome for outcome in outcomes if outcome.problem is None])
        crash.point("process.4")
        pairs = zip(batch, outcomes, strict=True)
        failed |= {file.id: outcome for file, outcome in pairs if outcome.problem}
    settle(lease, failed)
    crash.point("process.6")
    return True


def go_on(transfer_id: uuid.UUID) -> None:
    """Queue the check: the block list has cleared one of the transfer's files.

    Call in transaction(). Does nothing unless the transfer is being checked.
    """
    _remind(transfer_id)


def _is_open() -> ColumnElement[bool]:
    """The condition that an upload is to be completed: OPEN, and not waiting for the block list."""
    return and_(Upload.state == UploadState.OPEN, ~blocklist.is_pending())


def _remind(transfer_id: uuid.UUID) -> None:
    """Queue the transfer's job after the commit. Call in transaction().

    A sender is waiting: unlike leases.remind(), this does not read the whole queue first.
    """
    count = db.session.scalar(
        update(Transfer)
        .where(Transfer.id == transfer_id, Transfer.state == State.PROCESSING)
        .values(queued_at=db_now(), queue_count=Transfer.queue_count + 1)
        .returning(Transfer.queue_count)
        .execution_options(synchronize_session=False)
    )
    if count is not None:
        jobs.PROCESS_TRANSFER.later(transfer_id, attempt=count)


def is_stuck(queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a transfer is to be checked, unattended, and not queued since.

    One that only waits for the block list is not stuck: inspecting its files queues it.
    """
    return and_(
        Transfer.state == State.PROCESSING,
        leases.is_unattended(Transfer, queued_before),
        ~only_waits(Transfer.id),
    )


def only_waits(transfer_id: InstrumentedAttribute[uuid.UUID]) -> ColumnElement[bool]:
    """The condition that all files left to check of a row's transfer wait for the block list."""
    has_open = (
        select(File.id)
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, _is_open())
        .exists()
    )
    return and_(blocklist.has_pending(transfer_id), ~has_open)


def remind_stuck(queued_before: ColumnElement[Any]) -> int:
    """Queue every transfer that is stuck; returns how many."""
    return leases.remind_stuck(Transfer, is_stuck(queued_before), jobs.PROCESS_TRANSFER.again)


@contextmanager
def noting_failure(lease: leases.Lease) -> Iterator[None]:
    """Record why an attempt failed, to be shown when there are no more attempts."""
    try:
        yield
    except Exception as error:
        if leases.is_outage(error):
            raise
        discard()
        failure = Failure.STORAGE if isinstance(error, Unavailable) else Failure.INTERNAL
        with transaction():
            db.session.execute(lease.mine.values(failure=failure))
        raise


def _give_up(lease: leases.Lease) -> None:
    """Return to INIT after too many attempts, with the failure; complete files stay complete."""
    log.error("checking a transfer was given up", extra={"transfer": str(lease.transfer_id)})
    with transaction():
        unknown = func.coalesce(Transfer.failure, literal(Failure.INTERNAL, Transfer.failure.type))
        if lifecycle.move(lease.transfer_id, State.INIT, lease.is_mine, failure=unknown):
            audit.note("give up", lease.transfer_id)


def record_completed(lease: leases.Lease, outcomes: Sequence[Outcome]) -> bool:
    """Record completed uploads in one statement; returns whether the lease is still ours.

    Those that could be on the block list stay OPEN until they have been read. If another worker has
    the transfer now, nothing is written.
    """
    etags = {outcome.upload_id: outcome.etag for outcome in outcomes}
    crc32s = {outcome.upload_id: outcome.crc32 for outcome in outcomes}
    with transaction():
        # Lock the leased row first, as all code that writes both does, to avoid deadlocks.
        if db.session.scalar(lease.still_mine) is None:
            return False
        if not outcomes:
            return True
        held = blocklist.hold_back(lease.transfer_id, outcomes)
        db.session.execute(
            update(Upload)
            .where(Upload.id.in_(etags), Upload.state == UploadState.OPEN)
            .values(
                state=case(
                    (Upload.id.in_(held), Upload.state),
                    else_=literal(UploadState.COMPLETE, Upload.state.type),
                ),
                etag=case(etags, value=Upload.id),
                # If all are NULL, PostgreSQL would take them for text.
                crc32=cast(case(crc32s, value=Upload.id), Upload.crc32.type),
            )
            .execution_options(synchronize_session=False)
        )
    return True


def _settle(lease: leases.Lease, failed: dict[uuid.UUID, Outcome]) -> None:
    with transaction():
        if failed:
            # Clear the earlier attempt's failure: this attempt has finished.
            if lifecycle.move(lease.transfer_id, State.INIT, lease.is_mine, failure=None):
                name_problems(lease.transfer_id, failed)
        elif not become_ready(lease.transfer_id, lease.is_mine):
            # Not a failure: files wait for the block list, whose job queues this again.
            lease.forgive()
        crash.point("process.5")


def become_ready(transfer_id: uuid.UUID, *conditions: ColumnElement[bool]) -> bool:
    """From PROCESSING to READY, with all that follows, if every file is complete.

    If its date has passed meanwhile, it lives for its whole planned time from now on. Call in
    transaction(). Returns whether it was done.
    """
    is_whole = _all_complete(transfer_id)
    values = {"expires_at": _its_date()}
    if not lifecycle.move(transfer_id, State.READY, is_whole, *conditions, **values):
        return False
    _forget_problems(transfer_id)
    previews.expect(transfer_id)
    if settings.zip_at_once:
        archives.request_at_once(transfer_id)
    delivery.announce(transfer_id)
    file_requests.announce(transfer_id)
    webhook_news.tell_ready(transfer_id)
    return True


def _its_date() -> ColumnElement[Any]:
    """The expiry date of a transfer that becomes READY now: none expires while it is being sent."""
    most = timedelta(days=settings.max_expires_in_days)
    wished = func.least(Transfer.expires_at - Transfer.created_at, most)
    is_over = Transfer.expires_at <= db_now()
    return case((is_over, db_now() + wished), else_=Transfer.expires_at)


def _all_complete(transfer_id: uuid.UUID) -> ColumnElement[bool]:
    """The last guard before READY: the rows themselves say that every upload is complete."""
    return ~(
        select(File.id)
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, Upload.state != UploadState.COMPLETE)
        .exists()
    )


def name_problems(transfer_id: uuid.UUID, failed: dict[uuid.UUID, Outcome]) -> None:
    """Mark the failed files; those whose bytes cannot be completed get a new upload.

    Call in transaction().
    """
    _forget_problems(transfer_id)
    for file in files_of(transfer_id, File.id.in_(failed), with_coming=True):
        file.problem = failed[file.id].problem
        if file.problem is not Problem.MISSING:
            removal.abandon([file.upload_id])
            file.upload = planning.plan_again(file.upload)
            jobs.REMOVE_BYTES.later()


def _forget_problems(transfer_id: uuid.UUID) -> None:
    db.session.execute(
        update(File)
        .where(File.transfer_id == transfer_id, File.problem.is_not(None))
        .values(problem=None)
        .execution_options(synchronize_session=False)
    )
