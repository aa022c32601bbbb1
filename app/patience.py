"""How long one answer from outside may be waited for: seconds in a request, more in a job, and in
a migration for as long as it takes.

A platform cuts a request off after 30 seconds without a word to the application; people leave
earlier. Whoever waits for PostgreSQL or storage asks here how long.
"""

import math
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
from flask import Flask
from psycopg2 import extensions

from app.circuit import Circuit

# For making a connection, and for one query: in a request, and in a job or a command. There the
# server's own statement_timeout comes first, unless the server has gone without a word.
CONNECT_SECONDS = 3.0
QUERY_SECONDS = 4.0
JOB_QUERY_SECONDS = 20.0
# After a connection could not be made in time no request tries to make one for so long.
REST_SECONDS = 1.0

_in_request: ContextVar[bool] = ContextVar("in_request", default=False)
_has_time: ContextVar[bool] = ContextVar("has_time", default=False)
_circuit = Circuit(REST_SECONDS)


class DatabaseSilent(psycopg2.OperationalError):
    """PostgreSQL did not answer in time; whether it did what it was told is not known."""


def init_app(app: Flask) -> None:
    """Wait impatiently while a request is answered. Call before the database's own init_app()."""
    app.before_request(lambda: (_in_request.set(True), None)[1])
    # With the context, not with the request: whoever asked also waits for the session's end.
    app.teardown_appcontext(lambda error: (_in_request.set(False), None)[1])
    extensions.set_wait_callback(_wait)


def is_short() -> bool:
    """Whether somebody waits for this thread's answer right now."""
    return _in_request.get()


@contextmanager
def as_long_as_it_takes() -> Iterator[None]:
    """Wait inside for what a query answers however late: a large table is not changed in seconds.

    A server that is gone is noticed by the keepalives of its connection.
    """
    before = _has_time.set(True)
    try:
        yield
    finally:
        _has_time.reset(before)


def _wait(connection: Any) -> None:
    """psycopg2's hook for every wait: libpq has no time limit for an answer that never comes.

    statement_timeout is the server's, and does not help when the server cannot be heard.
    """
    if connection.status != extensions.STATUS_SETUP:
        _poll(connection, _query_seconds())
    elif is_short():
        # Only silence opens the circuit: whoever is refused is refused at once anyway.
        refusal = DatabaseSilent("the database did not answer a moment ago")
        with _circuit.guard((DatabaseSilent,), refusal):
            _poll(connection, CONNECT_SECONDS)
    else:
        _poll(connection, CONNECT_SECONDS)


def _query_seconds() -> float:
    if _has_time.get():
        return math.inf
    return QUERY_SECONDS if is_short() else JOB_QUERY_SECONDS


def _poll(connection: Any, limit: float) -> None:
    deadline = time.monotonic() + limit
    while (state := connection.poll()) != extensions.POLL_OK:
        left = deadline - time.monotonic()
        if left <= 0:
            # psycopg2 closes the connection whose wait fails; closing it here would never end,
            # because whoever executes a query holds the connection's lock.
            raise DatabaseSilent("no answer from the database in time")
        # Not select(): it knows no descriptor above 1023, and slow clients take many.
        waiting = select.poll()
        is_reading = state == extensions.POLL_READ
        waiting.register(connection.fileno(), select.POLLIN if is_reading else select.POLLOUT)
        waiting.poll(None if left == math.inf else left * 1000)
