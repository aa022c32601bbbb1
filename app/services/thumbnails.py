"""The small picture of an asset's version: expected once it has arrived, made by a worker.

It is made as a transfer's previews are, in the same darkroom: claimed by token, settled under it,
and with a row before its object. A version has at most one picture, at a key of its own, so an
attempt after a crash puts the same one there again.
"""

import logging
import uuid
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import joinedload

from app import clock, crash, jobs, leases
from app.config import settings
from app.db import changed, db, release, transaction
from app.extensions import storage
from app.gateways import darkroom
from app.gateways.s3_answers import Source
from app.models import Asset, AssetVersion, Method, PreviewState, Sight, Upload, UploadState
from app.services import media_kinds, picturing, planning, removal

log = logging.getLogger(__name__)

PICTURE_TYPE = "image/jpeg"
# Texts and audio have no picture.
_SEEN = (Sight.IMAGE, Sight.PDF, Sight.VIDEO)


def expected(version: AssetVersion, size: int) -> dict[str, Any]:
    """The column values for the picture of a version that has arrived; {} if it is to have none."""
    sight = media_kinds.expected(version.name, version.content_type, size)
    if not settings.previews or sight not in _SEEN:
        return {}
    return {"sight": sight, "picture_state": PreviewState.WAITING}


def is_claimable() -> ColumnElement[bool]:
    """The condition that a picture waits and no worker is making it."""
    return and_(
        AssetVersion.picture_state == PreviewState.WAITING, picturing.is_unclaimed(AssetVersion)
    )


def remind(version_id: uuid.UUID) -> None:
    """Queue the version's picture if it waits for a worker. Call in transaction()."""
    condition = and_(AssetVersion.id == version_id, is_claimable())
    leases.remind(AssetVersion, condition, jobs.MAKE_THUMBNAIL.again)


def remind_lost(queued_before: ColumnElement[Any]) -> int:
    """Queue waiting pictures that no worker makes and that were not queued since.

    Returns how many. Does nothing if previews are switched off.
    """
    if not settings.previews:
        return 0
    is_lost = and_(is_claimable(), leases.is_unqueued(AssetVersion, queued_before))
    return leases.remind_stuck(AssetVersion, is_lost, jobs.MAKE_THUMBNAIL.again)


def make(version_id: str) -> None:
    """Job: make the picture of one version, or settle that there is none. Repeatable."""
    token = uuid.uuid4()
    version = _claim(uuid.UUID(version_id), token)
    if version is None:
        return
    with picturing.attempt(AssetVersion, _is_ours(version, token), version.upload):
        _make(version, token)


def _claim(version_id: uuid.UUID, token: uuid.UUID) -> AssetVersion | None:
    with transaction():
        _give_up(version_id)
        is_free = and_(AssetVersion.id == version_id, is_claimable())
        if not _update(is_free, **picturing.claim(AssetVersion, token)):
            return None
    return db.session.scalar(
        select(AssetVersion)
        .where(AssetVersion.id == version_id, AssetVersion.claim_token == token)
        .options(joinedload(AssetVersion.upload), joinedload(AssetVersion.asset))
        .execution_options(populate_existing=True)
    )


def _give_up(version_id: uuid.UUID) -> None:
    """Settle a picture that has failed too often as NONE."""
    hopeless = and_(
        AssetVersion.id == version_id,
        is_claimable(),
        AssetVersion.attempt_count >= picturing.MOST_ATTEMPTS,
    )
    removal.abandon(
        select(AssetVersion.thumbnail_id).where(hopeless, AssetVersion.thumbnail_id.is_not(None))
    )
    _update(hopeless, picture_state=PreviewState.NONE, thumbnail_id=None)


def _make(version: AssetVersion, token: uuid.UUID) -> None:
    release()
    crash.point("thumbnail.1")
    picture = _look_at(version)
    if picture is None:
        _settle(version, token, None)
        return
    upload = _link(version, token, len(picture))
    if upload is None:
        return
    crash.point("thumbnail.2")
    etag = storage.put_object(upload.key, upload.token, picture, PICTURE_TYPE)
    crash.point("thumbnail.3")
    _settle(version, token, upload.id, etag=etag, size=len(picture))


def _look_at(version: AssetVersion) -> bytes | None:
    upload = version.upload
    source = Source(upload.key, upload.etag or "")
    developed = darkroom.develop(
        version.sight or "",
        upload.size,
        lambda start, size: storage.read(source, start, min(size, upload.size - start)),
        memory_in_mib=settings.preview_memory_in_mib,
        is_over=jobs.stopping.is_set,
        small_as="jpeg",
    )
    return developed.thumbnail if developed else None


def _link(version: AssetVersion, token: uuid.UUID, size: int) -> Upload | None:
    """The picture's upload, added if there is none yet; None if it is not wanted any more."""
    with transaction():
        held = _lock(version, token)
        if held is None:
            return None
        upload = db.session.get(Upload, held.thumbnail_id) if held.thumbnail_id else None
        if upload is None:
            upload = planning.plan_at(_key(version), Method.SINGLE, size)
            db.session.add(upload)
            # flush(): the row must be there before the version refers to it.
            db.session.flush()
            _update(_is_ours(version, token), thumbnail_id=upload.id)
        # If it is deleted while it is being sent, it is removed again after this time.
        upload.urls_until = clock.now() + planning.OUR_OWN_WITHIN
    release()
    return upload


def _key(version: AssetVersion) -> str:
    at = f"{version.asset.workspace_id}/thumbnails/{version.asset_id}"
    return f"{at}.jpg" if version.number == 1 else f"{at}/v{version.number}.jpg"


def _settle(
    version: AssetVersion, token: uuid.UUID, upload_id: uuid.UUID | None, **values: Any
) -> None:
    """Record what was made, unless the asset was deleted or another worker has the claim."""
    with transaction():
        held = _lock(version, token)
        if held is None:
            return
        if upload_id is not None:
            db.session.execute(
                update(Upload)
                .where(Upload.id == upload_id, Upload.state == UploadState.OPEN)
                .values(state=UploadState.COMPLETE, **values)
                .execution_options(synchronize_session=False)
            )
        elif held.thumbnail_id is not None:
            removal.abandon([held.thumbnail_id])
            jobs.REMOVE_BYTES.later()
        state = PreviewState.MADE if upload_id else PreviewState.NONE
        _update(
            _is_ours(version, token), claim_token=None, picture_state=state, thumbnail_id=upload_id
        )
    crash.point("thumbnail.4")


def _lock(version: AssetVersion, token: uuid.UUID) -> Any:
    """Lock the asset until this transaction ends, and return the picture's id.

    None if the asset was deleted or the claim does not hold any more.
    """
    return db.session.execute(
        select(AssetVersion.thumbnail_id)
        .join(AssetVersion.asset)
        .where(_is_ours(version, token))
        .with_for_update(read=True, of=Asset)
    ).first()


def _is_ours(version: AssetVersion, token: uuid.UUID) -> ColumnElement[bool]:
    return and_(AssetVersion.id == version.id, AssetVersion.claim_token == token)


def _update(condition: ColumnElement[bool], **values: Any) -> bool:
    done = changed(
        update(AssetVersion)
        .where(condition)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return done == 1
