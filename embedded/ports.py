"""Ports on loopback: which are free, which one to take, whether one answers."""

import socket
import sys
import urllib.error
import urllib.request
from http.client import HTTPException

LOOPBACK = "127.0.0.1"
_reserved: dict[int, socket.socket] = {}


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port right now."""
    with socket.socket() as probe:
        # As servers do: ignore leftover connections of a server that has just ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """Any free port. Another process may take it first: be ready to try again."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reserve(port: int) -> bool:
    """Claim the port among all Beelines on this machine until we end; returns whether that worked.

    Two runners that start simultaneously would both find a port free, and the loser's page would
    seem ready because the winner's answers. Outside Linux nothing is claimed, and the answer is
    True.
    """
    if port in _reserved or not sys.platform.startswith("linux"):
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0beeline-port-{port}")  # An abstract name, freed when its owner ends.
    except OSError:
        claim.close()
        return False
    _reserved[port] = claim
    return True


def usual_or_free(usual: int) -> int:
    """Reserve the usual port or one of the next 19; otherwise return any free one, not reserved."""
    for port in range(usual, min(usual + 20, 65536)):
        if is_free(port) and port not in _reserved and reserve(port):
            return port
    return free_port()


def is_listening(port: int) -> bool:
    """Whether the port accepts connections."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def status_of(url: str) -> int | None:
    """The status code of the answer to a GET, or None without one. Proxies are bypassed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code
    except (OSError, HTTPException):
        return None
