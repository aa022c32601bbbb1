"""Password hashing with argon2id, and only as many hashes at a time as there is memory for."""

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError

from app.errors import Unavailable

# OWASP's minimum: 19 MiB, two passes. About 30 ms each, and 8 at a time take 152 MiB per process.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
MOST_AT_ONCE = 8
# Short ones can be told on the telephone; guessing is slowed down (services/locks.py).
SHORTEST = 4
LONGEST = 1024
WAIT_SECONDS = 4.0
_room = threading.BoundedSemaphore(MOST_AT_ONCE)
# The hash of an unknown password: where there is no password, a try takes just as long.
NOBODYS = (
    "$argon2id$v=19$m=19456,t=2,p=1$GIYTjFM3SBawyGcDzhuXyA"
    "$FEyxZulMEpXvH9dL0SaFZVXiIrz/x5Uvaa9f70Cq7AM"
)


def hashed(password: str) -> str:
    """Hash a password for storage, with a random salt; raises Unavailable."""
    with _turn():
        return _hasher.hash(_bytes(password))


def matches(stored: str | None, given: str) -> bool:
    """Whether the password matches the hash; without a hash it takes as long, and is False.

    Raises Unavailable.
    """
    # No longer password can have been set, so refuse it without hashing.
    if len(given) > LONGEST:
        return False
    with _turn():
        try:
            return _hasher.verify(stored or NOBODYS, _bytes(given)) and stored is not None
        except VerifyMismatchError:
            return False


def _bytes(password: str) -> bytes:
    """The password as UTF-8 in NFC: é is the same, typed as one character or as two."""
    return unicodedata.normalize("NFC", password).encode()


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for one of MOST_AT_ONCE slots; raises Unavailable after WAIT_SECONDS."""
    if not _room.acquire(timeout=WAIT_SECONDS):
        raise Unavailable
    try:
        yield
    except (HashingError, VerificationError) as error:  # no memory for it
        raise Unavailable from error
    finally:
        _room.release()
