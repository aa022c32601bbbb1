"""Batches: more files for a READY transfer, which all become part of it together.

Until the last of them has been checked nothing about the transfer changes: its recipients download
what was there, and a batch that fails, is dropped or is abandoned does not affect that. A batch is
sent by the same requests as the first files, and checked by the same steps (checking.py), under a
lease on its own row.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from app import crash, jobs, leases, rows
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import SenderNotAllowed, WrongState
from app.models import Batch, Failure, File, State, Transfer, Upload, UploadState
from app.services import (
    archives,
    audit,
    checking,
    contents,
    delivery,
    file_requests,
    idempotency,
    previews,
    removal,
    room,
)
from app.services.checking import MOST_ATTEMPTS
from app.services.completing import Outcome
from app.services.contents import FileSpec
from app.services.idempotency import Once
from app.services.transfers import files_of, lock_live, lock_row, of_id

log = logging.getLogger(__name__)


def find(transfer_id: uuid.UUID) -> Batch | None:
    """The transfer's batch, freshly read from the database; None if there is none."""
    return db.session.scalar(
        select(Batch)
        .where(Batch.transfer_id == transfer_id)
        .execution_options(populate_existing=True)
    )


# -- sending -------------------------------------------------------------------------------------


def add_files(
    transfer: Transfer, specs: Sequence[FileSpec], once: Once | None = None
) -> list[File]:
    """Add files to a transfer in INIT, or to the batch of a READY one; returns the new ones.

    A repeated request adds nothing to a batch, as only its answer was lost. All limits apply to the
    existing and the new files together. Raises Invalid, WrongState, Gone after the end, Blocked,
    KeyReused, TooMany, SenderNotAllowed.
    """
    if of_id(transfer.id).state is State.INIT:
        return contents.add_files(transfer, specs, once)
    agreed = contents.agree_on_checksums(specs)
    with transaction():
        if (ids := idempotency.made(once)) is not None:
            return files_of(transfer.id, File.id.in_(ids), with_coming=True)
        if lock_live(transfer.id).state is not State.READY:
            raise WrongState("This transfer is being checked. Add more files once it is ready.")
        already = files_of(transfer.id, with_coming=True)
        if again := _as_before(specs, already):
            return again
        if not file_requests.may_add(transfer):
            raise SenderNotAllowed
        contents.check_files(specs, already)
        coming = contents.size_of([*specs, *(file for file in already if file.is_coming)])
        contents.check_open_quota(transfer.address_hash, coming, transfer.id)
        room.reserve(contents.size_of(specs))
        _begin(transfer.id)
        audit.note("add files", transfer.id)
        first = max(file.position for file in already) + 1
        files = contents.put_files(transfer.id, specs, agreed, first, are_coming=True)
        idempotency.note(once, [file.id for file in files])
        return files


def _as_before(specs: Sequence[FileSpec], already: Sequence[File]) -> list[File]:
    """The batch's files that the same request has added; an empty list if it was another."""
    coming = {file.path: file for file in already if file.is_coming}
    found = [coming.get(spec.path) for spec in specs]
    same = [
        file
        for file, spec in zip(found, specs, strict=True)
        if file and (file.size, file.modified_at) == (spec.size, spec.modified_at)
    ]
    return same if len(same) == len(specs) else []


def _begin(transfer_id: uuid.UUID) -> None:
    """Add or update the batch's row; raises WrongState if the batch is being checked."""
    begun = changed(
        insert(Batch)
        .values(transfer_id=transfer_id)
        .on_conflict_do_update(
            index_elements=["transfer_id"],
            set_={"last_activity_at": db_now()},
            where=Batch.closed_at.is_(None),
        )
    )
    if begun == 0:
        raise WrongState("The files added last are being checked. Add more in a moment.")


def remove_file(transfer: Transfer, file_id: uuid.UUID) -> None:
    """Remove a file, and its batch if that is empty then; raises as contents.remove_file()."""
    with transaction():
        contents.remove_file(transfer, file_id)
        db.session.execute(
            delete(Batch)
            .where(Batch.transfer_id == transfer.id, ~_has_files())
            .execution_options(synchronize_session=False)
        )


def finalize(transfer: Transfer, *, tells_recipients: bool = False) -> Transfer:
    """Check and complete the first files, or those of the batch: the sender said "that is all".

    With `tells_recipients`, recipients who were mailed before are mailed once the batch is there.
    Repeating it is success and queues nothing more. Raises as checking.finalize() and
    delivery.check_news().
    """
    with transaction():
        if find(transfer.id) is not None and _close(transfer.id, tells_recipients):
            if tells_recipients:
                delivery.check_news(of_id(transfer.id))
            _remind(transfer.id)
            audit.note("complete batch", transfer.id)
    return checking.finalize(transfer)


def _close(transfer_id: uuid.UUID, tells_recipients: bool) -> bool:
    lock_live(transfer_id)
    closed = changed(
        update(Batch)
        .where(Batch.transfer_id == transfer_id, Batch.closed_at.is_(None), _has_files())
        .values(
            closed_at=db_now(),
            last_activity_at=db_now(),
            tells_recipients=tells_recipients,
            failure=None,
            attempt_count=0,
        )
        .execution_options(synchronize_session=False)
    )
    return closed == 1


# -- checking ------------------------------------------------------------------------------------


def process(transfer_id: str) -> None:
    """Job: complete and verify every file of a batch, then make them part of the transfer.

    As in checking.process(), a short or lost file opens the batch again, with that file named. Safe
    to run twice, concurrently, and again after a crash at any point.
    """
    with leases.hold(Batch, uuid.UUID(transfer_id), _is_wanted()) as lease:
        if lease is None:
            return
        if lease.attempt > MOST_ATTEMPTS:
            _give_up(lease)
            return
        with checking.noting_failure(lease):
            is_done = checking.complete_files(lease, _settle)
        if not is_done:
            lease.forgive()
    if not is_done:
        with transaction():
            _remind(lease.transfer_id)


def _settle(lease: leases.Lease, failed: dict[uuid.UUID, Outcome]) -> None:
    with transaction():
        if not failed:
            if not _admit(lease):
                # Not a failure: files wait for the block list, whose job queues this again.
                lease.forgive()
        # Clear the earlier attempt's failure: this attempt has finished.
        elif _reopen(lease, failure=None):
            checking.name_problems(lease.transfer_id, failed)
        crash.point("batch.1")
    crash.point("batch.2")


def _admit(lease: leases.Lease) -> bool:
    """Make the whole batch part of the transfer, unless that has ended; returns whether it did."""
    # Lock the transfer's row first, as all code that locks both: its end is before or after.
    is_ready = (Transfer.id == lease.transfer_id) & (Transfer.state == State.READY)
    if db.session.scalar(select(Transfer.id).where(is_ready).with_for_update()) is None:
        return False
    tells_recipients = db.session.scalar(
        delete(Batch)
        .where(Batch.transfer_id == lease.transfer_id, lease.is_mine, _is_whole())
        .returning(Batch.tells_recipients)
        .execution_options(synchronize_session=False)
    )
    if tells_recipients is None:
        return False
    number = db.session.scalars(
        update(Transfer)
        .where(is_ready)
        .values(batch_count=Transfer.batch_count + 1)
        .returning(Transfer.batch_count)
        .execution_options(synchronize_session=False)
    ).one()
    db.session.execute(
        update(File)
        .where(File.transfer_id == lease.transfer_id, File.batch.is_(None))
        .values(batch=number, problem=None)
        .execution_options(synchronize_session=False)
    )
    contents.note_size(lease.transfer_id)
    previews.expect(lease.transfer_id)
    archives.renew(lease.transfer_id)
    if tells_recipients:
        delivery.announce_more(lease.transfer_id, number)
    file_requests.announce(lease.transfer_id)
    audit.note("add batch", lease.transfer_id)
    return True


def go_on(transfer_id: uuid.UUID) -> None:
    """Queue the check: the block list has cleared one of the batch's files. In a transaction()."""
    _remind(transfer_id)


def give_up(transfer_id: uuid.UUID) -> bool:
    """Reopen a batch of which a file could not be read for the block list: its sender may retry.

    Returns whether there was such a batch. Call in transaction().
    """
    reopened = changed(
        update(Batch)
        .where(Batch.transfer_id == transfer_id, Batch.closed_at.is_not(None))
        .values(closed_at=None, last_activity_at=db_now(), failure=Failure.INTERNAL)
        .execution_options(synchronize_session=False)
    )
    return reopened == 1


def _reopen(lease: leases.Lease, **values: Any) -> bool:
    """Let the sender send and finalize again; returns whether the batch was still the lease's."""
    return changed(lease.mine.values(closed_at=None, last_activity_at=db_now(), **values)) == 1


def _give_up(lease: leases.Lease) -> None:
    """Reopen the batch after too many attempts, with the failure; complete files stay complete."""
    log.error("checking a batch was given up", extra={"transfer": str(lease.transfer_id)})
    unknown = func.coalesce(Batch.failure, literal(Failure.INTERNAL, Batch.failure.type))
    with transaction():
        if _reopen(lease, failure=unknown):
            audit.note("give up", lease.transfer_id)


def _is_wanted() -> ColumnElement[bool]:
    """The condition that a batch waits to be checked, and its transfer is READY."""
    is_there = exists().where(Transfer.id == Batch.transfer_id, Transfer.state == State.READY)
    return and_(Batch.closed_at.is_not(None), is_there)


def _has_files() -> ColumnElement[bool]:
    return exists().where(File.transfer_id == Batch.transfer_id, File.batch.is_(None))


def _is_whole() -> ColumnElement[bool]:
    """The last guard: the rows themselves say that no file of the batch is open or was removed."""
    is_open = exists().where(
        File.transfer_id == Batch.transfer_id,
        File.batch.is_(None),
        File.upload_id == Upload.id,
        Upload.state != UploadState.COMPLETE,
    )
    return and_(Batch.closed_at.is_not(None), ~is_open)


# -- reminders -----------------------------------------------------------------------------------


def is_stuck(queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a batch waits, no worker is at it, and it was not queued since.

    As with transfers, one that only waits for the block list is not stuck.
    """
    return and_(
        _is_wanted(),
        leases.is_unattended(Batch, queued_before),
        ~checking.only_waits(Batch.transfer_id),
    )


def remind_stuck(queued_before: ColumnElement[Any]) -> int:
    """Queue every batch that is stuck; returns how many."""
    return leases.remind_stuck(Batch, is_stuck(queued_before), jobs.PROCESS_BATCH.again)


def _remind(transfer_id: uuid.UUID) -> None:
    """Queue the transfer's batch if it is wanted. Call in transaction()."""
    condition = and_(Batch.transfer_id == transfer_id, _is_wanted())
    leases.remind(Batch, condition, jobs.PROCESS_BATCH.again)


# -- giving up -----------------------------------------------------------------------------------


def drop(transfer: Transfer) -> None:
    """Drop the transfer's batch; the files that were there stay as they are. Repeatable."""
    with transaction():
        lock_row(transfer.id)
        if _drop(Batch.transfer_id == transfer.id):
            audit.note("drop batch", transfer.id)


def is_abandoned() -> ColumnElement[bool]:
    """The condition that an open batch has had no activity for the upload window."""
    until = db_now() - timedelta(hours=settings.upload_window_in_hours)
    return and_(Batch.closed_at.is_(None), Batch.last_activity_at <= until)


def drop_abandoned(limit: int) -> int:
    """Drop up to `limit` abandoned batches; returns how many. Call in transaction()."""
    dropped = _drop(rows.take(Batch, is_abandoned(), limit=limit))
    if dropped:
        audit.note_all("drop batch", dropped)
    return len(dropped)


def _drop(condition: ColumnElement[bool]) -> list[uuid.UUID]:
    # Lock the batch's row first, as all code that adds or checks files does, to avoid deadlocks.
    dropped = list(
        db.session.scalars(
            delete(Batch)
            .where(condition)
            .returning(Batch.transfer_id)
            .execution_options(synchronize_session=False)
        )
    )
    if dropped:
        of_it = (File.transfer_id.in_(dropped), File.batch.is_(None))
        removal.abandon(select(File.upload_id).where(*of_it))
        db.session.execute(delete(File).where(*of_it).execution_options(synchronize_session=False))
        jobs.REMOVE_BYTES.later()
    return dropped
