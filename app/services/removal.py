"""Removing bytes that are not needed any more: rows are marked, storage is cleared later."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from sqlalchemy import ColumnElement, SelectBase, and_, any_, func, or_, update

from app import crash
from app.clock import db_now
from app.db import db, release
from app.errors import Unavailable
from app.extensions import storage
from app.models import Upload, UploadState
from app.parallel import each


class Removable(Protocol):
    """What remove() needs to know about an upload; a row of these columns will do."""

    key: str
    s3_upload_id: str | None
    etag: str | None


def abandon(
    upload_ids: Sequence[uuid.UUID] | SelectBase,
    later: timedelta = timedelta(0),
    kept_for: uuid.UUID | None = None,
) -> None:
    """Mark uploads whose bytes are not needed any more. Call in transaction(); repeatable.

    Upkeep removes the bytes immediately; or, with `later`, after that time and not before the last
    presigned URL has expired. It removes them again once the URLs have expired. Bytes that are kept
    for a while go immediately with the transfer that they are `kept_for`.
    """
    if isinstance(upload_ids, SelectBase):
        # An array, so that the ids are found once and then looked up by primary key. With a join,
        # PostgreSQL may read a whole table for each row of another until both have been analyzed.
        is_one = Upload.id == any_(func.array(upload_ids.scalar_subquery()))
    else:
        is_one = Upload.id.in_(upload_ids)
    after = func.greatest(db_now() + later, Upload.urls_until) if later else db_now()
    db.session.execute(
        update(Upload)
        .where(is_one, is_kept())
        .values(state=UploadState.ABORTED, remove_after=after, kept_for=kept_for)
        .execution_options(synchronize_session=False)
    )


def is_kept() -> ColumnElement[bool]:
    """The condition that an upload was not abandoned, or was but is kept for a while."""
    is_kept = and_(Upload.kept_for.is_not(None), Upload.removed_at.is_(None))
    return or_(Upload.state != UploadState.ABORTED, is_kept)


def remove(uploads: Sequence[Removable]) -> list[Removable]:
    """Remove all that storage holds of these; returns those for which it worked. Repeatable.

    The multipart upload is aborted first: then a late Complete finds nothing to complete, and an
    earlier one has left an object, which is deleted second. If we have seen that object, there is
    no multipart upload any more. Uses storage only, not the session.
    """
    begun = [upload for upload in uploads if upload.s3_upload_id and upload.etag is None]
    done = abort([(upload.key, upload.s3_upload_id or "") for upload in begun])
    crash.point("remove.2")
    left = {upload.key for upload, is_done in zip(begun, done, strict=True) if not is_done}
    keys = [upload.key for upload in uploads if upload.key not in left]
    left.update(storage.delete(keys))
    return [upload for upload in uploads if upload.key not in left]


def abort(addresses: Sequence[tuple[str, str]]) -> list[bool]:
    """Abort the multipart uploads at these (key, upload id); for each, whether it worked.

    Repeatable. One that storage will not abort must not keep the others waiting for ever.
    """
    return each(addresses, _abort)


def _abort(address: tuple[str, str]) -> bool:
    try:
        storage.abort_upload(*address)
    except Unavailable:
        return False
    return True


def without_object(keys: Sequence[str]) -> list[str]:
    """Those of these keys at which storage has no object. Asks storage for each."""
    release()
    found = each(keys, storage.head)
    return [key for key, stored in zip(keys, found, strict=True) if stored is None]
