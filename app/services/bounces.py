"""Mail that a server took and that came back after all, and mail that somebody complained of.

Told by SES (services/listening.py), or by whoever reads the mailbox of MAIL_FROM
(`flask mail bounced`). Each may be said twice, late, and of addresses that nobody knows.
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

# What comes back without a name, and not for good, is a mail that was handed over this recently.
RECENT = timedelta(days=1)
# A reason in the other server's words is shown, but not all that it may say.
LONGEST_REASON = 300


def came_back(
    email: str, reason: str = "", *, is_for_good: bool = True, server_id: str | None = None
) -> int:
    """Mail to this address has come back: how many of its recipients were marked for it.

    For good, the address gets no mail any more, and each transfer that is still there has it
    marked; else only the transfer of the mail `server_id`. Each sender is told once. Repeatable.
    """
    shown = _shown(reason, email) or suppression.WORDS[NoMail.BOUNCED]
    if is_for_good:
        _suppress(email, NoMail.BOUNCED)
        return _mark(email, shown)
    return _mark(email, shown, _was_mailed(email, server_id))


def complained(email: str) -> int:
    """Somebody reports our mail as spam: they get no more; how many recipients were marked.

    Repeatable.
    """
    _suppress(email, NoMail.COMPLAINED)
    return _mark(email, suppression.WORDS[NoMail.COMPLAINED])


def allow(email: str) -> bool:
    """Mail goes to this address again, unless its owner wants none; whether that changed."""
    with transaction():
        if lifted := suppression.lift(email, NoMail.BOUNCED, NoMail.COMPLAINED):
            audit.note("allow mail")
    return lifted


def _suppress(email: str, reason: NoMail) -> None:
    with transaction():
        suppression.suppress(email, reason)
        audit.note(f"no mail: {reason}")


def _mark(email: str, reason: str, *conditions: ColumnElement[bool]) -> int:
    """Mark whoever has the address; a transaction for each, because each has a sender to tell."""
    count = 0
    for recipient_id, transfer_id in _concerned(email, *conditions):
        with transaction():
            # As where a mail is given up: the sender's mail is locked before the recipient.
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
    """Recipients with this address who could still be mailed, or come, and have not."""
    found = db.session.execute(
        select(Recipient.id, Recipient.transfer_id)
        .join(Transfer, Transfer.id == Recipient.transfer_id)
        .where(
            Recipient.email == email,
            Recipient.asked_at.is_not(None),
            Recipient.downloaded_at.is_(None),
            Recipient.revoked_at.is_(None),
            Recipient.failed_at.is_(None),
            # Before, nobody has been mailed; on READY the outbox finds what is suppressed.
            Transfer.state == State.READY,
            *conditions,
        )
    ).all()
    release()
    return [(recipient_id, transfer_id) for recipient_id, transfer_id in found]


def _was_mailed(email: str, server_id: str | None) -> ColumnElement[bool]:
    """The condition that it was this mail; or a recent one, where nobody can say which."""
    known = select(func.count()).where(OutboxMail.server_id == server_id)
    is_it = and_(OutboxMail.email == email, OutboxMail.handed_at > db_now() - RECENT)
    if server_id is not None and db.session.scalar(known):
        is_it = OutboxMail.server_id == server_id
    return Recipient.id.in_(select(OutboxMail.recipient_id).where(is_it))


def _shown(reason: str, email: str) -> str:
    said = "".join(one if one.isprintable() else " " for one in reason)
    return " ".join(said.replace(email, "...").split())[:LONGEST_REASON]
