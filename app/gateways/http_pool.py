"""A pool of kept-alive connections to storage, for requests that are already signed.

Uses http.client directly: when many small files are read, the client's own CPU is the limit, and
a request by urllib3 takes twice as much of it, one by boto3 seven times.
"""

import http.client
import io
import ssl
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

CONNECT_SECONDS = 2
READ_SECONDS = 15
# A body is sent in pieces of this size, so that the timeout is for each and not for the whole.
PIECE = 256 * 1024
# At most this much is read of a response that is not the content of a range.
MOST_OF_A_TEXT = 64 * 1024
# The status of an Answer without a response.
BROKEN = 0


@dataclass(frozen=True)
class Answer:
    """A response: its `status`, or BROKEN if the connection failed, and `size`, the bytes received.

    `text` is the beginning of the body if the response is not the content of a range.
    """

    status: int
    size: int = 0
    text: bytes = b""


# Makes one request on a connection: the answer, and whether the connection can be reused.
Ask = Callable[[http.client.HTTPConnection], tuple[Answer, bool]]


class Lines:
    """A pool of connections to one host. Thread-safe."""

    def __init__(self, origin: str, ca_bundle: str | None) -> None:
        found = urlsplit(origin)
        self._origin = origin
        # Exactly as it is signed: http.client would leave out a default port.
        self._host = {"Host": found.netloc}
        self._address = (found.hostname or "", found.port)
        self._tls = None
        if found.scheme == "https":
            self._tls = ssl.create_default_context(cafile=ca_bundle)
        self._idle: deque[http.client.HTTPConnection] = deque()
        weakref.finalize(self, _close, self._idle)

    def get(self, url: str, headers: Mapping[str, str], into: memoryview) -> Answer:
        """GET a range into `into`; the answer's `size` is larger than that if there was more."""
        target = url.removeprefix(self._origin)

        def ask(line: http.client.HTTPConnection) -> tuple[Answer, bool]:
            line.sock.settimeout(READ_SECONDS)
            line.request("GET", target, headers={**self._host, **headers})
            return _read(line.getresponse(), into)

        return self._ask(ask)

    def put(self, url: str, body: memoryview | IO[bytes], seconds: float) -> Answer:
        """PUT these bytes, or a file from its beginning; `seconds` is the timeout."""
        target = url.removeprefix(self._origin)
        headers = {**self._host, "Content-Length": str(_size_of(body))}

        def ask(line: http.client.HTTPConnection) -> tuple[Answer, bool]:
            line.sock.settimeout(seconds)
            # Storage may refuse a body before it has received all of it; its response says why.
            with suppress(BrokenPipeError):
                line.request("PUT", target, _pieces(body), headers)
            return _read(line.getresponse(), memoryview(b""))

        return self._ask(ask)

    def post(self, target: str, headers: Mapping[str, str], seconds: float) -> Answer:
        """POST without a body, with signed `headers`, which include Host.

        The beginning of the response is the answer's `text`.
        """

        def ask(line: http.client.HTTPConnection) -> tuple[Answer, bool]:
            line.sock.settimeout(seconds)
            line.request("POST", target, headers=dict(headers))
            return _read(line.getresponse(), memoryview(b""))

        return self._ask(ask)

    def _ask(self, ask: Ask) -> Answer:
        while True:
            line, is_kept = self._take()
            try:
                if line.sock is None:
                    line.connect()
                answer, is_free = ask(line)
            except (OSError, http.client.HTTPException) as error:
                line.close()
                if is_kept:
                    # Connections that were idle for longer are likely to be dead as well.
                    _close(self._idle)
                # The server may just have closed an idle connection: try again with a new one.
                if is_kept and not isinstance(error, TimeoutError):
                    continue
                return Answer(BROKEN)
            if is_free and line.sock is not None:
                self._idle.append(line)
            else:
                line.close()
            return answer

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return the most recently used idle connection and True, or a new one and False."""
        with suppress(IndexError):
            return self._idle.pop(), True
        host, port = self._address
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS), False
        return (
            http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=self._tls),
            False,
        )


def _close(lines: deque[http.client.HTTPConnection]) -> None:
    # Other threads may take from it at the same time.
    with suppress(IndexError):
        while True:
            lines.pop().close()


def _size_of(body: memoryview | IO[bytes]) -> int:
    return len(body) if isinstance(body, memoryview) else body.seek(0, io.SEEK_END)


def _pieces(body: memoryview | IO[bytes]) -> Iterator[bytes | memoryview]:
    if isinstance(body, memoryview):
        yield from (body[at : at + PIECE] for at in range(0, len(body), PIECE))
        return
    body.seek(0)
    while piece := body.read(PIECE):
        yield piece


def _read(response: http.client.HTTPResponse, into: memoryview) -> tuple[Answer, bool]:
    """Read the response; the connection can be reused if nothing of it is left unread."""
    size, text = 0, b""
    if response.status == http.client.PARTIAL_CONTENT:
        while size < len(into) and (count := response.readinto(into[size:])):
            size += count
        size += len(response.read(1))
    else:
        text = response.read(MOST_OF_A_TEXT)
    return Answer(response.status, size, text), response.isclosed() and not response.length
