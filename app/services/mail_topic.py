"""Publishes "files for you" mails to an SNS topic instead of sending them, where one is set.

The topic is SNS_TOPIC_ARN. The row in the outbox remains the source of truth; the event is only its
reminder, in the form that docs/mail.md describes: TRANSFER_SHARED, one for each recipient.
`worker.py sqs` receives it (event_queue.py) and sends the mail. Without a queue another program
does, and a mail counts as sent once the topic has accepted it.
"""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import Any

from sqlalchemy import and_, or_, update

from app import crash, jobs
from app.clock import db_now
from app.config import settings
from app.db import db, discard, release, transaction
from app.extensions import events
from app.gateways.mailer import Fate, Outcome
from app.models import MailState, OutboxMail
from app.services import claims, mail_rendering, outbox
from app.services.event_messages import SHARED
from app.services.heartbeats import noted
from app.services.upkeep import Tell, untold

log = logging.getLogger(__name__)


@noted
def publish_due(tell: Tell = untold) -> int:
    """Job: publish every due mail; returns how many the topic did not refuse.

    Repeatable at any time. What was published and not handled within an hour is published again.
    """
    count = 0
    while events.publishes and settings.sends_mail and (batch := _claim()):
        crash.point("publish.1")
        published = _publish(batch)
        count += published
        tell("published", count)
        if published < len(batch) or jobs.stopping.is_set():
            break
    return count


def is_to_publish() -> Any:
    """The condition that a due mail goes through the topic and has no event on its way."""
    is_free = or_(OutboxMail.publish_after.is_(None), OutboxMail.publish_after <= db_now())
    return and_(outbox.goes_by_topic(), claims.is_due(OutboxMail), is_free)


def _claim() -> Sequence[OutboxMail]:
    values: dict[str, Any] = {"publish_after": db_now() + timedelta(seconds=claims.CLAIM_SECONDS)}
    if not events.listens:
        # It is not sent from here afterwards, so the quotas count it now.
        values["handed_at"] = db_now()
    return outbox.claim(is_to_publish(), **values)


def _publish(batch: Sequence[OutboxMail]) -> int:
    """Publish these mails; returns how many the topic did not refuse."""
    told = [(mail, message) for mail in batch if (message := _message(mail)) is not None]
    refusals = events.publish(SHARED, [message for _, message in told])
    crash.point("publish.2")
    taken = [mail for (mail, _), refusal in zip(told, refusals, strict=True) if refusal is None]
    _note_published(taken)
    for (mail, _), refusal in zip(told, refusals, strict=True):
        if refusal is not None:
            outbox.put_off(mail, refusal)
    return len(batch) - len(told) + len(taken)


def _message(mail: OutboxMail) -> str | None:
    """The event as JSON; None if the mail was dropped as no longer true, or put off by an error."""
    try:
        told = mail_rendering.facts(mail)
        release()
    except Exception:
        log.exception("a share could not be told")
        discard()
        outbox.put_off(mail, "The e-mail could not be written.")
        return None
    if told is None:
        outbox.drop(mail)
        return None
    contents = told["contents"]
    # The title without its quotation marks, or "12 files" if it could be taken for a link.
    name = told["name"].strip("“”")
    if contents.count == 1:
        name = contents.rows[0].path.rpartition("/")[2]
    ends = told["expires_at"].astimezone(UTC)
    return json.dumps(
        {
            "event_type": SHARED,
            "transfer_id": str(mail.transfer_id),
            "emails": [mail.email],
            # The recipient's own link: not a presigned URL, so it works until the transfer ends.
            "download_url": told["link"],
            "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "filename": name,
            "file_size": contents.size,
        }
    )


def _note_published(mails: Sequence[OutboxMail]) -> None:
    if not events.listens:
        for mail in mails:
            outbox.settle(mail, Outcome(Fate.TAKEN))
        return
    with transaction():
        db.session.execute(
            update(OutboxMail)
            .where(
                OutboxMail.id.in_([mail.id for mail in mails]),
                OutboxMail.state == MailState.WAITING,
            )
            .values(publish_after=db_now() + outbox.PUBLISHED_FOR)
            .execution_options(synchronize_session=False)
        )
