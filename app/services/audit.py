"""The record of who did what: rows that are only ever added, in the transaction that did it."""

import uuid
from collections.abc import Sequence
from contextvars import ContextVar

from sqlalchemy import ARRAY, CTE, Uuid, cast, func, insert, literal, select

from app.db import ask, changed, db
from app.models import AuditEvent

# A keyed hash of the address that asks, set for each request (app/doors.py); None in a job.
actor: ContextVar[bytes | None] = ContextVar("actor", default=None)
# The API key that asks, set once it has proved itself (app/api/auth.py).
acting_key: ContextVar[uuid.UUID | None] = ContextVar("acting_key", default=None)

_NOTE = insert(AuditEvent).inline()


def note(
    action: str, transfer_id: uuid.UUID | None = None, *, subject_id: uuid.UUID | None = None
) -> None:
    """Add one row. Call in transaction(): it is true only if the act is."""
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
    # An array, and not a row of parameters for each: of ten thousand the latter take longer than
    # whatever is recorded here.
    each = func.unnest(cast(list(transfer_ids), ARRAY(Uuid)))
    db.session.execute(
        insert(AuditEvent).from_select(["action", "transfer_id"], select(literal(action), each))
    )


def note_each(action: str, change: CTE, *others: CTE) -> int:
    """Run a change that returns transfers' ids, and add one row for each; how many.

    All in one statement, whatever their number, with what `others` do. Call in transaction().
    """
    added = insert(AuditEvent).from_select(
        ["action", "transfer_id"],
        # In the order of the index on it: thousands at random go to as many of its pages.
        select(literal(action), change.c.id).order_by(change.c.id),
    )
    return changed(added.add_cte(*others))
