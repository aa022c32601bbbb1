"""Helpers for tests of mail: a confirmed sender, the worker, and time that passes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import redis
from flask import Flask
from sqlalchemy import update

from app import clock, config
from app.db import db, transaction
from app.extensions import mailer
from app.models import OutboxMail, Recipient
from app.services import outbox, senders
from tests.factories import Sent

ADA = "ada@example.org"


def turn_on(configure: Callable[..., None], url: str, **more: Any) -> None:
    """Turn mail on, to the server at this URL."""
    configure(mail_url=url, mail_from="Beeline <bee@send.example.org>", **more)
    mailer.bind(config.current())


def turn_off() -> None:
    """Turn mail off again."""
    mailer._open = None


def forget_limits(environ: dict[str, str]) -> None:
    """Reset the rate limit counters in Redis."""
    known = redis.Redis.from_url(environ["REDIS_URL"])
    for key in known.scan_iter("LIMITS:*"):
        known.delete(key)
    known.close()


def word_of(email: str = ADA) -> str:
    """The sender token that a browser stores once this address is confirmed."""
    until = clock.now() + timedelta(days=1)
    return senders._seal.of(f"{int(until.timestamp())}:{email}")


def addressed(sent: Sent, *recipients: str, sender: str = ADA, **more: Any) -> Sent:
    """Set the transfer's recipients, with a confirmed sender."""
    body = {"recipients": recipients, "sender_email": sender, "sender_token": word_of(sender)}
    answer = sent.call("PATCH", json=body | more)
    assert answer.status_code == 200, answer.json
    return sent


def send_mail(app: Flask) -> int:
    """Send what is due, as the worker would."""
    with app.app_context():
        return outbox.send_due()


def pass_time(app: Flask, **ago: float) -> None:
    """Move the mails' and recipients' timestamps back, as if this much time had passed."""
    by = timedelta(**ago)
    with app.app_context(), transaction():
        db.session.execute(
            update(OutboxMail).values(
                due_at=OutboxMail.due_at - by, handed_at=OutboxMail.handed_at - by
            )
        )
        db.session.execute(update(Recipient).values(asked_at=Recipient.asked_at - by))


def states(sent: Sent) -> dict[str, str]:
    """Each recipient's state, as the API shows it."""
    return {one["email"]: one["state"] for one in sent.show()["recipients"]}
