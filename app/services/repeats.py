"""The same request again, because its answer was lost: it makes nothing more, answered alike.

What was made is noted in the transaction that makes it, by its rows' ids, and the answer is written
anew from these: so nothing secret of it has to be kept. (A transfer keeps its own note, from which
its owner token can be told again: services/creating.py.)
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

# A row is kept for so long; then the same key may be used for something else.
KEPT = timedelta(days=1)


@dataclass(frozen=True)
class Once:
    """One request that is to be done once, by the hashes of its key and of what it says."""

    key_hash: bytes
    request_hash: bytes


def once(key: str | None, actor: str, said: bytes) -> Once | None:
    """What this actor says under this key; None without a key: then it is done each time."""
    if key is None:
        return None
    key_hash = hashlib.sha256(f"{actor}\n{key}".encode()).digest()
    # By the key, which is not stored: so what was said cannot be found by trying.
    return Once(key_hash, hmac.digest(key.encode(), said, "sha256"))


def made(request: Once | None) -> Sequence[uuid.UUID] | None:
    """The ids of what this request has made before, or None; raises KeyReused.

    In a transaction the same request waits here for one that is under way.
    """
    if request is None:
        return None
    if db.session.info.get("depth"):
        # Until the transaction's end: of two the second finds what the first has made.
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
    """Remember what this request has made. Call in transaction(), after made()."""
    if request is not None:
        db.session.add(
            IdempotencyKey(
                key_hash=request.key_hash,
                request_hash=request.request_hash,
                made_ids=list(made_ids),
            )
        )


def is_over() -> ColumnElement[bool]:
    """The condition that nobody will send it again."""
    return IdempotencyKey.created_at < db_now() - KEPT
