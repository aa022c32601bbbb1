"""Small files: each comes by a form, which a program requests for the person who has the file.

The form goes straight to storage, which holds it to a signed policy (key, type, size, expiry). Once
the program asks, storage is asked what has come; that is then copied to a key without a form, since
the form can bring other bytes until it expires.
"""

import mimetypes
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, CompoundSelect, and_, delete, func, select, update
from sqlalchemy.orm import aliased, joinedload

from app import clock, crash, jobs, rows
from app.clock import db_now
from app.config import S3_MAX_PART_SIZE, settings
from app.db import changed, db, release, transaction
from app.dispositions import attachment
from app.errors import Invalid, NotFound, SizeMismatch, Unavailable, WrongState
from app.extensions import storage
from app.gateways.presign import PostForm
from app.gateways.s3_answers import NotOffered, Source, SourceLost, Stored
from app.models import Method, SmallFile, Upload, UploadState
from app.services import audit, completing, idempotency, planning, removal, room
from app.services.accounts import Caller
from app.services.heartbeats import noted
from app.services.idempotency import Once
from app.services.upkeep import BATCH, LATE_BYTES, Tell, in_batches, untold
from app.words import filesize

UNKNOWN_TYPE = "application/octet-stream"
# RFC 9110: a type, and its parameters, in characters that a header can carry.
_TYPE = re.compile(r"([a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+)( *; *[\x20-\x7e]*)?", re.IGNORECASE)
_ENDING = re.compile(r"[a-z0-9]{1,10}")


@dataclass(frozen=True)
class Offered:
    """A form for one file, valid for `expires_in` seconds."""

    file: SmallFile
    form: PostForm
    expires_in: int


@dataclass(frozen=True)
class Page:
    """Some of a workspace's files, and how many there are in all."""

    files: Sequence[SmallFile]
    total_count: int


# -- a form and what it brings -------------------------------------------------------------------


def offer(
    caller: Caller,
    name: str,
    content_type: str | None,
    size: int | None = None,
    details: dict[str, str] | None = None,
    once: Once | None = None,
) -> Offered:
    """A form for a file of this name. Raises Invalid, KeyReused, WrongState.

    Each call makes another, except that a repeated `once` returns the same file. Without a type, it
    is guessed from the name's extension. `size` is the most that the form accepts.
    """
    content_type = content_type or mimetypes.guess_type(name)[0] or UNKNOWN_TYPE
    _check(content_type, size)
    posted, kept = _plan(name, Method.POST), _plan(name, Method.SINGLE)
    expires_in = settings.part_url_ttl_in_seconds
    posted.urls_until = clock.now() + timedelta(seconds=expires_in)
    file = SmallFile(
        id=uuid.uuid4(),
        workspace_id=caller.workspace_id,
        key=posted.key,
        posted_id=posted.id,
        kept_id=kept.id,
        name=name,
        content_type=content_type,
        max_size=settings.max_small_file_size if size is None else size,
        details=details or {},
    )
    with transaction():
        if (before := idempotency.made(once)) is not None:
            file = _offered_again(before[0], posted.urls_until)
        else:
            room.reserve_some(size, "size")
            db.session.add_all([posted, kept])
            # SQLAlchemy only orders by relationships, and `posted` has none.
            db.session.flush()
            db.session.add(file)
            idempotency.note(once, [file.id])
    form = storage.urls.post_form(file.key, file.content_type, file.max_size, expires_in)
    return Offered(file, form, expires_in)


def _offered_again(file_id: uuid.UUID, urls_until: datetime) -> SmallFile:
    """The file that the same request has made; raises WrongState if it takes no form any more."""
    waits = (SmallFile.id == file_id, SmallFile.confirmed_at.is_(None))
    file = db.session.scalar(select(SmallFile).where(*waits).with_for_update())
    if file is None:
        raise WrongState("The file of this Idempotency-Key was confirmed or deleted.")
    db.session.execute(
        update(Upload).where(Upload.id == file.posted_id).values(urls_until=urls_until)
    )
    return file


def _plan(name: str, method: Method) -> Upload:
    """A new upload of one part, whose size is known only once it has arrived."""
    return Upload(
        id=uuid.uuid4(),
        key=_new_key(name),
        token=secrets.token_hex(16),
        method=method,
        size=0,
        part_size=S3_MAX_PART_SIZE,
        state=UploadState.OPEN,
    )


def _new_key(name: str) -> str:
    """A random key; of the name it shows only the extension, if that is letters and digits."""
    stem, _, ending = name.rpartition(".")
    ending = f".{ending.lower()}" if stem and _ENDING.fullmatch(ending.lower()) else ""
    return f"{settings.s3_prefix}uploads/{clock.now():%Y/%m/%d}/{uuid.uuid4()}{ending}"


def _check(content_type: str, size: int | None) -> None:
    complaints = {}
    if size is not None and size > settings.max_small_file_size:
        shown = filesize(settings.max_small_file_size)
        complaints["size"] = f"must be at most {settings.max_small_file_size} bytes ({shown})"
    parsed = _TYPE.fullmatch(content_type)
    if not parsed:
        complaints["content_type"] = "must be a type such as image/png"
    elif not _is_allowed(parsed[1].lower()):
        allowed = ", ".join(settings.small_file_types)
        complaints["content_type"] = f"must be one of {allowed}"
    if complaints:
        raise Invalid(complaints)


def _is_allowed(content_type: str) -> bool:
    """Whether an allowed type matches; its asterisk, if any, is the last character."""
    return any(
        one == "*/*"
        or content_type == one
        or (one.endswith("*") and content_type.startswith(one.removesuffix("*")))
        for one in settings.small_file_types
    )


def confirm(caller: Caller, key: str) -> SmallFile:
    """Keep the file that came by the form for this key, for good; repeatable.

    Raises NotFound for a key that is not the caller's and for one where nothing has come;
    SizeMismatch; WrongState if other bytes have come since the first call; and Unavailable.
    """
    file = _found(SmallFile.key == key, caller)
    if file.confirmed_at is None:
        _keep(file)
        # It may have been deleted meanwhile.
        file = _found(SmallFile.key == key, caller)
    if file.confirmed_at is None:
        raise Unavailable("Storage does not show what it has just copied. Please try again.")
    return file


def _keep(file: SmallFile) -> None:
    release()
    stored = storage.head(file.key)
    if stored is None:
        if _is_confirmed(file.id):
            return
        raise NotFound("Nothing has arrived at this key yet.")
    if stored.size > file.max_size:  # storage has not enforced the policy
        raise SizeMismatch(
            "What arrived is larger than the form allowed.",
            expected=file.max_size,
            found=stored.size,
        )
    source = Source(file.key, _pin(file, stored.etag))
    crash.point("confirm.1")
    kept = _copied(file, source)
    crash.point("confirm.2")
    if kept is not None:
        _settle(file, kept)


def _pin(file: SmallFile, etag: str) -> str:
    """The ETag to copy: the first request to confirm decides it, and all others get the same."""
    with transaction():
        pinned = db.session.scalar(
            update(SmallFile)
            .where(SmallFile.id == file.id)
            .values(etag=func.coalesce(SmallFile.etag, etag))
            .returning(SmallFile.etag)
            .execution_options(synchronize_session=False)
        )
        if pinned is None:
            raise NotFound("There is no such file.")
        # If the file is deleted during the copy, its object is removed once more afterwards.
        db.session.execute(
            update(Upload)
            .where(Upload.id == file.kept_id, Upload.state == UploadState.OPEN)
            .values(urls_until=db_now() + planning.OUR_OWN_WITHIN)
            .execution_options(synchronize_session=False)
        )
    return pinned


def _copied(file: SmallFile, source: Source) -> Stored | None:
    """The object at the kept key after the copy; None if another request has settled the file."""
    kept = file.kept
    # An earlier call may have pinned it, and its copy ended after that call had stopped waiting.
    if file.etag is not None and (copied := completing.copy_at(kept)) is not None:
        return copied
    try:
        storage.copy_whole(source, kept.key, kept.token)
    except NotOffered as error:
        raise Unavailable("This storage does not support CopyObject.") from error
    except SourceLost as error:
        if _is_confirmed(file.id):
            return None
        raise WrongState(
            "Other bytes have arrived since this was first confirmed. Request a new form."
        ) from error
    return completing.copy_at(kept)


def _settle(file: SmallFile, stored: Stored) -> None:
    with transaction():
        if not _mark_confirmed(file.id):
            return
        for upload_id, values in (
            (file.kept_id, {"state": UploadState.COMPLETE, "etag": stored.etag}),
            (file.posted_id, {}),
        ):
            db.session.execute(
                update(Upload)
                .where(Upload.id == upload_id)
                .values(size=stored.size, **values)
                .execution_options(synchronize_session=False)
            )
        removal.abandon([file.posted_id] if file.posted_id else [])
        audit.note("confirm file", subject_id=file.id)
        jobs.REMOVE_BYTES.later()


def _mark_confirmed(file_id: uuid.UUID) -> bool:
    """Confirm the file: True for the one request that did it, False also if it was deleted."""
    marked = changed(
        update(SmallFile)
        .where(SmallFile.id == file_id, SmallFile.confirmed_at.is_(None))
        .values(confirmed_at=db_now())
        .execution_options(synchronize_session=False)
    )
    return marked == 1


def _is_confirmed(file_id: uuid.UUID) -> bool:
    found = db.session.scalar(select(SmallFile.confirmed_at).where(SmallFile.id == file_id))
    release()
    return found is not None


# -- what there is -------------------------------------------------------------------------------


def page(caller: Caller, limit: int, offset: int) -> Page:
    """Confirmed files of the caller's workspace, the newest first, and their total number."""
    files = db.session.scalars(
        select(SmallFile)
        .where(_is_listed(caller))
        .order_by(SmallFile.confirmed_at.desc(), SmallFile.id.desc())
        .limit(limit)
        .offset(offset)
        .options(joinedload(SmallFile.kept, innerjoin=True))
        .execution_options(populate_existing=True)
    ).all()
    count = select(func.count()).select_from(SmallFile).where(_is_listed(caller))
    return Page(files, db.session.scalar(count) or 0)


def download_url(caller: Caller, file_id: uuid.UUID) -> str:
    """A presigned URL of the file under its name, for DOWNLOAD_URL_TTL; raises NotFound."""
    file = _found(and_(SmallFile.id == file_id, SmallFile.confirmed_at.is_not(None)), caller)
    return storage.urls.get(
        file.kept.key, attachment(file.name), settings.download_url_ttl_in_seconds
    )


def remove(caller: Caller, file_id: uuid.UUID) -> None:
    """Delete the file, confirmed or not; its bytes are removed later.

    Raises NotFound, also the second time.
    """
    if not _remove(and_(SmallFile.id == file_id, _is_of(caller)), file_id):
        raise NotFound("There is no such file.")


def remove_all(workspace_id: uuid.UUID, tell: Tell) -> int:
    """Delete all files of a workspace as remove() does, one after the other; returns how many.

    Repeatable: what others add or delete meanwhile is left to them.
    """
    mine = select(SmallFile.id).where(SmallFile.workspace_id == workspace_id)
    count = 0
    for one in db.session.scalars(mine).all():
        count += _remove(SmallFile.id == one, one)
        tell("small files", count)
    return count


def _remove(condition: ColumnElement[bool], file_id: uuid.UUID) -> bool:
    with transaction():
        is_gone = _drop(condition) > 0
        if is_gone:
            audit.note("delete file", subject_id=file_id)
    return is_gone


def _found(condition: ColumnElement[bool], caller: Caller) -> SmallFile:
    file = db.session.scalar(
        select(SmallFile)
        .where(condition, _is_of(caller))
        .options(joinedload(SmallFile.kept, innerjoin=True))
        .execution_options(populate_existing=True)
    )
    if file is None:
        raise NotFound("There is no such file.")
    return file


def _is_of(caller: Caller) -> ColumnElement[bool]:
    """The condition that a file is the workspace's.

    It is not limited to one user: keys belong to servers, whose users never ask here themselves.
    """
    return SmallFile.workspace_id == caller.workspace_id


def _is_listed(caller: Caller) -> ColumnElement[bool]:
    return and_(_is_of(caller), SmallFile.confirmed_at.is_not(None))


# -- what never came -----------------------------------------------------------------------------


@noted
def delete_unconfirmed(tell: Tell = untold) -> int:
    """Job: delete forms not confirmed within the upload window, and what they brought."""
    return in_batches(_delete_given_up, tell)


def is_given_up() -> ColumnElement[bool]:
    """The condition that a form has expired and what it brought was not confirmed.

    A form that is told again begins its time anew.
    """
    until = db_now() - timedelta(hours=settings.upload_window_in_hours)
    posted = aliased(Upload)
    may_come = (
        select(posted.id)
        .where(posted.id == SmallFile.posted_id, posted.urls_until > db_now() - LATE_BYTES)
        .exists()
    )
    return and_(SmallFile.confirmed_at.is_(None), SmallFile.created_at <= until, ~may_come)


def uploads_of(condition: ColumnElement[bool]) -> CompoundSelect[uuid.UUID]:
    """The ids of all uploads of the files for which the condition holds."""
    return (
        select(SmallFile.kept_id)
        .where(condition)
        .union_all(select(SmallFile.posted_id).where(condition, SmallFile.posted_id.is_not(None)))
    )


def _delete_given_up() -> int:
    return _drop(rows.take(SmallFile, is_given_up(), limit=BATCH))


def _drop(condition: ColumnElement[bool]) -> int:
    """Delete the files for which the condition holds, and abandon their uploads.

    Returns how many.
    """
    gone = db.session.execute(
        delete(SmallFile)
        .where(condition)
        .returning(SmallFile.kept_id, SmallFile.posted_id)
        .execution_options(synchronize_session=False)
    ).all()
    if gone:
        removal.abandon([one for row in gone for one in row if one is not None])
        jobs.REMOVE_BYTES.later()
    return len(gone)
