"""Creating a transfer: its link works immediately, and a repeated request makes no second one."""

import base64
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.config import settings
from app.db import db, transaction
from app.errors import KeyReused, NotFound
from app.models import Staging, Transfer
from app.services import audit, room
from app.services.accounts import Caller
from app.services.contents import (
    FileSpec,
    agree_on_checksums,
    check_files,
    check_open_quota,
    put_files,
    size_of,
)
from app.services.options import expiry, lock_for
from app.services.transfers import hash_token, of_id, owned


@dataclass(frozen=True)
class Created:
    """A new transfer with its owner token, of which only a hash is stored."""

    transfer: Transfer
    owner_token: str


@dataclass(frozen=True)
class Also:
    """An addition to a new transfer, made in the same transaction.

    `said` describes the request for it, and is part of the request's fingerprint.
    """

    do: Callable[[Transfer], object]
    said: tuple[str, ...]


def create(
    specs: Sequence[FileSpec],
    *,
    title: str = "",
    message: str = "",
    expires_at: datetime | None = None,
    max_downloads: int | None = None,
    password: str | None = None,
    idempotency_key: str | None = None,
    caller: Caller | None = None,
    by_one_put: bool = False,
    has_room: bool = False,
    also: Sequence[Also] = (),
) -> Created:
    """A new transfer in INIT, with its link valid immediately. Raises Invalid, TooMany, KeyReused.

    Each call creates another. But the same request with the same `idempotency_key` (a secret of the
    sender's) returns the same transfer with the same owner token, as only the answer was lost. With
    a `caller` it belongs to that caller, and is not counted for a network address. `by_one_put`
    means that its only file is announced later (services/staging.py). `has_room` means that the
    caller has reserved the room for its files. Each of `also` is done in the same transaction, and
    what it raises is raised.
    """
    key = _own_key(idempotency_key, caller)
    said = _said_beside(password, key, by_one_put=by_one_put, also=also)
    request_hash = _fingerprint(specs, title, message, expires_at, max_downloads, *said)
    if key and (before := _created_before(key, request_hash)):
        return before
    ends_at = expiry(expires_at)
    check_files(specs, already=[])
    address_hash = None if caller else audit.actor.get()
    check_open_quota(address_hash, size_of(specs))
    agreed = agree_on_checksums(specs)
    owner_token = _owner_token(key)
    transfer = _row(
        owner_token,
        caller,
        key,
        request_hash,
        title=title,
        message=message,
        expires_at=ends_at,
        max_downloads=max_downloads,
        total_size=size_of(specs),
        password_hash=lock_for(password),
        address_hash=address_hash,
    )
    try:
        with transaction():
            if not has_room:
                room.reserve(size_of(specs))
            db.session.add(transfer)
            put_files(transfer.id, specs, agreed, first_position=0)
            if by_one_put:
                db.session.add(Staging(transfer_id=transfer.id))
            audit.note("create", transfer.id)
            for one in also:
                one.do(transfer)
    except IntegrityError:
        # The same request ran concurrently, and the unique constraint let the other one win.
        if key and (before := _created_before(key, request_hash)):
            return before
        raise
    return Created(of_id(transfer.id), owner_token)


def _own_key(idempotency_key: str | None, caller: Caller | None) -> str | None:
    """The key, made unique to the caller: equal keys of two callers do not collide."""
    if caller is None or not idempotency_key:
        return idempotency_key
    return f"{caller.actor}:{idempotency_key}"


def _row(
    owner_token: str, caller: Caller | None, key: str | None, request_hash: bytes, **options: Any
) -> Transfer:
    return Transfer(
        id=uuid.uuid4(),
        slug=secrets.token_urlsafe(24),
        owner_token_hash=hash_token(owner_token),
        workspace_id=caller.workspace_id if caller else None,
        user_identifier=caller.user_identifier if caller else None,
        idempotency_hash=hash_token(key) if key else None,
        request_hash=request_hash if key else None,
        **options,
    )


def _owner_token(idempotency_key: str | None, secret_key: str | None = None) -> str:
    """A random token; or one derived from the sender's key, so that it can be returned again."""
    if idempotency_key is None:
        return secrets.token_urlsafe(32)
    ours = (secret_key or settings.secret_key).encode()
    made = hmac.digest(ours, f"owner:{idempotency_key}".encode(), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def _fingerprint(specs: Sequence[FileSpec], *options: Any) -> bytes:
    said = repr(([_said(spec) for spec in specs], options))
    return hashlib.sha256(said.encode()).digest()


def _said(spec: FileSpec) -> tuple[str | int, ...]:
    # What is absent adds nothing: stored hashes may be older than these fields.
    checksum = (spec.checksum_algorithm.value,) if spec.checksum_algorithm else ()
    modified = (spec.modified_at.isoformat(),) if spec.modified_at else ()
    cut = (f"in parts of {spec.part_size}",) if spec.part_size else ()
    return (spec.path, spec.size, spec.content_type, *checksum, *modified, *cut)


def _said_beside(
    password: str | None, key: str | None, *, by_one_put: bool, also: Sequence[Also]
) -> tuple[str, ...]:
    """What goes into a request's fingerprint besides its files and options.

    The fingerprint is stored and the key is not, so the password is hashed with the key first.
    """
    said: tuple[str, ...] = ()
    if password is not None and key is not None:
        said += (hmac.digest(key.encode(), password.encode(), "sha256").hex(),)
    if by_one_put:
        said += ("by one PUT",)
    return said + tuple(word for one in also for word in one.said)


def _created_before(idempotency_key: str, request_hash: bytes) -> Created | None:
    """The transfer that this key has created; raises KeyReused if the request was another."""
    before = db.session.scalar(
        select(Transfer).where(Transfer.idempotency_hash == hash_token(idempotency_key))
    )
    if before is None:
        return None
    if before.request_hash != request_hash:
        raise KeyReused
    # SECRET_KEY may have been rotated since: try the former ones, too.
    for secret_key in (settings.secret_key, *settings.secret_key_fallbacks):
        owner_token = _owner_token(idempotency_key, secret_key)
        if hash_token(owner_token) == before.owner_token_hash:
            return Created(owned(before.id, owner_token), owner_token)
    raise NotFound("There is no such transfer.")
