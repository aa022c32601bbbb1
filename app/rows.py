"""Selects a limited batch of rows for a sweep, in the statement that updates or deletes them."""

from typing import Any

from sqlalchemy import ColumnElement, any_, func, literal_column, select

from app.db import Base


def take(
    row: type[Base], *conditions: ColumnElement[bool], limit: int, order_by: Any = None
) -> ColumnElement[bool]:
    """The WHERE condition of an UPDATE or DELETE: up to `limit` rows that meet `conditions`.

    Locked rows are skipped (SKIP LOCKED), so that several sweeps share the work without waiting. A
    row that was changed at this very moment is skipped too: the next statement finds it.
    """
    # Select by ctid: a locked row's ctid cannot change. By primary key each row would have to be
    # found again: by index or, as the planner prefers for thousands, by reading the whole table.
    place: ColumnElement[Any] = literal_column(f"{row.__tablename__}.ctid")
    taken = (
        select(place.label("place"))
        .select_from(row)
        .where(*conditions)
        .order_by(order_by)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # A CTE is evaluated once; a plain subquery may be run again and lock more than the limit.
        .cte("taken")
    )
    return place == any_(func.array(select(taken.c.place).scalar_subquery()))
