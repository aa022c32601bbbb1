"""Timeouts for PostgreSQL and storage: seconds in a request, more in a job, none in a migration.

A platform aborts a request after 30 seconds without telling the application; people leave earlier.
Code that waits for PostgreSQL or storage asks here how long.
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

# For making a connection, and for one query: in a request, and in a job or a command. In a job the
# server's own statement_timeout comes first, unless the server has vanished silently.
CONNECT_SECONDS = 3.0
QUERY_SECONDS = 4.0
JOB_QUERY_SECONDS = 20.0
# After a connection attempt has timed out, requests make none for this long.
REST_SECONDS = 1.0

_in_request: ContextVar[bool] = ContextVar("in_request", default=False)
_has_time: ContextVar[bool] = ContextVar("has_time", default=False)
_circuit = Circuit(REST_SECONDS)


class DatabaseSilent(psycopg2.OperationalError):
    """PostgreSQL did not answer in time; whether it executed the statement is unknown."""


def init_app(app: Flask) -> None:
    """Use short timeouts while a request is handled. Call before the database's own init_app()."""
    app.before_request(lambda: (_in_request.set(True), None)[1])
    # Reset with the context, not with the request: the client also waits for the session to close.
    app.teardown_appcontext(lambda error: (_in_request.set(False), None)[1])
    extensions.set_wait_callback(_wait)


def is_short() -> bool:
    """Whether this thread is handling a request, so that a client is waiting."""
    return _in_request.get()


@contextmanager
def as_in_a_request() -> Iterator[None]:
    """Use short timeouts in the block: the person at a terminal waits too."""
    before = _in_request.set(True)
    try:
        yield
    finally:
        _in_request.reset(before)


@contextmanager
def as_long_as_it_takes() -> Iterator[None]:
    """Wait for queries in the block without a timeout: large tables take longer to change.

    A dead server is noticed by the connection's TCP keepalives.
    """
    before = _has_time.set(True)
    try:
        yield
    finally:
        _has_time.reset(before)


def _wait(connection: Any) -> None:
    """psycopg2's wait callback, because libpq has no timeout for an answer that never comes.

    statement_timeout is enforced by the server, and does not help when the server is unreachable.
    """
    if connection.status != extensions.STATUS_SETUP:
        _poll(connection, _query_seconds())
    elif is_short():
        # Only a timeout opens the circuit: a refused connection fails immediately anyway.
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
            # psycopg2 closes the connection whose wait fails; closing it here would deadlock,
            # because the thread that executes a query holds the connection's lock.
            raise DatabaseSilent("no answer from the database in time")
        # Not select(): it cannot handle descriptors above 1023, and slow clients use many.
        waiting = select.poll()
        is_reading = state == extensions.POLL_READ
        waiting.register(connection.fileno(), select.POLLIN if is_reading else select.POLLOUT)
        waiting.poll(None if left == math.inf else left * 1000)
