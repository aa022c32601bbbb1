"""A workspace's webhooks, and the messages waiting to be sent to them."""

import uuid
from datetime import datetime

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.columns import Instant, enum_of
from app.models.kinds import DeliveryState, SwitchedOff, WebhookEvent


class Webhook(Base):
    """A URL that receives a workspace's events, and how its deliveries have been going."""

    __tablename__ = "webhooks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    # In clear, because each message is signed with it. It grants no access here.
    secret: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When it was switched off, and why.
    disabled_at: Mapped[datetime | None] = mapped_column(Instant)
    disabled_for: Mapped[SwitchedOff | None] = mapped_column(enum_of(SwitchedOff, "webhook_off"))
    # When its current run of failures began, how many there were, and until when it is left alone.
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    failure_count: Mapped[int] = mapped_column(default=0, server_default="0")
    rest_until: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("url <> ''", name="url_not_empty"),
        CheckConstraint("cardinality(events) > 0", name="events_not_empty"),
        CheckConstraint("octet_length(secret) = 32", name="secret_is_whole"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_for IS NULL)", name="disabled_is_whole"),
        CheckConstraint("failure_count >= 0", name="failure_count_not_negative"),
    )

    @property
    def is_enabled(self) -> bool:
        """Whether it receives events."""
        return self.disabled_at is None


class WebhookDelivery(Base):
    """One message to one webhook, and its outcome: outbox and log in one.

    Written in the transaction of the event, with the exact payload, so that all attempts send the
    same.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    transfer_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), index=True
    )
    # Derived from the event: no webhook gets an event twice, and all webhooks get the same id.
    event_id: Mapped[uuid.UUID]
    event: Mapped[WebhookEvent] = mapped_column(enum_of(WebhookEvent, "webhook_event"))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[DeliveryState] = mapped_column(
        enum_of(DeliveryState, "webhook_delivery_state"),
        default=DeliveryState.WAITING,
        server_default="WAITING",
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When to try (again). The worker sending it sets this later, so that others leave it alone.
    due_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When to give up.
    ends_at: Mapped[datetime] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # The last attempt: when, the response's status, the latency, and what went wrong.
    attempted_at: Mapped[datetime | None] = mapped_column(Instant)
    status: Mapped[int | None]
    latency_ms: Mapped[int | None]
    error: Mapped[str] = mapped_column(Text, default="", server_default="")

    __table_args__ = (
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        Index("uq_webhook_deliveries_once", "webhook_id", "event_id", unique=True),
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "due_at",
            postgresql_where=text("state = 'WAITING'"),
        ),
        Index(
            "ix_webhook_deliveries_ending", "ends_at", postgresql_where=text("state = 'WAITING'")
        ),
        Index("ix_webhook_deliveries_log", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_created_at", "created_at"),
    )

    @property
    def is_tried_again(self) -> bool:
        """Whether it has failed so far and will be retried."""
        is_waiting = self.state is DeliveryState.WAITING
        return is_waiting and self.attempt_count > 0 and self.error != ""
