"""The record of who did what: rows that are only ever added, in the transaction that did it."""

import uuid
from collections.abc import Sequence
from contextvars import ContextVar

from sqlalchemy import insert

from app.db import db
from app.models import AuditEvent

# A keyed hash of the address that asks, set for each request (app/doors.py); None in a job.
actor: ContextVar[bytes | None] = ContextVar("actor", default=None)
# The API key that asks, set once it has proved itself (app/api/auth.py).
acting_key: ContextVar[uuid.UUID | None] = ContextVar("acting_key", default=None)


def note(
    action: str, transfer_id: uuid.UUID | None = None, *, subject_id: uuid.UUID | None = None
) -> None:
    """Add one row. Call in transaction(): it is true only if the act is."""
    db.session.add(
        AuditEvent(
            action=action,
            transfer_id=transfer_id,
            subject_id=subject_id,
            key_id=acting_key.get(),
            address_hash=actor.get(),
        )
    )


def note_all(action: str, transfer_ids: Sequence[uuid.UUID]) -> None:
    """Add one row for each transfer, in one statement. Call in transaction()."""
    if transfer_ids:
        rows = [{"action": action, "transfer_id": one} for one in transfer_ids]
        db.session.execute(insert(AuditEvent), rows)
