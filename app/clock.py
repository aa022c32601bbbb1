"""The only source of time. Tests replace `now`; rows are compared with the database's clock."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func


def now() -> datetime:
    """This process's time, aware and in UTC: for signatures and for dates that people enter."""
    return datetime.now(UTC)


def db_now() -> ColumnElement[Any]:
    """The database's time as an SQL expression, so that all processes agree.

    `statement_timestamp()` is constant within a statement (an index can be used) and advances
    within a transaction, which `now()` does not.
    """
    return func.statement_timestamp()
