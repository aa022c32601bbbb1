"""The rows of previews: added with READY, queued again when lost, deleted with their transfer.

previewing.py makes the previews, and preview_access.py shows them. A preview never affects its
transfer: a file without one is as good as any other.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, select, union_all, update
from sqlalchemy.dialects.postgresql import insert

from app import jobs, leases
from app.config import settings
from app.db import db, transaction
from app.models import File, Preview, PreviewState, State, Transfer, Upload
from app.services import media_kinds, picturing, removal


def expect(transfer_id: uuid.UUID) -> None:
    """Add a row for each file that could have a preview, and queue them. Call in transaction().

    Repeatable: a file has one preview, and what is made already stays.
    """
    if not settings.previews:
        return
    found = db.session.execute(
        select(File.id, File.path, File.content_type, Upload.size)
        .join(File.upload)
        .where(File.transfer_id == transfer_id)
    )
    expected = [
        {"file_id": file_id, "sight": sight, "state": PreviewState.WAITING}
        for file_id, path, content_type, size in found
        if (sight := media_kinds.expected(path, content_type, size))
    ]
    if not expected:
        return
    db.session.execute(insert(Preview).on_conflict_do_nothing(), expected)
    remind(transfer_id)


def remind(transfer_id: uuid.UUID) -> None:
    """Queue the transfer's previews if it is READY. Call in transaction().

    Reminders are counted on the transfer's row, as those of its check were before READY.
    """
    condition = and_(Transfer.id == transfer_id, Transfer.state == State.READY)
    leases.remind(Transfer, condition, jobs.MAKE_PREVIEWS.again)


def has_pictures(files: Iterable[File]) -> bool:
    """Whether any of the files has a picture, so that each row of the list leaves room for one.

    The files must have been read with their previews.
    """
    return any(file.preview is not None and file.preview.has_picture for file in files)


def is_claimable() -> ColumnElement[bool]:
    """The condition that a preview waits and no worker is making it."""
    return and_(Preview.state == PreviewState.WAITING, picturing.is_unclaimed(Preview))


def remind_lost(queued_before: ColumnElement[Any]) -> int:
    """Queue READY transfers with waiting previews that are unattended; returns how many.

    Only those not queued since `queued_before`; does nothing if previews are switched off.
    """
    if not settings.previews:
        return 0
    is_lost = and_(
        Transfer.id.in_(select(File.transfer_id).join(File.preview).where(is_claimable())),
        Transfer.state == State.READY,
        leases.is_unattended(Transfer, queued_before),
    )
    return leases.remind_stuck(Transfer, is_lost, jobs.MAKE_PREVIEWS.again)


def give_up(transfer_id: uuid.UUID) -> None:
    """Settle previews that have failed too often as NONE. Call in transaction()."""
    files = select(File.id).where(File.transfer_id == transfer_id)
    hopeless = and_(
        Preview.file_id.in_(files),
        is_claimable(),
        Preview.attempt_count >= picturing.MOST_ATTEMPTS,
    )
    removal.abandon(_objects(hopeless))
    db.session.execute(
        update(Preview)
        .where(hopeless)
        .values(state=PreviewState.NONE, thumbnail_id=None, picture_id=None)
        .execution_options(synchronize_session=False)
    )


def end(transfer_ids: Sequence[uuid.UUID]) -> None:
    """Delete the previews of these transfers. Call in transaction(); repeatable.

    Excerpts of texts are gone immediately; the pictures' objects are removed as their files' are.
    """
    _end(Preview.file_id.in_(select(File.id).where(File.transfer_id.in_(transfer_ids))))


def end_left_over() -> None:
    """Delete previews of transfers that were deleted by a release that had no previews yet."""
    gone = select(File.id).join(Transfer).where(Transfer.state == State.DELETED)
    with transaction():
        _end(Preview.file_id.in_(gone))


def of_ending(condition: ColumnElement[bool]) -> Select[uuid.UUID]:
    """The ids of the uploads of pictures, of the transfers for which `condition` holds."""
    files = select(File.id).join(Transfer).where(condition)
    return _objects(Preview.file_id.in_(files))


def _end(condition: ColumnElement[bool]) -> None:
    removal.abandon(_objects(condition))
    db.session.execute(
        delete(Preview).where(condition).execution_options(synchronize_session=False)
    )


def _objects(condition: ColumnElement[bool]) -> Select[uuid.UUID]:
    both = union_all(
        select(Preview.thumbnail_id.label("id")).where(condition),
        select(Preview.picture_id.label("id")).where(condition),
    ).subquery()
    return select(both.c.id).where(both.c.id.is_not(None))
