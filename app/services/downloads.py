"""The recipient's side: what a link shows, and the one place where a download is counted.

The rule: one browser fetching from one transfer within an hour is one download, whichever of its
files it takes and however often; the hour does not start before all files have arrived. A client
without cookies counts each time. Viewing never counts.
"""

import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, exists, func, select, update

from app import clock, links
from app.clock import db_now
from app.config import MIB, settings
from app.db import changed, db, transaction
from app.dispositions import attachment, safe_name
from app.errors import Gone, NotFound, PasswordNeeded, WrongState
from app.extensions import storage
from app.models import (
    Download,
    File,
    PreviewState,
    Recipient,
    State,
    Transfer,
    Upload,
    UploadState,
)
from app.services import archives, audit, delivery, locks, previews, webhook_news
from app.services.transfers import files_of, has_expired, is_at
from app.words import percent_of

_SHOWN_AS = {
    State.INIT: "uploading",
    State.PROCESSING: "processing",
    State.READY: "ready",
    State.EXPIRED: "expired",
    State.DELETED: "deleted",
}
_ENDED = {
    "expired": "This transfer has expired.",
    "deleted": "This transfer was deleted.",
    "limit_reached": "All downloads of this transfer have been used.",
    # Quarantined; the reason is not shown (services/abuse.py).
    "unavailable": "This is not available.",
}
# In these states it no longer matters whether the visitor knows the password.
_OVER = {"expired", "deleted", "unavailable"}
# A file can be downloaded as soon as it is safe itself, whatever becomes of the others.
_LIVE = (State.INIT, State.PROCESSING, State.READY)
# Bytes a second of the slowest line on which resuming large files still counts as one download.
SLOW_LINE = MIB


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
        return self.state in _ENDED

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


@dataclass(frozen=True)
class DownloadUrl:
    """A presigned URL, valid for some minutes, and the name to save its file under."""

    url: str
    name: str


def view(slug: str, visitor: str | None = None, proof: str | None = None) -> TransferView:
    """What the link shows now; two or three queries, no call to storage. Raises NotFound.

    A visitor whose download has been counted still sees the files when the limit is reached.
    Without the proof from unlock(), a protected transfer reveals nothing of its content. Raises
    Gone for a recipient's link that was revoked.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if not locks.is_open(transfer, proof):
        return _locked_view(transfer, state, slug)
    if state == "limit_reached" and _counted(transfer.id, visitor):
        state = _SHOWN_AS[transfer.state]
    files = [] if state in _ENDED else files_of(transfer.id, with_previews=True)
    return _open_view(
        transfer,
        state,
        slug,
        file_count=len(files),
        total_size=sum(file.size for file in files),
        checked_count=sum(file.upload.state is UploadState.COMPLETE for file in files),
        latest_at=max((file.upload.created_at for file in files), default=None),
        files=files,
        zip=archives.progress(transfer.id) if state == "ready" and len(files) > 1 else None,
    )


def version(slug: str, visitor: str | None = None, proof: str | None = None) -> str | None:
    """The version of what view() would show, without reading the files.

    None if it will not change by itself or needs a password. Raises as view().
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if not locks.is_open(transfer, proof):
        return None
    if state == "limit_reached" and _counted(transfer.id, visitor):
        state = _SHOWN_AS[transfer.state]
    is_complete = Upload.state == UploadState.COMPLETE
    count, size, complete_count, latest_at = db.session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Upload.size), 0),
            func.count().filter(is_complete),
            func.max(Upload.created_at),
        )
        .select_from(File)
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer.id, File.batch.is_not(None))
    ).one()
    shown = _open_view(
        transfer,
        state,
        slug,
        file_count=count,
        total_size=int(size),
        checked_count=complete_count,
        latest_at=latest_at,
    )
    return shown.version if shown.is_moving else None


def _open_view(transfer: Transfer, state: str, slug: str, **of_files: Any) -> TransferView:
    # Nothing of a deleted or quarantined transfer is shown, not even its title and message.
    is_told = state != "deleted" and transfer.quarantined_at is None
    recipient_id = _recipient_of(transfer, slug)
    is_known = recipient_id is not None and transfer.sender_confirmed_at is not None
    return TransferView(
        id=transfer.id,
        # The requested link and no other: a recipient's link must not reveal the transfer's own.
        slug=slug,
        link=links.transfer_url(slug),
        state=state,
        title=transfer.title if is_told else "",
        message=transfer.message if is_told else "",
        expires_at=transfer.expires_at,
        expired_at=transfer.expired_at or transfer.expires_at,
        max_downloads=transfer.max_downloads,
        downloads_left=_left(transfer),
        sent_size=transfer.sent_size,
        recipient_id=recipient_id,
        sender=transfer.sender_email if is_known and is_told else None,
        **of_files,
    )


def _locked_view(transfer: Transfer, state: str, slug: str) -> TransferView:
    """The view of a locked or ended transfer; the rest is not even looked up."""
    return TransferView(
        id=transfer.id,
        slug=slug,
        link=links.transfer_url(slug),
        state=state if state in _OVER else "password_needed",
        title="",
        message="",
        expires_at=transfer.expires_at,
        expired_at=transfer.expired_at or transfer.expires_at,
        max_downloads=None,
        downloads_left=None,
        sent_size=0,
        recipient_id=_recipient_of(transfer, slug),
    )


def open_view(slug: str, visitor: str | None = None, proof: str | None = None) -> TransferView:
    """What view() returns; raises Gone if nothing can be downloaded any more, or PasswordNeeded.

    Also raises what view() does.
    """
    shown = view(slug, visitor, proof)
    if shown.is_locked:
        raise PasswordNeeded
    if shown.has_ended:
        raise Gone(_ENDED[shown.state], reason=shown.state)
    return shown


def find_file(
    slug: str, at: uuid.UUID | int | str, visitor: str | None = None, proof: str | None = None
) -> File:
    """Find a file by id, by number in the sender's order (from 1) or by path; counts nothing.

    Raises NotFound, Gone, and PasswordNeeded as open_view() does.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if state not in _OVER and not locks.is_open(transfer, proof):
        raise PasswordNeeded
    if state in _ENDED and not (state == "limit_reached" and _counted(transfer.id, visitor)):
        raise Gone(_ENDED[state], reason=state)
    if isinstance(at, uuid.UUID):
        return _file_of(transfer, at)
    if isinstance(at, str):
        return _file_at_path(transfer, at)
    is_there = (File.transfer_id == transfer.id) & File.batch.is_not(None)
    in_order = select(File.id).where(is_there).order_by(File.position)
    return _file_where(transfer, File.id == in_order.offset(at - 1).limit(1).scalar_subquery())


def unlock(slug: str, password: str) -> str | None:
    """Try a password; returns the proof that view() and file_url() take, None if none is set.

    Raises NotFound, Gone after the end, PasswordWrong, TooManyTries.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if state in _OVER:
        raise Gone(_ENDED[state], reason=state)
    return locks.open_with(transfer, password)


def file_url(slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None) -> str:
    """Count a download and return a presigned URL of the file, valid for minutes.

    Raises NotFound, WrongState before the file is safe, Gone after the end or when the limit is
    used up, and PasswordNeeded before all of these except for the end.
    """
    transfer = _opened(slug, proof)
    file = _file_of(transfer, file_id)
    if file.upload.state is not UploadState.COMPLETE:
        raise WrongState("This file has not fully arrived yet.")
    count_once(transfer.id, file_id, visitor, _recipient_of(transfer, slug))
    return storage.urls.get(
        file.upload.key, attachment(file.name), settings.download_url_ttl_in_seconds
    )


def looked_into(slug: str, visitor: str | None, proof: str | None = None) -> tuple[Transfer, bool]:
    """The READY transfer whose files may be viewed, and whether its bytes may be served uncounted.

    They may if there is no limit, or if a download of this visitor has been counted. Raises as
    file_url(), but counts nothing.
    """
    transfer = _opened(slug, proof)
    if transfer.state is not State.READY:
        raise WrongState("The files have not fully arrived yet.")
    is_free = transfer.max_downloads is None or _counted(transfer.id, visitor)
    if transfer.is_used_up and not is_free:
        raise Gone(_ENDED["limit_reached"], reason="limit_reached")
    return transfer, is_free


def zip_url(
    slug: str, visitor: str | None, proof: str | None = None, *, wait_seconds: float = 0.0
) -> DownloadUrl | None:
    """Count a download and return a presigned URL of the zip of all files; None while it is made.

    The first request has it made, which counts nothing, and may wait `wait_seconds` for it. Raises
    as file_url() does, as archives.request() if it could not be made, and NotFound for a single
    file, of which no zip is made.
    """
    transfer = _opened(slug, proof)
    if transfer.state is not State.READY:
        raise WrongState("The files have not fully arrived yet.")
    made = archives.find_made(transfer.id)
    if made is None:
        _check_left(transfer, visitor)
        archives.request(transfer.id)
        made = archives.wait_for(transfer.id, wait_seconds)
    if made is None:
        return None
    count_once(transfer.id, None, visitor, _recipient_of(transfer, slug))
    name = zip_name(transfer)
    ttl = settings.download_url_ttl_in_seconds
    return DownloadUrl(storage.urls.get(made.key, attachment(name), ttl), name)


def zip_name(transfer: Transfer) -> str:
    """The file name of the zip of all files."""
    return f"{safe_name(transfer.title)[:80].strip() if transfer.title.strip() else 'files'}.zip"


def _opened(slug: str, proof: str | None) -> Transfer:
    """The transfer of a link; raises Gone if it is over, PasswordNeeded if it is locked."""
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if state in _OVER:
        raise Gone(_ENDED[state], reason=state)
    if not locks.is_open(transfer, proof):
        raise PasswordNeeded
    return transfer


def _check_left(transfer: Transfer, visitor: str | None) -> None:
    """Raise Gone for a visitor who has no download left, before a zip is made for them."""
    if transfer.is_used_up and not _counted(transfer.id, visitor):
        raise Gone(_ENDED["limit_reached"], reason="limit_reached")


def count_once(
    transfer_id: uuid.UUID,
    file_id: uuid.UUID | None,
    visitor: str | None,
    recipient_id: uuid.UUID | None = None,
) -> None:
    """Count this visitor's download of a file or the zip, once within the window.

    The window is the setting's, or the time all files take at SLOW_LINE if that is longer. One
    conditional UPDATE decides, so exactly as many concurrent downloads pass as are left. Raises
    Gone, and NotFound or WrongState for a file that its sender is just removing.
    """
    if _counted(transfer_id, visitor):
        if recipient_id is not None:
            # Perhaps counted for another person at this browser; this recipient has it now too.
            with transaction():
                delivery.note_download(transfer_id, recipient_id)
        return
    with transaction():
        # Lock the transfer's row: two clicks in one browser must not count twice.
        db.session.execute(select(Transfer.id).where(Transfer.id == transfer_id).with_for_update())
        if _counted(transfer_id, visitor):
            return
        if not _take_one(transfer_id, file_id):
            _tell_why_not(transfer_id, file_id)
        db.session.add(
            Download(
                transfer_id=transfer_id,
                file_id=file_id,
                visitor_hash=_hash(visitor),
                recipient_id=recipient_id,
            )
        )
        delivery.note_download(transfer_id, recipient_id)
        webhook_news.tell_download(transfer_id, file_id)
        audit.note("download", transfer_id)


def _is_safe(transfer_id: uuid.UUID, file_id: uuid.UUID | None) -> ColumnElement[bool]:
    """The condition that a file, or all of them, can be fetched from storage."""
    if file_id is None:
        return Transfer.state == State.READY
    # Before READY the sender may remove a file, under the same lock that is held here.
    return exists().where(
        File.id == file_id,
        File.transfer_id == transfer_id,
        File.batch.is_not(None),
        File.upload_id == Upload.id,
        Upload.state == UploadState.COMPLETE,
    )


def _take_one(transfer_id: uuid.UUID, file_id: uuid.UUID | None) -> bool:
    statement = (
        update(Transfer)
        .where(
            Transfer.id == transfer_id,
            Transfer.state.in_(_LIVE),
            _is_safe(transfer_id, file_id),
            ~has_expired(),
            Transfer.quarantined_at.is_(None),
            ~Transfer.is_used_up,
        )
        .values(download_count=Transfer.download_count + 1)
        .execution_options(synchronize_session=False)
    )
    return changed(statement) == 1


def _tell_why_not(transfer_id: uuid.UUID, file_id: uuid.UUID | None) -> NoReturn:
    transfer, is_due = _by_id(transfer_id)
    state = _state_shown(transfer, is_due)
    if state in _ENDED:
        raise Gone(_ENDED[state], reason=state)
    if file_id is not None:
        _file_of(transfer, file_id)
    raise WrongState("This has not fully arrived yet.")


def _counted(transfer_id: uuid.UUID, visitor: str | None) -> bool:
    if visitor is None:
        return False
    # Long enough for its files on a slow line: a client that resumes then is still on one download.
    seconds = func.make_interval(0, 0, 0, 0, 0, 0, Transfer.total_size / SLOW_LINE)
    window = func.greatest(timedelta(minutes=settings.download_window_in_minutes), seconds)
    # A visitor who takes one file early has the whole window for the rest once all have arrived.
    whole_at = func.coalesce(Transfer.ready_at, db_now())
    found = db.session.scalar(
        select(func.count())
        .select_from(Download)
        .join(Transfer)
        .where(
            Download.transfer_id == transfer_id,
            Download.visitor_hash == _hash(visitor),
            func.greatest(Download.created_at, whole_at) > db_now() - window,
            # Checked here too: a counted visitor gets nothing that was quarantined since.
            Transfer.quarantined_at.is_(None),
        )
    )
    return bool(found)


def _hash(visitor: str | None) -> bytes | None:
    return hashlib.sha256(visitor.encode()).digest() if visitor else None


def _by_slug(slug: str) -> tuple[Transfer, bool]:
    """The transfer of a link, its own or a recipient's, and whether it is past its date.

    Raises NotFound, and Gone for a recipient's link that was revoked.
    """
    transfer, is_due = _one(is_at(slug))
    if transfer.slug != slug:
        revoked = select(Recipient.id).where(
            Recipient.slug == slug, Recipient.revoked_at.is_not(None)
        )
        if db.session.scalar(revoked) is not None:
            raise Gone("This link was taken back by its sender.", reason="revoked")
    return transfer, is_due


def _recipient_of(transfer: Transfer, slug: str) -> uuid.UUID | None:
    if transfer.slug == slug:
        return None
    return db.session.scalar(select(Recipient.id).where(Recipient.slug == slug))


def _by_id(transfer_id: uuid.UUID) -> tuple[Transfer, bool]:
    return _one(Transfer.id == transfer_id)


def _one(condition: ColumnElement[bool]) -> tuple[Transfer, bool]:
    """The transfer, and whether it is past its date by the database's clock. Raises NotFound."""
    row = db.session.execute(
        select(Transfer, has_expired()).where(condition).execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise NotFound("This link does not lead anywhere.")
    return row[0], row[1]


def _file_of(transfer: Transfer, file_id: uuid.UUID) -> File:
    return _file_where(transfer, File.id == file_id)


def _file_at_path(transfer: Transfer, path: str) -> File:
    """The file at a path, or with that id: handwritten URLs may use either."""
    with suppress(ValueError, NotFound):
        return _file_of(transfer, uuid.UUID(path))
    # PostgreSQL accepts no text with a NUL, so no path contains one.
    return _file_where(transfer, File.path == path.replace("\0", "/"))


def _file_where(transfer: Transfer, condition: ColumnElement[bool]) -> File:
    found = files_of(transfer.id, condition)
    if not found:
        raise NotFound("This transfer has no such file.")
    return found[0]


def _state_shown(transfer: Transfer, is_due: bool) -> str:
    """The state to show. Expiry is enforced here on every request, even before the sweep runs."""
    if is_due:
        return "expired"
    if transfer.quarantined_at is not None and _SHOWN_AS[transfer.state] not in _OVER:
        return "unavailable"
    if transfer.state in _LIVE and transfer.is_used_up:
        return "limit_reached"
    return _SHOWN_AS[transfer.state]


def _left(transfer: Transfer) -> int | None:
    if transfer.max_downloads is None:
        return None
    return max(0, transfer.max_downloads - transfer.download_count)
