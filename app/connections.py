"""How connections to PostgreSQL are kept between requests, and when one is in a transaction.

What a request costs is mostly round trips to the database, and each of these saves one: a
connection that was in use a moment ago is not asked whether it still is one, and what is only read
needs no BEGIN and no COMMIT.
"""

import select
import time
from typing import Any

import psycopg2
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidatePoolError

# One that has rested for longer is asked: a firewall between may have forgotten it without a word.
TRUSTED_SECONDS = 10.0
_RESTS_SINCE = "rests_since"


def watch(engine: Engine) -> None:
    """Have whoever takes a connection out of the pool be given one that is not dead."""
    event.listen(engine, "checkin", _rest)
    event.listen(engine, "checkout", lambda line, record, fairy: _look(engine, line, record))


def _rest(line: Any, record: Any) -> None:
    if line is not None and not line.closed:
        line.autocommit = False
        record.info[_RESTS_SINCE] = time.monotonic()


def _look(engine: Engine, line: Any, record: Any) -> None:
    """Raise InvalidatePoolError for a dead one: the pool then makes another, and forgets the rest.

    Whatever ended it, a restart, a failover or an administrator, has left word of that in its
    socket, where looking costs nothing. pool_pre_ping asks the server each time.
    """
    rests_since = record.info.get(_RESTS_SINCE)
    if rests_since is None:  # It was made this moment.
        return
    try:
        if time.monotonic() - rests_since > TRUSTED_SECONDS or _has_word(line):
            engine.dialect.do_ping(line)
    except psycopg2.Error as dead:
        raise InvalidatePoolError from dead


def _has_word(line: Any) -> bool:
    """Whether something came while nothing was asked, or the connection has ended."""
    waiting = select.poll()
    waiting.register(line.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def read_only_so_far(connection: Connection) -> None:
    """Each statement by itself, until there is a transaction."""
    _line_of(connection).autocommit = True


def in_transaction_from_now(connection: Connection) -> None:
    """What comes next begins a transaction, if there is none yet."""
    line = _line_of(connection)
    # One that is closed cannot be told; whoever uses it is.
    if line.autocommit and not line.closed:
        line.autocommit = False


def _line_of(connection: Connection) -> Any:
    return connection.connection.dbapi_connection
