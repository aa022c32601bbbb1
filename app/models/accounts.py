"""API clients: workspaces with their keys, and the boards and small files they own."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base
from app.models.columns import Instant, enum_of
from app.models.kinds import Scope
from app.models.transfers import File, Upload


class Workspace(Base):
    """The owner of API keys and of everything made with them."""

    __tablename__ = "workspaces"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # What the operator calls it; of a person's own workspace, its id.
    name: Mapped[str] = mapped_column(Text, unique=True)
    # Whose own it is, in lower case and proven: they make its keys (services/own_keys.py). Null for
    # those that the operator has made.
    email: Mapped[str | None] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (CheckConstraint("name <> ''", name="name_not_empty"),)


class ApiKey(Base):
    """A program's key to one workspace. Shown once; only a prefix and a hash are stored."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    # The first characters of the key: used to look up its row, and shown to tell keys apart.
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    # SHA-256 of the whole key: it has 256 random bits, so a plain hash is enough (ASVS 6.5.2).
    key_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scope: Mapped[Scope] = mapped_column(enum_of(Scope, "api_scope"))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    last_used_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)

    workspace: Mapped[Workspace] = relationship(lazy="raise")

    __table_args__ = (CheckConstraint("octet_length(key_hash) = 32", name="key_is_sha256"),)


class Board(Base):
    """A collection of files and links under one URL; more can be added at any time."""

    __tablename__ = "boards"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_identifier: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # Blocked by the operator; the board's files get the same timestamp (services/abuse.py).
    quarantined_at: Mapped[datetime | None] = mapped_column(Instant)


class BoardItem(Base):
    """One item of a board: a link, or a file, which is the only file of its own transfer."""

    __tablename__ = "board_items"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    board_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("boards.id", ondelete="CASCADE"))
    position: Mapped[int]
    url: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    file_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), unique=True
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    file: Mapped[File | None] = relationship(lazy="raise")

    __table_args__ = (
        CheckConstraint("(url IS NULL) <> (file_id IS NULL)", name="link_or_file"),
        CheckConstraint("(url IS NULL) = (title IS NULL)", name="link_has_title"),
        Index("uq_board_items_board_id_position", "board_id", "position", unique=True),
    )


class SmallFile(Base):
    """A file uploaded with a form, in one POST to storage.

    Until the form expires, `posted` can be overwritten with it. So the confirmed bytes are copied
    once to `kept`, a key for which no upload form or URL is ever issued.
    """

    __tablename__ = "small_files"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    # The key of `posted`, stored here too because that row is eventually deleted: programs look
    # the file up by it.
    key: Mapped[str] = mapped_column(Text, unique=True)
    posted_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="SET NULL"), unique=True
    )
    kept_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    name: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text)
    max_size: Mapped[int] = mapped_column(BigInteger)
    # The program's own key-value metadata, returned as it was given.
    details: Mapped[dict[str, str]] = mapped_column("metadata", JSONB)
    # ETag of the object found at the first confirmation: only those bytes are ever accepted.
    etag: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    confirmed_at: Mapped[datetime | None] = mapped_column(Instant)

    kept: Mapped[Upload] = relationship(foreign_keys=[kept_id], lazy="raise")

    __table_args__ = (
        CheckConstraint("name <> ''", name="name_not_empty"),
        CheckConstraint("max_size >= 0", name="max_size_not_negative"),
        CheckConstraint("confirmed_at IS NULL OR etag IS NOT NULL", name="confirmed_has_etag"),
        Index(
            "ix_small_files_confirmed",
            "workspace_id",
            "confirmed_at",
            "id",
            postgresql_where=text("confirmed_at IS NOT NULL"),
        ),
        Index(
            "ix_small_files_unconfirmed",
            "created_at",
            postgresql_where=text("confirmed_at IS NULL"),
        ),
    )
