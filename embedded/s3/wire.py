"""HTTP/1.1 on a socket: strict requests in, responses out. Nothing here knows S3."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from io import BufferedIOBase
from typing import Protocol
from urllib.parse import unquote_to_bytes

from embedded.s3.errors import S3Error

LINE_LIMIT = 16 * 1024
HEADER_LIMIT = 100
PIECE = 256 * 1024
DRAIN_LIMIT = 64 * 1024 * 1024
LINGER_SECONDS = 2.0

REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.([01])\r?\n")
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*(.*?)[ \t]*\r?\n", re.DOTALL)
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Headers:
    """Request headers by lower-case name; repeated ones are joined with a comma."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Add a header; one that exists keeps its value too."""
        self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: str = "") -> str:
        """The value of a header (lower-case name), or the default."""
        return ",".join(self._values[name]) if name in self._values else default

    def forget(self, beginnings: tuple[str, ...]) -> None:
        """Remove the headers whose names begin with one of these."""
        self._values = {n: v for n, v in self._values.items() if not n.startswith(beginnings)}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def count(self, name: str) -> int:
        """How often the header was sent."""
        return len(self._values.get(name, ()))


class Stream(Protocol):
    """A response body that is sent from files instead of memory."""

    def send(self, connection: socket.socket) -> None: ...

    def close(self) -> None: ...


@dataclass
class Response:
    """A response; `length` is its Content-Length if that is not the length of `body`."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Stream = b""
    length: int | None = None


class Body:
    """The bytes after the head: Content-Length of them, read in pieces, never held in memory."""

    def __init__(
        self, source: BufferedIOBase, length: int, invite: Callable[[], None] | None
    ) -> None:
        self._source = source
        self._invite = invite
        self.length = length
        self.left = length

    @property
    def invited(self) -> bool:
        """Whether the client sends already, and does not wait for `100 Continue`."""
        return self._invite is None

    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as the body goes, and return the count; 0 at the end of the body."""
        self._ask()
        view = view[: self.left]
        count = self._source.readinto(view) if view else 0
        if count < len(view):
            raise S3Error(
                "IncompleteBody",
                "You did not provide the number of bytes specified by the Content-Length header",
            )
        self.left -= count
        return count

    def readline(self, limit: int) -> bytes:
        """One line with its line end, at most `limit` bytes of it."""
        self._ask()
        line = self._source.readline(min(limit, self.left))
        self.left -= len(line)
        return line

    def drain(self) -> None:
        """Read and discard the rest."""
        scrap = memoryview(bytearray(min(PIECE, self.left)))
        while self.left:
            self.readinto(scrap)

    def _ask(self) -> None:
        if self._invite:
            self._invite()
            self._invite = None


@dataclass
class Request:
    """One request as received; the server fills in `bucket` and `key`."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Headers
    body: Body
    keep_alive: bool
    bucket: str = ""
    key: str = ""

    def arg(self, name: str, default: str = "") -> str:
        """The first value of a query argument, or the default."""
        return next((value for key, value in self.query if key == name), default)

    @property
    def argument_names(self) -> set[str]:
        return {name for name, _ in self.query}


def read_request(source: BufferedIOBase, connection: socket.socket) -> Request | None:
    """The next request on the connection, or None if the client has closed it."""
    line = source.readline(LINE_LIMIT)
    if line in (b"\r\n", b"\n"):
        line = source.readline(LINE_LIMIT)
    if not line:
        return None
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise S3Error("BadRequest", "The request line could not be understood")
    headers = _read_headers(source)
    path, _, query = match[2].decode("ascii").partition("?")
    return Request(
        method=match[1].decode("ascii"),
        path=path,
        query=parse_query(query),
        headers=headers,
        body=_body(source, connection, headers),
        keep_alive=match[3] == b"1" and "close" not in headers.get("connection").lower(),
    )


def parse_query(query: str) -> list[tuple[str, str]]:
    """The arguments in their order, decoded once; `+` is a space, as in S3."""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(_decode_argument(name), _decode_argument(value)) for name, _, value in pairs]


def decode(text: str) -> str:
    """Decode percent-encoding; InvalidURI if the result is not UTF-8."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI.") from error


def send_response(connection: socket.socket, request: Request | None, response: Response) -> None:
    """Send head and body; no body for HEAD, 204 and 304."""
    length = response.length
    if length is None:
        length = len(response.body) if isinstance(response.body, bytes) else 0
    headers = {"Date": formatdate(usegmt=True), "Server": "beeline-s3", **response.headers}
    if response.status not in (204, 304):
        headers["Content-Length"] = str(length)
    if request is None or not request.keep_alive:
        headers["Connection"] = "close"
    head = _head(response.status, headers)
    bodiless = response.status in (204, 304) or (request is not None and request.method == "HEAD")
    if bodiless:
        connection.sendall(head)
    elif isinstance(response.body, bytes):
        connection.sendall(head + response.body)
    else:
        connection.sendall(head)
        response.body.send(connection)


def linger(connection: socket.socket) -> None:
    """Shut down our sending side, then keep reading briefly.

    Closing with unread input resets the connection, and the client might lose the answer.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(LINGER_SECONDS)
        while connection.recv(PIECE) and time.monotonic() < deadline:
            pass


def check_header_value(value: str) -> bool:
    """Whether a header may carry the value: Latin-1 without control characters."""
    return HEADER_VALUE.fullmatch(value) is not None


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    for name, value in headers.items():
        if not check_header_value(value):
            raise ValueError(f"header {name} cannot carry {json.dumps(value)}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _read_headers(source: BufferedIOBase) -> Headers:
    headers = Headers()
    for _ in range(HEADER_LIMIT + 1):
        line = source.readline(LINE_LIMIT)
        if line in (b"\r\n", b"\n"):
            return headers
        match = HEADER_LINE.fullmatch(line)
        if match is None or not check_header_value(value := match[2].decode("latin-1")):
            raise S3Error("BadRequest", "A request header could not be understood")
        headers.add(match[1].decode("ascii"), value)
    raise S3Error("RequestHeaderSectionTooLarge", "Your request has too many headers")


def _body(source: BufferedIOBase, connection: socket.socket, headers: Headers) -> Body:
    if "transfer-encoding" in headers:
        raise S3Error("NotImplemented", "Transfer-Encoding is not implemented; send Content-Length")
    length = headers.get("content-length", "0")
    if headers.count("content-length") > 1 or not re.fullmatch(r"[0-9]{1,18}", length):
        raise S3Error("InvalidArgument", "Content-Length must be one whole number")
    if headers.get("expect").lower() != "100-continue":
        return Body(source, int(length), None)
    return Body(source, int(length), lambda: connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n"))


def _decode_argument(text: str) -> str:
    return decode(text.replace("+", " "))
