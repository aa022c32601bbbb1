"""Mails that were dropped because there was nothing to be had, and that are to be sent after all.

Beside delivery.py, for those on whom that depends.
"""

import uuid

from sqlalchemy import ColumnElement, exists, update

from app import jobs
from app.clock import db_now
from app.config import settings
from app.db import changed
from app.models import MailKind, MailState, OutboxMail, Recipient


def take_up_left_out(transfer_id: uuid.UUID) -> None:
    """The transfer is to be had (again): whom its end, or a quarantine, has kept from their "files
    for you" gets it now, and nobody else. Call in transaction(), after the transfer's row.
    """
    is_left_out = exists().where(
        Recipient.id == OutboxMail.recipient_id,
        # Only the last that was asked for: nobody gets two at once.
        Recipient.ask_count == OutboxMail.n,
        Recipient.sent_at.is_(None),
        Recipient.failed_at.is_(None),
        Recipient.revoked_at.is_(None),
    )
    take_up(OutboxMail.transfer_id == transfer_id, is_left_out)


def take_up(*conditions: ColumnElement[bool]) -> None:
    """Mails "files for you" that were dropped, and for which `conditions` hold, go after all.

    Call in transaction().
    """
    taken_up = changed(
        update(OutboxMail)
        .where(
            OutboxMail.kind == MailKind.FILES_FOR_YOU,
            OutboxMail.state == MailState.DROPPED,
            *conditions,
        )
        .values(state=MailState.WAITING, due_at=db_now(), publish_after=None, attempt_count=0)
        .execution_options(synchronize_session=False)
    )
    if taken_up:
        remind()


def remind() -> None:
    """Whoever sends, or publishes, is told after the commit. Call in transaction()."""
    jobs.SEND_MAIL.later()
    if settings.publishes_shares:
        jobs.PUBLISH_SHARES.later()
