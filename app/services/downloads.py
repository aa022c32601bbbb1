"""The recipient's side: what a link shows, and the one place where a download is counted.

The rule: one browser fetching from one transfer within an hour is one download, whichever of its
files it takes and however often; a client without cookies counts each time. Looking counts never.
"""

import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update

from app import links
from app.clock import db_now
from app.config import settings
from app.db import db, transaction
from app.dispositions import attachment
from app.errors import Gone, NotFound, PasswordNeeded, WrongState
from app.extensions import storage
from app.models import Download, File, Recipient, State, Transfer, UploadState
from app.services import audit, delivery, locks
from app.services.transfers import files_of

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
}
# Then it makes no difference any more whether somebody knows the password.
_OVER = {"expired", "deleted"}


@dataclass(frozen=True)
class TransferView:
    """A transfer as its link shows it: `state` is one of PRODUCT's words for the recipient."""

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
    total_size: int = 0
    checked_count: int = 0
    files: Sequence[File] = field(default_factory=list)
    # Whose own link this is; None for the transfer's.
    recipient_id: uuid.UUID | None = None

    @property
    def file_count(self) -> int:
        """How many files there are to see."""
        return len(self.files)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be had here any more."""
        return self.state in _ENDED

    @property
    def is_locked(self) -> bool:
        """Whether a password is needed, and nothing is told before."""
        return self.state == "password_needed"

    @property
    def is_moving(self) -> bool:
        """Whether the page will change by itself."""
        return self.state in ("uploading", "processing")


def view(slug: str, visitor: str | None = None, proof: str | None = None) -> TransferView:
    """What the link shows now; two queries, no call to storage. Raises NotFound.

    A visitor whose download has been counted still sees the files when the limit is reached.
    Without the proof that unlock() gave, a protected transfer tells nothing of what it holds.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if not locks.is_open(transfer, proof):
        return _locked_view(transfer, state, slug)
    if state == "limit_reached" and _counted(transfer.id, visitor):
        state = "ready"
    files = [] if state in _ENDED else files_of(transfer.id)
    # What its sender has deleted is told to nobody, its words neither.
    is_told = state != "deleted"
    return TransferView(
        id=transfer.id,
        # The link that was asked for, and no other: a recipient's own tells nobody the transfer's.
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
        total_size=sum(file.size for file in files),
        checked_count=sum(file.upload.state is UploadState.COMPLETE for file in files),
        files=files,
        recipient_id=_recipient_of(transfer, slug),
    )


def _locked_view(transfer: Transfer, state: str, slug: str) -> TransferView:
    """That it needs a password, or has ended for good; nothing else is even looked up."""
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
    """As view(), but raises Gone where nothing can be had any more, and PasswordNeeded."""
    shown = view(slug, visitor, proof)
    if shown.is_locked:
        raise PasswordNeeded
    if shown.has_ended:
        raise Gone(_ENDED[shown.state], reason=shown.state)
    return shown


def find_file(
    slug: str, at: uuid.UUID | int | str, visitor: str | None = None, proof: str | None = None
) -> File:
    """A file by its id, its number in the sender's order (from 1), or its path; counts nothing.

    Raises NotFound, and Gone and PasswordNeeded as open_view() does.
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
    in_order = select(File.id).where(File.transfer_id == transfer.id).order_by(File.position)
    return _file_where(transfer, File.id == in_order.offset(at - 1).limit(1).scalar_subquery())


def unlock(slug: str, password: str) -> str | None:
    """Try a password: the proof that view() and file_url() take; None if there is no password.

    Raises NotFound, Gone after the end, PasswordWrong, TooManyTries.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if state in _OVER:
        raise Gone(_ENDED[state], reason=state)
    return locks.open_with(transfer, password)


def file_url(slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None) -> str:
    """Count a download and return a signed address of the file, good for minutes.

    Raises NotFound, WrongState before READY, Gone after the end or when the limit is used up,
    PasswordNeeded before all of these but the end.
    """
    transfer, is_due = _by_slug(slug)
    state = _state_shown(transfer, is_due)
    if state in _OVER:
        raise Gone(_ENDED[state], reason=state)
    if not locks.is_open(transfer, proof):
        raise PasswordNeeded
    file = _file_of(transfer, file_id)
    if transfer.state is not State.READY:
        raise WrongState("This file has not arrived completely yet.")
    count_once(transfer.id, file_id, visitor, _recipient_of(transfer, slug))
    return storage.get_url(
        file.upload.key, attachment(file.name), settings.download_url_ttl_in_seconds
    )


def count_once(
    transfer_id: uuid.UUID,
    file_id: uuid.UUID,
    visitor: str | None,
    recipient_id: uuid.UUID | None = None,
) -> None:
    """Count this visitor's download, unless it was counted within the window. Raises Gone.

    One conditional UPDATE decides, so of any number at once exactly as many as are left pass.
    """
    if _counted(transfer_id, visitor):
        if recipient_id is not None:
            # Counted for somebody else at the same browser, maybe; these have it now too.
            with transaction():
                delivery.note_download(transfer_id, recipient_id)
        return
    with transaction():
        # One at a time for each transfer: two clicks of one browser must not count twice.
        db.session.execute(select(Transfer.id).where(Transfer.id == transfer_id).with_for_update())
        if _counted(transfer_id, visitor):
            return
        if not _take_one(transfer_id):
            state = _state_shown(*_by_id(transfer_id))
            raise Gone(_ENDED.get(state, _ENDED["limit_reached"]), reason=state)
        db.session.add(
            Download(
                transfer_id=transfer_id,
                file_id=file_id,
                visitor_hash=_hash(visitor),
                recipient_id=recipient_id,
            )
        )
        delivery.note_download(transfer_id, recipient_id)
        audit.note("download", transfer_id)


def _take_one(transfer_id: uuid.UUID) -> bool:
    statement = (
        update(Transfer)
        .where(
            Transfer.id == transfer_id,
            Transfer.state == State.READY,
            Transfer.expires_at > db_now(),
            or_(
                Transfer.max_downloads.is_(None),
                Transfer.download_count < Transfer.max_downloads,
            ),
        )
        .values(download_count=Transfer.download_count + 1)
        .execution_options(synchronize_session=False)
    )
    return db.session.execute(statement).rowcount == 1


def _counted(transfer_id: uuid.UUID, visitor: str | None) -> bool:
    if visitor is None:
        return False
    since = db_now() - timedelta(minutes=settings.download_window_in_minutes)
    found = db.session.scalar(
        select(func.count())
        .select_from(Download)
        .where(
            Download.transfer_id == transfer_id,
            Download.visitor_hash == _hash(visitor),
            Download.created_at > since,
        )
    )
    return bool(found)


def _hash(visitor: str | None) -> bytes | None:
    return hashlib.sha256(visitor.encode()).digest() if visitor else None


def _by_slug(slug: str) -> tuple[Transfer, bool]:
    """The transfer of a link: its own, or a recipient's. Raises NotFound, Gone if taken back."""
    own = select(Recipient.transfer_id).where(Recipient.slug == slug).scalar_subquery()
    transfer, is_due = _one(or_(Transfer.slug == slug, Transfer.id == own))
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
    """The transfer, and whether it is past its time by the database's clock."""
    row = db.session.execute(
        select(Transfer, Transfer.expires_at <= db_now())
        .where(condition)
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise NotFound("This link does not lead to anything.")
    return row[0], row[1]


def _file_of(transfer: Transfer, file_id: uuid.UUID) -> File:
    return _file_where(transfer, File.id == file_id)


def _file_at_path(transfer: Transfer, path: str) -> File:
    """An id is good here too: whoever writes an address by hand need not know which it is."""
    with suppress(ValueError, NotFound):
        return _file_of(transfer, uuid.UUID(path))
    # PostgreSQL takes no text with a zero byte, so no path has one.
    return _file_where(transfer, File.path == path.replace("\0", "/"))


def _file_where(transfer: Transfer, condition: ColumnElement[bool]) -> File:
    found = files_of(transfer.id, condition)
    if not found:
        raise NotFound("This transfer has no such file.")
    return found[0]


def _state_shown(transfer: Transfer, is_due: bool) -> str:
    """Expiry is enforced here on every look, whether or not the sweep has come by."""
    if transfer.state is State.READY and is_due:
        return "expired"
    if transfer.state is State.READY and _left(transfer) == 0:
        return "limit_reached"
    return _SHOWN_AS[transfer.state]


def _left(transfer: Transfer) -> int | None:
    if transfer.max_downloads is None:
        return None
    return max(0, transfer.max_downloads - transfer.download_count)
