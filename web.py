"""gunicorn's threaded worker, except that no thread waits for the head of a request.

`gunicorn --worker-class web.Worker`. gunicorn gives a thread to every connection that has sent one
byte, and lets it wait without a timeout for the rest of the head: as many slow clients as there are
threads would block everyone else. Here a connection waits in the event loop, at next to no cost,
until its head is complete.
"""

import contextlib
import socket
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# gunicorn imports this before it forks, so that its workers share what is imported here.
from app import get_ready

# The time limit from the first byte of a head to its last.
HEAD_SECONDS = 8.0
# Routers do not accept larger heads either.
LARGEST_HEAD = 32 * 1024
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class Worker(ThreadWorker):
    """Needs no locks: only the requests themselves run in other threads."""

    def load_wsgi(self) -> None:
        """Load the application and prepare what the first request would have to wait for."""
        super().load_wsgi()
        get_ready()

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, or wait for the rest of its next request's head."""
        seen = _seen(conn)
        if seen is None or b"\r\n\r\n" in seen:
            conn.head_until = None
            _wake_at(conn, 1)
            super().enqueue_req(conn)
        elif len(seen) >= LARGEST_HEAD:
            self._refuse(conn)
        else:
            self._wait_for_more(conn, len(seen))

    def _wait_for_more(self, conn: Any, seen_size: int) -> None:
        conn.head_until = getattr(conn, "head_until", None) or time.monotonic() + HEAD_SECONDS
        conn.timeout = conn.head_until
        conn.sock.setblocking(False)
        # Otherwise the bytes that are already here would wake us again and again.
        _wake_at(conn, seen_size + 1)
        # murder_pending(), called every second, closes those whose timeout has passed.
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _refuse(self, conn: Any) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(_TOO_LARGE)
        self.nr_conns -= 1
        conn.close()


def _seen(conn: Any) -> bytes | None:
    """Peek at the received part of the next head, without consuming it.

    None if a thread is to read it itself: the client has disconnected, or gunicorn has buffered a
    part of it already.
    """
    if conn.initialized and conn.parser.unreader.buf.getvalue():
        return None
    try:
        seen: bytes = conn.sock.recv(LARGEST_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
    except OSError:
        return None
    return seen or None


def _wake_at(conn: Any, size: int) -> None:
    # Nearly every head arrives whole: then there is nothing to change.
    if getattr(conn, "wakes_at", 1) != size:
        conn.wakes_at = size
        with contextlib.suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
