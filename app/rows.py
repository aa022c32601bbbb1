"""Rows that a sweep takes: so many at a time, in the statement that changes or removes them."""

from typing import Any

from sqlalchemy import ColumnElement, any_, func, literal_column, select

from app.db import Base


def take(
    row: type[Base], *conditions: ColumnElement[bool], limit: int, order_by: Any = None
) -> ColumnElement[bool]:
    """The condition of an UPDATE or DELETE that `conditions` hold, for up to `limit` rows.

    Rows that someone else holds are passed by, so that several sweeps share the work without
    waiting. So is one that was changed in this very moment: it waits for the next statement.
    """
    # By where it lies, which cannot change once it is locked. By its key each would have to be
    # found again: by its index, or as the planner likes it for thousands, by reading the table.
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
