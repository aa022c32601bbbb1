"""The only source of time. Tests replace `now`; rows are judged by the database's own clock."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func


def now() -> datetime:
    """This process's time, aware and in UTC: for signatures and for what a person typed."""
    return datetime.now(UTC)


def db_now() -> ColumnElement[Any]:
    """The database's time as an SQL expression, so that all processes give one verdict.

    `statement_timestamp()` is stable within a statement (an index can be used) and moves on
    within a transaction, which `now()` does not.
    """
    return func.statement_timestamp()
