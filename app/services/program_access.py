"""What a sender's program may do with a READY transfer: get a presigned URL, or mail it to people.

A program that acts for the sender needs no password.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from app import clock
from app.clock import db_now
from app.config import settings
from app.db import db, transaction
from app.dispositions import attachment
from app.errors import (
    Gone,
    Invalid,
    LimitReached,
    NoMail,
    NotFound,
    NotNow,
    TransferExpired,
    WrongState,
)
from app.extensions import storage
from app.models import File, State, Transfer
from app.services import archives, delivery, downloads, idempotency, managing, senders
from app.services.accounts import Caller
from app.services.idempotency import Once
from app.services.transfers import files_of, has_expired, lock_row, not_deleted, refuse_blocked


def download_url(
    transfer: Transfer, file_id: uuid.UUID | None, minutes: int, caller: Caller | None
) -> str:
    """Count a download and presign a URL: of this file, of the only one, or of the zip of all.

    The URL does not outlive the transfer's date. Unless the operator issued the caller's key, it
    lives no longer than those that pages give out. Raises TransferExpired, NotNow before READY,
    LimitReached, Blocked, NotFound for a file that is not there, WrongState while the zip is made,
    and ZipFailed or ZipLacksFile if it could not be.
    """
    row = _ready(transfer.id)
    if row.is_used_up:
        raise LimitReached
    is_vouched = caller is not None and caller.email is None
    seconds = _seconds(minutes, row.expires_at, is_vouched=is_vouched)
    key, name, counted = _wanted(row, file_id, seconds)
    try:
        downloads.count_once(row.id, counted, None)
    except Gone as error:
        raise _told(error) from error
    return storage.urls.get(key, attachment(name), seconds)


def _wanted(
    row: Transfer, file_id: uuid.UUID | None, seconds: int
) -> tuple[str, str, uuid.UUID | None]:
    """The key, the name and the file's id, which is None for the zip of all files.

    The zip is kept for at least `seconds`.
    """
    only = [] if file_id is None else [File.id == file_id]
    files = files_of(row.id, *only, limit=2)
    if not files:
        raise NotFound("This transfer has no such file.")
    if len(files) == 1:
        return files[0].upload.key, files[0].name, files[0].id
    made = archives.find_made(row.id)
    if made is None or not archives.keep(made, seconds):
        archives.request(row.id)
        raise WrongState("All files are being put into one zip. Ask again, or for one `file`.")
    return made.key, downloads.zip_name(row), None


def _seconds(minutes: int, expires_at: datetime, *, is_vouched: bool) -> int:
    """How long the URL lives: not longer than its transfer, but long enough to begin a download.

    It works even if the transfer is blocked or changed meanwhile, so only the operator's own
    programs get one that lives long.
    """
    usual = settings.download_url_ttl_in_seconds
    if not is_vouched:
        return min(minutes * 60, usual)
    left = int((expires_at - clock.now()).total_seconds())
    return min(minutes * 60, max(left, usual))


def _told(error: Gone) -> Gone:
    known: dict[str, type[TransferExpired | LimitReached]] = {
        "expired": TransferExpired,
        "limit_reached": LimitReached,
    }
    kind = known.get(error.details["reason"])
    return kind() if kind else error


def checked_addresses(emails: Sequence[str]) -> list[str]:
    """The addresses in their normal spelling; raises NoMail if no mail is set up, Invalid."""
    if not settings.sends_mail:
        raise NoMail
    if not emails:
        raise Invalid({"emails": "must not be empty"})
    complaints: dict[str, str] = {}
    found = []
    for index, given in enumerate(emails):
        try:
            found.append(senders.checked(given, f"emails.{index}"))
        except Invalid as error:
            complaints |= error.fields
    if complaints:
        raise Invalid(complaints)
    return list(dict.fromkeys(found))


def share(
    transfer: Transfer, emails: Sequence[str], once: Once | None, caller: Caller | None
) -> None:
    """Mail a READY transfer to more people, each with a personal link; nobody gets it twice.

    With a key, a transfer without a sender gets one: the person whose own key it is, otherwise the
    installation. Raises TransferExpired, NotNow before READY or before the sender's address is
    confirmed, Blocked, TooMuchMail, Invalid, KeyReused.
    """
    with transaction():
        if idempotency.made(once) is not None:
            return
        lock_row(transfer.id)
        row = _ready(transfer.id)
        if row.sender_email is None and caller is not None:
            _speak_for(row, caller)
        if row.sender_confirmed_at is None:
            raise NotNow("Confirm the sender's address first, with POST /senders/code.")
        managing.add_recipients(row, emails)
        idempotency.note(once, [row.id])


def _speak_for(row: Transfer, caller: Caller) -> None:
    """Make the caller's or the installation's own address the sender, which is mailed no news."""
    row.sender_email = caller.email or settings.own_email
    row.sender_confirmed_at = db.session.scalar(select(db_now()))
    row.muted = [kind.value for kind in delivery.TO_SENDER]
    # flush(): add_recipients() reads the row again.
    db.session.flush()


def _ready(transfer_id: uuid.UUID) -> Transfer:
    """The row as it is now; raises Gone, TransferExpired, Blocked, NotNow."""
    row, has_ended = db.session.execute(
        select(Transfer, has_expired())
        .where(Transfer.id == transfer_id)
        .execution_options(populate_existing=True)
    ).one()
    not_deleted(row)
    if row.state is State.EXPIRED or has_ended:
        raise TransferExpired
    refuse_blocked(row)
    if row.state is not State.READY:
        raise NotNow("The transfer is not ready: its file has not fully arrived yet.")
    return row
