"""The block list, and the files that are being hashed to compare them with it or to add them."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base
from app.models.columns import Instant, Leased, enum_of
from app.models.kinds import Harm
from app.models.transfers import Upload


class BlockedFile(Base):
    """A blocked file's content, by SHA-256, and the reason why it may not be sent.

    The SHA-256 decides. Size and CRC32 (where known) are a cheap filter for the files whose
    SHA-256 has to be computed.
    """

    __tablename__ = "blocked_files"

    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    crc32: Mapped[bytes | None] = mapped_column(LargeBinary(4))
    reason: Mapped[Harm] = mapped_column(enum_of(Harm, "report_reason"))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256_is_sha256"),
        CheckConstraint("octet_length(crc32) = 4", name="crc32_is_crc32"),
        # Empty files are in many transfers, and harmless.
        CheckConstraint("size > 0", name="size_positive"),
        Index("ix_blocked_files_size", "size"),
    )


class Inspection(Leased, Base):
    """A file that a worker has to read completely to compute its SHA-256.

    Its upload stays OPEN (with an ETag) until the hash is compared with the block list. With
    `block_as` set, the upload is COMPLETE and its hash is added to the block list.
    """

    __tablename__ = "inspections"

    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True
    )
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    block_as: Mapped[Harm | None] = mapped_column(enum_of(Harm, "report_reason"))
    # Bytes read so far: for display only, no decision depends on it.
    done_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    failed_at: Mapped[datetime | None] = mapped_column(Instant)

    upload: Mapped[Upload] = relationship(lazy="raise")

    __table_args__ = (
        CheckConstraint("done_size >= 0", name="done_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        Index("ix_inspections_transfer_id", "transfer_id"),
        Index("ix_inspections_wanted", "queued_at", postgresql_where=text("failed_at IS NULL")),
    )
