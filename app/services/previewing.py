"""The worker's side of previews: claim one, look at some of its bytes, store what is seen.

Results are written under the claim's token. So it is safe to run twice, concurrently, late, or
again after a crash: there is one set of objects, and none without a row. Strangers' bytes are only
ever decoded in the darkroom, a process of its own.
"""

import logging
import time
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, select, update

from app import crash, jobs
from app.config import settings
from app.db import db, release, transaction
from app.extensions import storage
from app.gateways import darkroom
from app.gateways.darkroom import Developed
from app.gateways.s3_answers import Source
from app.models import File, Preview, PreviewState, Sight, State, Transfer, Upload, UploadState
from app.services import media_kinds, picturing, planning, previews, removal
from app.services.preview_access import PICTURE_TYPE
from app.services.transfers import files_of

log = logging.getLogger(__name__)

# Turn length. Then the next transfer gets a turn, or a check that waits for this worker.
TURN_SECONDS = 5


@dataclass(frozen=True)
class _Claim:
    """One preview that this worker has claimed."""

    transfer_id: uuid.UUID
    file: File
    sight: Sight
    token: uuid.UUID

    @property
    def is_ours(self) -> ColumnElement[bool]:
        """The condition that finds the preview while no other worker has claimed it."""
        return and_(Preview.file_id == self.file.id, Preview.claim_token == self.token)


@dataclass(frozen=True)
class _Seen:
    """What a preview shows of a file."""

    sight: Sight
    media_type: str | None = None
    text: str | None = None
    pictures: Developed | None = None

    @property
    def is_anything(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.media_type or self.text or self.pictures)


def make(transfer_id: str) -> None:
    """Job: make previews of a READY transfer, one after the other, until this turn is over.

    A file that has nothing to show is settled as NONE. Any number of workers may do this
    concurrently.
    """
    wanted = uuid.UUID(transfer_id)
    turn_ends = time.monotonic() + TURN_SECONDS
    with transaction():
        previews.give_up(wanted)
    while claim := _claim(wanted):
        with picturing.attempt(Preview, claim.is_ours, claim.file.upload):
            _make_one(claim)
        if jobs.stopping.is_set() or time.monotonic() > turn_ends:
            with transaction():
                previews.remind(wanted)
            return


def _claim(transfer_id: uuid.UUID) -> _Claim | None:
    """Claim the next waiting preview, those that failed before last; None if there is none."""
    token = uuid.uuid4()
    chosen = (
        select(Preview.file_id)
        .join(File, File.id == Preview.file_id)
        .join(Transfer, Transfer.id == File.transfer_id)
        .where(
            Transfer.id == transfer_id,
            Transfer.state == State.READY,
            previews.is_claimable(),
            Preview.attempt_count < picturing.MOST_ATTEMPTS,
        )
        .order_by(Preview.attempt_count, File.position)
        .limit(1)
        .with_for_update(skip_locked=True, of=Preview)
        .cte("chosen")
    )
    with transaction():
        claimed = db.session.execute(
            update(Preview)
            .where(Preview.file_id.in_(select(chosen.c.file_id)))
            .values(**picturing.claim(Preview, token))
            .returning(Preview.file_id, Preview.sight)
            .execution_options(synchronize_session=False)
        ).first()
    if claimed is None:
        return None
    (file,) = files_of(transfer_id, File.id == claimed.file_id)
    return _Claim(transfer_id, file, claimed.sight, token)


def _make_one(claim: _Claim) -> None:
    release()
    crash.point("preview.1")
    seen = _look_at(claim)
    if not seen.is_anything:
        _settle(claim, state=PreviewState.NONE)
        return
    made = _store(claim, seen.pictures) if seen.pictures else {}
    if made is None:
        return
    _settle(
        claim,
        made,
        state=PreviewState.MADE,
        sight=seen.sight,
        media_type=seen.media_type,
        excerpt=seen.text,
        width=seen.pictures.width if seen.pictures else None,
        height=seen.pictures.height if seen.pictures else None,
    )


# -- looking -----------------------------------------------------------------------------------


def _look_at(claim: _Claim) -> _Seen:
    """What the file's bytes show, whatever its name promised."""
    upload = claim.file.upload
    source = Source(upload.key, upload.etag or "")

    def read(start: int, size: int) -> bytes:
        return storage.read(source, start, min(size, upload.size - start))

    head = b""
    if claim.sight in (Sight.TEXT, Sight.AUDIO, Sight.VIDEO):
        head = read(0, media_kinds.HEAD_SIZE)
    if claim.sight is Sight.TEXT:
        return _Seen(claim.sight, text=media_kinds.excerpt(head))
    media_type = media_kinds.media_type(claim.sight, head)
    if claim.sight is Sight.AUDIO:
        return _Seen(claim.sight, media_type)
    pictures = darkroom.develop(
        claim.sight,
        upload.size,
        read,
        memory_in_mib=settings.preview_memory_in_mib,
        is_over=jobs.stopping.is_set,
    )
    return _Seen(claim.sight, media_type, pictures=pictures)


# -- keeping -----------------------------------------------------------------------------------


def _store(claim: _Claim, pictures: Developed) -> dict[uuid.UUID, str] | None:
    """Put both pictures into the bucket; returns their ETags, None if they are not wanted any more.

    Their rows come first, as for every object, so that a crash leaves no unknown object.
    """
    bodies = (pictures.thumbnail, pictures.picture)
    made = [planning.plan_ours(len(body)) for body in bodies]
    if not _link(claim, made):
        return None
    crash.point("preview.2")
    etags = {
        upload.id: storage.put_object(upload.key, upload.token, body, PICTURE_TYPE)
        for upload, body in zip(made, bodies, strict=True)
    }
    crash.point("preview.3")
    return etags


def _link(claim: _Claim, made: list[Upload]) -> bool:
    """Give the preview its uploads, and abandon those of an attempt that died.

    Returns False if the claim does not hold any more.
    """
    with transaction():
        before = _lock(claim)
        if before is None:
            return False
        former = [one for one in before if one]
        if former:
            removal.abandon(former)
            jobs.REMOVE_BYTES.later()
        db.session.add_all(made)
        # flush(): the rows must be there before the preview refers to them.
        db.session.flush()
        _update(claim, thumbnail_id=made[0].id, picture_id=made[1].id)
    return True


def _settle(claim: _Claim, etags: dict[uuid.UUID, str] | None = None, **values: Any) -> None:
    """Record what was made, unless the transfer was deleted or another worker has the claim."""
    with transaction():
        before = _lock(claim)
        if before is None:
            return
        if etags:
            db.session.execute(
                update(Upload)
                .where(Upload.id.in_(etags), Upload.state == UploadState.OPEN)
                .values(state=UploadState.COMPLETE, etag=case(etags, value=Upload.id))
                .execution_options(synchronize_session=False)
            )
        elif former := [one for one in before if one]:
            removal.abandon(former)
            jobs.REMOVE_BYTES.later()
            values |= {"thumbnail_id": None, "picture_id": None}
        _update(claim, claim_token=None, **values)
    crash.point("preview.4")


def _lock(claim: _Claim) -> Any:
    """Lock the transfer until this transaction ends, and return the preview's uploads.

    None if the transfer was deleted or the claim does not hold any more. A deletion comes either
    before this, and is seen here, or after, and finds what is linked.
    """
    return db.session.execute(
        select(Preview.thumbnail_id, Preview.picture_id)
        .join(File, File.id == Preview.file_id)
        .join(Transfer, Transfer.id == File.transfer_id)
        .where(claim.is_ours, Transfer.state.in_([State.READY, State.EXPIRED]))
        .with_for_update(read=True, of=Transfer)
    ).first()


def _update(claim: _Claim, **values: Any) -> None:
    db.session.execute(
        update(Preview)
        .where(claim.is_ours)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
