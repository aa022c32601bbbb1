#!/usr/bin/env python3
"""beeline: send big files from a terminal, and download them.

    curl -o beeline https://send.example.org/cli
    chmod +x beeline
    ./beeline send film.mov photos/

One file without dependencies, for Python 3.9 or later. `beeline --help` lists the commands and exit
codes; docs/cli.md documents the rest. Files go straight to storage in parts, each with a checksum;
parts that storage has are safe, and `beeline resume` sends only what is missing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import getpass
import hashlib
import http.client
import ipaddress
import itertools
import json
import mimetypes
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import stat
import sys
import threading
import time
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar
from urllib.parse import unquote, urlencode, urljoin, urlsplit

VERSION = "0.1.0"
# Filled in by the server when this file is downloaded from it.
DEFAULT_SERVER = ""

MIB = 1024 * 1024
BLOCK = 256 * 1024
# Small enough that the slowest usable connection sends it in time: Python's socket timeout
# (STALLED) applies to a whole block.
SEND_BLOCK = 64 * 1024
LANES = 6
MOST_LANES = 16
# Limits of the API for one request.
MOST_PARTS_AT_ONCE = 100
MOST_SENT_AT_ONCE = 500
FILES_AT_ONCE = 1000
CREATE_SIZE = MIB
# About the size of the record of a transfer with a few files.
RECORD_SIZE = 4096
# Bytes prepared (checksum computed, presigned URL requested) ahead of each lane.
AHEAD = 8 * MIB
# Timeouts in seconds: while bytes are being transferred, and for the response once the whole body
# is sent, which storage may need time for.
STALLED = 30.0
ANSWER = 90.0
# Of a proxy whose address names none, as for curl.
PROXY_PORT = 1080
# Patience in seconds for the first request to a server, so that a mistyped name is reported soon.
FIRST_CONTACT = 30.0
LONGEST_PAUSE = 30.0
LONGEST_PAUSE_UNANSWERED = 10.0
# A presigned URL is not used within this many seconds of its expiry.
ADDRESS_MARGIN = 60.0
MOST_REFUSALS = 3
# Seconds during which a spooled copy of stdin is never treated as left behind.
SPOOL_MARGIN = 60.0
# The last second of the year 9999, the latest that datetime can represent.
LATEST = 253_402_300_799
# How long the visitor's cookies of a link are kept. The server decides for how long repeated
# fetches count as one download; this is longer than any server does.
VISIT_SECONDS = 90 * 86400
# The longest file name that common file systems accept.
MOST_NAME_BYTES = 255
POLLS = (0.2, 0.3, 0.5, 1.0, 1.0, 2.0)

OK, FAILED, USAGE, LOCAL, UNREACHABLE, GONE, LOCKED, DAMAGED, NOT_YET, INTERRUPTED = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 130,
)  # fmt: skip

EPILOG = """\
exit codes:
  0    done
  1    refused by the server or by storage, or another failure
  2    wrong usage
  3    a local file is missing, unreadable, changed while it was sent, or in the way
  4    no answer for too long; what is safe stays safe: beeline resume
  5    the transfer does not exist, or no longer
  6    a password is needed, or it is wrong
  7    what was downloaded is not what was sent
  8    not everything has arrived or been checked yet
  130  interrupted; what is safe stays safe: beeline resume, or run the same get again

environment: BEELINE_SERVER, BEELINE_API_KEY, BEELINE_FROM, BEELINE_PASSWORD,
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
"""

# S3's 400 error codes that mean a broken connection, not a bad request.
_BROKEN_LINE = {"RequestTimeout", "IncompleteBody", "XAmzContentSHA256Mismatch"}
_OTHER_BYTES = {"BadDigest", "XAmzContentChecksumMismatch"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Characters that reorder displayed text, so that "gpj.exe" can look like "exe.jpg".
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_SLUG = re.compile(r"[A-Za-z0-9_-]{20,64}")

T = TypeVar("T")
Json = Any
# Scheme, host and port.
Place = tuple[str, str, int]


# -- what ends a command -----------------------------------------------------------------------


class Stop(Exception):
    """Ends the command: a message, an exit code, an error code and more details for `--json`."""

    exit_code = FAILED
    code = "failed"

    def __init__(self, message: str, code: str | None = None, **details: Json) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.details = details


class Usage(Stop):
    """The command line or the configuration is wrong."""

    exit_code, code = USAGE, "usage"


class HereWrong(Stop):
    """Something is wrong with a file on this computer."""

    exit_code, code = LOCAL, "local_file"


class Unreachable(Stop):
    """No answer, although all of the patience was used up; or no valid certificate."""

    exit_code, code = UNREACHABLE, "unreachable"


class NotThere(Stop):
    """There is no such transfer, or it is gone."""

    exit_code, code = GONE, "gone"


class Locked(Stop):
    """A password is needed, or it was wrong."""

    exit_code, code = LOCKED, "password_needed"


class Damaged(Stop):
    """What arrived is not what was sent."""

    exit_code, code = DAMAGED, "damaged"


class NotYet(Stop):
    """Not everything has arrived, or it is still being checked."""

    exit_code, code = NOT_YET, "not_yet"


class Away(Exception):
    """A temporary failure, worth a retry: after `retry_after` seconds if the server named them."""

    def __init__(self, why: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.why, self.status, self.retry_after = why, status, retry_after


class Stopped(Exception):
    """Another thread has failed, or Ctrl-C was pressed: this thread ends quietly."""


# -- output ------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """The text without control characters, and without characters that reorder displayed text."""
    return "".join(
        char
        for char in text
        if char not in _BIDI and unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
    )


def size_in_words(size: float) -> str:
    """A size in decimal units, as file managers show it."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    if unit == "bytes":
        return "1 byte" if size == 1 else f"{size:.0f} bytes"
    return f"{size:.1f} {unit}" if size < 100 else f"{size:.0f} {unit}"


def count_in_words(count: int) -> str:
    """A number of files: "1 file", "3 files"."""
    return "1 file" if count == 1 else f"{count} files"


def time_in_words(seconds: float) -> str:
    """A remaining time, short enough for a progress bar."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Voice:
    """All output: results to stdout, the rest to stderr; with `--json` one object."""

    def __init__(self, *, is_json: bool, is_quiet: bool) -> None:
        self.is_json, self.is_quiet = is_json, is_quiet or is_json
        self.has_bar = not self.is_quiet and sys.stderr.isatty()
        self._lock = threading.Lock()
        self._bar = ""

    def say(self, line: str) -> None:
        """Print a status line, unless quiet."""
        if not self.is_quiet:
            self._write(plain(line))

    def complain(self, line: str) -> None:
        """Print lines even if quiet; with `--json` nothing."""
        if not self.is_json:
            for one in line.splitlines():
                self._write(plain(one))

    def result(self, line: str) -> None:
        """Print a result line: the only output on stdout."""
        if not self.is_json:
            _write(sys.stdout, f"{plain(line)}\n")

    def answer(self, told: Mapping[str, Json]) -> None:
        """Print the one JSON object for scripts."""
        if self.is_json:
            _write(sys.stdout, f"{json.dumps(told, ensure_ascii=True)}\n")

    def bar(self, line: str) -> None:
        """Draw the progress line over the previous one."""
        if not self.has_bar:
            return
        with self._lock:
            self._bar = line[: _width() - 1]
            _write(sys.stderr, f"\r{self._bar}\x1b[K")

    def end_bar(self) -> None:
        """End the progress line: what was drawn last stays visible."""
        with self._lock:
            if self._bar:
                _write(sys.stderr, "\n")
            self._bar = ""

    def _write(self, line: str) -> None:
        with self._lock:
            over = "\r\x1b[K" if self._bar else ""
            again = self._bar if self._bar else ""
            _write(sys.stderr, f"{over}{line}\n{again}")


def _width() -> int:
    """The width of stderr's terminal in columns; stdout may be redirected."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _write(stream: TextIO, text: str) -> None:
    """Print it; if the reader is gone (`| head`, a closed terminal), discard it."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise
        # Otherwise Python would flush the rest at exit, and report the error again.
        with open(os.devnull, "wb") as nobody:
            os.dup2(nobody.fileno(), stream.fileno())


class Progress:
    """How many bytes are safe, how many are on their way, the speed, and the remaining time."""

    def __init__(self, voice: Voice, total: int, safe: int = 0, *, verb: str = "safe") -> None:
        self.total, self.safe = total, safe
        self._verb = verb
        self._moving = 0
        self._voice = voice
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._told = self.percent // 10

    @property
    def percent(self) -> int:
        """The safe bytes in percent of the total."""
        return 100 * self.safe // self.total if self.total else 100

    def move(self, size: int) -> None:
        """Count bytes as on their way (or, below zero, no longer: they must be sent again)."""
        with self._lock:
            self._moving += size

    def settle(self, size: int, moved: int) -> None:
        """Count `size` bytes as safe, `moved` of which were counted as on their way."""
        with self._lock:
            self.safe += size
            self._moving -= moved

    def show(self) -> None:
        """Draw the progress line, or without a terminal print a line every 10 percent."""
        if self._voice.has_bar:
            self._voice.bar(self._line())
        elif self.percent // 10 > self._told:
            self._told = self.percent // 10
            self._voice.say(f"{self.percent} % {self._verb}")

    def _line(self) -> str:
        done = min(self.total, self.safe + max(0, self._moving))
        speed = self._speed(done)
        share = done / self.total if self.total else 1.0
        left = f", {time_in_words((self.total - done) / speed)} left" if speed else ""
        told = f"{size_in_words(done)} of {size_in_words(self.total)}"
        return f"{_drawn(share)} {share:4.0%}  {told}  {size_in_words(speed)}/s{left}"

    def _speed(self, done: int) -> float:
        """Bytes per second, over the last 8 seconds."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > 8:
            self._seen.popleft()
        since, before = self._seen[0]
        return max(0.0, (done - before) / (now - since)) if now - since > 0.5 else 0.0


def _drawn(share: float, width: int = 24) -> str:
    """The progress bar: a line with a dot at its end."""
    at = int(share * (width - 1))
    encoding = sys.stderr.encoding or "ascii"
    line, dot = ("─", "●") if encoding.lower().startswith("utf") else ("-", "o")
    return line * at + dot + " " * (width - 1 - at)


# -- connections -------------------------------------------------------------------------------


class Piece:
    """A range of a file as a request body, read in blocks; the file must not change meanwhile."""

    def __init__(
        self, file: LocalFile, start: int, size: int, run: Run, on_read: Callable[[int], None]
    ) -> None:
        self._file, self._left, self._run, self._on_read = file, size, run, on_read
        self._open = file.open()
        self._open.seek(start)

    def read(self, size: int = SEND_BLOCK) -> bytes:
        """The next block; raises HereWrong if the file has become shorter, Stopped."""
        self._run.check()
        try:
            block = self._open.read(min(size, self._left)) if self._left else b""
        except OSError as error:
            raise HereWrong(f"{self._file.local}: {error.strerror}.") from error
        if self._left and not block:
            raise self._file.changed()
        self._left -= len(block)
        self._on_read(len(block))
        return block

    def close(self) -> None:
        """Close the file."""
        self._open.close()


def place_of(url: str) -> Place:
    """The URL's scheme, host and port; raises Usage if it is invalid."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Usage(f"This is not a valid address: {url}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Usage(f"This is not a valid address: {url}")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def is_in_clear(place: Place) -> bool:
    """Whether what is sent there can be read on the way: without TLS, to another computer."""
    return place[0] == "http" and place[1] not in _LOOPBACK


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the headers that it needs, with the credentials that are for nobody else."""

    variable: str
    host: str
    port: int
    headers: dict[str, str]

    @classmethod
    def to(cls, place: Place) -> Proxy | None:
        """The proxy that the environment names for this place, or None; raises Usage.

        Never one for loopback: without TLS is allowed there because nothing leaves this computer.
        """
        scheme, host, port = place
        names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
        variable = next((name for name in names if os.environ.get(name)), "")
        if not variable or host in _LOOPBACK or _is_direct(host, port):
            return None
        given = os.environ[variable]
        try:
            parts = urlsplit(given if "://" in given else f"http://{given}")
            its_host, its_port = parts.hostname, parts.port
        except ValueError:
            parts, its_host, its_port = urlsplit(""), None, None
        # What an unescaped "/" in a password leaves is no proxy: it must be neither used nor shown.
        if (
            not its_host
            or parts.scheme != "http"
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise Usage(
                f"{variable} is not the address of an HTTP proxy, as http://proxy.example.org:3128 "
                "is. Special characters in its password must be %-encoded."
            )
        headers = {}
        if parts.username is not None:
            both = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(both).decode()}"
        return cls(variable, its_host, PROXY_PORT if its_port is None else its_port, headers)

    def __str__(self) -> str:
        return _in_url(self.host, self.port)

    def refusal(self, status: int, host: str) -> Exception:
        """The exception for its own refusal to let something through: temporary or not."""
        if status >= 500 or status in (408, 429):
            return Away(f"The proxy {self} cannot reach {host} (status {status}).", status=status)
        told = f"does not let anything through to {host} (status {status})."
        if status == 407:
            told = f"needs a name and a password: {self.variable}=http://name:password@{self}"
            if self.headers:
                told = f"did not accept the name and the password in {self.variable}."
        return Unreachable(f"The proxy {self} {told}", "proxy_refused")


def _is_direct(host: str, port: int) -> bool:
    """Whether NO_PROXY has it: a name or its end, an address or network, `*`; perhaps a port."""
    words = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for word in re.split(r"[\s,]+", words.lower()):
        # A single colon is before a port; others are of an IPv6 address.
        found = re.fullmatch(r"(\[.+\]|[^:]+):(\d+)", word)
        name = (found[1] if found else word).strip("[]").strip(".")
        if found and int(found[2]) != port:
            continue
        if name == "*" or (name and f".{host}".endswith(f".{name}")):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _in_url(host: str, port: int, default: int = 0) -> str:
    """Host and port as in a URL, which leaves out the default port."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default else f"{shown}:{port}"


class Lines:
    """The connections, through which every request goes; each thread keeps its own open.

    TLS certificates are always verified. Plain HTTP is only for loopback, unless allowed.
    A proxy sees only names where there is TLS.
    """

    def __init__(self, *, allow_http: bool) -> None:
        self._allow_http = allow_http
        self._own = threading.local()
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Callable[[], Piece] | None = None,
    ) -> http.client.HTTPResponse:
        """The response, its body still unread. Raises Away, Unreachable, Usage for a bad URL."""
        place = self._place(url)
        proxy = Proxy.to(place)
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # The proxy gets the request itself; with TLS it gets only the name, for a tunnel.
        asked = proxy if place[0] == "http" else None
        if asked:
            path = f"http://{_in_url(place[1], place[2], default=80)}{path}"
            headers = {**headers, **asked.headers}
        for is_again in (False, True):
            connection = self._connection(place, proxy)
            was_open = connection.sock is not None
            try:
                answer = self._exchange(connection, method, path, headers, body)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # The server may have closed a kept connection meanwhile: that is no outage yet.
                is_stale = was_open and not isinstance(error, socket.timeout)
                if not is_stale or is_again:
                    raise _away(place[1], error, proxy) from error
            except BaseException:
                # A connection in the middle of a request cannot be reused.
                connection.close()
                raise
            else:
                if asked and answer.status == 407:
                    connection.close()
                    raise asked.refusal(407, place[1])
                return answer
        raise AssertionError("unreachable")

    def read(self, answer: http.client.HTTPResponse, most: int = 64 * MIB) -> bytes:
        """The response's body, up to `most` bytes; raises Away."""
        try:
            return answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            # The unread rest must not be taken for the next response.
            self.close()
            raise Away("The connection was lost.") from error

    def close(self) -> None:
        """Close all connections of this thread."""
        for connection in self._connections().values():
            connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Callable[[], Piece] | None,
    ) -> http.client.HTTPResponse:
        given = {"User-Agent": f"beeline/{VERSION}", "Accept": "application/json", **headers}
        if connection.sock is None:
            # Here and not below, where what came before an error is taken for the response: a proxy
            # could give one before there is TLS.
            connection.connect()
        else:
            connection.sock.settimeout(STALLED)
        sent = body() if callable(body) else body
        try:
            connection.request(method, path, body=sent, headers=given)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # The server may have responded before it had read the whole body.
        finally:
            if isinstance(sent, Piece):
                sent.close()
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER if sent is not None else STALLED)
        answer = connection.getresponse()
        if connection.sock is not None:
            connection.sock.settimeout(STALLED)
        return answer

    def _place(self, url: str) -> Place:
        """The URL's place; raises Usage if it is invalid or not allowed."""
        place = place_of(url)
        if is_in_clear(place) and not self._allow_http:
            told = f"{place[1]} would be contacted without TLS. To allow that, add --allow-http"
            raise Usage(told)
        return place

    def _connection(self, place: Place, proxy: Proxy | None) -> http.client.HTTPConnection:
        known = self._connections()
        if place not in known:
            scheme, host, port = place
            if proxy:
                host, port = proxy.host, proxy.port
            if scheme == "https":
                known[place] = http.client.HTTPSConnection(
                    host, port, timeout=STALLED, context=self._context(), blocksize=SEND_BLOCK
                )
                if proxy:
                    known[place].set_tunnel(place[1], place[2], proxy.headers)
            else:
                known[place] = http.client.HTTPConnection(
                    host, port, timeout=STALLED, blocksize=SEND_BLOCK
                )
        return known[place]

    def _connections(self) -> dict[Place, http.client.HTTPConnection]:
        known: dict[Place, http.client.HTTPConnection]
        known = self._own.__dict__.setdefault("known", {})
        return known

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls


def _away(host: str, error: Exception, proxy: Proxy | None = None) -> Exception:
    """The exception for a failed connection: temporary, unless the certificate is invalid or a
    proxy refuses.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(f"The certificate of {host} is not valid: {error.verify_message}")
    if isinstance(error, socket.gaierror):
        name = f"The proxy {proxy.host}" if proxy else host
        return Away(f"{name} cannot be found, or this computer is offline.")
    refused = re.match(r"Tunnel connection failed: (\d{3})\b", str(error))
    if proxy and refused:
        return proxy.refusal(int(refused[1]), host)
    through = f" through the proxy {proxy}" if proxy else ""
    if isinstance(error, socket.timeout):
        return Away(f"{host} does not answer{through}.")
    return Away(f"{host} cannot be reached{through}: {str(error) or type(error).__name__}.")


def _retry_after(headers: Message) -> float:
    given = headers.get("Retry-After") or ""
    return float(given) if re.fullmatch(r"\d{1,6}", given) else 0.0


class Run:
    """One running command: its output, its connections, its patience, and whether to stop."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self.lines = Lines(allow_http=False)
        self.patience = 600.0
        self.stop = threading.Event()
        # Reported if it fails: details for `--json`, and the command that continues it, shown for
        # these exit codes only.
        self.details: dict[str, Json] = {}
        self.resume = ""
        self.resumable = {FAILED, LOCAL, UNREACHABLE, NOT_YET, INTERRUPTED}
        self.progress: Progress | None = None
        self._moved_at = time.monotonic()
        self._is_waiting = False

    def set_up(self, *, patience: float, allow_http: bool) -> None:
        """Apply the options that were given."""
        self.patience, self.lines = patience, Lines(allow_http=allow_http)

    def check(self) -> None:
        """Raise Stopped if the command is ending."""
        if self.stop.is_set():
            raise Stopped

    def moved(self) -> None:
        """Note progress: the patience starts over."""
        self._moved_at = time.monotonic()
        if self._is_waiting:
            self._is_waiting = False
            self.voice.say("Continuing.")

    def rest(self, tried: int, away: Away, since: float, patience: float | None = None) -> None:
        """Wait before the next try: exponential backoff with jitter, at least `away.retry_after`.

        Raises Unreachable if there was no progress for `patience` seconds, Stopped.
        """
        patience = self.patience if patience is None else min(patience, self.patience)
        began = max(since, self._moved_at)
        longest = LONGEST_PAUSE if away.status else LONGEST_PAUSE_UNANSWERED
        pause = max(away.retry_after, random.random() * min(longest, 0.5 * 2 ** min(tried, 10)))  # noqa: S311
        if time.monotonic() + min(pause, away.retry_after) - began > patience:
            raise Unreachable(away.why)
        if not self._is_waiting:
            self._is_waiting = True
            safe = f" {self.progress.percent} % is safe." if self.progress else ""
            self.voice.say(f"{away.why}{safe} It continues by itself; Ctrl-C ends it.")
        self.stop.wait(pause)
        self.check()

    def insist(self, work: Callable[[], T], patience: float | None = None) -> T:
        """Retry the work until it succeeds; raises Unreachable, Stopped, any permanent error."""
        since = time.monotonic()
        for tried in itertools.count():
            self.check()
            try:
                done = work()
            except Away as away:
                self.rest(tried, away, since, patience)
            else:
                if tried:
                    self.moved()
                return done
        raise AssertionError("unreachable")


class Crew:
    """A group of threads: the first failure stops all of them, and so does Ctrl-C."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def add(self, work: Callable[[], None]) -> None:
        """Add a thread, which watch() starts."""
        self._threads.append(threading.Thread(target=self._guarded, args=(work,), daemon=True))

    def watch(self) -> None:
        """Run the threads and draw the progress; raises the first failure, KeyboardInterrupt."""
        try:
            for thread in self._threads:
                thread.start()
            for thread in self._threads:
                while thread.is_alive() and not self._run.stop.is_set():
                    thread.join(0.1)
                    self._show()
        except KeyboardInterrupt:
            self._run.stop.set()
            raise
        finally:
            self._leave()
            self._run.voice.end_bar()
        if self._failure is not None:
            raise self._failure

    def _show(self) -> None:
        if self._run.progress:
            self._run.progress.show()

    def _leave(self) -> None:
        """Wait up to 2 s; threads still waiting for a response end with the program (daemons)."""
        deadline = time.monotonic() + 2
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0, deadline - time.monotonic()))
        self._show()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            self._run.stop.set()
        finally:
            self._run.lines.close()


# -- the server --------------------------------------------------------------------------------


class Server:
    """Beeline's API on one server."""

    def __init__(self, run: Run, url: str) -> None:
        self._run = run
        self.url = url.rstrip("/")

    def ask(
        self, method: str, path: str, body: Json = None, token: str = "", **headers: str
    ) -> Json:
        """Make one request. Raises Away if a retry may work, otherwise Stop."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            given["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            given["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        answer = self._run.lines.request(method, self.url + path, given, data)
        content = self._run.lines.read(answer)
        if 300 <= answer.status < 400:
            there = plain(answer.headers.get("Location", ""))
            raise Usage(f"{self.url} redirects to {there}. Use that address.")
        return _told(answer.status, answer.headers, content)


class Owned:
    """One transfer, accessed with its owner token."""

    def __init__(self, run: Run, server: Server, transfer_id: str, token: str) -> None:
        self._run, self._server, self._token = run, server, token
        self._path = f"/transfers/{transfer_id}"

    @classmethod
    def of(cls, run: Run, record: Record) -> Owned:
        """The transfer of a record."""
        return cls(run, Server(run, record.server), record.id, record.owner_token)

    def ask(self, method: str, path: str = "", body: Json = None) -> Json:
        """Make one request below the transfer's path. Raises Away if a retry may work, or Stop."""
        return self._server.ask(method, self._path + path, body, self._token)

    def insist(self, method: str, path: str = "", body: Json = None) -> Json:
        """Make a request, with retries. Raises Unreachable, Stop."""
        return self._run.insist(lambda: self.ask(method, path, body))

    def held(self) -> dict[str, set[int]]:
        """The numbers of the parts that storage holds, by file id."""
        found: dict[str, set[int]] = {}
        after = ""
        while True:
            page = self.insist("GET", f"/parts{after}")
            found.update({file["id"]: set(file["held"]) for file in page["files"]})
            if page["next"] is None:
                return found
            after = f"?after={page['next']}"


def _told(status: int, headers: Message, content: bytes) -> Json:
    """The response's JSON; raises Away or a Stop if it is an error."""
    try:
        told = json.loads(content) if content else None
    except ValueError:
        told = None
        if status < 400:
            raise Away("The server that answered is not Beeline.", status=status) from None
    if status < 400:
        return told
    error = told.get("error", {}) if isinstance(told, dict) else {}
    error = error if isinstance(error, dict) else {}
    if status in (404, 410) and not isinstance(error.get("code"), str):
        # A proxy answers in place of Beeline: that says nothing about the transfer.
        raise Away("The server that answered is not Beeline.", status=status)
    message = plain(str(error.get("message") or f"The server answered with status {status}."))
    code = str(error.get("code") or f"http_{status}")
    if (status == 429 and code != "too_much_mail") or status in (408, 425) or status >= 500:
        raise Away(message, status=status, retry_after=_retry_after(headers))
    if status in (404, 410):
        raise NotThere(message, code)
    if status == 401 and code.startswith("password"):
        raise Locked(message, code)
    raise Stop(message, code, status=status, fields=error.get("fields") or [])


# -- state between runs ------------------------------------------------------------------------


@dataclass
class LocalFile:
    """A file to send: its path in the transfer, its local path, and how it is split into parts."""

    path: str
    local: str
    size: int
    mtime_ns: int
    id: str = ""
    part_size: int = 0
    part_count: int = 0
    has_checksums: bool = False

    def open(self) -> BinaryIO:
        """Open it for reading; raises HereWrong if that fails or its size or mtime has changed."""
        try:
            opened = open(self.local, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise HereWrong(f"{self.local}: {error.strerror}.", path=self.path) from error
        now = os.fstat(opened.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            opened.close()
            raise self.changed()
        return opened

    def changed(self) -> HereWrong:
        """The error for a changed file: parts of two versions must not be mixed."""
        return HereWrong(
            f"{self.local} has changed since sending started. Send it again from the start.",
            "changed",
            path=self.path,
        )

    def part(self, number: int) -> tuple[int, int]:
        """The offset and the size in bytes of part `number`, counted from 1."""
        start = (number - 1) * self.part_size
        return start, min(self.part_size, self.size - start)

    def adopt(self, plan: Json) -> None:
        """Take over the server's id and part sizes."""
        self.id = plan["id"]
        self.part_size, self.part_count = plan["part_size"], plan["part_count"]
        self.has_checksums = plan["checksum_algorithm"] is not None


@dataclass
class Record:
    """A transfer sent, or being sent, from this computer; stored as one private file."""

    server: str
    id: str
    link: str
    owner_token: str
    title: str
    created_at: str
    expires_at: str
    total_size: int
    file_count: int
    is_done: bool = False
    files: list[LocalFile] = field(default_factory=list)


class Memory:
    """The state kept between runs, in one folder that only the user can read."""

    def __init__(self) -> None:
        self._folder = _state_folder()

    def save(self, record: Record) -> None:
        """Save the record atomically."""
        self._write(self._file(record.id), asdict(record))

    def try_out(self) -> None:
        """Raise OSError if nothing can be saved here, before there is something to lose."""
        place = self._sub("transfers") / f".{secrets.token_hex(8)}"
        with _whole(place) as file:
            file.write(bytes(RECORD_SIZE))
        place.unlink()

    def records(self) -> list[Record]:
        """All records, newest first; unreadable ones are skipped."""
        found = [self._load(path) for path in self._folder.glob("transfers/*.json")]
        return sorted(filter(None, found), key=lambda one: one.created_at, reverse=True)

    def find(self, word: str) -> list[Record]:
        """The records that match an id, the beginning of one, or a link."""
        slug = word.rstrip("/").rpartition("/")[2]
        return [
            one
            for one in self.records()
            if (len(word) >= 4 and one.id.startswith(word.lower()))
            or one.link.rpartition("/")[2] == slug
        ]

    def forget(self, record: Record) -> None:
        """Delete a record and its spooled copy of stdin. Repeatable."""
        self.drop_spooled(record.files)
        for place in (self._file(record.id), self._file(record.id).with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError):
                place.unlink()

    def drop_spooled(self, files: Iterable[LocalFile]) -> None:
        """Delete the spooled copies of stdin among these files. Repeatable."""
        for file in files:
            if Path(file.local).parent == self._folder / "spool":
                with contextlib.suppress(FileNotFoundError):
                    Path(file.local).unlink()

    def spool(self, source: BinaryIO) -> Path:
        """Copy a stream to a file, so that its size is known and any part can be sent again."""
        place = self._sub("spool") / secrets.token_hex(8)
        with _whole(place) as file:
            if _lock(file):
                # Never closed: it holds the lock until this process ends, so that no other
                # process treats the file as left behind.
                os.dup(file.fileno())
            shutil.copyfileobj(source, file, BLOCK)
        return place

    def sweep(self) -> None:
        """Delete spooled copies of stdin that a killed run has left and no record refers to."""
        for place in self._folder.glob("spool/*"):
            with contextlib.suppress(OSError), place.open("r+b") as file:
                # A new file is not locked yet for a moment, hence the margin. Its record, if it
                # gets one, is written while it is locked.
                is_new = time.time() - place.stat().st_mtime < SPOOL_MARGIN
                if not is_new and _lock(file) and not self._names(place):
                    place.unlink()

    def read(self, name: str) -> dict[str, Json]:
        """Read a small table; empty if there is none or it is damaged."""
        try:
            told = json.loads((self._folder / name).read_text())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def write(self, name: str, table: Mapping[str, Json]) -> None:
        """Save a small table atomically."""
        self._write(self._sub("") / name, table)

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[dict[str, Json]]:
        """Change a small table under a lock: yields it, then saves it; other processes wait."""
        with _private(self._sub("") / f"{name}.lock") as lock:
            _lock(lock, waits=True)
            table = self.read(name)
            yield table
            self.write(name, table)

    @contextlib.contextmanager
    def alone(self, record: Record) -> Iterator[None]:
        """Lock the record; raises Stop if another run is sending it. Released with the process."""
        with _private(self._sub("transfers") / f"{record.id}.lock") as lock:
            if _lock(lock) is False:
                raise Stop("Another beeline is already sending this.", "busy")
            yield

    def _names(self, spooled: Path) -> bool:
        """Whether any record mentions it, including records of other versions."""
        kept = self._folder.glob("transfers/*.json")
        return any(spooled.name in path.read_text(errors="replace") for path in kept)

    def _load(self, path: Path) -> Record | None:
        try:
            told = json.loads(path.read_text())
            files = [LocalFile(**one) for one in told.pop("files")]
            return Record(**told, files=files)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _file(self, transfer_id: str) -> Path:
        return self._sub("transfers") / f"{transfer_id}.json"

    def _write(self, place: Path, told: Mapping[str, Json]) -> None:
        beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        with _whole(beside) as file:
            file.write(json.dumps(told).encode())
        os.replace(beside, place)

    def _sub(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self._folder, 0o700)
        return folder


def _state_folder() -> Path:
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "beeline"
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".local/state") / "beeline"


def _private(place: Path) -> BinaryIO:
    """Open a file for writing that only its owner can read, from its creation on."""
    return open(place, "w+b", opener=lambda path, flags: os.open(path, flags, 0o600))


def _lock(file: BinaryIO, *, waits: bool = False) -> bool | None:
    """Lock the file until it is closed or the process ends; False if another process has it.

    None if locks are not supported: on Windows, and on some file systems.
    """
    if os.name != "posix":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def _whole(place: Path) -> Iterator[BinaryIO]:
    """Open a private file (_private) that is deleted again unless it is completely written."""
    try:
        with _private(place) as file:
            yield file
    except BaseException as error:
        with contextlib.suppress(OSError):
            place.unlink()
        if isinstance(error, OSError) and error.filename is None:
            # A "disk full" error names no file.
            error.filename = str(place.parent)
        raise


def _in_short(error: OSError) -> str:
    """The file and the reason, as far as the error names them."""
    return f"{error.filename or 'This computer'}: {error.strerror or error}"


# -- sending -----------------------------------------------------------------------------------


def gather(
    words: list[str], name: str, memory: Memory, tell: Callable[[str], None]
) -> list[LocalFile]:
    """The files to send, with everything in the named folders. Raises HereWrong, Usage."""
    if words.count("-") > 1 or ("-" in words) != bool(name):
        raise Usage("Use - for stdin once, and only together with --name.")
    found: dict[str, LocalFile] = {}
    for word in words:
        for path, local in _named(word, tell) if word != "-" else [(name, "")]:
            if path in found:
                raise Usage(f"Two files would both be called {path}. Send them separately.")
            found[path] = _local_file(path, local or os.devnull, is_stdin=not local)
    if name:
        # stdin is read last, once everything else is known to be right.
        found[name] = _local_file(name, str(memory.spool(sys.stdin.buffer)))
    return list(found.values())


def _named(word: str, tell: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Yield (path in the transfer, local path) of a file, or of each file in a folder."""
    whole = os.path.abspath(word)
    if not os.path.isdir(whole):
        yield os.path.basename(whole), whole
        return
    above = os.path.dirname(whole)
    is_empty = True
    for folder, folders, names in os.walk(whole, onerror=_unreadable):
        folders.sort()
        for one in folders:
            if os.path.islink(os.path.join(folder, one)):
                tell(f"Left out: {os.path.join(folder, one)} is a link to another folder.")
        for name in sorted(names):
            local = os.path.join(folder, name)
            is_empty = False
            yield os.path.relpath(local, above).replace(os.sep, "/"), local
    if is_empty:
        raise HereWrong(f"There are no files in {word}.", path=word)


def _unreadable(error: OSError) -> None:
    raise HereWrong(f"{error.filename}: {error.strerror}.", path=str(error.filename))


def _local_file(path: str, local: str, *, is_stdin: bool = False) -> LocalFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise HereWrong(f"The name {shown} is not UTF-8. Rename the file.", path=shown) from None
    try:
        # Opened, not only stat'ed: an unreadable file is reported before anything is sent.
        with open(local, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        raise HereWrong(f"{local}: {error.strerror}.", path=path) from error
    if not stat.S_ISREG(found.st_mode) and not is_stdin:
        raise HereWrong(f"{local} is not a file that can be sent.", path=path)
    return LocalFile(path, local, found.st_size, found.st_mtime_ns)


def _without_waiting(place: str, flags: int) -> int:
    """Open without blocking, as a named pipe would."""
    return os.open(place, flags | getattr(os, "O_NONBLOCK", 0))


@dataclass
class Part:
    """One part of a file, with its presigned URL once it has one."""

    file: LocalFile
    number: int
    start: int
    size: int
    crc32: int | None = None
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    dies_at: float = 0.0
    refused_count: int = 0


class Sending:
    """Sends the missing parts of all files: one thread prepares them ahead, the others send.

    To prepare a part is to compute its checksum and to request its presigned URL.
    """

    def __init__(
        self,
        run: Run,
        owned: Owned,
        files: list[LocalFile],
        held: Mapping[str, set[int]],
        lanes: int,
    ) -> None:
        self._run, self._owned, self._lanes = run, owned, lanes
        self._pending: deque[Part] = deque()
        self._ready: deque[Part] = deque()
        # Ids of fully sent files, to be reported with the next request for URLs. A single file is
        # never reported: completing the transfer follows anyway.
        self._whole: list[str] = []
        self._names_whole = len(files) > 1
        self._left_of: dict[str, int] = {}
        self._changed = threading.Condition()
        safe = 0
        for file in files:
            has = held.get(file.id, set())
            safe += sum(file.part(number)[1] for number in has)
            missing = [n for n in range(1, file.part_count + 1) if n not in has]
            self._left_of[file.id] = len(missing)
            self._pending.extend(Part(file, number, *file.part(number)) for number in missing)
        self._left = len(self._pending)
        self._progress = Progress(run.voice, sum(file.size for file in files), safe)
        run.progress = self._progress

    def go(self) -> None:
        """Send all parts; raises the first failure, KeyboardInterrupt."""
        crew = Crew(self._run)
        crew.add(self._prepare)
        for _ in range(min(self._lanes, self._left)):
            crew.add(self._lane)
        crew.watch()

    # Preparing parts ahead.

    def _prepare(self) -> None:
        while batch := self._next_batch():
            for part in batch:
                if part.file.has_checksums:
                    part.crc32 = self._crc32(part)
            self._address(batch)

    def _next_batch(self) -> list[Part]:
        """The parts for one request: few while lanes are idle, otherwise more; [] at the end."""
        with self._changed:
            while not (self._pending and self._is_short()):
                if not self._left:
                    return []
                self._wait()
            idle = len(self._ready) < self._lanes
            enough = AHEAD if idle else AHEAD * self._lanes
            batch: list[Part] = []
            while self._pending and len(batch) < MOST_PARTS_AT_ONCE:
                if sum(part.size for part in batch) >= enough:
                    break
                batch.append(self._pending.popleft())
            return batch

    def _is_short(self) -> bool:
        size = sum(part.size for part in self._ready)
        return size < AHEAD * self._lanes and len(self._ready) < MOST_PARTS_AT_ONCE

    def _crc32(self, part: Part) -> int:
        crc32 = 0
        piece = Piece(part.file, part.start, part.size, self._run, lambda size: None)
        try:
            while block := piece.read(MIB):
                crc32 = zlib.crc32(block, crc32)
        finally:
            piece.close()
        return crc32

    def _address(self, batch: list[Part]) -> None:
        of_file: dict[str, list[Part]] = {}
        for part in batch:
            of_file.setdefault(part.file.id, []).append(part)
        wanted = []
        for file_id, parts in of_file.items():
            one: dict[str, Json] = {"file": file_id, "numbers": [part.number for part in parts]}
            if parts[0].crc32 is not None:
                one["crc32"] = [_in_base64(part.crc32 or 0) for part in parts]
            wanted.append(one)
        with self._changed:
            whole = self._whole[:MOST_SENT_AT_ONCE] if self._names_whole else []
        asked = {"wanted": wanted, "sent_size": self._progress.safe, "sent": whole}
        asked_at = time.monotonic()
        told = self._owned.insist("POST", "/parts", asked)
        lifetime = max(told["expires_in"] - ADDRESS_MARGIN, told["expires_in"] / 2)
        known = {(part.file.id, part.number): part for part in batch}
        for one in told["parts"]:
            part = known[one["file"], one["number"]]
            part.url, part.headers = one["url"], one["headers"]
            part.dies_at = asked_at + lifetime
        with self._changed:
            del self._whole[: len(whole)]
            self._ready.extend(batch)
            self._changed.notify_all()

    # Sending.

    def _lane(self) -> None:
        while part := self._take():
            self._send(part)

    def _take(self) -> Part | None:
        with self._changed:
            while not self._ready:
                if not self._left:
                    return None
                self._wait()
            self._changed.notify_all()
            return self._ready.popleft()

    def _wait(self) -> None:
        self._run.check()
        self._changed.wait(0.2)
        self._run.check()

    def _send(self, part: Part) -> None:
        """Retry until storage has the part, or put it back if it needs a new URL."""
        since = time.monotonic()
        for tried in itertools.count():
            if time.monotonic() > part.dies_at:
                return self._put_back(part)
            moved = _Moved(self._progress)
            try:
                is_there = self._put(part, moved)
            except Away as away:
                moved.undo()
                self._run.rest(tried, away, since)
                continue
            except BaseException:
                moved.undo()
                raise
            if is_there:
                return self._finish(part, moved)
            moved.undo()
            self._run.stop.wait(0.1 * part.refused_count)
            return self._put_back(part)
        raise AssertionError("unreachable")

    def _put(self, part: Part, moved: _Moved) -> bool:
        """Try once; True if storage has it, False if it needs a new URL. Raises Away, Stop."""

        def body() -> Piece:
            moved.undo()
            return Piece(part.file, part.start, part.size, self._run, moved.add)

        headers = {**part.headers, "Content-Length": str(part.size)}
        answer = self._run.lines.request("PUT", part.url, headers, body)
        content = self._run.lines.read(answer).decode("utf-8", "replace")
        if answer.status < 300 or (answer.status == 412 and "If-None-Match" in part.headers):
            return True
        code, message = _storage_said(content, answer.status)
        if code in _OTHER_BYTES and part.crc32 is not None and self._crc32(part) != part.crc32:
            raise part.file.changed()
        if (
            answer.status >= 500
            or answer.status in (408, 429)
            or code in _BROKEN_LINE | _OTHER_BYTES
        ):
            why = f"Storage is busy ({code})."
            raise Away(why, status=answer.status, retry_after=_retry_after(answer.headers))
        part.refused_count += 1
        if part.refused_count > MOST_REFUSALS:
            raise Stop(f"Storage refused {part.file.path}: {message} ({code})", "storage_refused")
        return False

    def _put_back(self, part: Part) -> None:
        with self._changed:
            self._pending.appendleft(part)
            self._changed.notify_all()

    def _finish(self, part: Part, moved: _Moved) -> None:
        self._progress.settle(part.size, moved.size)
        self._run.moved()
        with self._changed:
            self._left -= 1
            self._left_of[part.file.id] -= 1
            if not self._left_of[part.file.id]:
                self._whole.append(part.file.id)
            self._changed.notify_all()


class _Moved:
    """Counts the bytes of one try, so that they can be subtracted again."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.size = progress, 0

    def add(self, size: int) -> None:
        self.size += size
        self._progress.move(size)

    def undo(self) -> None:
        self._progress.move(-self.size)
        self.size = 0


def _in_base64(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _storage_said(content: str, status: int) -> tuple[str, str]:
    """The code and the message of an S3 error response."""
    code = re.search(r"<Code>([^<]+)", content)
    message = re.search(r"<Message>([^<]+)", content)
    return (
        plain(code[1]) if code else f"status {status}",
        plain(message[1]) if message else "no message",
    )


class Delivery:
    """Takes a transfer from any state to READY: sends what is missing, then has it checked."""

    def __init__(self, run: Run, memory: Memory, record: Record, lanes: int) -> None:
        self._run, self._memory, self._record, self._lanes = run, memory, record, lanes
        self._owned = Owned.of(run, record)
        self._sent_again: set[str] = set()

    def go(self, transfer: Json, *, is_new: bool) -> Json:
        """Send and complete it until it is READY; returns the transfer. Raises Stop."""
        with self._memory.alone(self._record):
            while transfer["status"] != "READY":
                if transfer["status"] == "INIT":
                    self._send(transfer, is_new=is_new)
                    is_new = False
                    transfer = self._owned.insist("POST", "/complete", {})
                transfer = self._settled(transfer)
                self._look_at(transfer)
            self._remember_done(transfer)
        return transfer

    def _send(self, transfer: Json, *, is_new: bool) -> None:
        plans = {plan["id"]: plan for plan in transfer["files"]}
        files = [file for file in self._record.files if file.id in plans]
        for file in files:
            file.adopt(plans[file.id])
        held = {} if is_new else self._owned.held()
        for file in files:
            if len(held.get(file.id, ())) < file.part_count:
                file.open().close()
        sending = Sending(self._run, self._owned, files, held, self._lanes)
        sending.go()

    def _settled(self, transfer: Json) -> Json:
        """Wait until it is no longer being checked; raises NotYet if that takes too long."""
        self._run.progress = None
        seen, since = -1, time.monotonic()
        for delay in itertools.chain(POLLS, itertools.repeat(POLLS[-1])):
            if transfer["status"] != "PROCESSING":
                return transfer
            count = sum(file["state"] == "COMPLETE" for file in transfer["files"])
            if count > seen:
                seen, since = count, time.monotonic()
            if time.monotonic() - since > self._run.patience:
                raise NotYet("Everything has arrived, but it has not been checked yet.", "checking")
            self._run.voice.bar(f"Checking: {seen} of {count_in_words(len(transfer['files']))}")
            time.sleep(delay)
            transfer = self._owned.insist("GET")
        raise AssertionError("unreachable")

    def _look_at(self, transfer: Json) -> None:
        """Raise Stop unless it is READY, or some files can be sent once more."""
        self._run.voice.end_bar()
        if transfer["status"] == "READY":
            return
        if transfer["status"] != "INIT":
            raise NotThere("This transfer has ended.", transfer["status"].lower())
        if transfer["problem"]:
            raise Stop(transfer["problem"]["message"], transfer["problem"]["code"])
        wrong = {file["id"]: file for file in transfer["files"] if file["problem"]}
        known = {file.id for file in self._record.files}
        hopeless = [wrong[one] for one in wrong if one in self._sent_again or one not in known]
        if hopeless or not wrong:
            told = [f"{file['path']}: {file['problem']['message']}" for file in hopeless[:3]]
            raise Stop(" ".join(told) or "The files could not be checked.", "not_checked")
        self._sent_again |= set(wrong)
        self._run.voice.say(f"{count_in_words(len(wrong))} must be sent again.")

    def _remember_done(self, transfer: Json) -> None:
        self._memory.drop_spooled(self._record.files)
        self._record.is_done, self._record.files = True, []
        self._record.expires_at = transfer["expires_at"]
        try:
            self._memory.save(self._record)
        except OSError as error:
            told = (
                f"Everything has arrived, but this could not be recorded here: {_in_short(error)}."
            )
            self._run.voice.complain(told)


# -- the sender's address ----------------------------------------------------------------------


class Senders:
    """The sender's addresses: confirmed once with a mailed code, then remembered."""

    NAME = "senders.json"

    def __init__(self, run: Run, memory: Memory, server: Server) -> None:
        self._run, self._memory, self._server = run, memory, server

    def address(self, given: str | None) -> str:
        """The address given, or from the environment, or last used here. Raises Usage."""
        known = self._memory.read(self.NAME).get(self._server.url, {})
        found = given or os.environ.get("BEELINE_FROM") or known.get("last")
        if not found:
            raise Usage("Your own address is needed: --from you@example.org")
        return str(found)

    def token(self, email: str, *, is_new: bool = False) -> str:
        """The token that proves the address; asks for a code if there is none yet, or `is_new`."""
        known = self._memory.read(self.NAME).get(self._server.url, {})
        proof = known.get("tokens", {}).get(email)
        if proof is None or is_new:
            proof = self._confirmed(email)
        with self._memory.changing(self.NAME) as table:
            known = table.setdefault(self._server.url, {})
            known.setdefault("tokens", {})[email] = proof
            known["last"] = email
        return str(proof)

    def prove(self, mail: dict[str, Json], act: Callable[[], T]) -> T:
        """Do what needs a sender; if `mail` names none, or its token is not good, put that right
        and do it again.

        A token may be too old, or from another installation.
        """
        try:
            return act()
        except Stop as refusal:
            fields = {one["field"] for one in refusal.details.get("fields") or []}
            is_asked = refusal.code == "sender_not_allowed" or fields == {"sender_email"}
            is_nameless = is_asked and "sender_email" not in mail
            if fields != {"sender_token"} and not is_nameless:
                raise
        email = str(mail.get("sender_email") or self.address(None))
        mail.update(sender_email=email, sender_token=self.token(email, is_new=not is_nameless))
        return act()

    def _confirmed(self, email: str) -> str:
        if not _has_terminal():
            raise Usage(
                f"{email} has to be confirmed once: run this in a terminal.", "not_confirmed"
            )
        self._ask("/senders/code", {"email": email})
        self._run.voice.say(f"A code was mailed to {email}.")
        for tries_left in (2, 1, 0):
            code = ask_aloud("Code: ")
            try:
                return str(
                    self._ask("/senders/confirm", {"email": email, "code": code})["sender_token"]
                )
            except Stop as refusal:
                if not tries_left:
                    raise
                self._run.voice.complain(refusal.message)
        raise AssertionError("unreachable")

    def _ask(self, path: str, body: Json) -> Json:
        return self._run.insist(lambda: self._server.ask("POST", path, body), FIRST_CONTACT)


# -- prompts -----------------------------------------------------------------------------------


def _has_terminal() -> bool:
    """Whether there is a terminal for prompts: stdin may be a file that is being sent."""
    try:
        with open("/dev/tty" if os.name == "posix" else "CONIN$", "rb"):
            return True
    except OSError:
        return sys.stdin is not None and sys.stdin.isatty()


def ask_aloud(prompt: str) -> str:
    """Ask for a line on the terminal, even if stdin is redirected. Raises Usage."""
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(prompt.encode())
            line = b""
            while not line.endswith(b"\n") and (read := terminal.read(1)):
                line += read
    except OSError:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline().encode()
    if not line:
        raise Usage("Nothing was entered.")
    return line.decode("utf-8", "replace").strip()


def password_from(given: argparse.Namespace) -> str | None:
    """The password from a file or the environment, where others cannot see it; or None."""
    if given.password_file:
        try:
            read = Path(given.password_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise HereWrong(f"{given.password_file} cannot be read: {error}") from error
        return read.rstrip("\r\n")
    return os.environ.get("BEELINE_PASSWORD") or None


def new_password() -> str:
    """Ask for a new password twice. Raises Usage if the two differ or are empty."""
    if not _has_terminal():
        raise Usage("No terminal to ask for a password. Use BEELINE_PASSWORD or --password-file.")
    typed = getpass.getpass("Password for the link: ")
    if typed != getpass.getpass("Repeat the password: "):
        raise Usage("The two passwords are not the same.")
    if not typed:
        raise Usage("A password must not be empty.")
    return typed


def api_key(run: Run, given: argparse.Namespace, server_url: str) -> str:
    """The API key from the environment, where others cannot see it; empty if there is none.

    It is for the server that the environment or this file names, whatever `--server` says. Raises
    Usage if that is another one, or if this is no key.
    """
    key = os.environ.get("BEELINE_API_KEY", "").strip()
    if not key:
        return ""
    # What cannot be a header's value would be shown in the error.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", key):
        raise Usage("What BEELINE_API_KEY holds is not an API key.")
    place, usual = place_of(server_url), _usual_server()
    if usual and place_of(_whole_url(usual)) != place:
        raise Usage(
            f"BEELINE_API_KEY is for {_whole_url(usual)}, and is not sent to {server_url}. "
            "Unset it, or set BEELINE_SERVER to the server that it is for."
        )
    if is_in_clear(place) and given.allow_http:
        run.voice.say(f"Without TLS, others can read the API key on its way to {place[1]}.")
    return key


# -- fetching ----------------------------------------------------------------------------------


@dataclass
class Wanted:
    """A file of a link, and where it is saved."""

    id: str
    path: str
    size: int
    crc32: int | None
    place: Path
    part: Path
    state: str = "waiting"
    etag: str = ""
    # The CRC32 of the first `seen_size` bytes.
    seen_crc32: int = 0
    seen_size: int = 0
    refused_count: int = 0
    was_damaged: bool = False


class Link:
    """A recipient's link; everything fetched through one instance counts as one download."""

    VISITS = "visits.json"

    def __init__(self, run: Run, memory: Memory, url: str) -> None:
        self._run, self._memory, self.url = run, memory, url
        self._open = threading.Lock()
        self._visitor: dict[str, str] = {}
        self._is_forgetful = False
        self._proof: dict[str, str] = {}
        kept = memory.read(self.VISITS).get(url, {})
        if kept.get("at", 0) > time.time() - VISIT_SECONDS:
            self._visitor = dict(kept.get("cookies", {}))

    def show(self, patience: float | None = None) -> Json:
        """The link's contents; raises Locked if it needs a password."""
        return self._run.insist(self._show, patience)

    def unlock(self, password: str) -> None:
        """Try a password; raises Locked if it is wrong or was tried too often."""
        self._run.insist(lambda: self._unlock(password))

    def address(self, file_id: str) -> str:
        """A presigned URL of a file, for some minutes. One try; the first counts a download."""
        with self._open if not self._visitor else contextlib.nullcontext():
            url = f"{self.url}/files/{file_id}"
            answer = self._ask("GET", url, {"Accept": "*/*"})
            content = self._run.lines.read(answer)
            if answer.status == 303:
                self._keep(answer)
                there = urljoin(url, answer.headers.get("Location", ""))
                if there.startswith(self.url):
                    raise Stop("This server is too old for the command line.", "too_old")
                return there
        raise _link_refusal(answer.status, answer.headers, content)

    def _show(self) -> Json:
        answer = self._ask("GET", f"{self.url}.json")
        content = self._run.lines.read(answer)
        if 300 <= answer.status < 400:
            there = plain(answer.headers.get("Location", ""))
            raise Usage(f"This link has moved to {there}")
        return _told(answer.status, answer.headers, content)

    def _unlock(self, password: str) -> None:
        # Without cookies: with them the server would require the CSRF token of the page's form.
        body = urlencode({"password": password}).encode()
        given = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._run.lines.request("POST", self.url, given, body)
        self._run.lines.read(answer)
        if answer.status == 303:
            self._proof = {n: v for n, v in _cookies(answer).items() if "beeline-open-" in n}
            return
        if answer.status == 429:
            wait = time_in_words(_retry_after(answer.headers))
            raise Locked(f"Too many tries. Try again in {wait}.", "too_many_tries")
        if answer.status == 401:
            raise Locked("That password is not right.", "password_wrong")
        if answer.status >= 500:
            raise Away("The server is busy.", status=answer.status)
        raise Stop(f"The server answered the password with status {answer.status}.")

    def _ask(
        self, method: str, url: str, more: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        cookies = {**self._visitor, **self._proof}
        given = dict(more or {})
        if cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return self._run.lines.request(method, url, given)

    def _keep(self, answer: http.client.HTTPResponse) -> None:
        """Keep the visitor's cookies, also for the next run, so that it is the same download."""
        new = {n: v for n, v in _cookies(answer).items() if "beeline-open-" not in n}
        if not new:
            return
        self._visitor.update(new)
        now = time.time()
        try:
            with self._memory.changing(self.VISITS) as table:
                for url in [*table]:
                    if table[url].get("at", 0) <= now - VISIT_SECONDS:
                        del table[url]
                table[self.url] = {"at": now, "cookies": self._visitor}
        except OSError as error:
            # The download is already counted: go on, even though the cookies cannot be saved.
            if not self._is_forgetful:
                self._is_forgetful = True
                told = f"The counted download could not be recorded here: {_in_short(error)}."
                self._run.voice.complain(told)


def _cookies(answer: http.client.HTTPResponse) -> dict[str, str]:
    found = {}
    for given in answer.headers.get_all("Set-Cookie") or []:
        name, _, value = given.partition(";")[0].partition("=")
        found[name.strip()] = value.strip()
    return found


def _link_refusal(status: int, headers: Message, content: bytes) -> Exception:
    """The exception for a refused link, whose response to programs is one line of text."""
    message = plain(content.decode("utf-8", "replace").strip())[:300] or f"Status {status}."
    if status >= 500 or status in (408, 429):
        return Away(message, status=status, retry_after=_retry_after(headers))
    kinds: dict[int, type[Stop]] = {401: Locked, 404: NotThere, 409: NotYet, 410: NotThere}
    return kinds.get(status, Stop)(message)


class Fetching:
    """Downloads a link's files into a folder, several in parallel, resuming partial ones."""

    def __init__(
        self, run: Run, link: Link, wanted: list[Wanted], *, lanes: int, force: bool
    ) -> None:
        self._run, self._link, self._force = run, link, force
        self._left = deque(one for one in wanted if one.state == "waiting")
        self._lanes = lanes
        safe = sum(min(one.size, _size_of(one.part)) for one in self._left)
        total = sum(one.size for one in self._left)
        run.progress = self._progress = Progress(run.voice, total, safe, verb="here")

    def go(self) -> None:
        """Fetch all files; raises the first failure, KeyboardInterrupt."""
        crew = Crew(self._run)
        for _ in range(min(self._lanes, len(self._left))):
            crew.add(self._lane)
        if self._left:
            crew.watch()

    def _lane(self) -> None:
        while True:
            try:
                wanted = self._left.popleft()
            except IndexError:
                return
            self._fetch(wanted)

    def _fetch(self, wanted: Wanted) -> None:
        try:
            wanted.part.parent.mkdir(parents=True, exist_ok=True)
            with _alone_in(wanted.part):
                since = time.monotonic()
                for tried in itertools.count():
                    self._run.check()
                    try:
                        self._download(wanted)
                    except Away as away:
                        self._run.rest(tried, away, since)
                        continue
                    if self._is_right(wanted):
                        break
                self._put_in_place(wanted)
        except OSError as error:
            of_ours = error.filename in (None, str(wanted.part))
            where = wanted.place if of_ours else error.filename
            raise HereWrong(f"{where}: {error.strerror}.", path=wanted.path) from error

    def _download(self, wanted: Wanted) -> None:
        """Download what is missing of the file, in one try. Raises Away, Damaged, Stop."""
        has = _size_of(wanted.part)
        if has > wanted.size:
            os.truncate(wanted.part, 0)
            self._progress.settle(-min(has, wanted.size), 0)
            has = 0
        if has == wanted.size and has:
            return
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if has:
            headers["Range"] = f"bytes={has}-"
        if has and wanted.etag:
            headers["If-Range"] = wanted.etag
        answer = self._run.lines.request("GET", self._link.address(wanted.id), headers)
        try:
            self._check(answer, wanted, has)
            if answer.status == 200 and has:
                self._progress.settle(-has, 0)
                has = 0
            wanted.etag = answer.headers.get("ETag", "")
            self._write(answer, wanted, has)
        finally:
            if not answer.isclosed():
                # The unread rest must not be taken for the next response.
                self._run.lines.close()

    def _check(self, answer: http.client.HTTPResponse, wanted: Wanted, has: int) -> None:
        status = answer.status
        if status in (200, 206):
            whole = f"bytes {has}-{wanted.size - 1}/{wanted.size}"
            expected = {200: ("Content-Length", str(wanted.size)), 206: ("Content-Range", whole)}
            name, value = expected[status]
            if answer.headers.get(name) != value:
                raise Damaged(f"{wanted.path} is not the size that was sent.", path=wanted.path)
            return
        code, message = _storage_said(
            self._run.lines.read(answer).decode("utf-8", "replace"), status
        )
        wanted.refused_count += 1
        if status >= 500 or status in (408, 429) or wanted.refused_count <= MOST_REFUSALS:
            after = _retry_after(answer.headers)
            raise Away(f"Storage is busy ({code}).", status=status, retry_after=after)
        raise Stop(f"Storage refused {wanted.path}: {message} ({code})", "storage_refused")

    def _write(self, answer: http.client.HTTPResponse, wanted: Wanted, has: int) -> None:
        self._see(wanted, has)
        with open(wanted.part, "r+b" if has else "wb") as file:
            file.seek(has)
            while has < wanted.size:
                self._run.check()
                try:
                    block = answer.read(min(BLOCK, wanted.size - has))
                except (OSError, http.client.HTTPException) as error:
                    raise Away("The connection was lost.") from error
                if not block:
                    break
                file.write(block)
                has += len(block)
                wanted.seen_crc32 = zlib.crc32(block, wanted.seen_crc32)
                wanted.seen_size = has
                self._progress.settle(len(block), 0)
                self._run.moved()
        if has < wanted.size:
            raise Away("The connection was lost.")

    def _see(self, wanted: Wanted, size: int) -> None:
        """Bring `seen_crc32` up to date with the `size` bytes already on disk."""
        if wanted.seen_size == size and size:
            return
        wanted.seen_crc32 = wanted.seen_size = 0
        if not size:
            return
        with open(wanted.part, "rb") as file:
            while wanted.seen_size < size:
                self._run.check()
                block = file.read(min(MIB, size - wanted.seen_size))
                if not block:
                    break
                wanted.seen_crc32 = zlib.crc32(block, wanted.seen_crc32)
                wanted.seen_size += len(block)

    def _is_right(self, wanted: Wanted) -> bool:
        """Verify size and CRC32; False the first time they are wrong, then raises Damaged."""
        self._see(wanted, wanted.size)
        if _size_of(wanted.part) == wanted.size and wanted.crc32 in (None, wanted.seen_crc32):
            return True
        # Not unlinked: the lock on it keeps other processes from fetching the same file.
        os.truncate(wanted.part, 0)
        wanted.seen_crc32 = wanted.seen_size = 0
        self._progress.settle(-wanted.size, 0)
        if wanted.was_damaged:
            raise Damaged(f"{wanted.path} is not what was sent.", path=wanted.path)
        wanted.was_damaged = True
        return False

    def _put_in_place(self, wanted: Wanted) -> None:
        """Rename it to its own name; raises HereWrong if that exists, unless `--force`."""
        if self._force:
            os.replace(wanted.part, wanted.place)
        else:
            _rename_over_nothing(wanted.part, wanted.place)
        wanted.state = "saved"


@contextlib.contextmanager
def _alone_in(part: Path) -> Iterator[None]:
    """Lock the partial file against a second run; on failure, remove it if it is empty."""
    with open(part, "ab") if os.name == "posix" else contextlib.nullcontext() as file:
        # Another process may have renamed it to its final name before we had the lock.
        if file and (_lock(file) is False or not _is_at(file, part)):
            raise Stop("Another beeline is already downloading this.", "busy")
        try:
            yield
        except BaseException:
            if not _size_of(part):
                with contextlib.suppress(OSError):
                    part.unlink()
            raise


def _is_at(file: BinaryIO, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(place))
    except FileNotFoundError:
        return False


def _rename_over_nothing(part: Path, place: Path) -> None:
    try:
        os.link(part, place)
    except FileExistsError:
        raise _in_the_way(place) from None
    except OSError:  # A file system without hard links.
        if place.exists():
            raise _in_the_way(place) from None
        os.rename(part, place)
        return
    part.unlink()


def _in_the_way(place: Path) -> HereWrong:
    told = f"{place} already exists. To overwrite it, add --force"
    if place.is_dir():
        told = f"{place} is a folder. Move it, or download to another folder with -o"
    return HereWrong(told, "exists", path=str(place))


def _size_of(place: Path) -> int:
    try:
        return place.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _crc32_of(place: Path) -> int:
    crc32 = 0
    with place.open("rb") as file:
        while block := file.read(MIB):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def safe_paths(paths: list[str]) -> list[str]:
    """A safe local path for each path of a link, distinct on every kind of file system."""
    safe = [safe_path(path) for path in paths]
    # A file cannot have the name of a folder.
    taken = {_as_seen(folder) for path in safe for folder in _folders(path)}
    counts: dict[str, int] = {}
    return [_free(path, taken, counts) for path in safe]


def safe_path(path: str) -> str:
    """A relative path that stays within the folder, whatever the sender called the file.

    Its first component is never hidden: in a home folder it could overwrite settings.
    """
    pieces = [_safe_piece(piece) for piece in re.split(r"[/\\]", path) if piece.strip(". ")]
    if not pieces:
        return "file"
    if pieces[0].startswith("."):
        pieces[0] = _cut(f"_{pieces[0]}")
    return "/".join(pieces)


def _safe_piece(piece: str) -> str:
    kept = plain(piece).strip()
    if os.name == "nt":
        kept = re.sub(r'[<>:"|?*]', "_", kept).rstrip(". ")
        if _WINDOWS_NAMES.match(kept):
            kept = f"_{kept}"
    kept = _cut(kept)
    return kept if kept.strip(".") else "file"


def _folders(path: str) -> list[str]:
    pieces = path.split("/")
    return ["/".join(pieces[:count]) for count in range(1, len(pieces))]


def _as_seen(path: str) -> str:
    """A key that is equal for paths that some file system treats as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _free(path: str, taken: set[str], counts: dict[str, int]) -> str:
    """The path, with a number added if another file of this link has it."""
    first, found = _as_seen(path), path
    while _as_seen(found) in taken:
        # Continue with the last number used, so that thousands of equal names are not slow.
        counts[first] = counts.get(first, 1) + 1
        folder, slash, name = path.rpartition("/")
        found = f"{folder}{slash}{_cut(name, f' ({counts[first]})')}"
    taken.add(_as_seen(found))
    return found


def _cut(name: str, end: str = "") -> str:
    """The name, with `end` before its extension, cut to MOST_NAME_BYTES."""
    stem, ending = os.path.splitext(name)
    if len(ending.encode()) > MOST_NAME_BYTES // 2:
        stem, ending = name, ""
    room = MOST_NAME_BYTES - len(f"{end}{ending}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore')}{end}{ending}"


# -- the commands ------------------------------------------------------------------------------


def send(run: Run, given: argparse.Namespace) -> Json:
    """`beeline send`: prints the link, which works immediately, then sends the files."""
    memory = Memory()
    memory.sweep()
    options = _options(given)
    key = ""
    if given.request:
        server_url, options["file_request"] = _request(given.request)
    else:
        server_url = _server_url(given)
        key = api_key(run, given, server_url)
    server = Server(run, server_url)
    senders = Senders(run, memory, server)
    mail = _mail(senders, given, has_key=bool(key))
    files = gather(given.files, given.name, memory, run.voice.complain)
    try:
        memory.try_out()
        created = senders.prove(
            mail, lambda: _create(run, server, files, {**options, **_sender_of(mail)}, key)
        )
        record = _record(server, created, files)
        _keep(run, memory, record)
    except BaseException:
        memory.drop_spooled(files)
        raise
    _address_mail(run, memory, record, senders, mail)
    _name_record(run, record, given)
    run.voice.result(record.link)
    told = f"{count_in_words(len(files))}, {size_in_words(record.total_size)}"
    run.voice.say(f"{told}. The link already works.")
    transfer = Delivery(run, memory, record, given.parallel).go(created, is_new=True)
    return _sent(run, record, transfer)


def resume(run: Run, given: argparse.Namespace) -> Json:
    """`beeline resume`: asks what storage has, and sends only what is missing."""
    memory = Memory()
    memory.sweep()
    record = _one_unfinished(memory, given.id)
    _name_record(run, record, given)
    try:
        transfer = run.insist(lambda: Owned.of(run, record).ask("GET"), FIRST_CONTACT)
    except NotThere:
        memory.forget(record)
        raise
    run.voice.result(record.link)
    transfer = Delivery(run, memory, record, given.parallel).go(transfer, is_new=False)
    return _sent(run, record, transfer)


def get(run: Run, given: argparse.Namespace) -> Json:
    """`beeline get`: fetches all of a link's files, or those that are named, as one download."""
    memory = Memory()
    link = Link(run, memory, _link_url(given))
    run.details["link"] = link.url
    shown = _opened(run, link, given)
    wanted = _wanted(shown, Path(given.output), given)
    missing = [one for one in wanted if one.state == "not_yet"]
    words = ["beeline", "get", link.url, *given.files, "-o", given.output, *_allowed(given)]
    words += ["--force"] if given.force else []
    words += ["--password-file", given.password_file] if given.password_file else []
    run.resume, run.resumable = shlex.join(words), {UNREACHABLE, NOT_YET, INTERRUPTED}
    Fetching(run, link, wanted, lanes=given.parallel, force=given.force).go()
    files = [_fetched(one) for one in wanted]
    run.details["files"] = files
    for one in wanted:
        if one.state != "not_yet":
            run.voice.result(str(one.place))
    if missing:
        # It counts only the files that could be fetched: do not report it as "safe".
        run.progress = None
        raise NotYet(f"{missing[0].path} has not arrived yet. Try again later.", "not_yet")
    run.voice.say(f"{count_in_words(len(wanted))}, all as they were sent.")
    return {"link": link.url, "title": shown["title"], "files": files}


def list_sent(run: Run, given: argparse.Namespace) -> Json:
    """`beeline list`: lists what was sent from this computer, with its current status."""
    memory = Memory()
    memory.sweep()
    records = memory.records()
    records = records if given.all else records[: given.limit]
    waiting = deque(enumerate(records))
    found: dict[int, Json] = {}

    def ask() -> None:
        while True:
            try:
                index, record = waiting.popleft()
            except IndexError:
                return
            found[index] = _listed(run, record)

    crew = Crew(run)
    for _ in range(min(LANES, len(records))):
        crew.add(ask)
    if records:
        crew.watch()
    items = [found[index] for index in range(len(records))]
    for record, one in zip(records, items):
        if one["status"] == "DELETED":
            # Shown only this once.
            memory.forget(record)
        size = size_in_words(one["total_size"])
        words = (one["id"][:8], one["status"].lower(), size, one["title"], one["link"])
        run.voice.result("  ".join(word for word in words if word))
    if not items:
        run.voice.say("Nothing has been sent from this computer yet.")
    return {"items": items}


def remove(run: Run, given: argparse.Namespace) -> Json:
    """`beeline rm`: the link stops working immediately; the files are deleted after that."""
    memory = Memory()
    record = _one_of(memory.find(given.what), given.what)
    with contextlib.suppress(NotThere):
        run.insist(lambda: Owned.of(run, record).ask("DELETE"), FIRST_CONTACT)
    memory.forget(record)
    run.voice.say(f"{record.link} has been deleted.")
    return {"id": record.id, "link": record.link}


# Helpers of the commands.


def _keep(run: Run, memory: Memory, record: Record) -> None:
    """Save a new record; if that fails, delete the transfer: it could never be resumed."""
    try:
        memory.save(record)
    except BaseException:
        _take_back(Owned.of(run, record))
        raise


def _record(server: Server, created: Json, files: list[LocalFile]) -> Record:
    return Record(
        server=server.url,
        id=created["id"],
        link=created["link"],
        owner_token=created["owner_token"],
        title=created["title"],
        created_at=created["created_at"],
        expires_at=created["expires_at"],
        total_size=sum(file.size for file in files),
        file_count=len(files),
        files=files,
    )


def _options(given: argparse.Namespace) -> dict[str, Json]:
    options: dict[str, Json] = {"title": given.title or "", "message": given.message or ""}
    if given.expires:
        until = datetime.now(timezone.utc) + given.expires
        options["expires_at"] = until.isoformat(timespec="seconds").replace("+00:00", "Z")
    if given.max_downloads:
        options["max_downloads"] = given.max_downloads
    if given.password or given.password_file:
        options["password"] = password_from(given) or new_password()
    return options


def _mail(senders: Senders, given: argparse.Namespace, *, has_key: bool) -> dict[str, Json]:
    """The API's fields for mail, with the sender's token; empty without recipients and sender.

    A key may say who sends. If it does not, Senders.prove() asks for the address.
    """
    recipients = [one.strip() for word in given.to or [] for one in word.split(",") if one.strip()]
    if not (recipients or given.sender):
        return {}
    if has_key and not given.sender:
        return {"recipients": recipients}
    email = senders.address(given.sender)
    mail: dict[str, Json] = {"sender_email": email, "sender_token": senders.token(email)}
    return {**mail, "recipients": recipients} if recipients else mail


def _sender_of(mail: Mapping[str, Json]) -> dict[str, Json]:
    """Who sends it: some installations ask for that before they take anything."""
    return {name: value for name, value in mail.items() if name != "recipients"}


def _create(
    run: Run, server: Server, files: list[LocalFile], options: Mapping[str, Json], key: str
) -> Json:
    """Create the transfer with all its files, in as many requests as needed.

    Only the first is made with the API key: the rest is done with the owner token, which the
    record has, so that `resume` needs no key.
    """
    batches = _batches([_spec(file) for file in files])
    headers = {"Idempotency_Key": secrets.token_hex(24), **({"x_api_key": key} if key else {})}
    body = {**options, "files": batches[0]}
    try:
        created = run.insist(
            lambda: server.ask("POST", "/transfers", body, **headers), FIRST_CONTACT
        )
    except Stop as refusal:
        if key:
            _explain(refusal)
        raise _in_words(refusal, batches[0]) from None
    owned = Owned(run, server, created["id"], created["owner_token"])
    try:
        for batch in batches[1:]:
            _add(run, owned, batch)
        if batches[1:]:
            created = {**owned.insist("GET"), "owner_token": created["owner_token"]}
    except (Stop, KeyboardInterrupt):
        _take_back(owned)
        raise
    plans = {plan["path"]: plan for plan in created["files"]}
    for file in files:
        file.adopt(plans[file.path])
    return created


def _explain(refusal: Stop) -> None:
    """Add what to do if it was the API key that was refused."""
    if refusal.code == "unauthorized":
        refusal.message = (
            "The key in BEELINE_API_KEY is wrong or revoked, or its owner may not send any more. "
            'Make a new one under "My transfers", or ask the operator of the server for one.'
        )
    elif refusal.code == "forbidden":
        refusal.message += " Sending takes one that may write: put that into BEELINE_API_KEY."


def _take_back(owned: Owned) -> None:
    """Delete a transfer that could not be set up completely, in one try."""
    with contextlib.suppress(Stop, Away):
        owned.ask("DELETE")


def _add(run: Run, owned: Owned, batch: list[Json]) -> None:
    """Add more files. If only the response was lost, they are there already: no error then."""

    def add() -> None:
        try:
            owned.ask("POST", "/files", {"files": batch})
        except Stop as refusal:
            there = {plan["path"] for plan in owned.ask("GET")["files"]}
            if not there.issuperset(one["path"] for one in batch):
                raise _in_words(refusal, batch) from None

    run.insist(add)


def _spec(file: LocalFile) -> Json:
    seconds = min(max(0, file.mtime_ns // 10**9), LATEST)
    modified = datetime.fromtimestamp(seconds, timezone.utc)
    return {
        "path": file.path,
        "size": file.size,
        "content_type": mimetypes.guess_type(file.path)[0] or "",
        "checksum_algorithm": "CRC32",
        "modified_at": modified.isoformat().replace("+00:00", "Z"),
    }


def _batches(specs: list[Json]) -> list[list[Json]]:
    batches: list[list[Json]] = [[]]
    size = 0
    for spec in specs:
        own = len(json.dumps(spec))
        if size + own > CREATE_SIZE or len(batches[-1]) == FILES_AT_ONCE:
            batches.append([])
            size = 0
        batches[-1].append(spec)
        size += own
    return batches


def _in_words(refusal: Stop, specs: list[Json]) -> Stop:
    """The refusal, with a file's name instead of its index."""
    for complaint in refusal.details.get("fields") or []:
        at = re.fullmatch(r"files\.(\d+)\.(\w+)", complaint["field"])
        if at and int(at[1]) < len(specs):
            refusal.message = f"{specs[int(at[1])]['path']}: {at[2]} {complaint['message']}"
            break
    return refusal


def _address_mail(
    run: Run, memory: Memory, record: Record, senders: Senders, mail: dict[str, Json]
) -> None:
    """Set the recipients; if that is refused, delete the transfer."""
    if "recipients" not in mail:
        return
    owned = Owned.of(run, record)
    try:
        senders.prove(mail, lambda: owned.insist("PATCH", "", mail))
    except (Stop, KeyboardInterrupt):
        _take_back(owned)
        memory.forget(record)
        raise


def _name_record(run: Run, record: Record, given: argparse.Namespace) -> None:
    """Report the transfer, and how to resume it, with any failure from here on."""
    run.details.update({"id": record.id, "link": record.link})
    run.resume = shlex.join(["beeline", "resume", record.id[:8], *_allowed(given)])


def _allowed(given: argparse.Namespace) -> list[str]:
    """The options that have to be given again to continue."""
    return ["--allow-http"] if given.allow_http else []


def _sent(run: Run, record: Record, transfer: Json) -> Json:
    expires_at = transfer["expires_at"]
    run.voice.say(f"Done. The link works until {expires_at[:16].replace('T', ' ')} UTC.")
    names = ("id", "path", "size", "crc32")
    return {
        "id": record.id,
        "link": record.link,
        "owner_token": record.owner_token,
        "manage_link": f"{record.server}/m/{record.id}.{record.owner_token}",
        "status": transfer["status"],
        "title": transfer["title"],
        "expires_at": expires_at,
        "total_size": transfer["total_size"],
        "files": [{name: file[name] for name in names} for file in transfer["files"]],
    }


def _one_unfinished(memory: Memory, word: str | None) -> Record:
    if word:
        return _one_of(memory.find(word), word)
    open_ones = [one for one in memory.records() if not one.is_done]
    if not open_ones:
        raise NotThere("There is nothing to resume on this computer.", "nothing")
    return _one_of(open_ones, None)


def _one_of(found: list[Record], word: str | None) -> Record:
    if not found:
        raise NotThere(f"Nothing sent from this computer matches {word}.", "unknown")
    if len(found) > 1:
        ids = ", ".join(one.id[:8] for one in found[:5])
        raise Usage(f"More than one matches. Give one of these ids: {ids}")
    return found[0]


def _listed(run: Run, record: Record) -> Json:
    told = {
        "id": record.id,
        "link": record.link,
        "status": "READY" if record.is_done else "INIT",
        "title": record.title,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "total_size": record.total_size,
        "file_count": record.file_count,
        "download_count": None,
        "is_finished": record.is_done,
    }
    try:
        now = run.insist(lambda: Owned.of(run, record).ask("GET"), FIRST_CONTACT)
    except NotThere:
        return {**told, "status": "DELETED"}
    except (Stop, Unreachable):
        return {**told, "status": "UNKNOWN"}
    same = ("status", "title", "expires_at", "download_count", "total_size")
    return {**told, **{name: now[name] for name in same}, "file_count": len(now["files"])}


def _link_url(given: argparse.Namespace) -> str:
    """The link's base URL; a bare slug is a link of the server. Raises Usage."""
    word = given.link.strip()
    if _SLUG.fullmatch(word):
        word = f"{_server_url(given)}/d/{word}"
    parts = urlsplit(word)
    found = re.match(r"(.*/d/[A-Za-z0-9_-]{20,64})([/.].*)?$", parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or not found:
        raise Usage(f"This is not a link to files: {given.link}")
    return f"{parts.scheme}://{parts.netloc}{found[1]}"


def _request(link: str) -> tuple[str, str]:
    """The server and the last part of a file request's link."""
    server, _, slug = link.rpartition("/r/")
    if not re.match("https?://", server) or not re.fullmatch("[A-Za-z0-9_-]{20,64}", slug):
        raise Usage(f"This is not a link to a file request: {link}")
    return server, slug


def _server_url(given: argparse.Namespace) -> str:
    url = given.server or _usual_server()
    if not url:
        raise Usage("Which server? Use --server https://send.example.org or set BEELINE_SERVER")
    return _whole_url(url)


def _usual_server() -> str:
    return os.environ.get("BEELINE_SERVER") or DEFAULT_SERVER


def _whole_url(server: str) -> str:
    return (server if "://" in server else f"https://{server}").rstrip("/")


def _opened(run: Run, link: Link, given: argparse.Namespace) -> Json:
    """The link's contents, after asking for the password if it needs one. Raises Locked."""
    try:
        return link.show(FIRST_CONTACT)
    except Locked:
        password = password_from(given)
        if password is not None:
            link.unlock(password)
            return link.show()
        if not _has_terminal():
            raise
    for tries_left in (2, 1, 0):
        try:
            link.unlock(getpass.getpass("Password: "))
            break
        except Locked as refusal:
            if not tries_left or refusal.code != "password_wrong":
                raise
            run.voice.complain(refusal.message)
    return link.show()


def _wanted(shown: Json, folder: Path, given: argparse.Namespace) -> list[Wanted]:
    """The files to fetch, and where to save them; identical ones are not fetched again."""
    files = shown["files"]
    for word in given.files:
        if not any(_is_named(file, word) for file in files):
            raise NotThere(f"The link has no file called {word}.", "no_such_file")
    wanted: list[Wanted] = []
    for file, path in zip(files, safe_paths([str(file["path"]) for file in files])):
        if given.files and not any(_is_named(file, word) for word in given.files):
            continue
        wanted.append(_planned(file, folder / path, force=given.force))
        if file["state"] != "COMPLETE":
            wanted[-1].state = "not_yet"
    return wanted


def _is_named(file: Json, word: str) -> bool:
    return word in (file["path"], file["id"]) or fnmatch.fnmatchcase(file["path"], word)


def _planned(file: Json, place: Path, *, force: bool) -> Wanted:
    crc32 = int(file["crc32"], 16) if file["crc32"] else None
    known = hashlib.sha256(str(file["id"]).encode()).hexdigest()[:16]
    part = place.with_name(f".beeline-{known}.part")
    wanted = Wanted(str(file["id"]), str(file["path"]), int(file["size"]), crc32, place, part)
    if place.is_symlink() or place.exists():
        is_same = place.is_file() and _size_of(place) == wanted.size and crc32 is not None
        if is_same and _crc32_of(place) == crc32:
            wanted.state = "already_here"
        elif not force or place.is_dir():
            raise _in_the_way(place)
    above = next((one for one in place.parents if one.exists()), place.parent)
    if above.exists() and not above.is_dir():
        told = f"{above} is not a folder. Move it, or download to another folder with -o"
        raise HereWrong(told, "exists", path=str(above))
    return wanted


def _fetched(one: Wanted) -> Json:
    return {
        "path": one.path,
        "saved_as": None if one.state == "not_yet" else str(one.place),
        "size": one.size,
        "crc32": None if one.crc32 is None else f"{one.crc32:08x}",
        "state": one.state,
    }


# -- the command line --------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str | None = None, **more: Any) -> None:
        # No abbreviations: an unambiguous one could become ambiguous with a new option.
        super().__init__(prog, allow_abbrev=False, **more)

    def error(self, message: str) -> Any:
        raise Usage(f"{message}. See: {self.prog} --help")


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([smhdw])", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError("must be a time such as 90s, 30m, 12h, 7d or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _filled(text: str) -> str:
    """A non-empty argument: an unset variable in a script must not mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _number(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,10}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from 1 to {most}")
        return int(text)

    return read


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    about = (__doc__ or "").partition("\n")[0]
    parser = _Parser("beeline", description=about, epilog=EPILOG, formatter_class=shape)
    parser.add_argument("--version", action="version", version=f"beeline {VERSION}")
    every = _Parser(add_help=False)
    every.add_argument("--json", action="store_true", help="print one JSON object, for errors too")
    every.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")
    every.add_argument("--server", metavar="URL", help=f"default: {DEFAULT_SERVER or 'none'}")
    every.add_argument(
        "--patience", type=_duration, default=timedelta(minutes=10), metavar="TIME",
        help="give up after this long without progress (10m)",
    )  # fmt: skip
    every.add_argument("--allow-http", action="store_true", help="also allow servers without TLS")
    lanes = _Parser(add_help=False)
    lanes.add_argument(
        "--parallel",
        type=_number(MOST_LANES),
        default=LANES,
        metavar="N",
        help=f"connections at once ({LANES})",
    )
    secret = _Parser(add_help=False)
    secret.add_argument(
        "--password-file", type=_filled, metavar="FILE", help="read the password from this file"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_send(commands, [every, lanes, secret])
    one = commands.add_parser(
        "resume", parents=[every, lanes], help="continue an interrupted upload"
    )
    one.add_argument(
        "id", nargs="?", type=_filled, metavar="ID", help="an id, its beginning, or the link"
    )
    one.set_defaults(act=resume)
    one = commands.add_parser(
        "get", parents=[every, lanes, secret], help="download the files of a link"
    )
    one.add_argument("link", metavar="LINK")
    one.add_argument(
        "files",
        nargs="*",
        type=_filled,
        metavar="FILE",
        help="only these paths; * matches anything",
    )
    one.add_argument(
        "-o",
        "--output",
        type=_filled,
        default=".",
        metavar="DIR",
        help="folder to save in (the current one)",
    )
    one.add_argument("--force", action="store_true", help="overwrite existing files")
    one.set_defaults(act=get)
    one = commands.add_parser("list", parents=[every], help="list what was sent from this computer")
    one.add_argument(
        "--limit", type=_number(1000), default=20, metavar="N", help="only the latest N (20)"
    )
    one.add_argument("--all", action="store_true", help="list all of them")
    one.set_defaults(act=list_sent)
    one = commands.add_parser(
        "rm", parents=[every], help="delete a transfer sent from this computer"
    )
    one.add_argument("what", metavar="LINK|ID")
    one.set_defaults(act=remove)
    return parser


def _add_send(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("send", parents=parents, help="send files and folders")
    one.add_argument(
        "files", nargs="+", type=_filled, metavar="FILE", help="a file, a folder, or - for stdin"
    )
    one.add_argument("--name", default="", help="file name for what comes from stdin")
    one.add_argument("--title")
    one.add_argument("--message")
    one.add_argument(
        "--to",
        action="append",
        type=_filled,
        metavar="A@B.C",
        help="mail the link to this address; may be repeated",
    )
    one.add_argument(
        "--request", type=_filled, metavar="LINK", help="send to whoever made this file request"
    )
    one.add_argument(
        "--from",
        dest="sender",
        metavar="A@B.C",
        help="your own address: for --to, or where only some may send",
    )
    one.add_argument("--expires", type=_duration, metavar="7d", help="how long the link works")
    one.add_argument("--max-downloads", type=_number(2**31 - 1), metavar="N")
    one.add_argument(
        "--password", action="store_true", help="ask for a password (or BEELINE_PASSWORD)"
    )
    one.set_defaults(act=send)


def _read(words: list[str]) -> argparse.Namespace:
    """Parse the arguments. Files may stand between options; plain argparse takes only the first."""
    parser = _parser()
    given, left = parser.parse_known_args(words)
    at = left.index("--") if "--" in left else len(left)
    is_odd = any(word.startswith("-") and word != "-" for word in left[:at])
    if left and (is_odd or "files" not in given):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if "" in left:
        parser.error("argument FILE: must not be empty")
    if left:
        given.files = [*given.files, *left[:at], *left[at + 1 :]]
    return given


def main(words: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    words = sys.argv[1:] if words is None else words
    run = Run(Voice(is_json="--json" in words, is_quiet=bool({"-q", "--quiet"} & set(words))))
    signal.signal(signal.SIGTERM, _interrupt)
    # Started by nohup, it keeps running when the terminal is closed.
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    told: dict[str, Json] = {}
    try:
        given = _read(words)
        # Now from the parsed options: a file may be called --json, and -q combined with others.
        run.voice = Voice(is_json=given.json, is_quiet=given.quiet)
        told["command"] = given.command
        run.set_up(patience=given.patience.total_seconds(), allow_http=given.allow_http)
        told = {"ok": True, **told, **given.act(run, given)}
    except KeyboardInterrupt:
        return _tell(run, told, Stop("Interrupted.", "interrupted"), INTERRUPTED)
    except Stop as stop:
        return _tell(run, told, stop, stop.exit_code)
    except OSError as error:
        return _tell(run, told, HereWrong(f"{_in_short(error)}."), LOCAL)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        odd = Stop(f"The server's answer was not as expected ({error!r}).", "unexpected")
        return _tell(run, told, odd, FAILED)
    run.voice.answer(told)
    return OK


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _tell(run: Run, told: dict[str, Json], stop: Stop, exit_code: int) -> int:
    """Report what went wrong, what is safe, and how to continue; returns the exit code."""
    run.voice.end_bar()
    run.voice.complain(f"beeline: {stop.message}")
    error = {"code": stop.code, "message": stop.message, **stop.details}
    told = {"ok": False, **told, "exit_code": exit_code, "error": error, **run.details}
    if run.progress:
        told["safe_size"] = run.progress.safe
    if run.resume and exit_code in run.resumable and stop.code != "changed":
        safe = f"{run.progress.percent} % is safe. " if run.progress else ""
        run.voice.complain(f"{safe}Continue with: {run.resume}")
        told["resume"] = run.resume
    run.voice.answer(told)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
