"""What is settled before a route is asked: whose address, which host, TLS, how fast, how often."""

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
from urllib.parse import urlsplit
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

# A body of up to 2 MiB has this long to arrive.
BODY_SECONDS = 20.0
# What a route did not read of its request is read away if it is small and here; else we hang up.
DRAINED_SIZE = 64 * 1024
DRAIN_SECONDS = 1.0
# Probes ask by address and without TLS, from inside.
_PROBES = {"/health", "/ready"}
# What is asked here comes with a key.
_API = (
    "/transfers", "/trigger-delete", "/senders", "/webhooks", "/v2", "/files", "/s3/", "/api/",
)  # fmt: skip


def _address() -> str:
    """The network that asks: an IPv4 address, or the /64 that an IPv6 customer has to himself."""
    try:
        address = ipaddress.ip_address(_without_port(request.remote_addr or ""))
    except ValueError:
        _warn_of_unknown()
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        # On a socket for both, IPv4 addresses come so; as one /64 they would all be the same.
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _without_port(address: str) -> str:
    """Some proxies write 203.0.113.7:51234 and [2001:db8::1]:443."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, _ = address.partition(":")
    return host if "." in host else address


@cache  # Said once by each process, and not for each request.
def _warn_of_unknown() -> None:
    log.warning("visitors whose address cannot be read share one count: look at TRUSTED_PROXIES")


limiter = Limiter(
    key_func=lambda: _address_hash().hex(),
    swallow_errors=True,
)


def init_app(app: Flask) -> None:
    """Put the doors before every route."""
    app.config["RATELIMIT_STORAGE_URI"] = settings.redis_url
    app.config["RATELIMIT_STORAGE_OPTIONS"] = counters.options(queue.circuit)
    limiter.init_app(app)
    app.before_request(_check_host)
    app.before_request(_check_tls)
    app.before_request(_know_address)
    app.after_request(_tell_when_to_return)
    app.wsgi_app = _Timed(app.wsgi_app)  # type: ignore[method-assign]


def creates_limit() -> str:
    """As flask-limiter writes it; read for each request, so that tests can set it."""
    return f"{settings.max_creates_per_hour} per hour"


def codes_limit() -> str:
    """How often one address may ask for a code to be mailed, whatever comes of it."""
    return f"{10 * settings.max_codes_per_hour} per hour"


def unknown_limit() -> str:
    """How many links that lead nowhere one address may try: nobody shall find one by trying."""
    return f"{settings.max_unknown_per_minute} per minute"


def is_unknown(answer: Response) -> bool:
    """Whether an answer counts towards `unknown_limit`."""
    return answer.status_code == 404


def messages_limit() -> str:
    """How often one address may send a report or a request to a sender."""
    return f"{settings.max_messages_per_hour} per hour"


def link_messages_limit() -> str:
    """How often anybody may about one link."""
    return f"{settings.max_messages_per_link_and_hour} per hour"


# For blueprints. One share for all routes of links together: whoever guesses may take any of them.
limit_unknown = limiter.shared_limit(unknown_limit, scope="unknown", deduct_when=is_unknown)
# For routes of links that take what somebody writes; beside the one above, not instead of it.
_limit_address = limiter.shared_limit(messages_limit, scope="messages", override_defaults=False)
_limit_link = limiter.shared_limit(
    link_messages_limit,
    scope="messages-of-link",
    key_func=lambda: _hashed(f"link:{(request.view_args or {}).get('slug')}").hex(),
    override_defaults=False,
)


def limit_messages(route: Callable[..., Any]) -> Callable[..., Any]:
    """One address may only write so much, and so may all of them about one link.

    What the address may not does not count for the link: one alone must not silence the others.
    """
    return _limit_link(_limit_address(route))


def _check_host() -> None:
    """Links and mails never come from this header, and caches in front must not learn from it."""
    if request.path in _PROBES:
        return
    # werkzeug gives an empty host for one that is none.
    if urlsplit(f"//{request.host}").hostname not in settings.hosts:
        raise HostUnknown


def _check_tls() -> Response | None:
    """Pages are led to https; an API call without it has already told its key, and is refused."""
    if request.is_secure or not settings.is_https or request.path in _PROBES:
        return None
    if request.method in ("GET", "HEAD") and not request.path.startswith(_API):
        return redirect(f"{settings.base_url}{request.full_path.rstrip('?')}", 308)
    raise TlsRequired


def _know_address() -> None:
    audit.actor.set(_address_hash())
    audit.acting_key.set(None)


def count_call(key_id: uuid.UUID) -> None:
    """Count one call of an API key, once it has proved itself; raises TooMany.

    Not a decorator of the route: what is counted by must not be what anybody may send.
    """
    per_day = RateLimitItemPerDay(settings.max_calls_per_key_and_day)
    _count(per_day, "key", key_id.hex, refusal=TooMany())


def count_wrong_key(prefix: str | None) -> None:
    """Count a try by what is no key, or none any more; raises TooManyWrongKeys.

    By the address that tries, and by the key it says to have, if it has the form of one. Whoever
    has a good key is neither counted here nor kept waiting by those who have none.
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
    """A limit put on a route is refused by flask-limiter, whose error does not say for how long."""
    limit = limiter.current_limit
    if limit is not None and limit.breached:
        answer.headers["Retry-After"] = str(_seconds_until(limit.reset_at))
    return answer


def _seconds_until(moment: float) -> int:
    return max(1, math.ceil(moment - time.time()))


def _address_hash() -> bytes:
    """Only a keyed hash is ever kept: enough to count by, useless to whoever reads it."""
    return _hashed(f"address:{_address()}")


def _hashed(words: str) -> bytes:
    return hmac.digest(settings.secret_key.encode(), words.encode(), "sha256")


class _Timed:
    """A body that drips in must not hold a thread for ever: gunicorn's threads wait without end."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = environ.get("gunicorn.socket")
        if connection is None:
            return self.app(environ, start_response)
        body = _TimedBody(environ["wsgi.input"], connection, _length(environ))
        environ["wsgi.input"] = body
        return ClosingIterator(self.app(environ, start_response), body.close)


def _length(environ: dict[str, Any]) -> float:
    """How many bytes follow the head; unknown when they come in chunks."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return math.inf
    return int(environ.get("CONTENT_LENGTH") or 0)


class _TimedBody:
    """`wsgi.input` with an end to its patience: BODY_SECONDS for all of it; raises TooSlow."""

    def __init__(self, body: Any, connection: socket.socket, length: float) -> None:
        self._body = body
        self._connection = connection
        self._left = length
        self._deadline: float | None = None
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        return self._in_time(self._body.read, size)

    def readline(self, size: int = -1) -> bytes:
        """As a file's."""
        return self._in_time(self._body.readline, size)

    def close(self) -> None:
        """After the answer: what is left of the body ends the connection, unless it is here.

        Otherwise gunicorn would wait for it, and would take what comes late for a request of its
        own: one that no router in front has seen.
        """
        if 0 < self._left <= DRAINED_SIZE and not self._is_over:
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
        except (OSError, ParseException) as error:  # gone away, or chunks that are none
            raise TooSlow if self._is_over else BadRequest from error
        finally:
            watch.cancel()
        if self._is_over:
            raise TooSlow
        if not piece and size:
            if self._left < math.inf:  # half a body may well look like a whole one
                raise BadRequest
            self._left = 0
        self._left -= len(piece)
        return piece

    def _end(self) -> None:
        """Whoever waits for bytes is told that there are no more; the answer can still be sent."""
        self._is_over = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)
