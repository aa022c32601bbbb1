"""Checks before any route runs: client address, host, TLS, rate limits and slow bodies."""

import hmac
import ipaddress
import logging
import math
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, redirect, request
from flask_limiter import Limiter
from gunicorn.http.errors import ParseException
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from werkzeug.wrappers import Response
from werkzeug.wsgi import ClosingIterator

from app.config import settings
from app.errors import (
    BadRequest,
    HostUnknown,
    TlsRequired,
    TooMany,
    TooManyWrongKeys,
    TooSlow,
)
from app.extensions import queue
from app.gateways import counters
from app.services import audit

log = logging.getLogger(__name__)

# Seconds that a request's body (up to 2 MiB) may take to arrive.
BODY_SECONDS = 20.0
# A body that its route did not read is drained if it is this small and arrives this fast; otherwise
# the connection is closed.
DRAINED_SIZE = 64 * 1024
DRAIN_SECONDS = 1.0
# Health probes come from inside, by IP address and without TLS.
_PROBES = {"/health", "/ready"}
# Requests to these routes carry a key.
_API = (
    "/transfers", "/trigger-delete", "/senders", "/webhooks", "/v2", "/files", "/s3/", "/api/",
)  # fmt: skip


def _address() -> str:
    """The client's network: an IPv4 address, or an IPv6 customer's /64; "unknown" if unreadable."""
    try:
        address = ipaddress.ip_address(_without_port(request.remote_addr or ""))
    except ValueError:
        _warn_of_unknown()
        return "unknown"
    if address.is_private and _names_public(request.headers.get("X-Forwarded-For", "")):
        _warn_of_proxies()
    if isinstance(address, ipaddress.IPv6Address):
        # A dual-stack socket shows IPv4 clients like this; as one /64 they would all be the same.
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _without_port(address: str) -> str:
    """Strip the port: some proxies write 203.0.113.7:51234 and [2001:db8::1]:443."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, _ = address.partition(":")
    return host if "." in host else address


@cache  # logged once per process, not per request
def _warn_of_unknown() -> None:
    log.warning("visitors whose address cannot be read share one count: look at TRUSTED_PROXIES")


def _names_public(forwarded_for: str) -> bool:
    for one in forwarded_for.split(","):
        with suppress(ValueError):
            if ipaddress.ip_address(_without_port(one.strip())).is_global:
                return True
    return False


@cache
def _warn_of_proxies() -> None:
    log.warning(
        "visitors are counted as one, by the address of a proxy in front: set TRUSTED_PROXIES to "
        "the number of proxies that append to X-Forwarded-For"
    )


limiter = Limiter(
    key_func=lambda: _address_hash().hex(),
    swallow_errors=True,
)


def init_app(app: Flask) -> None:
    """Install the checks before every route."""
    app.config["RATELIMIT_STORAGE_URI"] = settings.redis_url
    app.config["RATELIMIT_STORAGE_OPTIONS"] = counters.options(queue.circuit)
    limiter.init_app(app)
    app.before_request(_check_host)
    app.before_request(_check_tls)
    app.before_request(_know_address)
    app.after_request(_tell_when_to_return)
    app.wsgi_app = _Timed(app.wsgi_app)  # type: ignore[method-assign]


def creates_limit() -> str:
    """Transfers per address, as flask-limiter writes it; read per request, so tests can set it."""
    return f"{settings.max_creates_per_hour} per hour"


def codes_limit() -> str:
    """How often one address may ask for a code to be mailed, whether or not one is."""
    return f"{10 * settings.max_codes_per_hour} per hour"


def unknown_limit() -> str:
    """How many unknown links one address may try, so that none can be found by guessing."""
    return f"{settings.max_unknown_per_minute} per minute"


def is_unknown(answer: Response) -> bool:
    """Whether an answer counts towards `unknown_limit`."""
    return answer.status_code == 404


def messages_limit() -> str:
    """How often one address may send a report or a request to a sender."""
    return f"{settings.max_messages_per_hour} per hour"


def link_messages_limit() -> str:
    """How many reports and requests one link may get, from all addresses together."""
    return f"{settings.max_messages_per_link_and_hour} per hour"


# For blueprints. All routes of links share one limit, because any of them can be used to guess.
limit_unknown = limiter.shared_limit(unknown_limit, scope="unknown", deduct_when=is_unknown)
# For routes of links that take messages; in addition to the limit above.
_limit_address = limiter.shared_limit(messages_limit, scope="messages", override_defaults=False)
_limit_link = limiter.shared_limit(
    link_messages_limit,
    scope="messages-of-link",
    key_func=lambda: _hashed(f"link:{(request.view_args or {}).get('slug')}").hex(),
    override_defaults=False,
)


def limit_messages(route: Callable[..., Any]) -> Callable[..., Any]:
    """Limit a route's messages per address, and per link from all addresses.

    A message that its address may not send does not count for the link: one client must not silence
    the others.
    """
    return _limit_link(_limit_address(route))


def _check_host() -> None:
    """Raise HostUnknown for a foreign Host header: caches in front must not learn from it.

    Links and mails are never made from this header.
    """
    if request.path in _PROBES:
        return
    # werkzeug gives an empty host for a malformed header.
    if urlsplit(f"//{request.host}").hostname not in settings.hosts:
        raise HostUnknown


def _check_tls() -> Response | None:
    """Redirect pages to https; raise TlsRequired for API calls, whose key is already exposed."""
    if request.is_secure or not settings.is_https or request.path in _PROBES:
        return None
    if request.method in ("GET", "HEAD") and not request.path.startswith(_API):
        # Encoded as it came: the path may hold the name of a file, such as "50% off?.txt".
        asked = quote(request.query_string, safe="%!$&'()*+,/:;=?@")
        return redirect(f"{settings.base_url}{quote(request.path)}{asked and f'?{asked}'}", 308)
    raise TlsRequired


def _know_address() -> None:
    audit.actor.set(_address_hash())
    audit.acting_key.set(None)


def count_call(key_id: uuid.UUID) -> None:
    """Count one call of an API key, once it is verified; raises TooMany.

    Not a route decorator: the count must go by the verified key, not by what any client may send.
    """
    per_day = RateLimitItemPerDay(settings.max_calls_per_key_and_day)
    _count(per_day, "key", key_id.hex, refusal=TooMany())


def count_wrong_key(prefix: str | None) -> None:
    """Count a request with a wrong or revoked API key; raises TooManyWrongKeys.

    Counted per client address, and per key prefix if what was sent has the form of a key. Clients
    with a good key are neither counted nor refused because of others.
    """
    most = settings.max_unknown_per_minute
    refusal = TooManyWrongKeys()
    _count(RateLimitItemPerMinute(most), "wrong-keys", _address_hash().hex(), refusal=refusal)
    if prefix is not None:
        _count(RateLimitItemPerMinute(max(1, most // 10)), "wrong-keys-of", prefix, refusal=refusal)


def _count(limit: RateLimitItem, *what: str, refusal: TooMany) -> None:
    if not limiter.limiter.hit(limit, *what):
        window = limiter.limiter.get_window_stats(limit, *what)
        refusal.retry_after = _seconds_until(window.reset_time)
        raise refusal


def _tell_when_to_return(answer: Response) -> Response:
    """Set Retry-After where flask-limiter refuses a route: its error does not say for how long."""
    limit = limiter.current_limit
    if limit is not None and limit.breached:
        answer.headers["Retry-After"] = str(_seconds_until(limit.reset_at))
    return answer


def _seconds_until(moment: float) -> int:
    return max(1, math.ceil(moment - time.time()))


def _address_hash() -> bytes:
    """A keyed hash of the client's network, the only form kept: enough to count by."""
    return _hashed(f"address:{_address()}")


def _hashed(words: str) -> bytes:
    return hmac.digest(settings.secret_key.encode(), words.encode(), "sha256")


class _Timed:
    """WSGI middleware that limits how long a body may take: gunicorn would wait for ever."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = environ.get("gunicorn.socket")
        if connection is None:
            return self.app(environ, start_response)
        body = _TimedBody(environ["wsgi.input"], connection, _length(environ))
        environ["wsgi.input"] = body

        def begin(*head: Any) -> Any:
            if body.ends_connection():
                # gunicorn writes the header Connection itself, and ignores ours.
                start_response.__self__.force_close()  # type: ignore[attr-defined]
            return start_response(*head)

        return ClosingIterator(self.app(environ, begin), body.close)


def _length(environ: dict[str, Any]) -> float:
    """How many bytes follow the head; infinite if they come in chunks, as the number is unknown."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return math.inf
    return int(environ.get("CONTENT_LENGTH") or 0)


class _TimedBody:
    """`wsgi.input` with a timeout: BODY_SECONDS for all of it.

    Raises TooSlow, or BadRequest if the body is malformed or ends early.
    """

    def __init__(self, body: Any, connection: socket.socket, length: float) -> None:
        self._body = body
        self._connection = connection
        self._left = length
        self._deadline: float | None = None
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        """Read as a file does."""
        return self._in_time(self._body.read, size)

    def readline(self, size: int = -1) -> bytes:
        """Read a line as a file does."""
        return self._in_time(self._body.readline, size)

    def ends_connection(self) -> bool:
        """Whether too much of the body is unread, or it came too late, to go on after it."""
        return self._left > DRAINED_SIZE or (self._is_over and self._left > 0)

    def close(self) -> None:
        """After the response: drain a small rest of the body, or have the connection closed.

        Otherwise gunicorn would wait for it, and would take late bytes for a new request, one that
        no router in front has seen.
        """
        if self._left > 0 and not self.ends_connection():
            self._deadline = time.monotonic() + DRAIN_SECONDS
            with suppress(TooSlow, BadRequest):
                self.read(int(self._left))
        if self._left > 0:
            self._body.failed = True

    def _in_time(self, read: Callable[[int], bytes], size: int) -> bytes:
        if self._left <= 0:
            return b""
        # One limit for the whole body: a limit for each read would let it drip for minutes.
        self._deadline = self._deadline or time.monotonic() + BODY_SECONDS
        watch = threading.Timer(self._deadline - time.monotonic(), self._end)
        watch.daemon = True
        watch.start()
        try:
            piece = read(size)
        except (OSError, ParseException) as error:  # client gone, or malformed chunks
            raise TooSlow if self._is_over else BadRequest from error
        finally:
            watch.cancel()
        if self._is_over:
            raise TooSlow
        if not piece and size:
            if self._left < math.inf:  # a truncated body may look complete
                raise BadRequest
            self._left = 0
        self._left -= len(piece)
        return piece

    def _end(self) -> None:
        """End the waiting read by closing the socket for reading; a response can still be sent."""
        self._is_over = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)
