"""Kept connections to storage, for requests whose address is signed and says it all.

http.client and nothing above it: where many small files are read the client's own CPU is the
limit, and a request of urllib3's takes twice as much of it, one of boto3's seven times.
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
# A body is sent in pieces of this size, so that a time limit is for each and not for the whole.
PIECE = 256 * 1024
# Of an answer that brings no bytes of a range no more is read.
MOST_OF_A_TEXT = 64 * 1024
BROKEN = 0


@dataclass(frozen=True)
class Answer:
    """What came: `status` is BROKEN where the line broke; `size` bytes of what was asked for.

    `text` is how an answer begins that brings something else.
    """

    status: int
    size: int = 0
    text: bytes = b""


# One request by a connection: what came, and whether the connection is free for another.
Ask = Callable[[http.client.HTTPConnection], tuple[Answer, bool]]


class Lines:
    """Connections to one host, kept for whoever asks next. Any number of threads may ask."""

    def __init__(self, origin: str, ca_bundle: str | None) -> None:
        found = urlsplit(origin)
        self._origin = origin
        # As it is signed: http.client leaves out a port that is the usual one.
        self._host = {"Host": found.netloc}
        self._address = (found.hostname or "", found.port)
        self._tls = None
        if found.scheme == "https":
            self._tls = ssl.create_default_context(cafile=ca_bundle)
        self._idle: deque[http.client.HTTPConnection] = deque()
        weakref.finalize(self, _close, self._idle)

    def get(self, url: str, headers: Mapping[str, str], into: memoryview) -> Answer:
        """Bytes of a range, put into `into`; should there be more, it is told that there are."""
        target = url.removeprefix(self._origin)

        def ask(line: http.client.HTTPConnection) -> tuple[Answer, bool]:
            line.sock.settimeout(READ_SECONDS)
            line.request("GET", target, headers={**self._host, **headers})
            return _read(line.getresponse(), into)

        return self._ask(ask)

    def put(self, url: str, body: memoryview | IO[bytes], seconds: float) -> Answer:
        """Send these bytes, or a file from its beginning; storage may be silent for `seconds`."""
        target = url.removeprefix(self._origin)
        headers = {**self._host, "Content-Length": str(_size_of(body))}

        def ask(line: http.client.HTTPConnection) -> tuple[Answer, bool]:
            line.sock.settimeout(seconds)
            # Whoever refuses a body may do so before all of it has come, and then says why.
            with suppress(BrokenPipeError):
                line.request("PUT", target, _pieces(body), headers)
            return _read(line.getresponse(), memoryview(b""))

        return self._ask(ask)

    def post(self, target: str, headers: Mapping[str, str], seconds: float) -> Answer:
        """Ask for something, with signed headers, of which Host is one, and without bytes.

        How the answer begins is its `text`.
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
                    # What ended it or made it silent has met those that lay idle for longer too.
                    _close(self._idle)
                # It may only have been closed at its other end: that says nothing yet.
                if is_kept and not isinstance(error, TimeoutError):
                    continue
                return Answer(BROKEN)
            if is_free and line.sock is not None:
                self._idle.append(line)
            else:
                line.close()
            return answer

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """The connection that was used last, or a new one; whether it is one that was used."""
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
    # Others may take from it at the same time.
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
    """Whether the line is free is whether nothing of this answer is left on it."""
    size, text = 0, b""
    if response.status == http.client.PARTIAL_CONTENT:
        while size < len(into) and (count := response.readinto(into[size:])):
            size += count
        size += len(response.read(1))
    else:
        text = response.read(MOST_OF_A_TEXT)
    return Answer(response.status, size, text), response.isclosed() and not response.length
