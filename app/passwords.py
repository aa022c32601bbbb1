"""Passwords as they are stored: argon2id, and never more at once than there is memory for."""

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError

from app.errors import Unavailable

# OWASP's least: 19 MiB, two passes. About 30 ms, and 8 at once are 152 MiB for each process.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
MOST_AT_ONCE = 8
# Short ones are for people who tell them on the telephone; guessing is slow (services/locks.py).
SHORTEST = 4
LONGEST = 1024
WAIT_SECONDS = 4.0
_room = threading.BoundedSemaphore(MOST_AT_ONCE)
# Nobody knows what of. Where there is no password, a try takes as long as where there is one.
NOBODYS = (
    "$argon2id$v=19$m=19456,t=2,p=1$GIYTjFM3SBawyGcDzhuXyA"
    "$FEyxZulMEpXvH9dL0SaFZVXiIrz/x5Uvaa9f70Cq7AM"
)


def hashed(password: str) -> str:
    """What is stored of it: salted, so that the same password again gives another."""
    with _turn():
        return _hasher.hash(_bytes(password))


def matches(stored: str | None, given: str) -> bool:
    """Whether it is the one that is stored; takes as long, and is False, when there is none."""
    # A longer one was never taken, so it costs nothing to refuse.
    if len(given) > LONGEST:
        return False
    with _turn():
        try:
            return _hasher.verify(stored or NOBODYS, _bytes(given)) and stored is not None
        except VerifyMismatchError:
            return False


def _bytes(password: str) -> bytes:
    """As it was typed, but é is é whether the keyboard made it of one character or of two."""
    return unicodedata.normalize("NFC", password).encode()


@contextmanager
def _turn() -> Iterator[None]:
    """One of MOST_AT_ONCE, or after a while Unavailable."""
    if not _room.acquire(timeout=WAIT_SECONDS):
        raise Unavailable
    try:
        yield
    except (HashingError, VerificationError) as error:  # no memory for it
        raise Unavailable from error
    finally:
        _room.release()
