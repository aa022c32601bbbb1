"""How long one answer from outside may be waited for: seconds in a request, minutes in a job.

A platform cuts a request off after 30 seconds without a word to the application; people leave
earlier. Whoever waits for PostgreSQL or storage asks here how long.
"""

import select
import time
from contextvars import ContextVar
from typing import Any

import psycopg2
from flask import Flask
from psycopg2 import extensions

# For one query, and for making a connection.
QUERY_SECONDS = 4.0
CONNECT_SECONDS = 3.0

_in_request: ContextVar[bool] = ContextVar("in_request", default=False)


def init_app(app: Flask) -> None:
    """Wait impatiently while a request is answered; needs nothing of other processes."""
    app.before_request(lambda: (_in_request.set(True), None)[1])
    app.teardown_request(lambda error: (_in_request.set(False), None)[1])
    extensions.set_wait_callback(_wait)


def is_short() -> bool:
    """Whether somebody waits for this thread's answer right now."""
    return _in_request.get()


def _wait(connection: Any) -> None:
    """psycopg2's hook for every wait: libpq has no time limit for an answer that never comes.

    statement_timeout is the server's, and does not help when the server cannot be heard.
    """
    is_connecting = connection.status == extensions.STATUS_SETUP
    limit = CONNECT_SECONDS if is_connecting else QUERY_SECONDS if is_short() else None
    deadline = None if limit is None else time.monotonic() + limit
    while (state := connection.poll()) != extensions.POLL_OK:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            # psycopg2 closes the connection whose wait fails; doing it here would wait for itself.
            raise psycopg2.OperationalError("no answer from the database in time")
        files = [connection.fileno()]
        reads, writes = (files, []) if state == extensions.POLL_READ else ([], files)
        select.select(reads, writes, [], left)
