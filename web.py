"""gunicorn's threaded worker, except that no thread waits for the head of a request.

`gunicorn --worker-class web.Worker`. gunicorn gives a thread to every connection that has sent
one byte, and waits without end for the rest of its head: as many slow clients as there are
threads would be enough to stop everybody else. Here a connection waits in the event loop, which
costs next to nothing, until its head is here.
"""

import contextlib
import socket
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# gunicorn loads this class before it forks: all of its workers share what this loads.
from app import get_ready

# From the first byte of a head to its last.
HEAD_SECONDS = 8.0
# Routers take no larger head either.
LARGEST_HEAD = 32 * 1024
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class Worker(ThreadWorker):
    """Runs in one thread but for the requests themselves, so it needs no locks."""

    def load_wsgi(self) -> None:
        """Get all ready that the first request would have to wait for."""
        super().load_wsgi()
        get_ready()

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread; or wait for the rest of its next request's head."""
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
        # Otherwise what has been seen already would wake us again and again.
        _wake_at(conn, seen_size + 1)
        # murder_pending(), called every second, ends those whose time is over.
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _refuse(self, conn: Any) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(_TOO_LARGE)
        self.nr_conns -= 1
        conn.close()


def _seen(conn: Any) -> bytes | None:
    """What has come of the next head, without taking it; None when a thread shall look for itself:
    the other side has left, or gunicorn holds some of it already."""
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
    # Nearly every head comes as a whole: then nothing is to be changed.
    if getattr(conn, "wakes_at", 1) != size:
        conn.wakes_at = size
        with contextlib.suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
