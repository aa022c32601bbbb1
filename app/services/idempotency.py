"""Idempotency keys: a request that is repeated creates nothing more and gets the same answer.

The ids of the rows that it created are stored in the same transaction, and the answer is made again
from them, so that no secrets have to be kept. (A transfer keeps its own note, from which its owner
token can be derived again: services/creating.py.)
"""

import hashlib
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, func, select

from app.clock import db_now
from app.db import db
from app.errors import KeyReused
from app.models import IdempotencyKey

# How long a row is kept; then the same key may be used for another request.
KEPT = timedelta(days=1)


@dataclass(frozen=True)
class Once:
    """A request that is to be done only once: the hashes of its key and of its content."""

    key_hash: bytes
    request_hash: bytes


def once(key: str | None, actor: str, said: bytes) -> Once | None:
    """The request of this actor under this key; None without a key: then it is done each time."""
    if key is None:
        return None
    key_hash = hashlib.sha256(f"{actor}\n{key}".encode()).digest()
    # Keyed with the key, which is not stored: so the content cannot be found by guessing.
    return Once(key_hash, hmac.digest(key.encode(), said, "sha256"))


def made(request: Once | None) -> Sequence[uuid.UUID] | None:
    """The ids of what this request has created before, or None; raises KeyReused.

    Waits for the same request if that is under way. Call in the transaction() that creates.
    """
    if request is None:
        return None
    # Held until the transaction ends: the second request then finds what the first created.
    number = int.from_bytes(request.key_hash[:8], "big", signed=True)
    db.session.execute(select(func.pg_advisory_xact_lock(number)))
    before = db.session.scalar(
        select(IdempotencyKey).where(IdempotencyKey.key_hash == request.key_hash)
    )
    if before is None:
        return None
    if before.request_hash != request.request_hash:
        raise KeyReused
    return before.made_ids


def note(request: Once | None, made_ids: Sequence[uuid.UUID]) -> None:
    """Store what this request has created. Call in transaction(), after made()."""
    if request is not None:
        db.session.add(
            IdempotencyKey(
                key_hash=request.key_hash,
                request_hash=request.request_hash,
                made_ids=list(made_ids),
            )
        )


def is_over() -> ColumnElement[bool]:
    """The condition that a row is older than KEPT."""
    return IdempotencyKey.created_at < db_now() - KEPT
