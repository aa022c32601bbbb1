"""Bounces and spam complaints: marks the recipients and suppresses the address.

Reported by SES (services/event_queue.py), or by the operator, who reads the mailbox of MAIL_FROM
(`flask mail bounced`). Each may be reported twice, late, and for unknown addresses.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, select, update

from app.clock import db_now
from app.db import changed, db, release, transaction
from app.models import MailKind, NoMail, OutboxMail, Recipient, State, Transfer
from app.services import audit, delivery, suppression

log = logging.getLogger(__name__)

# A temporary bounce of an unknown mail is taken to be of one handed over this recently.
RECENT = timedelta(days=1)
# The other server's reason is shown, but cut to this length.
LONGEST_REASON = 300


def came_back(
    email: str, reason: str = "", *, is_for_good: bool = True, server_id: str | None = None
) -> int:
    """Record a bounce; returns how many recipients were marked as failed.

    A permanent one suppresses the address and marks it in every READY transfer; a temporary one
    only in the transfer of the mail `server_id`, or of recent mails if that is unknown. Each
    sender is told once. Repeatable.
    """
    shown = _shown(reason, email) or suppression.WORDS[NoMail.BOUNCED]
    if is_for_good:
        _suppress(email, NoMail.BOUNCED)
        return _mark(email, shown)
    return _mark(email, shown, _was_mailed(email, server_id))


def complained(email: str) -> int:
    """Record a spam complaint: the address gets no more mail; returns how many were marked.

    Repeatable.
    """
    _suppress(email, NoMail.COMPLAINED)
    return _mark(email, suppression.WORDS[NoMail.COMPLAINED])


def allow(email: str) -> bool:
    """Allow mail to this address again, unless its owner opted out; returns if it was stopped."""
    with transaction():
        if lifted := suppression.lift(email, NoMail.BOUNCED, NoMail.COMPLAINED):
            audit.note("allow mail")
    return lifted


def _suppress(email: str, reason: NoMail) -> None:
    with transaction():
        suppression.suppress(email, reason)
        audit.note(f"no mail: {reason}")


def _mark(email: str, reason: str, *conditions: ColumnElement[bool]) -> int:
    """Mark the recipients with this address; one transaction each, as each has a sender to tell."""
    count = 0
    for recipient_id, transfer_id in _concerned(email, *conditions):
        with transaction():
            # As when outbox.py gives up a mail: the sender's mail is locked before the recipient.
            delivery.tell_sender(transfer_id, MailKind.UNDELIVERABLE)
            count += changed(
                update(Recipient)
                .where(Recipient.id == recipient_id, Recipient.failed_at.is_(None))
                .values(failed_at=db_now(), failure=reason, failure_told_in=None)
                .execution_options(synchronize_session=False)
            )
    return count


def _concerned(
    email: str, *conditions: ColumnElement[bool]
) -> Sequence[tuple[uuid.UUID, uuid.UUID]]:
    """Recipients with this address who were to be mailed and could still download, but have not."""
    found = db.session.execute(
        select(Recipient.id, Recipient.transfer_id)
        .join(Transfer, Transfer.id == Recipient.transfer_id)
        .where(
            Recipient.email == email,
            Recipient.asked_at.is_not(None),
            Recipient.downloaded_at.is_(None),
            Recipient.revoked_at.is_(None),
            Recipient.failed_at.is_(None),
            # Before READY nothing was mailed; the outbox will then find that it is suppressed.
            Transfer.state == State.READY,
            *conditions,
        )
    ).all()
    release()
    return [(recipient_id, transfer_id) for recipient_id, transfer_id in found]


def _was_mailed(email: str, server_id: str | None) -> ColumnElement[bool]:
    """The condition that a recipient got this mail, or if it is unknown, a recent one."""
    known = select(func.count()).where(OutboxMail.server_id == server_id)
    is_it = and_(OutboxMail.email == email, OutboxMail.handed_at > db_now() - RECENT)
    if server_id is not None and db.session.scalar(known):
        is_it = OutboxMail.server_id == server_id
    return Recipient.id.in_(select(OutboxMail.recipient_id).where(is_it))


def _shown(reason: str, email: str) -> str:
    said = "".join(one if one.isprintable() else " " for one in reason)
    return " ".join(said.replace(email, "...").split())[:LONGEST_REASON]
