"""Ports on loopback: is one free, which one to take, does it answer."""

import socket
import sys
import urllib.error
import urllib.request
from http.client import HTTPException

LOOPBACK = "127.0.0.1"
_reserved: dict[int, socket.socket] = {}


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback right now."""
    with socket.socket() as probe:
        # As servers do: connections of a server that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """Any free port. Somebody else may be quicker to take it: be ready to try again."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reserve(port: int) -> bool:
    """Whether this process now has the port among all Beelines here, until it ends.

    Two that start at once would both find a port free, and the loser's page would seem to be ready
    because the winner's answers. Elsewhere than on Linux this is not guarded against.
    """
    if port in _reserved or not sys.platform.startswith("linux"):
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0beeline-port-{port}")  # A name without a file: it goes when its owner goes.
    except OSError:
        claim.close()
        return False
    _reserved[port] = claim
    return True


def usual_or_free(usual: int) -> int:
    """The usual port if it can be had, otherwise one nearby, otherwise any. It is reserved."""
    for port in range(usual, min(usual + 20, 65536)):
        if is_free(port) and port not in _reserved and reserve(port):
            return port
    return free_port()


def is_listening(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def status_of(url: str) -> int | None:
    """The status of the answer to a GET, None without one. Proxies are not asked for loopback."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code
    except (OSError, HTTPException):
        return None
