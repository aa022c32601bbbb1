"""Announcing a new asset, or a new version of one, and where its bytes are to be sent."""

import mimetypes
import re
import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select, update

from app.clock import db_now
from app.config import S3_MAX_PART_SIZE, settings
from app.db import db, insert_now, release, transaction
from app.errors import Invalid, NotFound
from app.extensions import storage
from app.gateways.presign import PostForm
from app.gateways.s3_answers import Stored
from app.models import Asset, AssetVersion, Method, Upload, UploadState
from app.services import asset_words, audit, idempotency, planning, room, uploads
from app.services.accounts import Caller
from app.services.assets import NO_ASSET, NO_UPLOAD, settle, whole
from app.services.idempotency import Once

UNTYPED = "application/octet-stream"
# What counts as a file name's extension; anything else is no part of a key.
_ENDING = re.compile(r"[a-z0-9]{1,16}")
# The largest object that storage copies, or accepts, in one request.
MOST_POSTED = S3_MAX_PART_SIZE


@dataclass(frozen=True)
class AssetSpec:
    """A version to announce: of an existing asset, or of a new one with these tags."""

    content_type: str
    name: str = ""
    size: int | None = None
    tags: tuple[str, ...] = ()
    asset_id: uuid.UUID | None = None


def begin(caller: Caller, spec: AssetSpec, once: Once | None = None) -> AssetVersion:
    """Announce a version and open its multipart upload, which takes parts of any size.

    Raises Invalid, KeyReused, NotFound for an asset that is not the caller's. Each call makes
    another, except that a repeated `once` returns the same.
    """
    version = _announce(caller, spec, Method.MULTIPART, once=once)
    uploads.begin([version.upload])
    return version


def begin_posted(caller: Caller, spec: AssetSpec) -> tuple[AssetVersion, PostForm]:
    """Announce a version that comes by one POST, and return its form; raises as begin().

    Storage does not report when that has happened: requests for the version check, and so does a
    sweep.
    """
    version = _announce(caller, spec, Method.SINGLE)
    sizes = (settings.max_file_size, MOST_POSTED, spec.size)
    most = min(size for size in sizes if size is not None)
    ttl = settings.part_url_ttl_in_seconds
    posted = version.posted_key or ""
    return version, storage.urls.post_form(posted, spec.content_type, most, ttl)


def take(caller: Caller, spec: AssetSpec, body: bytes, once: Once | None = None) -> AssetVersion:
    """Make a new version of a few bytes, putting them into the bucket here; raises as begin().

    A repeated request puts them there again, unless they have arrived.
    """
    version = _announce(caller, spec, Method.SINGLE, is_ours=True, once=once)
    upload = version.upload
    if upload.state is UploadState.COMPLETE:
        return version
    release()
    etag = storage.put_object(upload.key, upload.token, body, UNTYPED)
    settle(version, Stored(len(body), etag, upload.token))
    return version


def _announce(
    caller: Caller,
    spec: AssetSpec,
    method: Method,
    *,
    is_ours: bool = False,
    once: Once | None = None,
) -> AssetVersion:
    if spec.size is not None and spec.size > settings.max_file_size:
        raise Invalid({"size": f"must be at most {settings.max_file_size}"})
    ending = _ending(spec)
    with transaction():
        if (before := idempotency.made(once)) is not None:
            return _again(before[0], is_ours=is_ours)
        room.reserve_some(spec.size, "size")
        asset = _numbered(caller, spec, ending)
        own = f"{asset.workspace_id}/digital_assets/{asset.id}.{ending}"
        later = f"{asset.workspace_id}/versions/{asset.id}/v{asset.last_number}.{ending}"
        upload = planning.plan_at(own if asset.last_number == 1 else later, method)
        version = AssetVersion(
            id=uuid.uuid4(),
            asset_id=asset.id,
            asset=asset,
            number=asset.last_number,
            upload_id=upload.id,
            upload=upload,
            name=spec.name,
            content_type=spec.content_type,
            declared_size=spec.size,
        )
        if is_ours:
            upload.urls_until = db_now() + planning.OUR_OWN_WITHIN
        elif method is Method.SINGLE:
            insert_now(_posted(version, ending))
        insert_now(upload)
        insert_now(version)
        idempotency.note(once, [version.id])
        audit.note("announce asset", subject_id=asset.id)
    return version


def _again(version_id: uuid.UUID, *, is_ours: bool) -> AssetVersion:
    """The version that the same request has made; raises NotFound once that was given up."""
    version = db.session.scalar(whole(select(AssetVersion)).where(AssetVersion.id == version_id))
    if version is None or version.upload.state is UploadState.ABORTED:
        raise NotFound(NO_UPLOAD)
    if is_ours:
        version.upload.urls_until = db_now() + planning.OUR_OWN_WITHIN
    return version


def _posted(version: AssetVersion, ending: str) -> Upload:
    """The upload that the form brings; it is removed once it was copied, or if nothing comes."""
    key = f"{version.asset.workspace_id}/incoming/{version.asset_id}-{version.number}.{ending}"
    posted = planning.plan_at(key, Method.SINGLE)
    posted.urls_until = db_now() + timedelta(seconds=settings.part_url_ttl_in_seconds)
    version.posted_key = posted.key
    return posted


def _numbered(caller: Caller, spec: AssetSpec, ending: str) -> Asset:
    """The asset, old or new, with its next version number, which is given only once.

    Raises NotFound.
    """
    if spec.asset_id is not None:
        found = db.session.scalar(
            update(Asset)
            .where(Asset.id == spec.asset_id, Asset.workspace_id == caller.workspace_id)
            .values(last_number=Asset.last_number + 1)
            .returning(Asset)
            .execution_options(populate_existing=True)
        )
        if found is None:
            raise NotFound(NO_ASSET)
        return found
    made = uuid.uuid4()
    asset = Asset(
        id=made,
        workspace_id=caller.workspace_id,
        name=spec.name or f"{made}.{ending}",
        content_type=spec.content_type,
        tags=list(spec.tags),
        last_number=1,
    )
    asset.search = asset_words.vector(asset.name, asset.content_type, asset.tags)
    insert_now(asset)
    return asset


def _ending(spec: AssetSpec) -> str:
    """The name's extension, or the usual one of the type, or "bin"."""
    _, dot, ending = spec.name.rpartition(".")
    guessed = mimetypes.guess_extension(spec.content_type.partition(";")[0].strip()) or ""
    for one in (ending.lower() if dot else "", guessed.removeprefix(".")):
        if _ENDING.fullmatch(one):
            return one
    return "bin"
