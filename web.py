"""gunicorn's threaded worker, except that nothing waits for a slow client's head, or its end.

`gunicorn --worker-class web.Worker`. gunicorn gives a thread to every connection that has sent one
byte, and lets it wait without a timeout for the rest of the head: as many slow clients as there are
threads would block everyone else. And its event loop, of which there is only one, waits for each
client whose connection it closes, for up to two seconds. Here connections wait in the event loop,
at next to no cost, until their head is complete, and until their client has closed its end.
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
# How long a client may take to close its end, once it has its last answer.
LINGER_SECONDS = 2.0
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
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # it is closed already
            self._close(conn)
        else:
            conn.timeout = time.monotonic() + LINGER_SECONDS
            self.pending_conns.append(conn)

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
        self._close(conn)


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
