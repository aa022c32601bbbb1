"""File requests: a link at which anyone can send files to the address of whoever made it.

What is sent there is a transfer like any other, and belongs to whoever sent it. Who asked for it is
told by mail, and finds it in a list (own_transfers.py).
"""

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from app import clock, jobs, lifecycle
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import Gone, Invalid, NotFound, SenderNotAllowed
from app.models import Arrival, File, FileRequest, MailKind, OutboxMail, State, Transfer
from app.services import accounts, audit, delivery, senders
from app.services.creating import Also
from app.services.options import expiry

# Of one address. More would be a mistake, or somebody who fills the table, as by making and closing
# one after the other.
MOST_OPEN = 50
MOST_A_DAY = 100
# Of one address, so that the page stays short: open ones, which can be closed there, before others.
MOST_LISTED = 100


class Asked(NamedTuple):
    """A file request as its owner sees it, and what has come for it and is not deleted."""

    id: uuid.UUID
    slug: str
    title: str
    ends_at: datetime
    is_open: bool
    is_blocked: bool
    transfer_count: int
    size: int
    last_came_at: datetime | None


class Came(NamedTuple):
    """A transfer that has come, as a mail tells of it."""

    slug: str
    title: str
    # The path of its first file.
    path: str
    file_count: int
    size: int
    expires_at: datetime
    has_password: bool
    # Only if it is confirmed.
    sender: str | None


def make(
    request_id: uuid.UUID,
    email: str,
    *,
    title: str,
    message: str,
    days: int,
    keep_days: int | None = None,
) -> None:
    """Make a request, open for so many days, for an address that the caller must have proven.

    What is sent there is kept for `keep_days`, unless its sender chooses otherwise. Repeating it
    with the same id makes no other. Raises Invalid if the address has MOST_OPEN open ones or has
    made MOST_A_DAY in a day, and SenderNotAllowed: what strangers send for somebody is sent in
    their name.
    """
    if not senders.may_send(email):
        raise SenderNotAllowed
    with transaction():
        senders.take_turn(email)
        if db.session.get(FileRequest, request_id) is not None:
            return
        _check_count(email)
        made = insert(FileRequest).values(
            id=request_id,
            slug=secrets.token_urlsafe(24),
            email=email,
            title=title,
            message=message,
            ends_at=db_now() + timedelta(days=days),
            keep_days=keep_days,
        )
        if changed(made.on_conflict_do_nothing(index_elements=["id"])):
            audit.note("ask for files", subject_id=request_id)


def _check_count(email: str) -> None:
    is_new = FileRequest.created_at > db_now() - timedelta(days=1)
    counts = select(func.count().filter(is_open()), func.count().filter(is_new))
    open_count, new_count = db.session.execute(counts.where(FileRequest.email == email)).one()
    if open_count >= MOST_OPEN:
        raise Invalid({"title": f"is too many: close one of your {MOST_OPEN} open requests"})
    if new_count >= MOST_A_DAY:
        raise Invalid({"title": f"is too many: you have made {MOST_A_DAY} requests in one day"})


def close(email: str, request_id: uuid.UUID) -> None:
    """Let nothing more be sent to a request of this address; repeatable. Raises NotFound."""
    _close(FileRequest.id == request_id, FileRequest.email == email)


def close_link(slug: str) -> None:
    """Let nothing more be sent at this link, whoever made it; repeatable. Raises NotFound."""
    _close(FileRequest.slug == slug)


def _close(*which: ColumnElement[bool]) -> None:
    with transaction():
        request_id = db.session.scalar(
            update(FileRequest)
            .where(*which)
            .values(ends_at=func.least(FileRequest.ends_at, db_now()))
            .returning(FileRequest.id)
            .execution_options(synchronize_session=False)
        )
        if request_id is None:
            raise NotFound("There is no such request.")
        audit.note("close file request", subject_id=request_id)


def of_email(email: str) -> Sequence[Asked]:
    """At most MOST_LISTED requests of this address: all open ones, then others; one query.

    The newest come first, of both.
    """
    order = (is_open().desc(), FileRequest.created_at.desc())
    rows = db.session.execute(_asked(email).order_by(*order).limit(MOST_LISTED))
    return [Asked(*row) for row in rows]


def has_any(email: str) -> bool:
    """Whether this address has requests, open or not."""
    return bool(db.session.scalar(select(exists().where(FileRequest.email == email))))


def one_of(email: str, request_id: uuid.UUID) -> Asked:
    """One request of this address; raises NotFound."""
    row = db.session.execute(_asked(email).where(FileRequest.id == request_id)).one_or_none()
    if row is None:
        raise NotFound("You have no such request.")
    return Asked(*row)


def _asked(email: str) -> Any:
    has_come = and_(
        Transfer.id == Arrival.transfer_id,
        Arrival.came_at.is_not(None),
        Transfer.state != State.DELETED,
    )
    return (
        select(
            FileRequest.id,
            FileRequest.slug,
            FileRequest.title,
            FileRequest.ends_at,
            is_open() if senders.may_send(email) else false(),
            FileRequest.quarantined_at.is_not(None),
            func.count(Transfer.id),
            func.coalesce(func.sum(Transfer.total_size), 0),
            func.max(Arrival.came_at).filter(Transfer.id.is_not(None)),
        )
        .outerjoin(Arrival, Arrival.file_request_id == FileRequest.id)
        .outerjoin(Transfer, has_come)
        .where(FileRequest.email == email)
        .group_by(FileRequest.id)
    )


def find(slug: str) -> FileRequest:
    """The request at this link; raises NotFound, and Gone once it is blocked or has ended.

    It has ended, too, if whoever made it may not send any more themselves.
    """
    if not settings.sends_mail:
        raise NotFound("There is no such request.")
    found = db.session.execute(
        select(FileRequest, is_open()).where(FileRequest.slug == slug)
    ).one_or_none()
    if found is None:
        raise NotFound("There is no such request.")
    request, accepts = found
    if request.quarantined_at is not None:
        raise Gone("This is not available.", reason="unavailable")
    if not (accepts and senders.may_send(request.email)):
        raise Gone("This request for files has ended.", reason="closed")
    return request


def kept_days(request: FileRequest) -> int:
    """For how many days files are kept that are sent to this request without another date."""
    return min(request.keep_days or settings.default_expires_in_days, settings.max_expires_in_days)


def is_open() -> ColumnElement[bool]:
    """The condition that files can be sent to a request."""
    return and_(FileRequest.ends_at > db_now(), FileRequest.quarantined_at.is_(None))


def is_over() -> ColumnElement[bool]:
    """The condition that a request ended long ago, and nothing that came for it is left."""
    is_left = (
        select(Arrival.transfer_id)
        .join(Transfer)
        .where(Arrival.file_request_id == FileRequest.id, Transfer.state != State.DELETED)
    )
    long_ago = db_now() - timedelta(days=settings.tombstones_in_days)
    return and_(FileRequest.ends_at <= long_ago, ~is_left.exists())


# -- what comes ----------------------------------------------------------------------------------


def for_request(slug: str, *, has_date: bool) -> Also:
    """What creating.create() does besides, for a transfer to this request; may raise Invalid.

    Unless its sender has given it a date, it expires when the request says.
    """

    def note(transfer: Transfer) -> None:
        try:
            request = find(slug)
        except (NotFound, Gone) as error:
            raise Invalid({"file_request": "is not open: ask for a new link"}) from error
        db.session.add(Arrival(transfer_id=transfer.id, file_request_id=request.id))
        if not has_date:
            transfer.expires_at = expiry(clock.now() + timedelta(days=kept_days(request)))

    return Also(note, (f"for request {slug}",))


def may_add(transfer: Transfer) -> bool:
    """Whether more files may be sent with a transfer whose first files are there.

    Where only some may send (SENDERS), that takes what beginning one takes: a sender who may, an
    open request of somebody who may, or an API key that the operator has issued. Otherwise whoever
    has sent once could go on.
    """
    if not settings.senders or accounts.is_vouched_for(transfer.workspace_id):
        return True
    sender = transfer.sender_email if transfer.sender_confirmed_at else None
    asked_by = db.session.scalar(
        select(FileRequest.email).join(Arrival).where(Arrival.transfer_id == transfer.id, is_open())
    )
    return any(senders.may_send(email) for email in (sender, asked_by) if email)


def announce(transfer_id: uuid.UUID) -> None:
    """Queue a mail to who asked for this transfer's files, if anybody did: they are there.

    One that is still waiting tells of these too. Whoever has closed the request is told of what
    comes for the first time, but not of files that are added to it. Call in transaction().
    """
    of_request = FileRequest.id == Arrival.file_request_id
    is_asked_for = exists().where(of_request, FileRequest.ends_at > db_now())
    request_id = db.session.scalar(
        update(Arrival)
        .where(Arrival.transfer_id == transfer_id, or_(Arrival.came_at.is_(None), is_asked_for))
        .values(came_at=db_now(), told_in=None)
        .returning(Arrival.file_request_id)
        .execution_options(synchronize_session=False)
    )
    if request_id is not None:
        _queue_news(request_id)


def announce_left_out(which: ColumnElement[bool]) -> None:
    """Queue that mail if none has told of these arrivals, because they or their request were
    blocked. They are of one request. Call in transaction().
    """
    is_left_out = and_(Arrival.came_at.is_not(None), Arrival.told_in.is_(None))
    request_id = db.session.scalar(
        select(Arrival.file_request_id).where(which, is_left_out).limit(1)
    )
    if request_id is not None:
        _queue_news(request_id)


def _queue_news(request_id: uuid.UUID) -> None:
    if not settings.sends_mail:
        return
    # One after the other: whoever comes second finds the first one's mail, or that it is taken, and
    # does not rely on a mail that is sent before this transaction ends. (No key changes, so nobody
    # who begins to send waits.)
    of_request = select(FileRequest.id).where(FileRequest.id == request_id)
    db.session.execute(of_request.with_for_update(key_share=True))
    if not delivery.is_waiting(request_id, MailKind.RECEIVED):
        news = select(
            func.gen_random_uuid(),
            delivery.kind_of(MailKind.RECEIVED),
            FileRequest.email,
            cast(null(), OutboxMail.transfer_id.type),
            cast(null(), OutboxMail.recipient_id.type),
            FileRequest.id,
            delivery.next_number(request_id, MailKind.RECEIVED),
        )
        delivery.put(news.where(FileRequest.id == request_id))
    jobs.SEND_MAIL.later()


def take_untold(request_id: uuid.UUID, mail_id: uuid.UUID) -> Sequence[Came]:
    """What has come and no mail has told of yet, and is told of in this one from now on.

    Repeating it gives the same, without what cannot be downloaded any more. What is blocked is left
    for a later mail, and so is everything if the request is. In the order in which it came.
    """
    mine = Arrival.file_request_id == request_id
    is_free = Transfer.quarantined_at.is_(None)
    may_be_told = (
        select(Transfer.id)
        .join(FileRequest, FileRequest.id == request_id)
        .where(Transfer.id == Arrival.transfer_id, is_free, FileRequest.quarantined_at.is_(None))
        .exists()
    )
    with transaction():
        db.session.execute(
            update(Arrival)
            .where(mine, Arrival.came_at.is_not(None))
            # Also what an earlier attempt at this mail would have told of.
            .where(or_(Arrival.told_in.is_(None), Arrival.told_in == mail_id))
            .values(told_in=case((may_be_told, mail_id)))
            .execution_options(synchronize_session=False)
        )
    is_of_transfer = and_(File.transfer_id == Transfer.id, File.batch.is_not(None))
    paths = select(File.path).where(is_of_transfer).order_by(File.position).limit(1)
    rows = db.session.execute(
        select(
            Transfer.slug,
            Transfer.title,
            paths.scalar_subquery(),
            select(func.count()).select_from(File).where(is_of_transfer).scalar_subquery(),
            Transfer.total_size,
            Transfer.expires_at,
            Transfer.password_hash.is_not(None),
            case((Transfer.sender_confirmed_at.is_not(None), Transfer.sender_email)),
        )
        .join(Arrival, Arrival.transfer_id == Transfer.id)
        .where(
            mine,
            Arrival.told_in == mail_id,
            Transfer.state == State.READY,
            ~lifecycle.is_due(),
            is_free,
        )
        .order_by(Arrival.came_at, Transfer.id)
    )
    return [Came(*row) for row in rows]
