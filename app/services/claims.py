"""Rows that wait to be handed over to somebody: taken by one worker, for a while, and given back.

A claim is the row's next date, so a worker that dies costs its rows only that wait. What is
claimed is handed over outside any transaction, and settled row by row.
"""

import uuid
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, select, update

from app.clock import db_now
from app.db import db
from app.models import OutboxMail, WebhookDelivery

# While one worker is at it the others leave it alone so long; it stops well before that.
CLAIM_SECONDS = 180
# How long to leave one alone after each failure: about a day, all together.
BACKOFF_SECONDS = (60, 300, 900, 1800, 3600, 7200, *[14400] * 5)

Row = TypeVar("Row", OutboxMail, WebhookDelivery)


def is_due(row: Any) -> ColumnElement[bool]:
    """The condition that it waits, and that it is time."""
    return and_(row.state == "WAITING", row.due_at <= db_now())


def take(kind: type[Row], chosen: Collection[uuid.UUID]) -> Sequence[Row]:
    """Those of the chosen that are due and that nobody else takes just now. In transaction()."""
    return write(kind, chosen, **for_a_while(kind))


def for_a_while(kind: type[Row]) -> dict[str, Any]:
    """What is written to a row that is taken for one attempt."""
    return {
        "attempt_count": kind.attempt_count + 1,
        "due_at": db_now() + timedelta(seconds=CLAIM_SECONDS),
    }


def write(
    kind: type[Row], chosen: Collection[uuid.UUID], *which: ColumnElement[bool], **values: Any
) -> Sequence[Row]:
    """Write to those of the chosen that are due, that `which` holds for, and that nobody else takes
    just now; the rows. In transaction()."""
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


def give_back(kind: type[Row], ids: Collection[uuid.UUID], **values: Any) -> None:
    """Whoever comes next may have them at once. In transaction()."""
    db.session.execute(
        update(kind)
        .where(kind.id.in_(ids), kind.state == "WAITING")
        .values(due_at=db_now(), attempt_count=kind.attempt_count - 1, **values)
        .execution_options(synchronize_session=False)
    )


def backoff(attempt: int) -> timedelta:
    """How long to leave one alone after its n-th attempt."""
    return timedelta(seconds=BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS)) - 1])
