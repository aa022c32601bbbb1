"""Marks: short hashes of what an editor has seen, for optimistic locking.

Pages carry them in their forms; the API sends them as ETag and takes them back as If-Match.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from app.errors import PreconditionFailed

# Whether a mark is one that the client has seen.
IsSeen = Callable[[str], bool]


def mark_of(value: Any) -> str:
    """A short hash of a value, by which two values can be told apart."""
    if isinstance(value, datetime):
        value = value.timestamp()
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def check_seen(is_seen: IsSeen | None, mark: str) -> None:
    """Raise PreconditionFailed if the client has not seen this mark; None accepts any mark.

    Call while the row is locked, so that it cannot change between this check and the write.
    """
    if is_seen is not None and not is_seen(mark):
        raise PreconditionFailed
