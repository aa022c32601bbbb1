"""Pooled PostgreSQL connections: a liveness check at checkout, and autocommit for reads.

A request's cost is mostly round trips to the database, and each of these saves one: a connection
that was in use a moment ago is not pinged, and reads need no BEGIN and no COMMIT.
"""

import select
import time
from typing import Any

import psycopg2
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidatePoolError

# A connection idle for longer is pinged: a firewall in between may have dropped it silently.
TRUSTED_SECONDS = 10.0
_RESTS_SINCE = "rests_since"


def watch(engine: Engine) -> None:
    """Make sure that the pool hands out no dead connection."""
    event.listen(engine, "checkin", _rest)
    event.listen(engine, "checkout", lambda line, record, fairy: _look(engine, line, record))


def _rest(line: Any, record: Any) -> None:
    if line is not None and not line.closed:
        line.autocommit = False
        record.info[_RESTS_SINCE] = time.monotonic()


def _look(engine: Engine, line: Any, record: Any) -> None:
    """Raise InvalidatePoolError for a dead connection: the pool replaces it and drops the rest.

    A restart, a failover or an administrator who ends a connection leaves something to read in its
    socket, and looking there costs nothing. pool_pre_ping asks the server each time.
    """
    rests_since = record.info.get(_RESTS_SINCE)
    if rests_since is None:  # it was just made
        return
    try:
        if time.monotonic() - rests_since > TRUSTED_SECONDS or _has_word(line):
            engine.dialect.do_ping(line)
    except psycopg2.Error as dead:
        raise InvalidatePoolError from dead


def _has_word(line: Any) -> bool:
    """Whether bytes came that answer no query, or the connection was closed."""
    waiting = select.poll()
    waiting.register(line.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def read_only_so_far(connection: Connection) -> None:
    """Autocommit each statement, until in_transaction_from_now()."""
    _line_of(connection).autocommit = True


def in_transaction_from_now(connection: Connection) -> None:
    """Turn autocommit off, so that the next statement begins a transaction; repeatable."""
    line = _line_of(connection)
    # A closed connection cannot be changed; the statement that uses it raises.
    if line.autocommit and not line.closed:
        line.autocommit = False


def _line_of(connection: Connection) -> Any:
    return connection.connection.dbapi_connection
