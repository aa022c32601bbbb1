"""Column types and mixins shared by several tables."""

import enum
import uuid
from datetime import datetime

from sqlalchemy import DateTime, Enum
from sqlalchemy.orm import Mapped, mapped_column


def enum_of(kind: type[enum.Enum], name: str) -> Enum:
    """The column type for the values of this enum, called `name` in PostgreSQL."""
    return Enum(kind, name=name, values_callable=lambda members: [m.value for m in members])


Instant = DateTime(timezone=True)


class Queued:
    """A row for which a background job is queued: when that was last done, and how often.

    A sweep must not pile up reminders, and each reminder needs an id of its own.
    """

    queued_at: Mapped[datetime | None] = mapped_column(Instant)
    queue_count: Mapped[int] = mapped_column(default=0, server_default="0")


class Leased(Queued):
    """A row that a background job works on: when the job was queued, and who holds the lease."""

    # The lease: which worker holds it and until when (app/leases.py).
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
