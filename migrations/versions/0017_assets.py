"""assets: files that a workspace keeps, with their versions

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

NOW = {"server_default": sa.func.statement_timestamp(), "nullable": False}
ZERO = {"server_default": "0", "nullable": False}


def upgrade():
    # Storage lists keys in byte order; only with this collation does the database do the same.
    # The table itself is not rewritten.
    op.execute('ALTER TABLE uploads ALTER COLUMN key TYPE text COLLATE "C"')
    op.create_table(
        "assets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("last_number", sa.Integer(), **ZERO),
        sa.Column("shown_number", sa.Integer(), **ZERO),
        sa.Column("search", postgresql.TSVECTOR(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), **NOW),
        sa.Column("updated_at", sa.DateTime(timezone=True), **NOW),
        sa.CheckConstraint("name <> ''", name="name_not_empty"),
        sa.CheckConstraint("shown_number BETWEEN 0 AND last_number", name="shown_is_a_version"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_assets_workspace_id", "assets", ["workspace_id", "created_at", "id"])
    op.create_index("ix_assets_search", "assets", ["search"], postgresql_using="gin")
    op.create_index("ix_assets_tags", "assets", ["tags"], postgresql_using="gin")
    op.create_table(
        "asset_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("posted_key", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("declared_size", sa.BigInteger(), nullable=True),
        sa.Column("last_activity_at", sa.DateTime(timezone=True), **NOW),
        sa.Column("look_after", sa.DateTime(timezone=True), **NOW),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "sight", postgresql.ENUM(name="preview_sight", create_type=False), nullable=True
        ),
        sa.Column(
            "picture_state",
            postgresql.ENUM(name="preview_state", create_type=False),
            server_default="NONE",
            nullable=False,
        ),
        sa.Column("thumbnail_id", sa.Uuid(), nullable=True),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_count", sa.Integer(), **ZERO),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queue_count", sa.Integer(), **ZERO),
        sa.CheckConstraint("number >= 1", name="number_positive"),
        sa.CheckConstraint(
            "declared_size BETWEEN 0 AND 53687091200000", name="declared_size_within_s3"
        ),
        sa.CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        sa.CheckConstraint(
            "picture_state = 'NONE' OR sight IS NOT NULL", name="picture_is_of_something"
        ),
        sa.ForeignKeyConstraint(["asset_id"], ["assets.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(["thumbnail_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("upload_id"),
        sa.UniqueConstraint("thumbnail_id"),
        sa.UniqueConstraint("posted_key"),
    )
    op.create_index(
        "uq_asset_versions_asset_id_number", "asset_versions", ["asset_id", "number"], unique=True
    )
    op.create_index(
        "ix_asset_versions_open",
        "asset_versions",
        ["last_activity_at"],
        postgresql_where=sa.text("ready_at IS NULL"),
    )
    op.create_index(
        "ix_asset_versions_posted",
        "asset_versions",
        ["look_after"],
        postgresql_where=sa.text("ready_at IS NULL AND posted_key IS NOT NULL"),
    )
    op.create_index(
        "ix_asset_versions_waiting",
        "asset_versions",
        ["queued_at"],
        postgresql_where=sa.text("picture_state = 'WAITING'"),
    )


def downgrade():
    # Older code does not know assets: have its sweep remove their objects.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now() WHERE state <> 'ABORTED'"
        " AND (id IN (SELECT upload_id FROM asset_versions)"
        " OR id IN (SELECT thumbnail_id FROM asset_versions)"
        " OR key IN (SELECT posted_key FROM asset_versions))"
    )
    op.drop_table("asset_versions")
    op.drop_table("assets")
    op.execute('ALTER TABLE uploads ALTER COLUMN key TYPE text COLLATE "default"')
