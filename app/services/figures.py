"""What there is and what waits, in numbers, as `flask doctor` shows it in the end."""

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy import Select, func, select

from app import jobs
from app.db import db, release
from app.extensions import queue
from app.models import (
    AbuseReport,
    DeliveryState,
    MailState,
    OutboxMail,
    State,
    Transfer,
    Upload,
    UploadState,
    WebhookDelivery,
)
from app.services.findings import Finding, figure
from app.words import counted, filesize


def _at_best(find: Callable[[], Finding]) -> Callable[[], Finding]:
    """Do without a number that takes too long to count: that is no fault of the installation."""

    @functools.wraps(find)
    def found() -> Finding:
        try:
            return find()
        except Exception as error:
            return figure(f"not counted ({type(error).__name__})")

    return found


@_at_best
def transfers() -> Finding:
    """How many transfers there are in each state."""
    found = db.session.execute(select(Transfer.state, func.count()).group_by(Transfer.state)).all()
    release()
    counts = {row[0]: row[1] for row in found}
    return figure(", ".join(f"{counts.get(state, 0):,} {state.value}" for state in State))


@_at_best
def kept() -> Finding:
    """How many objects the bucket keeps for us, and their bytes."""
    count, size = db.session.execute(
        select(func.count(), func.coalesce(func.sum(Upload.size), 0)).where(
            Upload.state == UploadState.COMPLETE
        )
    ).one()
    release()
    return figure(f"{filesize(int(size))} in {counted(count, 'object', 'objects')}")


@_at_best
def mails() -> Finding:
    """How many mails wait to be handed over."""
    return _count(select(func.count()).where(OutboxMail.state == MailState.WAITING))


@_at_best
def webhook_messages() -> Finding:
    """How many messages to webhooks wait to be accepted."""
    return _count(select(func.count()).where(WebhookDelivery.state == DeliveryState.WAITING))


@_at_best
def failed_jobs() -> Finding:
    """How many jobs have failed a short time ago; the log has the older ones."""
    return figure(f"{queue.failed_count(jobs.QUEUES):,} within the last ten minutes")


@_at_best
def reports() -> Finding:
    """How many reports about links are open."""
    return _count(select(func.count()).where(AbuseReport.handled_at.is_(None)))


def _count(query: Select[Any]) -> Finding:
    count = db.session.execute(query).scalar_one()
    release()
    return figure(f"{count:,}")
