"""A transfer's states and transitions, and `move()` and its variants, which alone change a state.

Every change is one conditional UPDATE, so exactly one of several concurrent callers wins.
"""

import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, update
from sqlalchemy.sql.dml import ReturningUpdate

from app import rows
from app.clock import db_now
from app.config import settings
from app.db import changed, db
from app.models import State, Transfer

MAY_BECOME: dict[State, frozenset[State]] = {
    State.INIT: frozenset({State.PROCESSING, State.DELETED}),
    State.PROCESSING: frozenset({State.INIT, State.READY, State.DELETED}),
    State.READY: frozenset({State.EXPIRED, State.DELETED}),
    State.EXPIRED: frozenset({State.READY, State.DELETED}),
    State.DELETED: frozenset(),
}

# A state change takes the lease away from the worker that holds it.
_WORK_OVER = {"lease_token": None, "lease_until": None, "attempt_count": 0}


def _sources(to: State) -> list[State]:
    return [state for state, targets in MAY_BECOME.items() if to in targets]


def _stamps(to: State) -> dict[str, Any]:
    stamps: dict[State, dict[str, Any]] = {
        State.INIT: {"last_activity_at": db_now()},
        State.PROCESSING: {"last_activity_at": db_now()},
        State.READY: {
            # When it first was: reviving it makes nothing anew that has happened since.
            "ready_at": func.coalesce(Transfer.ready_at, db_now()),
            "last_activity_at": db_now(),
            "expired_at": None,
        },
        State.EXPIRED: {"expired_at": db_now()},
        State.DELETED: {"deleted_at": db_now()},
    }
    return stamps[to]


def is_due() -> ColumnElement[bool]:
    """The condition that a READY transfer is past its date; state_of() does this for a row."""
    return and_(Transfer.state == State.READY, Transfer.expires_at <= db_now())


def state_of(transfer: Transfer) -> State:
    """The effective state when the row was read: a READY transfer past its date counts as EXPIRED.

    The sweep may not have written it to the row yet.
    """
    is_due = transfer.state is State.READY and transfer.expires_at <= transfer.read_at
    return State.EXPIRED if is_due else transfer.state


def kept_for() -> timedelta:
    """How long an EXPIRED transfer is kept, and can be revived.

    That is its grace period, but at least as long as the presigned URLs live that were handed out
    before it expired.
    """
    grace = timedelta(days=settings.grace_in_days)
    return max(grace, timedelta(seconds=settings.download_url_ttl_in_seconds))


def is_past_grace() -> ColumnElement[bool]:
    """The condition that an EXPIRED transfer can no longer be revived or downloaded."""
    return and_(Transfer.state == State.EXPIRED, Transfer.expired_at <= db_now() - kept_for())


def move(
    transfer_id: uuid.UUID, to: State, *conditions: ColumnElement[bool], **values: Any
) -> bool:
    """Change the state to `to` if its current state may become that and `conditions` hold.

    True for the one caller that did it, False for every other. Call inside transaction().
    """
    statement = (
        update(Transfer)
        .where(Transfer.id == transfer_id, Transfer.state.in_(_sources(to)), *conditions)
        .values(state=to, **_stamps(to), **_WORK_OVER, **values)
        # SQLAlchemy's own synchronising would set the new state on the loser's object too.
        .execution_options(synchronize_session=False)
    )
    moved = changed(statement) == 1
    if (loaded := db.session.identity_map.get(_identity(transfer_id))) is not None:
        db.session.expire(loaded)
    return moved


def move_due(to: State, *conditions: ColumnElement[bool], limit: int) -> list[uuid.UUID]:
    """Move up to `limit` transfers for which `conditions` hold, in one statement; their ids.

    Locked rows are skipped (SKIP LOCKED), so several sweeps share the work without waiting.
    """
    return list(db.session.scalars(moving_due(to, *conditions, limit=limit)))


def moving_due(to: State, *conditions: ColumnElement[bool], limit: int) -> ReturningUpdate[Any]:
    """The statement that move_due() runs, to be used as part of a larger one."""
    due = rows.take(Transfer, Transfer.state.in_(_sources(to)), *conditions, limit=limit)
    return (
        update(Transfer)
        .where(due)
        .values(state=to, **_stamps(to), **_WORK_OVER)
        .returning(Transfer.id)
        .execution_options(synchronize_session=False)
    )


def _identity(transfer_id: uuid.UUID) -> Any:
    return db.session.identity_key(Transfer, transfer_id)
