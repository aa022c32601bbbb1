"""accounts: workspaces and their API keys, which workspace owns a transfer, boards

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NOW = {"server_default": sa.func.now(), "nullable": False}


def upgrade():
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), **NOW),
        sa.CheckConstraint("name <> ''", name="name_not_empty"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("scope", sa.Enum("read", "write", "admin", name="api_scope"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), **NOW),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("octet_length(key_hash) = 32", name="key_is_sha256"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("prefix"),
    )
    op.create_index("ix_api_keys_workspace_id", "api_keys", ["workspace_id"])
    op.create_table(
        "boards",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_identifier", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), **NOW),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("slug"),
    )
    op.create_index("ix_boards_workspace_id", "boards", ["workspace_id"])
    op.create_table(
        "board_items",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("board_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), **NOW),
        sa.CheckConstraint("(url IS NULL) <> (file_id IS NULL)", name="link_or_file"),
        sa.CheckConstraint("(url IS NULL) = (title IS NULL)", name="link_has_title"),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("file_id"),
    )
    op.create_index(
        "uq_board_items_board_id_position", "board_items", ["board_id", "position"], unique=True
    )
    op.add_column("transfers", sa.Column("workspace_id", sa.Uuid(), nullable=True))
    op.add_column("transfers", sa.Column("user_identifier", sa.Text(), nullable=True))
    op.create_foreign_key(None, "transfers", "workspaces", ["workspace_id"], ["id"])
    op.create_check_constraint(
        "user_has_workspace", "transfers", "user_identifier IS NULL OR workspace_id IS NOT NULL"
    )
    op.add_column("audit_events", sa.Column("subject_id", sa.Uuid(), nullable=True))
    op.add_column("audit_events", sa.Column("key_id", sa.Uuid(), nullable=True))


def downgrade():
    op.drop_column("audit_events", "key_id")
    op.drop_column("audit_events", "subject_id")
    op.drop_constraint("user_has_workspace", "transfers", type_="check")
    op.drop_column("transfers", "user_identifier")
    op.drop_column("transfers", "workspace_id")
    op.drop_table("board_items")
    op.drop_table("boards")
    op.drop_table("api_keys")
    sa.Enum(name="api_scope").drop(op.get_bind())
    op.drop_table("workspaces")
