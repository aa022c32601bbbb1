"""The sender's side: what the manage page shows, and what may be changed there.

Who may open it is decided in sender_access.py.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Date, cast, func, select

from app import clock, lifecycle, links
from app.config import settings
from app.db import db, transaction
from app.errors import ChangedMeanwhile, Gone, Invalid, WrongState
from app.models import (
    Batch,
    Download,
    ExtensionRequest,
    File,
    MailKind,
    Recipient,
    State,
    Transfer,
    Upload,
    UploadState,
)
from app.services import (
    archives,
    batches,
    delivery,
    extension_requests,
    file_requests,
    mail_links,
    mail_quotas,
    options,
    previews,
    senders,
)
from app.services.marks import mark_of
from app.services.transfers import files_of, lock_row, not_deleted, of_id, refuse_blocked
from app.words import percent_of

# The most files of a transfer, and days with downloads, that a page lists.
MOST_FILES_SHOWN = 500
MOST_DAYS_SHOWN = 30
# What a form may change, field by field: edits of different fields do not conflict.
FIELDS = ("title", "message", "expires_at", "max_downloads", "password_hash")
_STATES = {
    State.INIT: "uploading",
    State.PROCESSING: "processing",
    State.READY: "ready",
    State.EXPIRED: "expired",
}


@dataclass(frozen=True)
class Sums:
    """How many files, how many bytes, and how many of the files are complete."""

    count: int
    size: int
    complete_count: int


@dataclass(frozen=True)
class Person:
    """A recipient as the sender sees them: their state in one word, and what happened when."""

    id: uuid.UUID
    email: str
    state: str
    failure: str | None
    download_count: int
    # What happened, in chronological order.
    events: Sequence[tuple[str, datetime]]
    may_be_mailed: bool


@dataclass(frozen=True)
class Managed:
    """A transfer as its sender's page shows it."""

    transfer: Transfer
    state: str
    link: str
    files: Sequence[File]
    file_count: int
    total_size: int
    checked_count: int
    people: Sequence[Person]
    # Downloads by the transfer's own link, per day.
    days: Sequence[tuple[date, int]]
    questions: Sequence[ExtensionRequest]
    zip: archives.Progress | None
    # When an expired transfer's bytes are removed; None if that time has passed.
    kept_until: datetime | None
    # The batch of files being added, and how much of it is complete.
    batch: Batch | None
    coming: Sums
    # Whether whoever sent it may send more (SENDERS).
    may_begin: bool
    gives_days: bool
    gives_downloads: bool

    @property
    def is_blocked(self) -> bool:
        """Whether the operator has quarantined it."""
        return self.transfer.quarantined_at is not None

    @property
    def is_moving(self) -> bool:
        """Whether files are being uploaded or checked."""
        return not self.is_blocked and self.state in ("uploading", "processing")

    @property
    def is_live(self) -> bool:
        """Whether the page will change by itself: files come, or their zip is being made."""
        is_zipping = self.zip is not None and self.zip.state == "building"
        return self.is_moving or ((is_zipping or self.takes_batch) and not self.is_blocked)

    @property
    def tells_date(self) -> bool:
        """Whether `expires_at` is final: if it passes during an upload, it is moved."""
        return not self.is_moving or self.transfer.expires_at > clock.now()

    @property
    def takes_batch(self) -> bool:
        """Whether more files are being added, and the transfer will take them."""
        return self.batch is not None and self.state in ("ready", "limit_reached")

    @property
    def may_add(self) -> bool:
        """Whether more files can be added now."""
        is_free = self.may_begin if self.batch is None else self.batch.closed_at is None
        return is_free and not self.is_blocked and self.state in ("ready", "limit_reached")

    @property
    def has_ended(self) -> bool:
        """Whether downloads have ended, unless the sender extends the transfer."""
        return self.state in ("expired", "limit_reached")

    @property
    def is_editable(self) -> bool:
        """Whether the sender can edit the transfer, which revives an expired one."""
        return not self.is_blocked and (self.state != "expired" or self.kept_until is not None)

    @property
    def may_extend(self) -> bool:
        """Whether one click would give it more days or downloads."""
        is_there = self.state in ("ready", "expired", "limit_reached")
        return is_there and self.is_editable and (self.gives_days or self.gives_downloads)

    @property
    def may_tell(self) -> bool:
        """Whether any recipient has a link, and so can be told of more files."""
        return any(one.state not in ("revoked", "unconfirmed") for one in self.people)

    @property
    def percent(self) -> int:
        """Progress: bytes as the sender reports them, then files that were checked."""
        if self.state == "processing":
            return percent_of(self.checked_count, self.file_count)
        return percent_of(self.transfer.sent_size, self.total_size)

    @property
    def batch_percent(self) -> int:
        """Progress of the batch that is being added."""
        if self.batch is None or self.batch.closed_at is not None:
            return percent_of(self.coming.complete_count, self.coming.count)
        return percent_of(self.batch.sent_size, self.coming.size)

    @cached_property  # every row asks
    def has_pictures(self) -> bool:
        """Whether any of the files has a picture, so that each row reserves room for one."""
        return previews.has_pictures(self.files)

    @property
    def slug(self) -> str:
        """The slug of the transfer's own link."""
        return self.transfer.slug


# -- what is shown --------------------------------------------------------------------------------


def view(transfer: Transfer) -> Managed:
    """All that the page shows, from the current rows; no call to storage. Raises Gone."""
    row = db.session.scalars(
        select(Transfer).where(Transfer.id == transfer.id).execution_options(populate_existing=True)
    ).one()
    not_deleted(row)
    now = row.read_at
    there = _sums(row.id, File.batch.is_not(None))
    batch = batches.find(row.id)
    state = _state_of(row)
    later = now + timedelta(days=settings.default_expires_in_days)
    return Managed(
        transfer=row,
        state=state,
        link=links.transfer_url(row.slug),
        files=files_of(row.id, limit=MOST_FILES_SHOWN, with_previews=True, with_coming=True),
        file_count=there.count,
        total_size=there.size,
        checked_count=there.complete_count,
        people=_people(row.id, now),
        days=_days(row.id),
        questions=[one for one in extension_requests.of_transfer(row.id) if not one.settled_at],
        zip=archives.progress(row.id) if state == "ready" and there.count > 1 else None,
        kept_until=_kept_until(row, now) if state == "expired" else None,
        batch=batch,
        coming=_sums(row.id, File.batch.is_(None)) if batch else Sums(0, 0, 0),
        may_begin=file_requests.may_add(row),
        # Less than an hour more is not worth a button.
        gives_days=row.expires_at < later - timedelta(hours=1),
        gives_downloads=row.is_used_up,
    )


def _sums(transfer_id: uuid.UUID, condition: ColumnElement[bool]) -> Sums:
    count, size, complete_count = db.session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Upload.size), 0),
            func.count().filter(Upload.state == UploadState.COMPLETE),
        )
        .select_from(File)
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, condition)
    ).one()
    return Sums(count, int(size), complete_count)


def _state_of(row: Transfer) -> str:
    state = lifecycle.state_of(row)
    return "limit_reached" if state is State.READY and row.is_used_up else _STATES[state]


def _kept_until(row: Transfer, now: datetime) -> datetime | None:
    until = (row.expired_at or row.expires_at) + lifecycle.kept_for()
    return until if until > now else None


def _people(transfer_id: uuid.UUID, now: datetime) -> list[Person]:
    counted = db.session.execute(
        select(Download.recipient_id, func.count().label("number"))
        .where(Download.transfer_id == transfer_id, Download.recipient_id.is_not(None))
        .group_by(Download.recipient_id)
    )
    counts = {row.recipient_id: row.number for row in counted}
    found = delivery.recipients_of(transfer_id)
    return [_person(one, counts.get(one.id, 0), now) for one in found]


def _person(one: Recipient, download_count: int, now: datetime) -> Person:
    happened = (
        ("Mailed", one.sent_at),
        ("Link opened", one.opened_at),
        ("First download", one.downloaded_at),
        ("Mail failed", one.failed_at),
        ("Taken back", one.revoked_at),
    )
    events = sorted(((what, at) for what, at in happened if at is not None), key=lambda e: e[1])
    # Only once the hour is over in which a recipient is not mailed again.
    is_long_ago = one.asked_at is not None and one.asked_at <= now - mail_quotas.HOUR
    return Person(
        id=one.id,
        email=one.email,
        state=delivery.state_of(one),
        failure=one.failure,
        download_count=download_count,
        events=events,
        may_be_mailed=is_long_ago and one.revoked_at is None,
    )


def _days(transfer_id: uuid.UUID) -> list[tuple[date, int]]:
    day = cast(func.timezone("UTC", Download.created_at), Date)
    rows = db.session.execute(
        select(day, func.count())
        .where(Download.transfer_id == transfer_id, Download.recipient_id.is_(None))
        .group_by(day)
        .order_by(day.desc())
        .limit(MOST_DAYS_SHOWN)
    )
    return [(at, count) for at, count in rows]


# -- what may be changed -------------------------------------------------------------------------


def _unblocked(transfer: Transfer) -> Transfer:
    """The transfer's current row; raises Blocked while the operator has quarantined it."""
    row = of_id(transfer.id)
    refuse_blocked(row)
    return row


def marks_of(transfer: Transfer) -> dict[str, str]:
    """The marks of all fields that an edit may change."""
    return {name: mark_of(getattr(transfer, name)) for name in FIELDS}


def edit(transfer: Transfer, changes: dict[str, Any], seen: Mapping[str, str]) -> Transfer:
    """Write those of `changes` that differ from what the form was made from (marks in `seen`).

    A field that was edited concurrently is not overwritten: raises ChangedMeanwhile, which names
    those fields, and changes nothing. Also raises as options.edit().
    """
    row = _unblocked(transfer)
    wanted = {name: value for name, value in changes.items() if _is_wanted(name, value, seen)}
    if missed := [name for name in wanted if _is_missed(row, name, wanted[name], seen)]:
        raise ChangedMeanwhile(missed)
    # Optimistic locking: of two concurrent edits, one finds that the row is not as it was read.
    columns = [getattr(Transfer, column(name)) for name in wanted]
    as_read = [one.is_not_distinct_from(getattr(row, one.key)) for one in columns]
    read = marks_of(row)
    try:
        return options.edit(row, dict(wanted), *as_read)
    except (Gone, Invalid):
        fresh = of_id(row.id)
        if missed := [name for name in wanted if _is_missed(fresh, name, wanted[name], read)]:
            raise ChangedMeanwhile(missed) from None
        raise


def column(name: str) -> str:
    """The column behind a form field."""
    return "password_hash" if name == "password" else name


def _is_wanted(name: str, value: Any, seen: Mapping[str, str]) -> bool:
    # A password is never shown, so a password that was typed is always meant.
    return name == "password" or mark_of(value) != seen.get(name)


def _is_missed(row: Transfer, name: str, value: Any, seen: Mapping[str, str]) -> bool:
    now = getattr(row, column(name))
    is_as_wanted = name != "password" and now == value
    return mark_of(now) != seen.get(column(name)) and not is_as_wanted


def extend(transfer: Transfer) -> Transfer:
    """Give more time, and more downloads if they are used up.

    Raises Blocked, and as mail_links.extend().
    """
    return mail_links.extend(_unblocked(transfer))


def remove_file(transfer: Transfer, file_id: uuid.UUID) -> None:
    """Remove one file while it is being uploaded; raises as batches.remove_file()."""
    batches.remove_file(transfer, file_id)


def drop_batch(transfer: Transfer) -> None:
    """Drop the files that are being added; raises Blocked, and as batches.drop()."""
    batches.drop(_unblocked(transfer))


def adds_to(transfer: Transfer) -> Managed | None:
    """The page of a transfer to which files can be added now, None if they cannot. Raises Gone."""
    shown = view(transfer)
    return shown if shown.may_add else None


# -- recipients, and the sender's own mail ---------------------------------------------------------


def add_recipients(transfer: Transfer, emails: Sequence[str]) -> int:
    """Mail the transfer to more people; those added concurrently stay. Repeatable.

    Returns to how many it is sent now: nobody gets it twice. Raises Blocked, as
    delivery.set_recipients(), and WrongState before the sender's address is confirmed.
    """
    _unblocked(transfer)
    with transaction():
        row = lock_row(transfer.id)
        if row.sender_confirmed_at is None:
            raise WrongState("Confirm your own address first: recipients see it and can reply.")
        people = delivery.recipients_of(row.id)
        ask_count = sum(one.ask_count for one in people)
        known = [one.email for one in people if one.revoked_at is None]
        # The new ones first, because complaints name them by their index.
        delivery.set_recipients(row, {"recipients": [*emails, *known]})
        return sum(one.ask_count for one in delivery.recipients_of(row.id)) - ask_count


def revoke(transfer: Transfer, recipient_id: uuid.UUID) -> None:
    """Revoke one recipient's link; raises Blocked, and as delivery.revoke()."""
    delivery.revoke(_unblocked(transfer), recipient_id)


def mail_again(transfer: Transfer, recipient_id: uuid.UUID) -> None:
    """Mail one recipient again; raises Blocked, and as delivery.send_again()."""
    delivery.send_again(_unblocked(transfer), recipient_id)


def name_sender(transfer: Transfer, email: str) -> Transfer:
    """Set the sender's address and mail it a code to confirm, unless it is confirmed already.

    Raises Blocked, and as delivery.set_recipients() and senders.mail_code().
    """
    named = delivery.set_recipients(_unblocked(transfer), {"sender_email": email})
    if named.sender_email and named.sender_confirmed_at is None:
        senders.mail_code(named.sender_email)
    return named


def confirm_sender(transfer: Transfer, figures: str) -> Transfer:
    """Confirm the sender's address with the mailed code, so that mail goes out.

    Raises Blocked, WrongState without an address, and as senders.confirm().
    """
    row = _unblocked(transfer)
    if row.sender_email is None:
        raise WrongState("Enter your address first.")
    word = senders.confirm(row.sender_email, figures)
    return delivery.set_recipients(row, {"sender_email": row.sender_email, "sender_token": word})


def choose_news(transfer: Transfer, kinds: Sequence[MailKind], seen: str) -> Transfer:
    """Set which mails the sender gets; `seen` is the mark of those that were muted before.

    Raises ChangedMeanwhile, Blocked.
    """
    _unblocked(transfer)
    with transaction():
        row = lock_row(transfer.id)
        muted = [kind.value for kind in delivery.TO_SENDER if kind not in kinds]
        if seen != mark_of(row.muted) and muted != row.muted:
            raise ChangedMeanwhile(["notifications"])
        return delivery.set_recipients(row, {"notifications": list(kinds)})
