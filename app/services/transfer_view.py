"""What a link shows of its transfer, to a page and to programs; looking never counts."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import func, select, true

from app import clock, links
from app.errors import Gone, PasswordNeeded
from app.models import File, PreviewState, Transfer, Upload, UploadState
from app.services import archives, downloads, link_targets, locks, previews
from app.services.link_targets import ENDED, Link
from app.services.transfers import files_of
from app.words import percent_of

_FIGURES = (
    select(
        func.count().label("file_count"),
        func.coalesce(func.sum(Upload.size), 0).label("total_size"),
        func.count().filter(Upload.state == UploadState.COMPLETE).label("checked_count"),
        func.max(Upload.created_at).label("latest_at"),
    )
    .select_from(File)
    .join(Upload, File.upload_id == Upload.id)
    .where(File.transfer_id == Transfer.id, File.batch.is_not(None))
    .lateral()
)
# One statement, built once: every open page of an upload asks for it every few seconds.
_OF_POLL = link_targets.AT_SLUG.add_columns(*_FIGURES.c).join(_FIGURES, true())


@dataclass(frozen=True)
class TransferView:
    """A transfer as its link shows it: `state` is the page's word ("ready"), not the row's."""

    id: uuid.UUID
    slug: str
    link: str
    state: str
    title: str
    message: str
    expires_at: datetime
    expired_at: datetime | None
    max_downloads: int | None
    downloads_left: int | None
    sent_size: int
    file_count: int = 0
    total_size: int = 0
    checked_count: int = 0
    # When its latest file was announced.
    latest_at: datetime | None = None
    files: Sequence[File] = field(default_factory=list)
    # Progress of the zip of all files, if it was ever requested.
    zip: archives.Progress | None = None
    # The recipient whose personal link this is; None for the transfer's own link.
    recipient_id: uuid.UUID | None = None
    # The sender, on a recipient's link only: the transfer's own link may have spread anywhere.
    sender: str | None = None

    @property
    def has_zip(self) -> bool:
        """Whether all files can be downloaded as one zip."""
        return self.state == "ready" and self.file_count > 1

    @cached_property  # every row asks
    def has_pictures(self) -> bool:
        """Whether any of the files has a picture, so that each row reserves room for one."""
        return previews.has_pictures(self.files)

    @property
    def awaits_previews(self) -> bool:
        """Whether a worker is about to make a preview of one of the files."""
        return any(
            file.preview and file.preview.state is PreviewState.WAITING for file in self.files
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be downloaded any more."""
        return self.state in ENDED

    @property
    def is_locked(self) -> bool:
        """Whether a password is needed; nothing of the transfer is shown before."""
        return self.state == "password_needed"

    @property
    def is_moving(self) -> bool:
        """Whether the page will change by itself."""
        return self.state in ("uploading", "processing")

    @property
    def tells_date(self) -> bool:
        """Whether `expires_at` is final: if it passes during an upload, it is moved."""
        return not self.is_moving or self.expires_at > clock.now()

    @property
    def is_zipping(self) -> bool:
        """Whether the zip is being made, and only its part of the page will change."""
        return self.zip is not None and self.zip.state == "building"

    @property
    def percent(self) -> int:
        """Progress: bytes as the sender reports them, then files that were checked."""
        done, all_of_it = self.sent_size, self.total_size
        if self.state == "processing":
            done, all_of_it = self.checked_count, self.file_count
        return percent_of(done, all_of_it)

    @property
    def version(self) -> str:
        """A hash of all that the page shows while it is moving.

        Files only come, go and become complete: their number, how many are complete and when the
        latest came distinguish any two sets of them.
        """
        shown = (
            self.state, self.title, self.message, self.expires_at, self.downloads_left,
            self.percent, self.file_count, self.total_size, self.checked_count, self.latest_at,
            self.tells_date, self.sender,
        )  # fmt: skip
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:24]


def view(slug: str, visitor: str | None = None, proof: str | None = None) -> TransferView:
    """What the link shows now; two or three queries, no call to storage. Raises NotFound.

    A visitor whose download has been counted still sees the files when the limit is reached.
    Without the proof from unlock(), a protected transfer reveals nothing of its content. Raises
    Gone for a recipient's link that was revoked.
    """
    link = link_targets.find(slug)
    transfer = link.transfer
    if not locks.is_open(transfer, proof):
        return _locked_view(link)
    state = downloads.state_for(link, visitor)
    files = [] if state in ENDED else files_of(transfer.id, with_previews=True)
    return _open_view(
        link,
        state,
        file_count=len(files),
        total_size=sum(file.size for file in files),
        checked_count=sum(file.upload.state is UploadState.COMPLETE for file in files),
        latest_at=max((file.upload.created_at for file in files), default=None),
        files=files,
        zip=archives.progress(transfer.id) if state == "ready" and len(files) > 1 else None,
    )


def version(slug: str, visitor: str | None = None, proof: str | None = None) -> str | None:
    """The version of what view() would show; one query, which reads no files.

    None if it will not change by itself or needs a password. Raises as view().
    """
    link, row = link_targets.find_row(_OF_POLL, slug)
    if not locks.is_open(link.transfer, proof):
        return None
    shown = _open_view(
        link,
        downloads.state_for(link, visitor),
        file_count=row.file_count,
        total_size=int(row.total_size),
        checked_count=row.checked_count,
        latest_at=row.latest_at,
    )
    return shown.version if shown.is_moving else None


def _open_view(link: Link, state: str, **of_files: Any) -> TransferView:
    transfer = link.transfer
    # Nothing of a deleted or quarantined transfer is shown, not even its title and message.
    is_told = state != "deleted" and transfer.quarantined_at is None
    is_known = link.recipient_id is not None and transfer.sender_confirmed_at is not None
    return TransferView(
        id=transfer.id,
        # The requested link and no other: a recipient's link must not reveal the transfer's own.
        slug=link.slug,
        link=links.transfer_url(link.slug),
        state=state,
        title=transfer.title if is_told else "",
        message=transfer.message if is_told else "",
        expires_at=transfer.expires_at,
        expired_at=transfer.expired_at or transfer.expires_at,
        max_downloads=transfer.max_downloads,
        downloads_left=_left(transfer),
        sent_size=transfer.sent_size,
        recipient_id=link.recipient_id,
        sender=transfer.sender_email if is_known and is_told else None,
        **of_files,
    )


def _locked_view(link: Link) -> TransferView:
    """The view of a locked or ended transfer; the rest is not even looked up."""
    transfer = link.transfer
    return TransferView(
        id=transfer.id,
        slug=link.slug,
        link=links.transfer_url(link.slug),
        state=link.state if link.is_over else "password_needed",
        title="",
        message="",
        expires_at=transfer.expires_at,
        expired_at=transfer.expired_at or transfer.expires_at,
        max_downloads=None,
        downloads_left=None,
        sent_size=0,
        recipient_id=link.recipient_id,
    )


def open_view(slug: str, visitor: str | None = None, proof: str | None = None) -> TransferView:
    """What view() returns; raises Gone if nothing can be downloaded any more, or PasswordNeeded.

    Also raises what view() does.
    """
    shown = view(slug, visitor, proof)
    if shown.is_locked:
        raise PasswordNeeded
    if shown.has_ended:
        raise Gone(ENDED[shown.state], reason=shown.state)
    return shown


def _left(transfer: Transfer) -> int | None:
    if transfer.max_downloads is None:
        return None
    return max(0, transfer.max_downloads - transfer.download_count)
