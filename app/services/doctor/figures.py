"""What there is and what waits, in numbers: at the end of `flask doctor`, and on the admin page.

One number is judged: how much room is left.
"""

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy import Select, func, select

from app import jobs
from app.config import settings
from app.db import db, release
from app.extensions import queue
from app.models import (
    AbuseReport,
    DeliveryState,
    File,
    MailState,
    OutboxMail,
    State,
    Transfer,
    Upload,
    UploadState,
    WebhookDelivery,
)
from app.services import room
from app.services.doctor.findings import Finding, figure, ok, warning
from app.words import counted, filesize, percent_of

# There is little room left above this share.
FULL_PERCENT = 90


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


def room_left() -> Finding:
    """Whether there is room for new files (MAX_STORED_SIZE)."""
    most = settings.max_stored_size
    if most is None:
        return ok("MAX_STORED_SIZE is not set: whatever the bucket takes is kept.")
    size = room.taken()
    release()
    percent = percent_of(size, most)
    said = f"{percent} % of MAX_STORED_SIZE are taken, {filesize(size)} of {filesize(most)}."
    if settings.max_transfer_size is None and not settings.senders:
        return warning(
            f"{said} Anyone can announce as much as is left, and send none of it: set "
            "MAX_TRANSFER_SIZE to a small part of it."
        )
    if percent < FULL_PERCENT:
        return ok(said)
    return warning(
        f"{said} Files that would exceed it are refused. Raise it, or shorten "
        "DEFAULT_EXPIRES_IN_DAYS, MAX_EXPIRES_IN_DAYS or GRACE_IN_DAYS."
    )


@_at_best
def files() -> Finding:
    """How many files have arrived and are kept."""
    of_file = select(func.count()).select_from(File).join(File.upload)
    return _count(of_file.where(Upload.state == UploadState.COMPLETE))


@_at_best
def mails() -> Finding:
    """How many mails wait to be handed over, and how many could not be."""
    wanted = (MailState.WAITING, MailState.FAILED)
    query = select(OutboxMail.state, func.count()).where(OutboxMail.state.in_(wanted))
    found = db.session.execute(query.group_by(OutboxMail.state)).all()
    release()
    counts = {row[0]: row[1] for row in found}
    return figure(", ".join(f"{counts.get(one, 0):,} {one.value.lower()}" for one in wanted))


@_at_best
def webhook_messages() -> Finding:
    """How many messages to webhooks wait to be accepted."""
    return _count(select(func.count()).where(WebhookDelivery.state == DeliveryState.WAITING))


@_at_best
def waiting_jobs() -> Finding:
    """How many jobs wait in each queue."""
    return figure(_by_queue(queue.waiting_counts(jobs.QUEUES)))


@_at_best
def failed_jobs() -> Finding:
    """How many jobs of each queue have failed a short time ago; the log has the older ones."""
    return figure(f"{_by_queue(queue.failed_counts(jobs.QUEUES))} within the last ten minutes")


@_at_best
def reports() -> Finding:
    """How many reports about links are open."""
    return _count(select(func.count()).where(AbuseReport.handled_at.is_(None)))


def _by_queue(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"


def _count(query: Select[Any]) -> Finding:
    count = db.session.execute(query).scalar_one()
    release()
    return figure(f"{count:,}")
