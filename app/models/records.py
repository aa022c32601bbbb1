"""Records of what happened: password tries, requests, reports, sweep runs, audit events."""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.columns import Instant, enum_of
from app.models.kinds import Ending, Harm


class UnlockTries(Base):
    """How often a transfer's password was tried from one IP address, and when to allow the next.

    A row with an empty `address_hash` counts for all addresses together.
    """

    __tablename__ = "unlock_tries"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    address_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    try_count: Mapped[int]
    next_at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("octet_length(address_hash) IN (0, 32)", name="address_is_hash_or_all"),
        CheckConstraint("try_count >= 1", name="try_count_positive"),
    )


class ExtensionRequest(Base):
    """A recipient's request to extend an ended transfer: once a day, by the unique constraint."""

    __tablename__ = "extension_requests"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    reason: Mapped[Ending] = mapped_column(enum_of(Ending, "request_reason"))
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    contact: Mapped[str] = mapped_column(Text, default="", server_default="")
    # SHA-256 of the visitor's cookie, or without cookies a keyed hash of the IP address.
    asker_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    # In UTC, by the database's clock.
    day: Mapped[date] = mapped_column(Date)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # Written by releases before migration 0022 and never read. Deferred, so that no statement
    # names it: the next release may drop it.
    announced_at: Mapped[datetime | None] = mapped_column(
        Instant, deferred=True, deferred_raiseload=True
    )
    # When the sender granted the request; null while it is open.
    settled_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        UniqueConstraint("transfer_id", "asker_hash", "day"),
        CheckConstraint("char_length(message) <= 500", name="message_is_short"),
        CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        CheckConstraint("octet_length(asker_hash) = 32", name="asker_is_hash"),
    )


class AbuseReport(Base):
    """A report to the operator about a link: a transfer's, a board's or a file request's.

    Open until `handled_at`. With a `file_sha256` it was filed by Beeline itself: a file in it is on
    the block list.
    """

    __tablename__ = "abuse_reports"

    # A short number, because people type it and quote it.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    transfer_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE")
    )
    board_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("boards.id", ondelete="CASCADE"), index=True
    )
    file_request_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("file_requests.id", ondelete="CASCADE"), index=True
    )
    reason: Mapped[Harm] = mapped_column(enum_of(Harm, "report_reason"))
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    contact: Mapped[str] = mapped_column(Text, default="", server_default="")
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    file_sha256: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    handled_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint(
            "num_nonnulls(transfer_id, board_id, file_request_id) = 1", name="about_one_link"
        ),
        CheckConstraint("char_length(message) <= 2000", name="message_is_short"),
        CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        Index("ix_abuse_reports_transfer_id", "transfer_id"),
        Index("ix_abuse_reports_open", "id", postgresql_where=text("handled_at IS NULL")),
        Index(
            "ix_abuse_reports_closed",
            "created_at",
            postgresql_where=text("handled_at IS NOT NULL"),
        ),
    )


class IdempotencyKey(Base):
    """What a request made, so that a retry (its response was lost) is answered the same way.

    Reveals neither: the key is hashed, and the request is hashed with that key.
    """

    __tablename__ = "idempotency_keys"

    key_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    # The ids of the rows it made, in the order of the response.
    made_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("octet_length(key_hash) = 32", name="key_is_hash"),
        CheckConstraint("octet_length(request_hash) = 32", name="request_is_hash"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )


class Heartbeat(Base):
    """A sweep's last finished run, so that one that no longer runs is noticed; and its lease."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    # services/heartbeats.NEVER, if it has failed every time so far.
    at: Mapped[datetime] = mapped_column(Instant)
    # Of that run: how many items it handled and how long it took; and the failures since.
    last_count: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    failure_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # Until when the current run has it to itself (services/heartbeats.alone).
    busy_until: Mapped[datetime | None] = mapped_column(Instant)
    # What a run that has not come to its end has done so far; the next run goes on from there.
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class AuditEvent(Base):
    """Who did what and when. Append-only: a trigger rejects updates and deletes."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    action: Mapped[str] = mapped_column(Text)
    # No foreign keys: the record outlives what it is about.
    transfer_id: Mapped[uuid.UUID | None]
    # Another object it is about: a key, a workspace or a board.
    subject_id: Mapped[uuid.UUID | None]
    # The API key that acted, where one did.
    key_id: Mapped[uuid.UUID | None]
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))

    __table_args__ = (Index("ix_audit_events_transfer_id", "transfer_id"),)
