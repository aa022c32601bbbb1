"""Queues the mails that only time causes (not downloaded, ends soon); deletes old addresses.

Works on sets of rows, in batches that may run at any time and twice: the outbox takes each mail
only once.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from app import jobs, rows
from app.clock import db_now
from app.config import settings
from app.db import changed, db, release, transaction
from app.models import (
    MailKind,
    MailState,
    OutboxMail,
    Recipient,
    SenderCode,
    State,
    Transfer,
)
from app.services import delivery, dropped_mail, sign_ins, tombstones
from app.services.heartbeats import noted
from app.services.upkeep import Tell, in_batches, untold

BATCH = 1000
# How long settled mails, and the addresses of a deleted transfer, are kept.
FORGOTTEN_AFTER = timedelta(days=30)


@noted
def queue_news(tell: Tell = untold) -> int:
    """Job: queue due reminders and warnings, and delete what is old; returns how many mails."""
    count = 0
    if settings.sends_mail:
        for news in _all_news():
            count += _in_batches(news)
            tell("queued", count)
    forget()
    return count


def count_due() -> int:
    """How many mails queue_news() would queue. Changes nothing."""
    if not settings.sends_mail:
        return 0
    counts = [select(func.count()).select_from(one().limit(None).subquery()) for one in _all_news()]
    found = sum(db.session.scalar(one) or 0 for one in counts)
    release()
    return found


def _all_news() -> Sequence[Callable[[], Any]]:
    return (_unannounced, _unsent, _reminders, _nobody_downloaded, _expires_soon)


def _in_batches(news: Callable[[], Any]) -> int:
    count = 0
    while not jobs.stopping.is_set():
        with transaction():
            put = delivery.put(news())
            if put:
                dropped_mail.remind()
        count += put
        if put < BATCH:
            break
    return count


def _unannounced() -> Any:
    """What announce() would have queued for transfers that a version without mail made READY."""
    return (
        delivery.announcement()
        .where(
            # Implied, as who mails recipients is confirmed, but makes the index of transfers with a
            # sender usable.
            Transfer.sender_email.is_not(None),
            _is_just_ready(),
            _is_new(MailKind.FILES_FOR_YOU, Recipient.id, Recipient.ask_count),
        )
        .limit(BATCH)
    )


def _unsent() -> Any:
    return _to_senders(MailKind.SENT, literal(1), _is_just_ready())


def _is_just_ready() -> Any:
    return and_(
        Transfer.state == State.READY,
        Transfer.expires_at > db_now(),
        Transfer.ready_at > db_now() - timedelta(days=1),
    )


def _reminders() -> Any:
    """To recipients who have not downloaded, once, before expiry; not soon after the first mail."""
    return (
        select(
            func.gen_random_uuid(),
            delivery.kind_of(MailKind.REMINDER),
            Recipient.email,
            Transfer.id,
            Recipient.id,
            Recipient.id,
            literal(1),
        )
        .select_from(Transfer)
        .join(Recipient, Recipient.transfer_id == Transfer.id)
        .where(
            _ends_soon(),
            Transfer.sender_confirmed_at.is_not(None),
            ~Transfer.is_used_up,
            Recipient.sent_at < db_now() - _before(),
            Recipient.downloaded_at.is_(None),
            Recipient.revoked_at.is_(None),
            Recipient.failed_at.is_(None),
            _is_new(MailKind.REMINDER, Recipient.id, literal(1)),
        )
        .limit(BATCH)
    )


def _nobody_downloaded() -> Any:
    """To senders whose files have not been downloaded for days, once."""
    days_ago = db_now() - timedelta(days=settings.nobody_downloaded_after_in_days)
    return _to_senders(
        MailKind.NOBODY_DOWNLOADED,
        literal(1),
        Transfer.state == State.READY,
        _was_there_before(days_ago),
        Transfer.expires_at > db_now(),
        Transfer.download_count == 0,
    )


def _expires_soon() -> Any:
    """To senders, once for each expiry date, if the lifetime is over twice the warning time."""
    day = func.floor(func.extract("epoch", Transfer.expires_at) / 86400)
    lasted = _was_there_before(Transfer.expires_at - 2 * _before())
    return _to_senders(MailKind.EXPIRES_SOON, day, _ends_soon(), lasted)


def _to_senders(kind: MailKind, n: Any, *conditions: Any) -> Any:
    return (
        select(
            func.gen_random_uuid(),
            delivery.kind_of(kind),
            Transfer.sender_email,
            Transfer.id,
            cast(null(), OutboxMail.recipient_id.type),
            Transfer.id,
            n,
        )
        .where(
            # Implied by the next one, but makes the index of transfers with a sender usable.
            Transfer.sender_email.is_not(None),
            Transfer.sender_confirmed_at.is_not(None),
            delivery.is_wanted(kind),
            *conditions,
            _is_new(kind, Transfer.id, n),
        )
        .limit(BATCH)
    )


def _ends_soon() -> Any:
    return and_(
        Transfer.state == State.READY,
        Transfer.expires_at > db_now(),
        Transfer.expires_at <= db_now() + _before(),
    )


def _was_there_before(instant: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a transfer was READY before this instant, and was not revived since."""
    return and_(Transfer.ready_at < instant, Transfer.last_activity_at < instant)


def _before() -> timedelta:
    return timedelta(hours=settings.remind_before_in_hours)


def _is_new(kind: MailKind, about: Any, n: Any) -> Any:
    """The condition that there is no such mail yet. It only saves work: the unique key decides."""
    return ~exists().where(OutboxMail.about_id == about, OutboxMail.kind == kind, OutboxMail.n == n)


def is_to_unname() -> ColumnElement[bool]:
    """The condition that a transfer was deleted long ago, and addresses of its people are left.

    A sender that was taken out before is gone, but not whom the transfer was mailed to till then.
    The sender of what was reported or blocked is kept for longer.
    """
    has_people = exists().where(Recipient.transfer_id == Transfer.id)
    has_mails = exists().where(OutboxMail.transfer_id == Transfer.id)
    has_sender = and_(Transfer.sender_email.is_not(None), ~tombstones.is_evidence())
    return and_(
        Transfer.state == State.DELETED,
        Transfer.deleted_at < db_now() - FORGOTTEN_AFTER,
        or_(has_sender, has_people, has_mails),
    )


def forget(tell: Tell = untold) -> int:
    """Delete e-mail addresses (with their mails and codes) that are no longer needed; returns from
    how many transfers. Repeatable.
    """
    old = db_now() - FORGOTTEN_AFTER
    settled = and_(OutboxMail.state != MailState.WAITING, OutboxMail.created_at < old)
    for statement in (
        delete(SenderCode).where(
            SenderCode.created_at < db_now() - timedelta(days=1), ~sign_ins.is_signed_in()
        ),
        delete(OutboxMail).where(OutboxMail.transfer_id.is_(None), settled),
    ):
        with transaction():
            changed(statement.execution_options(synchronize_session=False))
    return in_batches(_unname, tell)


def _unname() -> int:
    is_evidence = tombstones.is_evidence()
    unnamed = db.session.scalars(
        update(Transfer)
        .where(rows.take(Transfer, is_to_unname(), limit=BATCH))
        .values(
            sender_email=case((is_evidence, Transfer.sender_email)),
            sender_confirmed_at=case((is_evidence, Transfer.sender_confirmed_at)),
        )
        .returning(Transfer.id)
        .execution_options(synchronize_session=False)
    ).all()
    # Mails before recipients, as settling a mail locks them.
    for of_it in (OutboxMail, Recipient):
        db.session.execute(
            delete(of_it)
            .where(of_it.transfer_id.in_(unnamed))
            .execution_options(synchronize_session=False)
        )
    return len(unnamed)
