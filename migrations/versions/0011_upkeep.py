"""upkeep: what each sweep did and how it failed; tombstones lose their data, and end

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("heartbeats", sa.Column("last_count", sa.BigInteger(), nullable=True))
    op.add_column("heartbeats", sa.Column("seconds", sa.Float(), nullable=True))
    op.add_column(
        "heartbeats", sa.Column("failure_count", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "transfers", sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_transfers_to_forget",
        "transfers",
        ["deleted_at"],
        postgresql_where=sa.text("state = 'DELETED' AND forgotten_at IS NULL"),
    )
    op.create_index(
        "ix_transfers_deleted",
        "transfers",
        ["deleted_at"],
        postgresql_where=sa.text("state = 'DELETED'"),
    )
    op.create_index(
        "ix_uploads_removed",
        "uploads",
        ["removed_at"],
        postgresql_where=sa.text("removed_at IS NOT NULL"),
    )


def downgrade():
    op.drop_index("ix_uploads_removed", "uploads")
    op.drop_index("ix_transfers_deleted", "transfers")
    op.drop_index("ix_transfers_to_forget", "transfers")
    op.drop_column("transfers", "forgotten_at")
    # To older code, any row means that the sweep has completed.
    op.execute("DELETE FROM heartbeats WHERE at = to_timestamp(0)")
    for name in ("failure_count", "seconds", "last_count"):
        op.drop_column("heartbeats", name)
