"""block list: files that may not be sent, those being checked against it, retention of reports

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
HARM = postgresql.ENUM(
    "malware",
    "phishing",
    "copyright",
    "illegal",
    "other",
    name="report_reason",
    create_type=False,
)


def upgrade():
    op.create_table(
        "blocked_files",
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("crc32", sa.LargeBinary(length=4), nullable=True),
        sa.Column("reason", HARM, nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_is_sha256"),
        sa.CheckConstraint("octet_length(crc32) = 4", name="crc32_is_crc32"),
        sa.CheckConstraint("size > 0", name="size_positive"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("ix_blocked_files_size", "blocked_files", ["size"])
    op.create_table(
        "inspections",
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("block_as", HARM, nullable=True),
        sa.Column("done_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("failed_at", INSTANT, nullable=True),
        sa.Column("queued_at", INSTANT, nullable=True),
        sa.Column("queue_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("done_size >= 0", name="done_size_not_negative"),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("upload_id"),
    )
    op.create_index("ix_inspections_transfer_id", "inspections", ["transfer_id"])
    op.create_index(
        "ix_inspections_wanted",
        "inspections",
        ["queued_at"],
        postgresql_where=sa.text("failed_at IS NULL"),
    )
    op.add_column("abuse_reports", sa.Column("file_sha256", sa.LargeBinary(32), nullable=True))
    op.create_index(
        "ix_abuse_reports_closed",
        "abuse_reports",
        ["created_at"],
        postgresql_where=sa.text("handled_at IS NOT NULL"),
    )
    op.create_index(
        "ix_transfers_evidence",
        "transfers",
        ["forgotten_at"],
        postgresql_where=sa.text("forgotten_at IS NOT NULL AND address_hash IS NOT NULL"),
    )


def downgrade():
    op.drop_index("ix_transfers_evidence", "transfers")
    op.drop_index("ix_abuse_reports_closed", "abuse_reports")
    op.drop_column("abuse_reports", "file_sha256")
    # Files that were held back are OPEN, so older code completes them.
    op.drop_table("inspections")
    op.drop_table("blocked_files")
