"""A workspace's assets, each with its versions; every stored object of them is an Upload."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.config import S3_MAX_OBJECT_SIZE
from app.db import Base
from app.models.columns import Instant, Queued, enum_of
from app.models.kinds import PreviewState, Sight
from app.models.transfers import Upload


class Asset(Base):
    """One asset of a workspace: its name stays when its content is replaced.

    It is shown as its newest version that has arrived; before the first one it is not shown.
    """

    __tablename__ = "assets"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list, server_default="{}")
    # The last version number assigned, so that no key is ever reused; and the version shown.
    last_number: Mapped[int] = mapped_column(default=0, server_default="0")
    shown_number: Mapped[int] = mapped_column(default=0, server_default="0")
    # The search vector of name, type and tags (services/asset_words.py).
    search: Mapped[Any] = mapped_column(TSVECTOR, deferred=True, deferred_raiseload=True)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    updated_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())

    __table_args__ = (
        CheckConstraint("name <> ''", name="name_not_empty"),
        CheckConstraint("shown_number BETWEEN 0 AND last_number", name="shown_is_a_version"),
        Index("ix_assets_workspace_id", "workspace_id", "created_at", "id"),
        Index("ix_assets_search", "search", postgresql_using="gin"),
        Index("ix_assets_tags", "tags", postgresql_using="gin"),
    )


class AssetVersion(Queued, Base):
    """One upload of an asset's bytes, and its thumbnail.

    A form upload arrives at `posted_key`, where its sender could overwrite it until the form
    expires; so it is copied to the version's own upload, to which nothing can be uploaded directly.
    """

    __tablename__ = "asset_versions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    asset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("assets.id", ondelete="CASCADE"))
    number: Mapped[int]
    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    posted_key: Mapped[str | None] = mapped_column(Text, unique=True)
    # Empty where its sender gave none: on arrival it takes the one that the asset has then.
    name: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text)
    # As announced by its sender, if at all; the upload's own size is known once it is complete.
    declared_size: Mapped[int | None] = mapped_column(BigInteger)
    last_activity_at: Mapped[datetime] = mapped_column(
        Instant, server_default=func.statement_timestamp()
    )
    # When to check storage for a form upload next: there is no notification of its arrival.
    look_after: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    ready_at: Mapped[datetime | None] = mapped_column(Instant)

    # The thumbnail: like a transfer's previews, but one upload, a JPEG. `sight` is null if the
    # file cannot be shown.
    sight: Mapped[Sight | None] = mapped_column(enum_of(Sight, "preview_sight"))
    picture_state: Mapped[PreviewState] = mapped_column(
        enum_of(PreviewState, "preview_state"),
        default=PreviewState.NONE,
        server_default="NONE",
    )
    thumbnail_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    claim_token: Mapped[uuid.UUID | None]
    claimed_until: Mapped[datetime | None] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")

    asset: Mapped[Asset] = relationship(lazy="raise")
    upload: Mapped[Upload] = relationship(foreign_keys=[upload_id], lazy="raise")
    thumbnail: Mapped[Upload | None] = relationship(foreign_keys=[thumbnail_id], lazy="raise")

    __table_args__ = (
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint(
            f"declared_size BETWEEN 0 AND {S3_MAX_OBJECT_SIZE}", name="declared_size_within_s3"
        ),
        CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        CheckConstraint(
            "picture_state = 'NONE' OR sight IS NOT NULL", name="picture_is_of_something"
        ),
        Index("uq_asset_versions_asset_id_number", "asset_id", "number", unique=True),
        # For the sweeps: versions that have not arrived yet, and thumbnails still to be made.
        Index(
            "ix_asset_versions_open", "last_activity_at", postgresql_where=text("ready_at IS NULL")
        ),
        Index(
            "ix_asset_versions_posted",
            "look_after",
            postgresql_where=text("ready_at IS NULL AND posted_key IS NOT NULL"),
        ),
        Index(
            "ix_asset_versions_waiting",
            "queued_at",
            postgresql_where=text("picture_state = 'WAITING'"),
        ),
    )
