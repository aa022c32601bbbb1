"""File requests: links at which anyone can send files to the address that made them."""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.columns import Instant


class FileRequest(Base):
    """One link, `/r/<slug>`, at which files are sent to its owner's address."""

    __tablename__ = "file_requests"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    # In lower case, and proven: only who is signed in to an address can ask for files in its name.
    email: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # Nothing can be sent from then on; closing it sets this to now.
    ends_at: Mapped[datetime] = mapped_column(Instant)
    # For how long files that are sent there are kept, unless their sender chooses otherwise; null:
    # as long as others by default.
    keep_days: Mapped[int | None]
    # The operator has blocked it: nothing can be sent, and its owner gets nothing more of it.
    quarantined_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("title <> ''", name="title_not_empty"),
        CheckConstraint("keep_days > 0", name="keep_days_positive"),
        Index("ix_file_requests_email", "email", "created_at"),
        Index("ix_file_requests_ends_at", "ends_at"),
    )


class Arrival(Base):
    """A transfer that was begun at a file request's link."""

    __tablename__ = "arrivals"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    file_request_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("file_requests.id", ondelete="CASCADE")
    )
    # When its files, or more files, were there; and the mail that tells the request's owner.
    came_at: Mapped[datetime | None] = mapped_column(Instant)
    told_in: Mapped[uuid.UUID | None]

    __table_args__ = (Index("ix_arrivals_file_request_id", "file_request_id"),)
