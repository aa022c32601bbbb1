"""The audit log: append-only rows, written in the transaction of the action that they record."""

import uuid
from collections.abc import Sequence
from contextvars import ContextVar

from sqlalchemy import ARRAY, CTE, LargeBinary, Uuid, cast, func, insert, literal, select

from app.db import ask, changed, db
from app.models import AuditEvent

# A keyed hash of the client's IP address, set for each request (app/request_guards.py); None in
# a job.
actor: ContextVar[bytes | None] = ContextVar("actor", default=None)
# The API key of the request, set once it is authenticated (app/api/auth.py).
acting_key: ContextVar[uuid.UUID | None] = ContextVar("acting_key", default=None)

_NOTE = insert(AuditEvent).inline()


def note(
    action: str, transfer_id: uuid.UUID | None = None, *, subject_id: uuid.UUID | None = None
) -> None:
    """Add one row. Call in the action's transaction(), so that both are committed or neither."""
    ask(
        _NOTE,
        {
            "action": action,
            "transfer_id": transfer_id,
            "subject_id": subject_id,
            "key_id": acting_key.get(),
            "address_hash": actor.get(),
        },
    )


def note_all(action: str, transfer_ids: Sequence[uuid.UUID]) -> None:
    """Add one row for each transfer, in one statement. Call in transaction()."""
    if not transfer_ids:
        return
    # An array instead of a row of parameters for each: ten thousand such rows would take longer
    # than the action that is recorded.
    each = func.unnest(cast(list(transfer_ids), ARRAY(Uuid)))
    row = {
        "action": literal(action),
        "transfer_id": each,
        "key_id": literal(acting_key.get(), Uuid),
        "address_hash": literal(actor.get(), LargeBinary),
    }
    db.session.execute(insert(AuditEvent).from_select(list(row), select(*row.values())))


def note_each(action: str, change: CTE, *others: CTE) -> int:
    """Run a change that returns transfers' ids, and add one row for each; returns how many.

    All in one statement, whatever their number, together with `others`. Call in transaction().
    """
    added = insert(AuditEvent).from_select(
        ["action", "transfer_id"],
        # In index order: thousands of ids in random order would touch as many pages of the index.
        select(literal(action), change.c.id).order_by(change.c.id),
    )
    return changed(added.add_cte(*others))
