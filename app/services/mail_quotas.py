"""Mail quotas: for one sender, one network, one address, and the whole installation.

Counted in the database under a lock, so that any number of web processes and workers share one
count. What exceeds a sender's or a network's quota is refused immediately. The quotas of an address
and of the installation are applied in the outbox too, where mail waits (services/outbox.py).
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select

from app.clock import db_now
from app.config import settings
from app.db import db
from app.errors import TooMuchMail
from app.models import MailKind, MailState, OutboxMail, Recipient, SenderCode, Transfer
from app.services import audit

# The id of our advisory lock: "mail" on a phone keypad.
_LOCK = 6245
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def take_lock() -> None:
    """Take the quota lock until the transaction ends, so that what is counted cannot change.

    Always taken after a transfer's row lock and before any recipient's.
    """
    db.session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def check(transfer: Transfer, wanted: Sequence[Recipient]) -> None:
    """Check that these recipients may be mailed now; raises TooMuchMail. Call after take_lock()."""
    mine = _is_of_sender(transfer)
    asked = select(func.count()).select_from(Recipient)
    sent_today = _count(asked.join(Transfer).where(mine, Recipient.asked_at > db_now() - DAY))
    if sent_today + len(wanted) > settings.max_recipients_per_day:
        raise TooMuchMail("Too many e-mails from your address in one day. Share the link instead.")
    others = (
        select(func.count(func.distinct(Recipient.transfer_id)))
        .join(Transfer)
        .where(mine, Recipient.asked_at > db_now() - HOUR, Recipient.transfer_id != transfer.id)
    )
    if _count(others) >= settings.max_sends_per_hour:
        raise TooMuchMail("Too many e-mails from your address in one hour. Share the link instead.")
    if (network := audit.actor.get()) is not None:
        near = Recipient.address_hash == network
        sent_near = _count(asked.where(near, Recipient.asked_at > db_now() - HOUR))
        if sent_near + len(wanted) > settings.max_recipients_per_network_per_hour:
            raise TooMuchMail("Too many e-mails from your network in one hour.")
    _check_addresses([one.email for one in wanted])


def _is_of_sender(transfer: Transfer) -> ColumnElement[bool]:
    mine = Transfer.sender_email == transfer.sender_email
    if transfer.sender_email != settings.own_email:
        return mine
    # The installation's own address serves all workspaces: each has a quota of its own.
    return and_(mine, Transfer.workspace_id == transfer.workspace_id)


def _check_addresses(emails: Sequence[str]) -> None:
    """Check that each of these addresses may get one more mail, in one query for all of them."""
    is_recent = Recipient.asked_at > db_now() - HOUR
    asked = select(Recipient.email).where(Recipient.email.in_(emails), is_recent)
    codes = select(SenderCode.email).where(SenderCode.email.in_(emails), _is_recent())
    had = asked.union_all(codes).subquery()
    most = settings.max_mails_per_recipient_per_hour
    full = select(had.c.email).group_by(had.c.email).having(func.count() >= most)
    if one := db.session.scalar(full.order_by(had.c.email).limit(1)):
        raise TooMuchMail(f"Too many e-mails to {one} in one hour. Share the link instead.")


def check_codes(email: str) -> None:
    """Check that another code may be mailed; raises TooMuchMail. Call after take_lock()."""
    _check_addresses([email])
    codes = select(func.count()).select_from(SenderCode)
    if (network := audit.actor.get()) is not None:
        near = SenderCode.address_hash == network
        if _count(codes.where(near, _is_recent())) >= settings.max_codes_per_hour:
            raise TooMuchMail("Too many codes were requested from your network in one hour.")
    if _count(codes.where(_is_recent())) >= settings.max_mails_per_hour:
        raise TooMuchMail


def had_code(email: str) -> bool:
    """Whether a code was sent or queued to this address in the last day. Call after take_lock()."""
    had = select(func.count()).where(
        OutboxMail.email == email,
        OutboxMail.kind == MailKind.CODE,
        OutboxMail.state.in_([MailState.WAITING, MailState.SENT]),
        OutboxMail.created_at > db_now() - DAY,
    )
    return _count(had) > 0


def left_to_hand_over() -> int:
    """How many mails the installation's quota still allows now. Call after take_lock()."""
    handed = select(func.count()).where(OutboxMail.handed_at > db_now() - HOUR)
    return max(0, settings.max_mails_per_hour - _count(handed))


def _is_recent() -> ColumnElement[bool]:
    return SenderCode.created_at > db_now() - HOUR


def _count(statement: Any) -> int:
    return db.session.scalar(statement) or 0
