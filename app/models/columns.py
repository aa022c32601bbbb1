"""What columns of several tables have in common."""

import enum
import uuid
from datetime import datetime

from sqlalchemy import DateTime, Enum
from sqlalchemy.orm import Mapped, mapped_column


def enum_of(kind: type[enum.Enum], name: str) -> Enum:
    """A column's type for the values of this enum, called `name` in PostgreSQL."""
    return Enum(kind, name=name, values_callable=lambda members: [m.value for m in members])


Instant = DateTime(timezone=True)


class Leased:
    """A row that is worked on in the background: when that was queued, and who is at it."""

    # When its job was last put into the queue and how often, so that a sweep does not pile up
    # reminders and each can be told from the last.
    queued_at: Mapped[datetime | None] = mapped_column(Instant)
    queue_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # Who is working on it and until when (app/leases.py).
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
