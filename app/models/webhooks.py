"""Programs that are told: addresses of a workspace, and what waits to be sent to which."""

import uuid
from datetime import datetime

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.columns import Instant, enum_of
from app.models.kinds import DeliveryState, SwitchedOff, WebhookEvent


class Webhook(Base):
    """An address that is told of a workspace's transfers, and how it has been doing."""

    __tablename__ = "webhooks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    # As it is, because each message is signed with it. It opens nothing here.
    secret: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # Since when it is told nothing, and why.
    disabled_at: Mapped[datetime | None] = mapped_column(Instant)
    disabled_for: Mapped[SwitchedOff | None] = mapped_column(enum_of(SwitchedOff, "webhook_off"))
    # Since when and how often in a row it has failed, and until when it is left alone for that.
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
        """Whether it is told anything."""
        return self.disabled_at is None


class WebhookDelivery(Base):
    """One message to one webhook, and what became of it: the outbox and the log in one.

    The row is written in the transaction that makes the news true, and holds what is sent to the
    letter, so that each attempt says the same.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    transfer_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), index=True
    )
    # Made from what it tells, so that a webhook is told nothing twice, and several the same.
    event_id: Mapped[uuid.UUID]
    event: Mapped[WebhookEvent] = mapped_column(enum_of(WebhookEvent, "webhook_event"))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[DeliveryState] = mapped_column(
        enum_of(DeliveryState, "webhook_delivery_state"),
        default=DeliveryState.WAITING,
        server_default="WAITING",
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When to (next) try: while one worker is at it the others leave it alone until then.
    due_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When it is not tried any more.
    ends_at: Mapped[datetime] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # Of the last attempt: when, what was answered, after how long, and what was wrong with it.
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
        """Whether it has failed so far, and is still tried."""
        is_waiting = self.state is DeliveryState.WAITING
        return is_waiting and self.attempt_count > 0 and self.error != ""
