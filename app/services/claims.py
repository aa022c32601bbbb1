"""Claims on waiting mails and webhook messages: one worker has a row for a while, then settles it.

A claim moves the row's due date, so a worker that dies only delays its rows until then. Claimed
rows are handed over outside any transaction, and settled one by one.
"""

import uuid
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, select, tuple_, update

from app.clock import db_now
from app.db import db
from app.models import OutboxMail, WebhookDelivery

# How long other workers leave a claimed row alone; the one that has it stops well before that.
CLAIM_SECONDS = 180
# The delay after the n-th failed attempt; about a day in total.
BACKOFF_SECONDS = (60, 300, 900, 1800, 3600, 7200, *[14400] * 5)

Row = TypeVar("Row", OutboxMail, WebhookDelivery)


def is_due(row: Any) -> ColumnElement[bool]:
    """The condition that a row is waiting and due."""
    return and_(row.state == "WAITING", row.due_at <= db_now())


def take(kind: type[Row], chosen: Collection[uuid.UUID]) -> Sequence[Row]:
    """Claim those of the chosen rows that are due and not locked. Call in transaction()."""
    return write(kind, chosen, **for_a_while(kind))


def for_a_while(kind: type[Row]) -> dict[str, Any]:
    """The values that claim a row for one attempt."""
    return {
        "attempt_count": kind.attempt_count + 1,
        "due_at": db_now() + timedelta(seconds=CLAIM_SECONDS),
    }


def write(
    kind: type[Row], chosen: Collection[uuid.UUID], *which: ColumnElement[bool], **values: Any
) -> Sequence[Row]:
    """Write to those of the chosen rows that are due, not locked, and for which `which` holds.

    Returns the rows. Call in transaction().
    """
    free = (
        select(kind.id)
        .where(kind.id.in_(chosen), is_due(kind), *which)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    return db.session.scalars(
        update(kind)
        .where(kind.id.in_(select(free.c.id)))
        .values(**values)
        .returning(kind)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()


def give_back(kind: type[Row], claimed: Collection[tuple[uuid.UUID, int]], **values: Any) -> None:
    """Release claims, so that the next worker can take the rows immediately; the attempt does not
    count. Each is named by its row's id and `attempt_count`: one that has lapsed, so that another
    worker has the row, is left alone. Call in transaction().
    """
    is_ours = tuple_(kind.id, kind.attempt_count).in_(claimed)
    db.session.execute(
        update(kind)
        .where(is_ours, kind.state == "WAITING")
        .values(due_at=db_now(), attempt_count=kind.attempt_count - 1, **values)
        .execution_options(synchronize_session=False)
    )


def backoff(attempt: int) -> timedelta:
    """The delay after the n-th failed attempt."""
    return timedelta(seconds=BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS)) - 1])
