"""The assets of a workspace and their versions: how each of these arrives, changes and goes.

A row is found by its identifier and by the caller's workspace, in one query; whatever else the
caller says about it (a key, an asset) is only compared. Storage is believed: a version is there
when storage's own list of parts, its sizes and its token say so. The bytes of every version lie at
a key that was never used before, so no URL that was handed out can change what is there.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import contains_eager, joinedload
from sqlalchemy.orm.attributes import set_committed_value

from app import crash, jobs
from app.clock import db_now
from app.config import S3_MAX_PARTS, S3_MIN_PART_SIZE, settings
from app.db import ask, changed, db, release, transaction
from app.dispositions import attachment
from app.errors import Invalid, NotFound, PartsMissing, SizeMismatch, Unavailable, WrongState
from app.extensions import storage
from app.gateways.s3_answers import NoSuchUpload, NotOffered, Part, Source, SourceLost, Stored
from app.models import Asset, AssetVersion, Upload, UploadState
from app.services import asset_words, audit, completing, planning, removal, thumbnails, uploads
from app.services.accounts import Caller
from app.services.marks import IsSeen, check_seen, mark_of
from app.services.upkeep import Tell

NO_UPLOAD = "There is no such upload."
NO_ASSET = "There is no such asset."


@dataclass(frozen=True)
class NamedPart:
    """A part as a client names it: the number, and the ETag that storage returned."""

    number: int
    etag: str


# -- finding -----------------------------------------------------------------------------------


def upload_of(
    caller: Caller,
    s3_upload_id: str,
    *,
    key: str | None = None,
    asset_id: uuid.UUID | None = None,
) -> AssetVersion:
    """The caller's version by its multipart upload; raises NotFound.

    `key` and `asset_id`, if given, must be the version's own.
    """
    version = _one_of(caller, Upload.s3_upload_id == s3_upload_id)
    is_same = version is not None and key in (None, version.upload.key)
    if version is None or not is_same or asset_id not in (None, version.asset_id):
        raise NotFound(NO_UPLOAD)
    return version


def by_key(caller: Caller, key: str) -> AssetVersion:
    """The caller's version at this key, or posted to it; raises NotFound."""
    version = _one_of(caller, or_(Upload.key == key, AssetVersion.posted_key == key))
    if version is None:
        raise NotFound(NO_ASSET)
    return version


def by_id(caller: Caller, asset_id: uuid.UUID, number: int | None = None) -> AssetVersion:
    """The caller's asset as it is shown, or one version of it; raises NotFound.

    If no version has arrived yet, the last announced one: it may be arriving right now.
    """
    if number is not None:
        is_wanted = AssetVersion.number == number
    else:
        shown = func.coalesce(func.nullif(Asset.shown_number, 0), Asset.last_number)
        is_wanted = AssetVersion.number == shown
    version = _one_of(caller, Asset.id == asset_id, is_wanted)
    if version is None:
        raise NotFound(NO_ASSET)
    return version


def _one_of(caller: Caller, *conditions: ColumnElement[bool]) -> AssetVersion | None:
    return db.session.scalars(
        whole(select(AssetVersion)).where(Asset.workspace_id == caller.workspace_id, *conditions)
    ).first()


def whole(statement: Select[AssetVersion]) -> Select[AssetVersion]:
    """The statement for versions, extended to load all that is shown of each."""
    return (
        statement.join(AssetVersion.asset)
        .join(AssetVersion.upload)
        .options(
            contains_eager(AssetVersion.asset),
            contains_eager(AssetVersion.upload),
            joinedload(AssetVersion.thumbnail),
        )
        .execution_options(populate_existing=True)
    )


def versions_of(asset_id: uuid.UUID) -> list[AssetVersion]:
    """The asset's versions that have arrived, the newest first."""
    found = whole(select(AssetVersion)).where(
        AssetVersion.asset_id == asset_id, AssetVersion.ready_at.is_not(None)
    )
    return list(db.session.scalars(found.order_by(AssetVersion.number.desc())))


# -- sending -----------------------------------------------------------------------------------


# Selects columns and is built once: a client may ask for every part separately. The workspace is
# compared below: as a condition, it can make PostgreSQL read through all that a workspace has.
_TO_SIGN = (
    select(
        Asset.workspace_id,
        AssetVersion.id,
        AssetVersion.asset_id,
        AssetVersion.upload_id,
        Upload.key,
        Upload.s3_upload_id,
        Upload.state,
        and_(
            uploads.is_noted(), AssetVersion.last_activity_at > db_now() - uploads.NOTED_FOR
        ).label("is_noted"),
    )
    .join(AssetVersion.asset)
    .join(AssetVersion.upload)
    .where(Upload.s3_upload_id == bindparam("s3_upload_id"))
)


def sign_parts(
    caller: Caller,
    s3_upload_id: str,
    numbers: Sequence[int],
    *,
    key: str | None = None,
    asset_id: uuid.UUID | None = None,
) -> dict[int, str]:
    """A presigned URL to PUT each of these parts to, with any headers and length.

    Raises NotFound as upload_of() does, WrongState when the upload takes no more, Invalid for a
    part number outside S3's range.
    """
    wanted = {"s3_upload_id": s3_upload_id, "lifetime": uploads.lifetime()}
    found = ask(_TO_SIGN, wanted).first()
    is_theirs = found is not None and found.workspace_id == caller.workspace_id
    is_same = found is not None and key in (None, found.key)
    if found is None or not is_theirs or not is_same or asset_id not in (None, found.asset_id):
        raise NotFound(NO_UPLOAD)
    for number in numbers:
        if not 1 <= number <= S3_MAX_PARTS:
            raise Invalid({"partNumber": f"must be from 1 to {S3_MAX_PARTS}"})
    if found.state is not UploadState.OPEN or not found.is_noted:
        with transaction():
            uploads.note_signing([found.upload_id])
            _touch(found.id)
    return dict(zip(numbers, uploads.sign_plain(found, numbers), strict=True))


def held_parts(version: AssetVersion) -> list[Part]:
    """Every part that storage holds. Asks storage.

    Raises WrongState if the upload is complete or aborted, and NotFound if storage has lost it.
    """
    if version.upload.state is not UploadState.OPEN:
        raise WrongState("This upload is complete, or was aborted.")
    release()
    try:
        parts = storage.list_parts(*_address(version.upload))
    except NoSuchUpload as error:
        raise NotFound(NO_UPLOAD) from error
    with transaction():
        _touch(version.id)
    return parts


def _touch(version_id: uuid.UUID) -> None:
    db.session.execute(
        update(AssetVersion)
        .where(AssetVersion.id == version_id)
        .values(last_activity_at=db_now())
        .execution_options(synchronize_session=False)
    )


def _address(upload: Upload) -> tuple[str, str]:
    return upload.key, upload.s3_upload_id or ""


# -- arriving ----------------------------------------------------------------------------------


def complete(version: AssetVersion, named: Sequence[NamedPart]) -> None:
    """Make the version's object of these parts, and show the version. Repeatable.

    Raises PartsMissing, SizeMismatch, Invalid, NotFound: then nothing is lost, and what is wrong
    can be sent again.
    """
    upload = version.upload
    if upload.state is UploadState.COMPLETE:
        return
    if upload.state is UploadState.ABORTED:
        raise NotFound(NO_UPLOAD)
    release()
    try:
        parts = storage.list_parts(*_address(upload))
        size = _agreed(version, named, parts)
        storage.finish_upload(*_address(upload), parts)
        crash.point("asset.1")
    except NoSuchUpload:
        # Perhaps completed before, and only the answer was lost: check the object that is there.
        size = None
    stored = storage.head(upload.key)
    if stored is None or stored.token != upload.token or size not in (None, stored.size):
        raise NotFound(NO_UPLOAD)
    _check_size(version, stored.size)
    settle(version, stored)
    db.session.refresh(version.upload)


def _agreed(version: AssetVersion, named: Sequence[NamedPart], parts: Sequence[Part]) -> int:
    """The total size, if storage's list is what the client says and what was announced.

    Raises PartsMissing, SizeMismatch, Invalid.
    """
    held = {part.number: part for part in parts}
    missing = sorted({one.number for one in named} - set(held))
    missing += [
        one.number
        for one in named
        if one.number in held and held[one.number].etag.strip('"') != one.etag.strip('"')
    ]
    if missing:
        raise PartsMissing(f"Storage does not hold part {missing[0]} as named.", missing=missing)
    if len(named) != len(held):
        raise Invalid({"parts": "must name every part that storage holds, and each once"})
    if gap := sorted(set(range(1, len(held) + 1)) - set(held)):
        raise PartsMissing(f"Part {gap[0]} is missing.", missing=gap)
    if small := [part for part in parts[:-1] if part.size < S3_MIN_PART_SIZE]:
        raise SizeMismatch(
            f"Part {small[0].number} is too small: only the last may be below 5 MiB.",
            expected=S3_MIN_PART_SIZE,
            found=small[0].size,
        )
    size = sum(part.size for part in parts)
    _check_size(version, size)
    return size


def _check_size(version: AssetVersion, size: int) -> None:
    if version.declared_size not in (None, size):
        raise SizeMismatch(
            f"Expected {version.declared_size} bytes, and found {size}.",
            expected=version.declared_size,
            found=size,
        )
    if size > settings.max_file_size:
        raise Invalid({"size": f"must be at most {settings.max_file_size}"})


def confirm(version: AssetVersion) -> bool:
    """Whether the version is there; what has come by its form is copied first. Repeatable.

    What comes later by the same form is never kept: only the object with the ETag seen first is
    copied. Raises SizeMismatch, Invalid, NotFound, Unavailable.
    """
    if version.upload.state is UploadState.COMPLETE:
        return True
    if version.posted_key is None or version.upload.state is UploadState.ABORTED:
        return False
    release()
    stored = storage.head(version.posted_key)
    if stored is None:
        return _has_arrived(version)
    try:
        _check_size(version, stored.size)
        pinned = _pinned(version, stored.etag)
        if pinned is None:
            return _has_arrived(version)
        etag, is_first = pinned
        # The copy of an earlier call may have finished after that call stopped waiting for it.
        kept = None if is_first else completing.copy_at(version.upload)
        if kept is None:
            source = Source(version.posted_key, etag)
            storage.copy_whole(source, version.upload.key, version.upload.token)
    except NotOffered as error:
        raise Unavailable("This storage cannot copy what a form brought.") from error
    except (SourceLost, Invalid, SizeMismatch) as error:
        if not abandon([version.id]) and _has_arrived(version):
            return True
        if isinstance(error, SourceLost):
            raise NotFound("Something else was sent to the same form in the meantime.") from error
        raise
    crash.point("asset.2")
    kept = kept or completing.copy_at(version.upload)
    if kept is not None:
        settle(version, kept)
    return _has_arrived(version)


def _has_arrived(version: AssetVersion) -> bool:
    """Whether the version is complete by now, perhaps through another request or the sweep.

    Reads its rows again.
    """
    db.session.scalar(whole(select(AssetVersion)).where(AssetVersion.id == version.id))
    return version.upload.state is UploadState.COMPLETE


def _pinned(version: AssetVersion, etag: str) -> tuple[str, bool] | None:
    """The ETag of what came first by the form, recorded before it is copied, and whether this
    call is the first to record one.

    None if the version takes nothing any more: it has arrived, or was given up.
    """
    with transaction():
        # Lock the asset first, as in settle().
        db.session.execute(select(Asset.id).where(Asset.id == version.asset_id).with_for_update())
        # If the version is deleted during the copy, its object is removed once more afterwards.
        is_open = changed(
            update(Upload)
            .where(Upload.id == version.upload_id, Upload.state == UploadState.OPEN)
            .values(urls_until=db_now() + planning.OUR_OWN_WITHIN)
            .execution_options(synchronize_session=False)
        )
        if not is_open:
            return None
        posted = Upload.key == version.posted_key
        is_first = changed(
            update(Upload)
            .where(posted, Upload.etag.is_(None))
            .values(etag=etag)
            .execution_options(synchronize_session=False)
        )
        first = etag if is_first else db.session.scalar(select(Upload.etag).where(posted))
        return (first, bool(is_first)) if first is not None else None


def settle(version: AssetVersion, stored: Stored) -> None:
    """Record that the version is there, and show it unless a newer one is; raises NotFound."""
    with transaction():
        # Lock the asset first, as all code that locks both does, to avoid deadlocks.
        asset = db.session.scalar(
            select(Asset)
            .where(Asset.id == version.asset_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        done = changed(
            update(Upload)
            .where(Upload.id == version.upload_id, Upload.state == UploadState.OPEN)
            .values(state=UploadState.COMPLETE, etag=stored.etag, size=stored.size)
            .execution_options(synchronize_session=False)
        )
        if done == 0:
            _check_settled(version)
        elif asset is not None:
            _show(asset, version, stored.size)


def _check_settled(version: AssetVersion) -> None:
    """Raise NotFound unless the version is complete: it may have been aborted or deleted.

    Another request may have completed it concurrently, which is success.
    """
    state = db.session.scalar(select(Upload.state).where(Upload.id == version.upload_id))
    if state is not UploadState.COMPLETE:
        raise NotFound(NO_UPLOAD)


def _show(asset: Asset, version: AssetVersion, size: int) -> None:
    if version.posted_key is not None:
        removal.abandon(select(Upload.id).where(Upload.key == version.posted_key))
        jobs.REMOVE_BYTES.later()
    if not version.name:
        # The asset may have been renamed since this version was announced.
        set_committed_value(version, "name", asset.name)
    values: dict[str, Any] = {"ready_at": db_now(), "name": version.name}
    db.session.execute(
        update(AssetVersion)
        .where(AssetVersion.id == version.id)
        .values(values | thumbnails.expected(version, size))
        .execution_options(synchronize_session=False)
    )
    thumbnails.remind(version.id)
    audit.note("complete asset", subject_id=asset.id)
    if version.number < asset.shown_number:
        return
    asset.shown_number = version.number
    asset.name, asset.content_type = version.name, version.content_type
    asset.search = asset_words.vector(asset.name, asset.content_type, asset.tags)
    asset.updated_at = db_now()


# -- changing and going ------------------------------------------------------------------------


def edit_mark(asset: Asset) -> str:
    """The mark (marks.py) of all that edit() may change."""
    return mark_of((asset.name, asset.tags))


def edit(
    caller: Caller,
    asset_id: uuid.UUID,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    is_seen: IsSeen | None = None,
) -> AssetVersion:
    """Change the name and the tags; None leaves them as they are. Repeatable.

    Raises NotFound, PreconditionFailed.
    """
    with transaction():
        asset = _locked(caller.workspace_id, asset_id)
        if asset.shown_number == 0:
            raise NotFound(NO_ASSET)
        check_seen(is_seen, edit_mark(asset))
        asset.name = asset.name if name is None else name
        asset.tags = asset.tags if tags is None else list(tags)
        asset.search = asset_words.vector(asset.name, asset.content_type, asset.tags)
        asset.updated_at = db_now()
        audit.note("edit asset", subject_id=asset.id)
    return by_id(caller, asset_id)


def _locked(workspace_id: uuid.UUID, asset_id: uuid.UUID) -> Asset:
    asset = db.session.scalar(
        select(Asset)
        .where(Asset.id == asset_id, Asset.workspace_id == workspace_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if asset is None:
        raise NotFound(NO_ASSET)
    return asset


def remove(caller: Caller, asset_id: uuid.UUID) -> None:
    """Delete the asset with all its versions and their pictures, immediately and for good.

    Raises NotFound, also when it is gone already.
    """
    _remove(caller.workspace_id, asset_id)


def remove_all(workspace_id: uuid.UUID, tell: Tell) -> int:
    """Delete all assets of a workspace as remove() does, one after the other; returns how many.

    Repeatable: what others add or delete meanwhile is left to them.
    """
    mine = select(Asset.id).where(Asset.workspace_id == workspace_id)
    count = 0
    for asset_id in db.session.scalars(mine).all():
        with suppress(NotFound):
            _remove(workspace_id, asset_id)
            count += 1
        tell("assets", count)
    return count


def _remove(workspace_id: uuid.UUID, asset_id: uuid.UUID) -> None:
    with transaction():
        asset = _locked(workspace_id, asset_id)
        mine = AssetVersion.asset_id == asset.id
        removal.abandon(_objects(mine))
        db.session.execute(
            delete(Asset).where(Asset.id == asset.id).execution_options(synchronize_session=False)
        )
        audit.note("delete asset", subject_id=asset_id)
        jobs.REMOVE_BYTES.later()


def _objects(condition: ColumnElement[bool]) -> Select[uuid.UUID]:
    """Every upload of these versions: their own, their pictures', and their forms'."""
    return select(Upload.id).where(
        or_(
            Upload.id.in_(select(AssetVersion.upload_id).where(condition)),
            Upload.id.in_(select(AssetVersion.thumbnail_id).where(condition)),
            Upload.key.in_(select(AssetVersion.posted_key).where(condition)),
        )
    )


def abort(version: AssetVersion) -> None:
    """Abandon the version's upload; raises WrongState for one that is complete, else NotFound."""
    if abandon([version.id]):
        return
    if _has_arrived(version):
        raise WrongState("This upload is complete.")
    raise NotFound(NO_UPLOAD)


def abandon(version_ids: Sequence[uuid.UUID]) -> int:
    """Delete those of these versions that have not arrived; returns how many.

    Assets that have no version left are deleted, too.
    """
    with transaction():
        # Lock their assets first, as settle() does.
        asset_ids = db.session.scalars(
            select(Asset.id)
            .where(Asset.id.in_(select(AssetVersion.asset_id).where(_are(version_ids))))
            .order_by(Asset.id)
            .with_for_update()
        ).all()
        open_ids = db.session.scalars(
            select(AssetVersion.id)
            .join(AssetVersion.upload)
            .where(_are(version_ids), Upload.state == UploadState.OPEN)
        ).all()
        removal.abandon(_objects(AssetVersion.id.in_(open_ids)))
        db.session.execute(
            delete(AssetVersion)
            .where(AssetVersion.id.in_(open_ids))
            .execution_options(synchronize_session=False)
        )
        is_empty = ~select(AssetVersion.id).where(AssetVersion.asset_id == Asset.id).exists()
        db.session.execute(
            delete(Asset)
            .where(Asset.id.in_(asset_ids), is_empty)
            .execution_options(synchronize_session=False)
        )
        for asset_id in asset_ids if open_ids else ():
            audit.note("abandon asset", subject_id=asset_id)
        if open_ids:
            jobs.REMOVE_BYTES.later()
    return len(open_ids)


def _are(version_ids: Sequence[uuid.UUID]) -> ColumnElement[bool]:
    return AssetVersion.id.in_(version_ids)


# -- fetching ----------------------------------------------------------------------------------


def download_url(version: AssetVersion, expires_in: int) -> str:
    """A presigned URL of the version, under its name.

    Raises NotFound while the version is not there, and what confirm() raises.
    """
    if not confirm(version):
        raise NotFound(NO_ASSET)
    is_shown = version.number == version.asset.shown_number
    name = version.asset.name if is_shown else version.name
    return storage.urls.get(version.upload.key, attachment(name), expires_in)


def thumbnail_url(version: AssetVersion) -> str | None:
    """A presigned URL of its small picture; None if there is none (yet)."""
    if version.thumbnail is None or version.thumbnail.state is not UploadState.COMPLETE:
        return None
    ttl = settings.download_url_ttl_in_seconds
    return storage.urls.inline(version.thumbnail.key, thumbnails.PICTURE_TYPE, ttl)
