"""gunicorn's threaded worker, except that nothing waits for a slow client's head, or its end.

`gunicorn --worker-class web.Worker`. gunicorn gives a thread to every connection that has sent one
byte, and lets it wait without a timeout for the rest of the head: as many slow clients as there are
threads would block everyone else. And its event loop, of which there is only one, waits for each
client whose connection it closes, for up to two seconds. Here connections wait in the event loop,
at next to no cost, until their head is complete, and until their client has closed its end. A
client that does not read its answer still occupies a thread, but no longer than --timeout.
"""

import contextlib
import resource
import socket
import sys
import time
from bisect import insort
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# gunicorn imports this before it forks, so that its workers share what is imported here.
from app import get_ready

# The time limit from the first byte of a head to its last.
HEAD_SECONDS = 8.0
# How long a client may take to close its end, once it has its last answer.
LINGER_SECONDS = 2.0
# Routers do not accept larger heads either.
LARGEST_HEAD = 32 * 1024
# File descriptors for all but clients: connections to PostgreSQL, Redis and storage, and files.
OWN_FILES = 200
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class Worker(ThreadWorker):
    """Needs no locks: only handle() runs in other threads."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Where they are used up, accept() fails, and gunicorn ends the worker with all its clients.
        self.worker_connections: int = min(self.cfg.worker_connections, _most_clients())
        self.max_keepalived = self.worker_connections - self.cfg.threads
        # A proxy on the same machine is trusted, and many pass on what clients send: SCRIPT_NAME
        # would let them choose a prefix for the paths of requests, and of redirects.
        self.cfg.set("forwarder_headers", "")
        # When each connection that occupies a thread got it.
        self._began_at: dict[Any, float] = {}

    def load_wsgi(self) -> None:
        """Load the application and prepare what the first request would have to wait for."""
        super().load_wsgi()
        get_ready()

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, or wait for the rest of its next request's head."""
        seen = _seen(conn)
        if seen is None or b"\r\n\r\n" in b"".join(seen):
            conn.head_until = None
            _wake_at(conn, 1)
            super().enqueue_req(conn)
        elif len(b"".join(seen)) >= LARGEST_HEAD:
            self._refuse(conn)
        else:
            self._wait_for_more(conn, len(seen[1]))

    def _wait_for_more(self, conn: Any, unread_size: int) -> None:
        if getattr(conn, "head_until", None) is None:
            conn.head_until = time.monotonic() + HEAD_SECONDS
        elif unread_size < _waking_size(conn):
            # Not woken by a byte: the client has closed its end, so there will be no more.
            self._linger(conn)
            return
        # Otherwise the bytes that are already here would wake us again and again.
        _wake_at(conn, unread_size + 1)
        self._watch(conn, conn.head_until, partial(self.on_pending_socket_readable, conn))

    def _watch(self, conn: Any, until: float, readable: Callable[[Any], None]) -> None:
        """Call `readable` once there is something to read, or close the connection by then.

        Raises OSError or ValueError if it is closed already.
        """
        conn.sock.setblocking(False)
        self.poller.register(conn.sock, EVENT_READ, readable)
        conn.timeout = until
        # murder_pending() closes those at the left whose timeout has passed.
        insort(self.pending_conns, conn, key=attrgetter("timeout"))

    def handle(self, conn: Any) -> Any:
        """Answer a request, in a thread."""
        self._began_at[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self._began_at[conn]

    def murder_pending(self) -> None:
        """Close connections whose time is over; called every second.

        gunicorn would wait for ever for a client that does not read: here sending fails then.
        """
        super().murder_pending()
        began_before = time.monotonic() - self.cfg.timeout
        for conn, began_at in list(self._began_at.items()):
            if self.cfg.timeout and began_at < began_before:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Go on with a connection, or close it without waiting here for its client."""
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self._linger(conn)

    def _linger(self, conn: Any) -> None:
        """Close our end, and the connection once its client has closed its own.

        Closed at once, with bytes of the client still unread, it would be reset by TCP, and the
        client could lose the answer.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + LINGER_SECONDS
            self._watch(conn, until, partial(self._discard, conn))
        except (OSError, ValueError):  # it is closed already
            self._close(conn)

    def _discard(self, conn: Any, client: socket.socket) -> None:
        """Read what the client sends still; close the connection after its last byte."""
        try:
            is_open = bool(client.recv(LARGEST_HEAD))
        except BlockingIOError:
            is_open = True
        except OSError:
            is_open = False
        if not is_open:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _refuse(self, conn: Any) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(_TOO_LARGE)
        self._linger(conn)


def _most_clients() -> int:
    """How many connections of clients the limit on open files has room for; at least half of it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(limit - OWN_FILES, limit // 2)


def _seen(conn: Any) -> tuple[bytes, bytes] | None:
    """The received part of the next head: what gunicorn has read ahead, and what is unread.

    Consumes nothing. None if a thread is to find out that the client has disconnected.
    """
    ahead: bytes = conn.parser.unreader.buf.getvalue() if conn.initialized else b""
    try:
        unread: bytes = conn.sock.recv(LARGEST_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return ahead, b""
    except OSError:
        return None
    return (ahead, unread) if unread else None


def _waking_size(conn: Any) -> int:
    return int(getattr(conn, "wakes_at", 1))


def _wake_at(conn: Any, size: int) -> None:
    # Nearly every head arrives whole: then there is nothing to change.
    if _waking_size(conn) != size:
        conn.wakes_at = size
        with contextlib.suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
