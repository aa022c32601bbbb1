"""small files: uploaded with a form, in one POST to storage

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade():
    # PostgreSQL would refuse to use the new value in the same transaction; nothing here does.
    op.execute("ALTER TYPE upload_method ADD VALUE IF NOT EXISTS 'post'")
    op.create_table(
        "small_files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("posted_id", sa.Uuid(), nullable=True),
        sa.Column("kept_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("max_size", sa.BigInteger(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("name <> ''", name="name_not_empty"),
        sa.CheckConstraint("max_size >= 0", name="max_size_not_negative"),
        sa.CheckConstraint("confirmed_at IS NULL OR etag IS NOT NULL", name="confirmed_has_etag"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"]),
        sa.ForeignKeyConstraint(["posted_id"], ["uploads.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["kept_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sa.UniqueConstraint("posted_id"),
        sa.UniqueConstraint("kept_id"),
    )
    op.create_index(
        "ix_small_files_confirmed",
        "small_files",
        ["workspace_id", "confirmed_at", "id"],
        postgresql_where=sa.text("confirmed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_small_files_unconfirmed",
        "small_files",
        ["created_at"],
        postgresql_where=sa.text("confirmed_at IS NULL"),
    )


def downgrade():
    # These files cannot be reached any more: have the sweep remove their bytes.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now() WHERE state <> 'ABORTED'"
        " AND (method = 'post' OR id IN (SELECT kept_id FROM small_files))"
    )
    op.drop_table("small_files")
    # PostgreSQL cannot remove a value from an enum: it stays, unused.
    op.execute("UPDATE uploads SET method = 'single' WHERE method = 'post'")
