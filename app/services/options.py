"""What a sender may change about a transfer: title, message, expiry, limit and password."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, update

from app import clock, crash, lifecycle, passwords
from app.config import settings
from app.db import changed, db, release, transaction
from app.errors import Gone, Invalid
from app.models import Ending, State, Transfer
from app.services import audit, dropped_mail, extension_requests, locks
from app.services.transfers import of_id, refuse_blocked


def edit(transfer: Transfer, changes: dict[str, Any], *conditions: ColumnElement[bool]) -> Transfer:
    """Change title, message, expires_at, max_downloads, password: those in `changes`.

    Does so only while `conditions` hold (used for optimistic locking). A new `expires_at` revives
    an expired transfer as long as its bytes are kept (the grace period): it is READY again
    immediately, whole, with its zip. Either it is revived or it is removed, never both. Recipients
    whose mail was dropped because the transfer had ended are mailed now. A changed password locks
    out everyone who had entered the former one, and ends the wait after wrong tries. Raises
    Invalid, Blocked, and Gone if it has expired (for good, where `expires_at` is among the
    changes), was deleted meanwhile, or a condition does not hold.
    """
    return write(transfer, columns_of(changes), *conditions)


def columns_of(changes: dict[str, Any]) -> dict[str, Any]:
    """The column values of an edit: the date is checked, the password hashed.

    Raises Invalid. Call outside transaction().
    """
    columns = dict(changes)
    if "expires_at" in columns:
        columns["expires_at"] = expiry(columns["expires_at"])
    if "password" in columns:
        columns["password_hash"] = lock_for(columns.pop("password"))
    return columns


def write(
    transfer: Transfer, columns: dict[str, Any], *conditions: ColumnElement[bool]
) -> Transfer:
    """Write the values that columns_of() has made of the changes; the rest is as in edit()."""
    if not columns:
        return transfer
    required = [Transfer.quarantined_at.is_(None), *conditions]
    limit = columns.get("max_downloads")
    if limit is not None:
        required.append(Transfer.download_count <= limit)
    with transaction():
        change = _edit(transfer.id, columns, required)
        if change:
            audit.note(change, transfer.id)
            extension_requests.settle(transfer.id, _answered(transfer.id, columns))
        if change and "expires_at" in columns:
            dropped_mail.take_up_left_out(transfer.id)
        if change and "password_hash" in columns:
            locks.forget_tries(transfer.id)
    fresh = of_id(transfer.id)
    if change:
        return fresh
    refuse_blocked(fresh)
    if limit is not None and fresh.download_count > limit:
        raise Invalid(
            {"max_downloads": f"must be at least {fresh.download_count}, the downloads so far"}
        )
    raise Gone(reason="deleted" if fresh.state is State.DELETED else "expired")


def _answered(transfer_id: uuid.UUID, changes: dict[str, Any]) -> list[Ending]:
    """The kinds of extension requests that an edit, which was just made, settles."""
    answers = [Ending.EXPIRED] if "expires_at" in changes else []
    if "max_downloads" in changes:
        # A limit that is used up already gives nobody what they asked for.
        is_used_up = select(Transfer.is_used_up).where(Transfer.id == transfer_id)
        answers += [] if db.session.scalar(is_used_up) else [Ending.LIMIT_REACHED]
    return answers


def _edit(
    transfer_id: uuid.UUID, changes: dict[str, Any], conditions: list[ColumnElement[bool]]
) -> str | None:
    """Edit or revive the transfer: the audit event, or None if it may not be changed.

    Call in transaction().
    """
    # Locked, so that no sweep expires or removes it between the two attempts.
    locked = select(Transfer.id).where(Transfer.id == transfer_id)
    db.session.execute(locked.with_for_update(key_share=True))
    is_alive: ColumnElement[bool] = Transfer.state.in_([State.INIT, State.PROCESSING, State.READY])
    if "expires_at" not in changes:
        is_alive &= ~lifecycle.is_due()
    edited = changed(
        update(Transfer)
        .where(Transfer.id == transfer_id, is_alive, *conditions)
        .values(**changes)
        .execution_options(synchronize_session=False)
    )
    if edited:
        return "edit"
    is_kept = (Transfer.state == State.EXPIRED) & ~lifecycle.is_past_grace()
    if "expires_at" in changes and lifecycle.move(
        transfer_id, State.READY, is_kept, *conditions, **changes
    ):
        crash.point("revive.1")
        return "revive"
    return None


def expiry(wished: datetime | None) -> datetime:
    """The expiry date to store: the wished one if it is allowed, or the default; raises Invalid."""
    now = clock.now()
    if wished is None:
        return now + timedelta(days=settings.default_expires_in_days)
    if wished <= now:
        raise Invalid({"expires_at": "must be in the future"})
    if wished > now + timedelta(days=settings.max_expires_in_days, minutes=1):
        raise Invalid({"expires_at": f"must be within {settings.max_expires_in_days} days"})
    return wished


def lock_for(password: str | None) -> str | None:
    """The hash to store of a password; None without one. Slow: call outside transaction()."""
    if password is None:
        return None
    release()  # Hashing takes a while, and may have to wait for its turn.
    return passwords.hashed(password)
