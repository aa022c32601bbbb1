"""Marks: short hashes of what an editor has seen, so that no edit undoes another one unseen.

Pages carry them in their forms; the API sends them as ETag and takes them back as If-Match.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from app.errors import PreconditionFailed

# Whether a mark is one that whoever asks has seen.
IsSeen = Callable[[str], bool]


def mark_of(value: Any) -> str:
    """The mark of a value: it tells two apart and no more."""
    if isinstance(value, datetime):
        value = value.timestamp()
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def check_seen(is_seen: IsSeen | None, mark: str) -> None:
    """Raise PreconditionFailed for another mark than was seen; None says that any will do.

    Call while the row is held, so that nobody changes it between this look and the change.
    """
    if is_seen is not None and not is_seen(mark):
        raise PreconditionFailed
