"""Sends webhook messages to untrusted URLs, protected against SSRF, and reports the outcome.

A URL given by a user must not reach anything that only we can reach. So it is parsed strictly,
its host name is resolved once, every IP address it resolves to must be public, and the connection
is made to one of these addresses; the name is only used to check the certificate. Redirects are not
followed, and proxies of the environment are not used.
"""

import contextlib
import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

# The timeout for the whole: DNS, connection, TLS, and the response.
SECONDS = 5.0
MOST_READ = 64 * 1024
PORTS = (443, 8443)
LONGEST_URL = 2000
# At least two labels, the last of which begins with a letter, which excludes all spellings of IPv4.
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1")
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public servers, or reachable only from within their network, even where is_global is true.
_NEVER = [
    ipaddress.ip_network(one)
    for one in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata among them
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # a cloud's own agent
        "2001::/23",  # Teredo, ORCHID and other protocols
        "2002::/16",  # 6to4: an IPv4 address, reached by another party's relay
        "3fff::/20",  # documentation
    )
]


class BadAddress(ValueError):
    """Nothing is ever sent to this URL; the text continues "This address ..."."""


@dataclass(frozen=True)
class Answer:
    """The outcome for one message; `error` is empty only if the receiver has accepted it."""

    status: int | None
    latency_ms: int
    error: str

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has accepted it."""
        return not self.error

    @property
    def is_gone(self) -> bool:
        """Whether the receiver says that it will never accept messages again."""
        return self.status == 410


@dataclass(frozen=True)
class Target:
    """A valid URL in its parts; its host name has not been resolved yet."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """The Host header, without a default port."""
        usual = 443 if self.is_tls else 80
        return self.host if self.port == usual else f"{self.host}:{self.port}"


def target_of(url: str, *, may_be_here: bool = False) -> Target:
    """Parse and validate a URL, without a DNS query; raises BadAddress.

    `may_be_here` also allows http and other ports, for receivers on this machine.
    """
    if not url.isascii():
        raise BadAddress("may contain only ASCII: write its host as xn--…, the rest as %C3%A4")
    if not re.fullmatch(rf"[\x21-\x7e]{{1,{LONGEST_URL}}}", url) or "\\" in url:
        raise BadAddress(f"must be at most {LONGEST_URL} printable ASCII characters, without \\")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadAddress("is not an address") from error
    if parts.scheme != "https" and not (may_be_here and parts.scheme == "http"):
        raise BadAddress("must begin with https://")
    if "@" in parts.netloc or "#" in url:
        raise BadAddress("must not contain a user, a password or #")
    is_tls = parts.scheme == "https"
    port = (443 if is_tls else 80) if port is None else port
    if may_be_here and (host in _LOOPBACK_NAMES or not is_tls):
        pass
    elif not _NAME.fullmatch(host):
        raise BadAddress("must give its host in full, such as hooks.example.org, not as a number")
    elif port not in PORTS and not may_be_here:
        raise BadAddress("must use port 443 or 8443")
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Target(is_tls, host, port, path)


def is_public(address: str) -> bool:
    """Whether this is a public unicast IP address; never raises."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        elif found not in _GLOBAL_IPV6:
            return False
    is_odd = found.is_multicast or found.is_reserved or found.is_unspecified
    return found.is_global and not is_odd and not any(found in one for one in _NEVER)


class Courier:
    """Sends messages, each on a connection of its own. Thread-safe."""

    def __init__(self, *, may_be_here: bool = False) -> None:
        self._may_be_here = may_be_here
        self._tls = ssl.create_default_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it once; never raises for what a receiver does or does not do."""
        began = time.monotonic()
        status, error = None, ""
        try:
            status = self._post(url, body, headers, began + SECONDS)
            error = _told_of(status)
        except BadAddress as refusal:
            error = f"This address {refusal}."
        except (OSError, http.client.HTTPException, ValueError) as failure:
            is_late = time.monotonic() - began >= SECONDS - 0.05
            error = (
                f"It did not answer within {SECONDS:.0f} seconds." if is_late else _told(failure)
            )
        return Answer(status, round(1000 * (time.monotonic() - began)), error)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], ends: float) -> int:
        target = target_of(url, may_be_here=self._may_be_here)
        with contextlib.ExitStack() as closing:
            plain = self._connect(target, ends)
            closing.callback(plain.close)
            line = plain
            if target.is_tls:
                # The handshake is made below, once the timer is running.
                line = self._tls.wrap_socket(
                    plain, server_hostname=target.host, do_handshake_on_connect=False
                )
                closing.callback(line.close)
            is_cut = closing.enter_context(_ending(line, ends))
            if isinstance(line, ssl.SSLSocket):
                line.do_handshake()
            return _exchange(line, target, body, headers, is_cut)

    def _connect(self, target: Target, ends: float) -> socket.socket:
        """Connect to one of the name's IP addresses, all of which must be allowed."""
        addresses = _resolve(target, ends)
        if not addresses or not all(self._may_be_at(one, target) for one in addresses):
            # The same message for an unknown name: it must not reveal names of our own network.
            raise BadAddress("is not public")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            seconds = max(0.01, (ends - time.monotonic()) / left)
            try:
                # An IP address, so that nothing is resolved again.
                return socket.create_connection((address, target.port), timeout=seconds)
            except OSError:
                if left == 1:
                    raise
        raise AssertionError("unreachable")

    def _may_be_at(self, address: str, target: Target) -> bool:
        is_here = self._may_be_here and ipaddress.ip_address(address).is_loopback
        return is_here or (target.is_tls and target.port in PORTS and is_public(address))


def _resolve(target: Target, ends: float) -> list[str]:
    """Return every IP address of the name; empty if it is unknown. Raises TimeoutError."""
    told: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    # The system's resolver has no timeout, so its thread is abandoned when ours is over.
    threading.Thread(
        target=lambda: told.put(_look_up(target.host, target.port)), daemon=True
    ).start()
    try:
        return told.get(timeout=max(0.0, ends - time.monotonic()))
    except queue.Empty as error:
        raise TimeoutError from error


def _look_up(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@contextlib.contextmanager
def _ending(line: socket.socket, ends: float) -> Iterator[threading.Event]:
    """Shut the socket down at the deadline; a timeout per read would let a slow sender drip on.

    Yields an event that is set when this has happened.
    """
    is_cut = threading.Event()

    def cut() -> None:
        is_cut.set()
        with contextlib.suppress(OSError):
            # The plain socket's method: SSLSocket's drops the TLS state while another thread reads.
            socket.socket.shutdown(line, socket.SHUT_RDWR)

    watch = threading.Timer(max(0.0, ends - time.monotonic()), cut)
    watch.daemon = True
    watch.start()
    try:
        yield is_cut
    finally:
        watch.cancel()


def _exchange(
    line: socket.socket,
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    is_cut: threading.Event,
) -> int:
    line.settimeout(SECONDS)
    talk = http.client.HTTPConnection(target.host, target.port)
    talk.auto_open = 0
    talk.sock = line
    talk.request("POST", target.path, body, {"Host": target.host_header, **headers})
    answer = talk.getresponse()
    if is_cut.is_set():
        # The library takes a truncated header for a complete one.
        raise TimeoutError
    # The status alone counts; the body is only read so that the receiver can finish sending.
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        answer.read(MOST_READ)
    return answer.status


def _told_of(status: int) -> str:
    if 200 <= status < 300:
        return ""
    return (
        f"It answered {status}{', and redirects are not followed' if status // 100 == 3 else ''}."
    )


def _told(failure: Exception) -> str:
    """Describe an error in our own words: a library's may repeat what the receiver has sent."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return "Its certificate is not valid for this name, has expired, or has an unknown issuer."
    if isinstance(failure, ssl.SSLError):
        return "No TLS connection could be agreed on."
    if isinstance(failure, ConnectionRefusedError):
        return "It refuses connections."
    if isinstance(failure, http.client.HTTPException) or not isinstance(failure, OSError):
        return "It does not answer like a web server."
    return "It could not be reached, or closed the connection."
