"""Re-queues mails that were dropped while the transfer or the recipient's link was unavailable.

Separate from delivery.py to avoid an import cycle: options.py needs this, and delivery.py needs
options.py.
"""

import uuid

from sqlalchemy import ColumnElement, exists, update

from app import jobs
from app.clock import db_now
from app.config import settings
from app.db import changed
from app.models import MailKind, MailState, OutboxMail, Recipient


def take_up_left_out(*transfer_ids: uuid.UUID) -> None:
    """Re-queue "files for you" for the recipients who missed it because of a transfer's end or
    quarantine, and for no others. Call in transaction(), after locking these transfers' rows.
    """
    is_left_out = exists().where(
        Recipient.id == OutboxMail.recipient_id,
        # Only for the latest request, so that two mails never arrive together.
        Recipient.ask_count == OutboxMail.n,
        Recipient.sent_at.is_(None),
        Recipient.failed_at.is_(None),
        Recipient.revoked_at.is_(None),
    )
    take_up(OutboxMail.transfer_id.in_(transfer_ids), is_left_out)


def take_up(*conditions: ColumnElement[bool]) -> None:
    """Re-queue the dropped "files for you" mails for which `conditions` hold.

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
    """Queue the jobs that send or publish mail after the commit. Call in transaction()."""
    jobs.SEND_MAIL.later()
    if settings.publishes_shares:
        jobs.PUBLISH_SHARES.later()
