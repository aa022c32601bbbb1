"""Previews for recipients: what of a file may be shown, and where its pictures are.

Viewing never counts. So the file itself, in contrast to a picture or an excerpt of it, is only
played or shown where the transfer has no limit or this visitor's download has been counted already.
"""

import uuid
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import joinedload, undefer

from app.config import settings
from app.db import db
from app.errors import NotFound
from app.extensions import storage
from app.models import File, Preview, PreviewState, Sight, Upload
from app.services import downloads, media_kinds

# The type of all pictures that the darkroom makes, whatever the file is.
PICTURE_TYPE = "image/webp"


class NoPreview(NotFound):
    """The file exists, but has no preview."""


@dataclass(frozen=True)
class Look:
    """The preview of one file in the page; `is_playable` is whether this visitor may play it."""

    slug: str
    file: File
    sight: Sight
    has_picture: bool
    width: int | None
    height: int | None
    text: str | None
    is_playable: bool
    # Playable or readable, but withheld because that would bypass the download limit.
    is_held_back: bool

    @property
    def is_cut(self) -> bool:
        """Whether the text is only the beginning of the file."""
        return self.text is not None and media_kinds.is_cut(self.text, self.file.size)


def at(slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None) -> Look:
    """The preview of a file; raises NoPreview if there is none, and what looked_into() raises."""
    file, preview, may_have_all = _seen(slug, file_id, visitor, proof)
    is_all_of_it = preview.media_type is not None or (
        preview.excerpt is not None and media_kinds.may_be_whole(file.size)
    )
    return Look(
        slug=slug,
        file=file,
        sight=preview.sight,
        has_picture=preview.picture_id is not None,
        width=preview.width,
        height=preview.height,
        text=preview.excerpt if may_have_all or not is_all_of_it else None,
        is_playable=preview.media_type is not None and may_have_all,
        is_held_back=is_all_of_it and not may_have_all,
    )


def thumbnail_url(
    slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None
) -> str:
    """A presigned URL of the small picture; raises NotFound without one, and as at()."""
    return _picture_url(_seen(slug, file_id, visitor, proof)[1].thumbnail)


def picture_url(
    slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None
) -> str:
    """A presigned URL of the large picture; raises NotFound without one, and as at()."""
    return _picture_url(_seen(slug, file_id, visitor, proof)[1].picture)


def media_url(slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None) -> str:
    """A presigned URL to play the file itself; raises NotFound if it may not be, and as at()."""
    file, preview, may_have_all = _seen(slug, file_id, visitor, proof)
    if preview.media_type is None or not may_have_all:
        raise NotFound("This file cannot be played here.")
    ttl = settings.download_url_ttl_in_seconds
    return storage.urls.inline(file.upload.key, preview.media_type, ttl)


def _picture_url(upload: Upload | None) -> str:
    if upload is None:
        raise NotFound("There is no picture of this file.")
    return storage.urls.inline(upload.key, PICTURE_TYPE, settings.download_url_ttl_in_seconds)


def _seen(
    slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None
) -> tuple[File, Preview, bool]:
    transfer, may_have_all = downloads.looked_into(slug, visitor, proof)
    file = db.session.scalar(
        select(File)
        .where(File.id == file_id, File.transfer_id == transfer.id, File.batch.is_not(None))
        .options(
            joinedload(File.upload, innerjoin=True),
            joinedload(File.preview).options(
                undefer(Preview.excerpt), joinedload(Preview.thumbnail), joinedload(Preview.picture)
            ),
        )
        .execution_options(populate_existing=True)
    )
    if file is None:
        raise NotFound("This transfer has no such file.")
    if file.preview is None or file.preview.state is not PreviewState.MADE:
        raise NoPreview("There is no preview of this file.")
    return file, file.preview, may_have_all
