"""requests and reports: what recipients ask senders and report to the operator; quarantine

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REASON = sa.Enum("expired", "limit_reached", name="request_reason")
HARM = sa.Enum("malware", "phishing", "copyright", "illegal", "other", name="report_reason")


def upgrade():
    op.add_column(
        "transfers", sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_table(
        "extension_requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("reason", REASON, nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("contact", sa.Text(), server_default="", nullable=False),
        sa.Column("asker_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("char_length(message) <= 500", name="message_is_short"),
        sa.CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        sa.CheckConstraint("octet_length(asker_hash) = 32", name="asker_is_hash"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("transfer_id", "asker_hash", "day"),
    )
    op.create_index(
        "ix_extension_requests_to_announce",
        "extension_requests",
        ["created_at"],
        postgresql_where=sa.text("announced_at IS NULL"),
    )
    op.create_table(
        "abuse_reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("reason", HARM, nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("contact", sa.Text(), server_default="", nullable=False),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("char_length(message) <= 2000", name="message_is_short"),
        sa.CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_abuse_reports_transfer_id", "abuse_reports", ["transfer_id"])
    op.create_index(
        "ix_abuse_reports_open",
        "abuse_reports",
        ["id"],
        postgresql_where=sa.text("handled_at IS NULL"),
    )


def downgrade():
    # Older code does not know quarantine: expire these links rather than let them work again.
    op.execute(
        "UPDATE transfers SET state = 'EXPIRED', expired_at = now(), lease_token = NULL"
        " WHERE quarantined_at IS NOT NULL AND state IN ('INIT', 'PROCESSING', 'READY')"
    )
    op.drop_table("abuse_reports")
    op.drop_table("extension_requests")
    HARM.drop(op.get_bind())
    REASON.drop(op.get_bind())
    op.drop_column("transfers", "quarantined_at")
