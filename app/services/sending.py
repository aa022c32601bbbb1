"""Sending a transfer's files: presigned URLs for their parts, and what storage holds of them.

The bytes go from the browser to storage; this module only signs, and records that they may arrive.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, and_, bindparam, or_, select, update

from app import crash, jobs
from app.clock import db_now
from app.db import ask, db, transaction
from app.errors import Invalid, NotFound, WrongState
from app.models import File, Method, State, Transfer, Upload
from app.services import transfers, uploads
from app.services.transfers import files_of, refuse_blocked
from app.services.uploads import SignedPart

# A queued job for files that were sent counts as lost if no worker came within this time.
REMIND_OF_SENT_AFTER = timedelta(seconds=10)


@dataclass(frozen=True)
class Wanted:
    """Part numbers of one file for which URLs are wanted, and the CRC32 of each."""

    file_id: uuid.UUID
    numbers: tuple[int, ...]
    crc32s: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class Held:
    """The part numbers of one file that storage holds."""

    file: File
    numbers: list[int]


@dataclass(frozen=True)
class HeldPage:
    """What storage holds of some of a transfer's files; `next` is the `after` of the next page."""

    held: list[Held]
    next: uuid.UUID | None


# Selects columns and is built once, because it runs for every few parts that are sent. If
# `is_noted`, the transfer and the upload need not be written again.
_TO_SIGN = (
    select(
        File.id.label("file_id"),
        Upload.id,
        Upload.key,
        Upload.token,
        Upload.s3_upload_id,
        Upload.method,
        Upload.state,
        Upload.size,
        Upload.part_size,
        Upload.checksum_algorithm,
        and_(
            uploads.is_noted(),
            Transfer.state == State.INIT,
            Transfer.quarantined_at.is_(None),
            Transfer.last_activity_at > db_now() - uploads.NOTED_FOR,
            Transfer.sent_size >= bindparam("sent_size"),
        ).label("is_noted"),
    )
    .join(File.upload)
    .join(File.transfer)
    .where(File.transfer_id == bindparam("transfer_id"))
    .where(File.id.in_(bindparam("file_ids", expanding=True)))
)


def sign_parts(
    transfer: Transfer,
    wanted: Sequence[Wanted],
    sent_size: int,
    sent: Sequence[uuid.UUID] = (),
) -> list[tuple[uuid.UUID, SignedPart]]:
    """Presigned URLs for the wanted parts, each with its file's id, in that order.

    They should be used soon. Files in `sent`, which the sender says were sent whole, are completed
    in the background. Raises NotFound for a wanted file that is not the transfer's, Invalid for a
    sent one or for a number outside its plan, WrongState or Gone once the transfer takes no files
    (no new URL after "that is all"), and Blocked.
    """
    refuse_blocked(transfer)
    sent_uploads = _sent_uploads(transfer, sent)
    ids = [one.file_id for one in wanted]
    plans = _plans(transfer, ids, sent_size)
    for index, (plan, one) in enumerate(zip(plans, wanted, strict=True)):
        uploads.check_numbers(plan, one.numbers, f"wanted.{index}.numbers")
        uploads.check_crc32s(plan, one.crc32s, f"wanted.{index}.crc32")
    if any(map(uploads.must_begin, plans)):
        _begin(transfer, ids)
        plans = _plans(transfer, ids, sent_size)
    _note(transfer, plans, sent_size, sent_uploads)
    return [
        (one.file_id, part)
        for plan, one in zip(plans, wanted, strict=True)
        for part in uploads.sign(plan, one.numbers, one.crc32s)
    ]


def sign_part(transfer: Transfer, file: File, number: int) -> str:
    """A presigned URL to PUT one part of the transfer's file to, with any headers.

    Raises as sign_parts() does, and WrongState for a file that was not planned for it: the URL of a
    single PUT could be used again after the check.
    """
    refuse_blocked(transfer)
    uploads.check_numbers(file.upload, [number], "number")
    if file.upload.method is not Method.MULTIPART or file.upload.checksum_algorithm is not None:
        raise WrongState("This file is sent another way.")
    if uploads.must_begin(file.upload):
        uploads.begin([file.upload])
    plans = _plans(transfer, [file.id], 0)
    _note(transfer, plans, 0)
    return uploads.sign_plain(plans[0], [number])[0]


def _plans(transfer: Transfer, file_ids: Sequence[uuid.UUID], sent_size: int) -> list[Row[Any]]:
    if not file_ids:
        return []
    given = {"transfer_id": transfer.id, "file_ids": file_ids, "sent_size": sent_size}
    found = {row.file_id: row for row in ask(_TO_SIGN, given | {"lifetime": uploads.lifetime()})}
    if unknown := [one for one in file_ids if one not in found]:
        raise NotFound(f"This transfer has no file {unknown[0]}.")
    return [found[one] for one in file_ids]


def _begin(transfer: Transfer, file_ids: Sequence[uuid.UUID]) -> None:
    files = files_of(transfer.id, File.id.in_(file_ids), with_coming=True)
    uploads.begin([file.upload for file in files])


def _note(
    transfer: Transfer,
    plans: Sequence[Row[Any]],
    sent_size: int,
    sent_uploads: Sequence[uuid.UUID] = (),
) -> None:
    """Record, before any URL leaves, that the sender is active and that bytes may arrive."""
    if plans and not sent_uploads and all(plan.is_noted for plan in plans):
        return
    with transaction():
        transfers.touch(transfer.id, sent_size)
        uploads.note_signing(plan.id for plan in plans)
        if uploads.note_sent(sent_uploads):
            remind_of_sent(transfer.id)
        crash.point("begin.3")
    crash.point("begin.4")


def _sent_uploads(transfer: Transfer, sent: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    if not sent:
        return []
    rows = db.session.execute(
        select(File.id, File.upload_id).where(File.transfer_id == transfer.id, File.id.in_(sent))
    )
    found = {row.id: row.upload_id for row in rows}
    complaints = {
        f"sent.{index}": "is no file of this transfer"
        for index, file_id in enumerate(sent)
        if file_id not in found
    }
    if complaints:
        raise Invalid(complaints)
    return list(found.values())


def remind_of_sent(transfer_id: uuid.UUID) -> None:
    """Queue the job that completes files named as sent, unless it was queued just now.

    Call in transaction(). The job clears `queued_at` at its end, and then checks whether more were
    named.
    """
    is_due = or_(
        Transfer.queued_at.is_(None), Transfer.queued_at <= db_now() - REMIND_OF_SENT_AFTER
    )
    count = db.session.scalar(
        update(Transfer)
        .where(Transfer.id == transfer_id, Transfer.state == State.INIT, is_due)
        .values(queued_at=db_now(), queue_count=Transfer.queue_count + 1)
        .returning(Transfer.queue_count)
        .execution_options(synchronize_session=False)
    )
    if count is not None:
        jobs.COMPLETE_EARLY.later(transfer_id, attempt=count)


def held_parts(transfer: Transfer, after: uuid.UUID | None, limit: int) -> HeldPage:
    """What storage really holds of each file, whatever the client believes. Asks storage.

    In the sender's order, `limit` files after the one with the id `after`; raises Invalid if the
    transfer has no such file (any more).
    """
    conditions = [] if after is None else [File.position > _position_of(transfer, after)]
    # One more, only to know whether there is another page.
    files = files_of(transfer.id, *conditions, limit=limit + 1, with_coming=True)
    page = files[:limit]
    numbers = uploads.held([file.upload for file in page])
    held = [Held(file, numbers) for file, numbers in zip(page, numbers, strict=True)]
    return HeldPage(held, next=page[-1].id if len(files) > limit else None)


def _position_of(transfer: Transfer, file_id: uuid.UUID) -> int:
    position = db.session.scalar(
        select(File.position).where(File.id == file_id, File.transfer_id == transfer.id)
    )
    if position is None:
        raise Invalid({"after": "is no file of this transfer"})
    return position
