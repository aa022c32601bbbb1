"""What a sender's program gives out of a READY transfer: an address in storage, or mail to people.

Its password keeps nobody from it who acts for the sender.
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
from app.services import archives, delivery, downloads, managing, repeats, senders
from app.services.repeats import Once
from app.services.transfers import files_of, hold, is_over, not_deleted, refuse_blocked


def download_url(
    transfer: Transfer, file_id: uuid.UUID | None, minutes: int, *, is_vouched: bool
) -> str:
    """Count a download and sign an address: of this file, of the only one, or of the zip of all.

    It does not outlive the transfer's date, nor, unless a workspace vouches for whoever asks, an
    address that a page gives out. Raises TransferExpired, NotNow before READY,
    LimitReached, Blocked, NotFound for a file that is not there, WrongState while the zip is made,
    ZipFailed and ZipLacksFile where it could not be.
    """
    row = _ready(transfer.id)
    if row.is_used_up:
        raise LimitReached
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
    """The key, the name, and the file's id; None for all of them, whose zip stays for so long."""
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
    """An address lives no longer than its transfer; but whoever has one has time to begin.

    It works whatever is blocked or changed meanwhile, so a stranger gets none that lasts.
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
    """The addresses as we spell them; raises NoMail where there is none, Invalid."""
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
    transfer: Transfer, emails: Sequence[str], once: Once | None, *, is_vouched: bool
) -> None:
    """Mail a READY transfer to these people too, each by a link of their own; nobody twice.

    Where a workspace vouches for a transfer that names no sender, it is mailed in the name of the
    installation. Raises TransferExpired, NotNow before READY or before the sender's address is
    confirmed, Blocked, TooMuchMail, Invalid, KeyReused.
    """
    with transaction():
        if repeats.made(once) is not None:
            return
        hold(transfer.id)
        row = _ready(transfer.id)
        if row.sender_email is None and is_vouched:
            _speak_for(row)
        if row.sender_confirmed_at is None:
            raise NotNow("Confirm the sender's address first: POST /senders/code tells how.")
        managing.add_recipients(row, emails)
        repeats.note(once, [row.id])


def _speak_for(row: Transfer) -> None:
    """The installation's own address is the sender, and wants no mail about it."""
    row.sender_email = settings.own_email
    row.sender_confirmed_at = db.session.scalar(select(db_now()))
    row.muted = [kind.value for kind in delivery.TO_SENDER]
    # flush(): the row is read again by whoever adds recipients.
    db.session.flush()


def _ready(transfer_id: uuid.UUID) -> Transfer:
    """The row as it is now; raises Gone, TransferExpired, Blocked, NotNow."""
    row, has_ended = db.session.execute(
        select(Transfer, is_over())
        .where(Transfer.id == transfer_id)
        .execution_options(populate_existing=True)
    ).one()
    not_deleted(row)
    if row.state is State.EXPIRED or has_ended:
        raise TransferExpired
    refuse_blocked(row)
    if row.state is not State.READY:
        raise NotNow("The transfer is not ready: its file has not arrived completely yet.")
    return row
