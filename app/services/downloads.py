"""Handing out files to recipients, and the one place where a download is counted.

The rule: one browser fetching from one transfer within an hour is one download, whichever of its
files it takes and however often; the hour does not start before all files have arrived. A client
without cookies counts each time. Viewing never counts.
"""

import hashlib
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from sqlalchemy import ColumnElement, exists, func, select, update

from app.clock import db_now
from app.config import MIB, settings
from app.db import changed, db, transaction
from app.dispositions import attachment, safe_name
from app.errors import Gone, NotFound, PasswordNeeded, WrongState
from app.extensions import storage
from app.models import (
    Download,
    File,
    State,
    Transfer,
    Upload,
    UploadState,
)
from app.services import archives, audit, delivery, link_targets, locks, webhook_news
from app.services.link_targets import ENDED, LIVE, Link
from app.services.transfers import files_of, has_expired

# Bytes a second of the slowest line on which resuming large files still counts as one download.
SLOW_LINE = MIB


@dataclass(frozen=True)
class DownloadUrl:
    """A presigned URL, valid for some minutes, and the name to save its file under."""

    url: str
    name: str


def state_for(link: Link, visitor: str | None) -> str:
    """The link's state for this visitor, who keeps what was counted when the limit is reached."""
    if link.state == "limit_reached" and _counted(link.transfer.id, visitor):
        return link.state_within_limit
    return link.state


def find_file(
    slug: str, at: uuid.UUID | int | str, visitor: str | None = None, proof: str | None = None
) -> File:
    """Find a file by id, by number in the sender's order (from 1) or by path; counts nothing.

    Raises NotFound, Gone, and PasswordNeeded as open_view() does.
    """
    link = link_targets.find(slug)
    transfer_id = link.transfer.id
    if not link.is_over and not locks.is_open(link.transfer, proof):
        raise PasswordNeeded
    if (state := state_for(link, visitor)) in ENDED:
        raise Gone(ENDED[state], reason=state)
    if isinstance(at, uuid.UUID):
        return _file_of(transfer_id, at)
    if isinstance(at, str):
        return _file_at_path(transfer_id, at)
    is_there = (File.transfer_id == transfer_id) & File.batch.is_not(None)
    in_order = select(File.id).where(is_there).order_by(File.position)
    return _file_where(transfer_id, File.id == in_order.offset(at - 1).limit(1).scalar_subquery())


def unlock(slug: str, password: str) -> str | None:
    """Try a password; returns the proof that view() and file_url() take, None if none is set.

    Raises NotFound, Gone after the end, PasswordWrong, TooManyTries.
    """
    link = link_targets.find(slug)
    if link.is_over:
        raise Gone(ENDED[link.state], reason=link.state)
    return locks.open_with(link.transfer, password)


def file_url(slug: str, file_id: uuid.UUID, visitor: str | None, proof: str | None = None) -> str:
    """Count a download and return a presigned URL of the file, valid for minutes.

    Raises NotFound, WrongState before the file is safe, Gone after the end or when the limit is
    used up, and PasswordNeeded before all of these except for the end.
    """
    link = _opened(slug, proof)
    file = _file_of(link.transfer.id, file_id)
    if file.upload.state is not UploadState.COMPLETE:
        raise WrongState("This file has not fully arrived yet.")
    count_once(link.transfer.id, file_id, visitor, link.recipient_id)
    return storage.urls.get(
        file.upload.key, attachment(file.name), settings.download_url_ttl_in_seconds
    )


def looked_into(slug: str, visitor: str | None, proof: str | None = None) -> tuple[Transfer, bool]:
    """The READY transfer whose files may be viewed, and whether its bytes may be served uncounted.

    They may if there is no limit, or if a download of this visitor has been counted. Raises as
    file_url(), but counts nothing.
    """
    transfer = _opened(slug, proof).transfer
    if transfer.state is not State.READY:
        raise WrongState("The files have not fully arrived yet.")
    is_free = transfer.max_downloads is None or _counted(transfer.id, visitor)
    if transfer.is_used_up and not is_free:
        raise Gone(ENDED["limit_reached"], reason="limit_reached")
    return transfer, is_free


def zip_url(
    slug: str, visitor: str | None, proof: str | None = None, *, wait_seconds: float = 0.0
) -> DownloadUrl | None:
    """Count a download and return a presigned URL of the zip of all files; None while it is made.

    The first request has it made, which counts nothing, and may wait `wait_seconds` for it. Raises
    as file_url() does, as archives.request() if it could not be made, and NotFound for a single
    file, of which no zip is made.
    """
    link = _opened(slug, proof)
    transfer = link.transfer
    if transfer.state is not State.READY:
        raise WrongState("The files have not fully arrived yet.")
    made = archives.find_made(transfer.id)
    if made is None:
        _check_left(transfer, visitor)
        archives.request(transfer.id)
        made = archives.wait_for(transfer.id, wait_seconds)
    if made is None:
        return None
    count_once(transfer.id, None, visitor, link.recipient_id)
    name = zip_name(transfer)
    ttl = settings.download_url_ttl_in_seconds
    return DownloadUrl(storage.urls.get(made.key, attachment(name), ttl), name)


def zip_name(transfer: Transfer) -> str:
    """The file name of the zip of all files."""
    return f"{safe_name(transfer.title)[:80].strip() if transfer.title.strip() else 'files'}.zip"


def _opened(slug: str, proof: str | None) -> Link:
    """The link; raises Gone if it is over, PasswordNeeded if it is locked."""
    link = link_targets.find(slug)
    if link.is_over:
        raise Gone(ENDED[link.state], reason=link.state)
    if not locks.is_open(link.transfer, proof):
        raise PasswordNeeded
    return link


def _check_left(transfer: Transfer, visitor: str | None) -> None:
    """Raise Gone for a visitor who has no download left, before a zip is made for them."""
    if transfer.is_used_up and not _counted(transfer.id, visitor):
        raise Gone(ENDED["limit_reached"], reason="limit_reached")


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
            Transfer.state.in_(LIVE),
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
    if (state := link_targets.state_of(transfer_id)) in ENDED:
        raise Gone(ENDED[state], reason=state)
    if file_id is not None:
        _file_of(transfer_id, file_id)
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


def _file_of(transfer_id: uuid.UUID, file_id: uuid.UUID) -> File:
    return _file_where(transfer_id, File.id == file_id)


def _file_at_path(transfer_id: uuid.UUID, path: str) -> File:
    """The file at a path, or with that id: handwritten URLs may use either."""
    with suppress(ValueError, NotFound):
        return _file_of(transfer_id, uuid.UUID(path))
    # PostgreSQL accepts no text with a NUL, so no path contains one.
    return _file_where(transfer_id, File.path == path.replace("\0", "/"))


def _file_where(transfer_id: uuid.UUID, condition: ColumnElement[bool]) -> File:
    found = files_of(transfer_id, condition)
    if not found:
        raise NotFound("This transfer has no such file.")
    return found[0]
