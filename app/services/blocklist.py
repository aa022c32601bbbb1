"""The block list: files that no transfer may contain, and which uploads must be read for it.

Assets and small files, which workspaces keep, are not compared with it.

Before a file is completed it is looked up by size and CRC32, which costs nothing. Only one that
could be on the list is held back, and read by a worker to get its SHA-256 (blocklist_scan.py).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, joinedload

from app import jobs, leases
from app.db import changed, db, release, transaction
from app.errors import Gone, NotFound, WrongState
from app.models import BlockedFile, File, Harm, Inspection, State, Transfer, Upload, UploadState
from app.services import audit
from app.services.completing import Outcome
from app.services.transfers import of_id


@dataclass(frozen=True)
class Reading:
    """Progress in reading the files of a transfer to be put on the list; `left_size` in bytes."""

    waiting_count: int
    left_size: int
    failed_count: int


# -- the list ----------------------------------------------------------------------------------


def add(sha256: bytes, size: int, reason: Harm, crc32: bytes | None = None) -> bool:
    """Block a file from being sent; True if it was not on the list. Repeatable.

    This affects what is sent later, not what is there already.
    """
    with transaction():
        added = changed(
            insert(BlockedFile)
            .values(sha256=sha256, size=size, crc32=crc32, reason=reason)
            .on_conflict_do_nothing()
        )
        if added:
            audit.note("block file")
    return added == 1


def remove(sha256: bytes) -> bool:
    """Unblock a file; True if it was on the list. What was quarantined because of it stays so."""
    with transaction():
        removed = changed(delete(BlockedFile).where(BlockedFile.sha256 == sha256))
        if removed:
            audit.note("unblock file")
    return removed == 1


def entries() -> Sequence[BlockedFile]:
    """The whole list, oldest first."""
    return db.session.scalars(
        select(BlockedFile).order_by(BlockedFile.created_at, BlockedFile.sha256)
    ).all()


def find(sha256: bytes) -> BlockedFile | None:
    """The entry for this hash; None if it is not on the list now."""
    return db.session.get(BlockedFile, sha256, populate_existing=True)


# -- what is held back -------------------------------------------------------------------------


def hold_back(transfer_id: uuid.UUID, outcomes: Sequence[Outcome]) -> set[uuid.UUID]:
    """Of uploads that storage confirms, queue those to be read that could be on the list.

    Returns their ids. One indexed query, and nothing else if none could be. Call in transaction(),
    with the transfer's row locked; repeatable.
    """
    crc32s = {outcome.upload_id: outcome.crc32 for outcome in outcomes}
    # Cast because PostgreSQL would take it for text if no upload has a CRC32.
    crc32 = cast(case(crc32s, value=Upload.id), BlockedFile.crc32.type)
    could_be = select(BlockedFile.sha256).where(
        BlockedFile.size == Upload.size,
        or_(BlockedFile.crc32.is_(None), crc32.is_(None), BlockedFile.crc32 == crc32),
    )
    held = set(
        db.session.scalars(
            select(Upload.id).where(
                Upload.id.in_(crc32s), Upload.state == UploadState.OPEN, could_be.exists()
            )
        )
    )
    if held:
        _want([{"upload_id": one, "transfer_id": transfer_id, "block_as": None} for one in held])
    return held


def is_pending() -> ColumnElement[bool]:
    """The condition that an upload has arrived and waits to be compared with the list."""
    return (
        select(Inspection.upload_id)
        .where(Inspection.upload_id == Upload.id, Inspection.block_as.is_(None))
        .exists()
    )


def has_pending(transfer_id: InstrumentedAttribute[uuid.UUID]) -> ColumnElement[bool]:
    """The condition that files of a row's transfer are held back, not counting removed files."""
    return (
        select(Inspection.upload_id)
        .join(File, File.upload_id == Inspection.upload_id)
        .where(File.transfer_id == transfer_id, Inspection.block_as.is_(None))
        .exists()
    )


# -- what is to be put on the list -------------------------------------------------------------


def block_files(transfer_id: uuid.UUID, reason: Harm, paths: Sequence[str] = ()) -> int:
    """Have a quarantined transfer's files read and put on the list; returns how many. Repeatable.

    All files, or those with these paths; empty files, and those that have not arrived, are left
    out. Raises WrongState unless it is quarantined, Gone if it was deleted, NotFound for a path.
    """
    with transaction():
        transfer = db.session.scalar(
            select(Transfer)
            .where(Transfer.id == transfer_id)
            # Locked, so that it cannot end meanwhile.
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if transfer is None or transfer.state is State.DELETED:
            raise Gone(reason="deleted")
        if transfer.quarantined_at is None:
            raise WrongState("It is not quarantined. Quarantine it first.")
        files = db.session.execute(
            select(File.path, Upload.id)
            .join(File.upload)
            .where(
                File.transfer_id == transfer_id,
                Upload.state == UploadState.COMPLETE,
                Upload.size > 0,
                *([File.path.in_(paths)] if paths else []),
            )
        ).all()
        if unknown := sorted(set(paths) - {path for path, _ in files}):
            raise NotFound(f"It has no file {unknown[0]} that can be read.")
        if files:
            _want(
                [
                    {"upload_id": upload_id, "transfer_id": transfer_id, "block_as": reason}
                    for _, upload_id in files
                ]
            )
        audit.note("block files", transfer_id)
    return len(files)


def reading(transfer_id: uuid.UUID) -> Reading:
    """The progress of what block_files() requested; raises Gone if the transfer was deleted."""
    if of_id(transfer_id).state is State.DELETED:
        raise Gone(reason="deleted")
    is_failed = Inspection.failed_at.is_not(None)
    left = func.sum(Upload.size - Inspection.done_size).filter(~is_failed)
    row = db.session.execute(
        select(
            func.count().filter(~is_failed), func.coalesce(left, 0), func.count().filter(is_failed)
        )
        .select_from(Inspection)
        .join(Upload, Upload.id == Inspection.upload_id)
        .where(Inspection.transfer_id == transfer_id, Inspection.block_as.is_not(None))
    ).one()
    release()
    return Reading(row[0], int(row[1]), row[2])


# -- reading -----------------------------------------------------------------------------------


def inspection_of(upload_id: uuid.UUID) -> Inspection | None:
    """The inspection of one upload, read afresh; None if there is none."""
    return db.session.scalar(
        select(Inspection)
        .where(Inspection.upload_id == upload_id)
        .options(joinedload(Inspection.upload, innerjoin=True))
        .execution_options(populate_existing=True)
    )


def is_wanted() -> ColumnElement[bool]:
    """The condition that an upload is to be read, and that its bytes are still there."""
    return and_(
        Inspection.failed_at.is_(None),
        select(Upload.id)
        .where(Upload.id == Inspection.upload_id, Upload.state != UploadState.ABORTED)
        .exists(),
    )


def waiting() -> leases.Waiting:
    """How many files wait to be read and for how long, and how many are being read."""
    return leases.waiting(Inspection, is_wanted())


def remind_stuck(queued_before: ColumnElement[Any]) -> int:
    """Queue files to be read that no worker reads and that were not queued since; how many."""
    is_stuck = and_(is_wanted(), leases.is_unattended(Inspection, queued_before))
    return leases.remind_stuck(Inspection, is_stuck, jobs.INSPECT_FILE.again)


def remind(condition: ColumnElement[bool]) -> None:
    """Queue the files that are to be read and meet this condition. Call in transaction()."""
    leases.remind(Inspection, and_(is_wanted(), condition), jobs.INSPECT_FILE.again)


def _want(rows: Sequence[dict[str, Any]]) -> None:
    """Add one row for each file, or restart it if it was given up; a pending one is unchanged."""
    wanted = insert(Inspection)
    db.session.execute(
        wanted.on_conflict_do_update(
            index_elements=["upload_id"],
            set_={"block_as": wanted.excluded.block_as, "failed_at": None, "attempt_count": 0},
            where=Inspection.failed_at.is_not(None),
        ),
        rows,
    )
    remind(Inspection.upload_id.in_([row["upload_id"] for row in rows]))
