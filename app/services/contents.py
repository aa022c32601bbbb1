"""The files of a transfer until it is READY: adding and removing them, and their limits.

Files added to a READY transfer are in batches.py.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, update

from app import jobs
from app.config import settings
from app.db import db, transaction
from app.errors import Invalid, NotFound, TooMany, WrongState
from app.models import Checksum, File, Staging, State, Transfer, Upload
from app.services import audit, idempotency, planning, removal, room
from app.services.idempotency import Once
from app.services.transfers import files_of, lock_open


@dataclass(frozen=True)
class FileSpec:
    """A file as announced by its sender."""

    path: str
    size: int
    content_type: str = ""
    checksum_algorithm: Checksum | None = None
    modified_at: datetime | None = None
    # For a client that is given its part size and cannot choose how to send the file.
    part_size: int | None = None


def add_files(
    transfer: Transfer, specs: Sequence[FileSpec], once: Once | None = None
) -> list[File]:
    """Add files to a transfer in INIT; returns the new ones.

    Raises Invalid, WrongState, Gone, Blocked, KeyReused, TooMany.
    """
    agreed = agree_on_checksums(specs)
    with transaction():
        if (ids := idempotency.made(once)) is not None:
            return files_of(transfer.id, File.id.in_(ids))
        if lock_open(transfer.id).state is not State.INIT:
            raise WrongState("No more files can be added to this transfer.")
        already = files_of(transfer.id)
        check_files(specs, already)
        check_open_quota(transfer.address_hash, size_of(specs) + size_of(already), transfer.id)
        room.reserve(size_of(specs))
        first = max((file.position for file in already), default=-1) + 1
        _end_staging(transfer.id)
        audit.note("add files", transfer.id)
        files = put_files(transfer.id, specs, agreed, first)
        note_size(transfer.id)
        idempotency.note(once, [file.id for file in files])
        return files


def _end_staging(transfer_id: uuid.UUID) -> None:
    """Abandon what came by one PUT, now that files come in parts. Call in transaction()."""
    ended = db.session.execute(
        delete(Staging)
        .where(Staging.transfer_id == transfer_id)
        .returning(Staging.upload_id, Staging.copy_id)
        .execution_options(synchronize_session=False)
    ).first()
    if ended is not None and any(ended):
        removal.abandon([one for one in ended if one is not None])
        jobs.REMOVE_BYTES.later()


def remove_file(transfer: Transfer, file_id: uuid.UUID) -> None:
    """Remove one file from a transfer in INIT, or from a batch that is still open.

    Raises NotFound, WrongState, and Gone or Blocked once the transfer has ended.
    """
    with transaction():
        row = lock_open(transfer.id)
        file = db.session.scalar(
            select(File).where(File.id == file_id, File.transfer_id == transfer.id)
        )
        if file is None:
            raise NotFound("This transfer has no such file.")
        if row.state is State.READY and not file.is_coming:
            raise WrongState("Only files that are still on their way can be removed.")
        removal.abandon([file.upload_id])
        db.session.delete(file)
        # flush(): note_size() must not count this file.
        db.session.flush()
        note_size(transfer.id)
        audit.note("remove file", transfer.id)
        jobs.REMOVE_BYTES.later()


def agree_on_checksums(specs: Sequence[FileSpec]) -> Checksum | None:
    """What to verify parts by, if any file wants that; see planning.agree_on_checksums()."""
    is_wanted = any(spec.checksum_algorithm for spec in specs)
    return planning.agree_on_checksums(is_wanted=is_wanted)


def put_files(
    transfer_id: uuid.UUID,
    specs: Sequence[FileSpec],
    agreed: Checksum | None,
    first_position: int,
    *,
    are_coming: bool = False,
) -> list[File]:
    """Add rows and upload plans for files that check_files() has passed, with room reserved.

    Call in transaction(); the caller stores the total size.
    """
    files = [
        File(
            id=uuid.uuid4(),
            transfer_id=transfer_id,
            upload=planning.plan(
                spec.size, agreed if spec.checksum_algorithm else None, spec.part_size
            ),
            position=first_position + index,
            path=spec.path,
            content_type=spec.content_type,
            modified_at=spec.modified_at,
            batch=None if are_coming else 0,
        )
        for index, spec in enumerate(specs)
    ]
    db.session.add_all(files)
    # flush(): the caller returns the rows' ids and plans, which the commit no longer changes.
    db.session.flush()
    return files


def note_size(transfer_id: uuid.UUID) -> None:
    """Store the total size of the transfer's files, without a batch's. Call in transaction()."""
    size = (
        select(func.coalesce(func.sum(Upload.size), 0))
        .join(File, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, File.batch.is_not(None))
    )
    db.session.execute(
        update(Transfer)
        .where(Transfer.id == transfer_id)
        .values(total_size=size.scalar_subquery())
        .execution_options(synchronize_session=False)
    )


def size_of(files: Sequence[FileSpec | File]) -> int:
    """The total size of these files, in bytes."""
    return sum(file.size for file in files)


def check_files(specs: Sequence[FileSpec], already: Sequence[File]) -> None:
    """Raise Invalid unless these files may be added to those the transfer has `already`."""
    complaints: dict[str, str] = {}
    if len(specs) + len(already) > settings.max_files:
        complaints["files"] = f"a transfer holds at most {settings.max_files} files"
    seen = {file.path for file in already}
    for index, spec in enumerate(specs):
        if spec.path in seen:
            complaints[f"files.{index}.path"] = "appears twice"
        if spec.size > settings.max_file_size:
            complaints[f"files.{index}.size"] = f"must be at most {settings.max_file_size} bytes"
        seen.add(spec.path)
    total = size_of(specs) + size_of(already)
    if settings.max_transfer_size is not None and total > settings.max_transfer_size:
        complaints["files"] = f"together must be at most {settings.max_transfer_size} bytes"
    if complaints:
        raise Invalid(complaints)


def check_open_quota(
    address_hash: bytes | None, size: int, its_id: uuid.UUID | None = None
) -> None:
    """Raise TooMany if a network address would have too many, or too large, unfinished transfers.

    `size` is that of the transfer to be made or grown, and `its_id` its id if it exists already.
    One transfer alone may have any size that a transfer may have. A courtesy limit, so without a
    lock.
    """
    if address_hash is None:
        return
    # A file that comes by one PUT has no File row yet, only an upload of its declared size.
    size_of_one = Transfer.total_size + func.coalesce(Upload.size, 0)
    open_count, open_size = db.session.execute(
        select(func.count(), func.coalesce(func.sum(size_of_one), 0))
        .select_from(Transfer)
        .outerjoin(Staging, Staging.transfer_id == Transfer.id)
        .outerjoin(Upload, Upload.id == Staging.upload_id)
        .where(
            Transfer.state == State.INIT,
            Transfer.address_hash == address_hash,
            Transfer.id.is_distinct_from(its_id),
        )
    ).one()
    if its_id is None and open_count >= settings.max_open_transfers_per_address:
        raise TooMany("Too many unfinished transfers from your network. Finish or cancel some.")
    if open_count and open_size + size > settings.max_open_bytes_per_address:
        raise TooMany(
            "Together, the unfinished transfers from your network would be too large. "
            "Finish or cancel some."
        )
