"""batches: more files for a READY transfer; requests that were answered

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it, as long
as no files are added to READY transfers.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
FAILURE = postgresql.ENUM(name="transfer_failure", create_type=False)


def upgrade():
    op.execute("ALTER TYPE mail_kind ADD VALUE IF NOT EXISTS 'new_files'")
    op.add_column(
        "transfers", sa.Column("batch_count", sa.Integer(), server_default="0", nullable=False)
    )
    op.create_check_constraint("batch_count_not_negative", "transfers", "batch_count >= 0")
    op.add_column("files", sa.Column("batch", sa.Integer(), server_default="0", nullable=True))
    op.create_check_constraint("batch_not_negative", "files", "batch >= 0")
    op.create_table(
        "batches",
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("last_activity_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("tells_recipients", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("failure", FAILURE, nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("queued_at", INSTANT, nullable=True),
        sa.Column("queue_count", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("sent_size >= 0", name="sent_size_not_negative"),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("transfer_id"),
    )
    op.add_column("extension_requests", sa.Column("settled_at", INSTANT, nullable=True))


def downgrade():
    op.drop_column("extension_requests", "settled_at")
    # To older code, every file belongs to its transfer: drop the files of unfinished batches.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now() WHERE state <> 'ABORTED'"
        " AND id IN (SELECT upload_id FROM files WHERE batch IS NULL)"
    )
    op.execute("DELETE FROM files WHERE batch IS NULL")
    op.drop_table("batches")
    op.drop_constraint("batch_not_negative", "files", type_="check")
    op.drop_column("files", "batch")
    op.drop_constraint("batch_count_not_negative", "transfers", type_="check")
    op.drop_column("transfers", "batch_count")
    # The value stays in the enum mail_kind, unused, but mails of that kind must go.
    op.execute("DELETE FROM outbox_mails WHERE kind = 'new_files'")
