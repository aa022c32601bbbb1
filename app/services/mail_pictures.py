"""The thumbnails of files that are embedded in a mail: those that exist when it is sent.

A mail must not contain URLs that expire, so it contains the pictures themselves. They are read
once for all mails of a transfer in a batch. A picture that cannot be read never stops a mail.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from app.db import db, release
from app.errors import Unavailable
from app.extensions import storage
from app.gateways.s3_answers import Source, SourceLost
from app.models import File, OutboxMail, Preview, PreviewState, Transfer, Upload, UploadState
from app.services import delivery

log = logging.getLogger(__name__)

MOST_PICTURES = 6
MOST_BYTES = 200_000


@dataclass(frozen=True)
class Thumbnail:
    """A picture and its Content-ID, without angle brackets."""

    cid: str
    body: bytes


class Album:
    """Caches the pictures of one transfer at a time; used for one batch of mails."""

    def __init__(self) -> None:
        self._transfer_id: uuid.UUID | None = None
        self._pictures: dict[str, Thumbnail] = {}
        self._is_away = False

    def of(self, mail: OutboxMail) -> Mapping[str, Thumbnail]:
        """The pictures to show in this mail, by the paths of their files; empty if it shows none.

        Ends the read transaction before asking storage, and never raises because of storage.
        """
        if mail.kind not in delivery.TO_RECIPIENT or mail.transfer_id is None:
            return {}
        if mail.transfer_id != self._transfer_id:
            self._transfer_id = mail.transfer_id
            chosen = _chosen(mail.transfer_id)
            release()
            self._pictures = self._read(chosen)
        return self._pictures

    def _read(self, chosen: Sequence[Any]) -> dict[str, Thumbnail]:
        found = {}
        for one in chosen:
            if self._is_away:
                break
            try:
                # No retries: people wait for the mail, not for its pictures.
                body = storage.read(Source(one.key, one.etag or ""), 0, one.size, tries=1)
            except SourceLost:
                continue
            except Unavailable as error:
                log.info("mail goes without pictures: %s", error)
                self._is_away = True
                break
            found[one.path] = Thumbnail(f"{one.id}@thumbnails", body)
        return found


def _chosen(transfer_id: uuid.UUID) -> list[Any]:
    """The first pictures that fit; none of a transfer with a password, which protects them too."""
    rows = db.session.execute(
        select(File.id, File.path, Upload.key, Upload.etag, Upload.size)
        .join(Preview, Preview.file_id == File.id)
        .join(Upload, Upload.id == Preview.thumbnail_id)
        .join(Transfer, Transfer.id == File.transfer_id)
        .where(
            File.transfer_id == transfer_id,
            Transfer.password_hash.is_(None),
            Transfer.quarantined_at.is_(None),
            Preview.state == PreviewState.MADE,
            Upload.state == UploadState.COMPLETE,
        )
        .order_by(File.position)
        .limit(MOST_PICTURES)
    ).all()
    chosen, left = [], MOST_BYTES
    for one in rows:
        if one.size <= left:
            chosen.append(one)
            left -= one.size
    return chosen
