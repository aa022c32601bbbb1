"""mail: recipients with their own links, an outbox, codes for senders, opt-outs

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
KINDS = sa.Enum(
    "files_for_you",
    "reminder",
    "sent",
    "downloaded",
    "nobody_downloaded",
    "expires_soon",
    "somebody_asks",
    "undeliverable",
    "code",
    "reported",
    name="mail_kind",
)
STATES = sa.Enum("WAITING", "SENT", "FAILED", "DROPPED", name="mail_state")


def upgrade():
    op.add_column("transfers", sa.Column("sender_email", sa.Text(), nullable=True))
    op.add_column("transfers", sa.Column("sender_confirmed_at", INSTANT, nullable=True))
    op.add_column(
        "transfers",
        sa.Column("muted", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
    )
    op.create_check_constraint(
        "confirmed_has_sender",
        "transfers",
        "sender_confirmed_at IS NULL OR sender_email IS NOT NULL",
    )
    op.create_index(
        "ix_transfers_sender_email",
        "transfers",
        ["sender_email"],
        postgresql_where=sa.text("sender_email IS NOT NULL"),
    )
    op.create_index(
        "ix_transfers_unheard",
        "transfers",
        ["ready_at"],
        postgresql_where=sa.text("state = 'READY' AND sender_email IS NOT NULL"),
    )
    op.create_table(
        "recipients",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("asked_at", INSTANT, nullable=True),
        sa.Column("ask_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("sent_at", INSTANT, nullable=True),
        sa.Column("opened_at", INSTANT, nullable=True),
        sa.Column("downloaded_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("failed_at", INSTANT, nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("download_told_in", sa.Uuid(), nullable=True),
        sa.Column("failure_told_in", sa.Uuid(), nullable=True),
        sa.CheckConstraint("(failed_at IS NULL) = (failure IS NULL)", name="failure_is_whole"),
        sa.CheckConstraint("ask_count >= 0", name="ask_count_not_negative"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("slug"),
    )
    op.create_index(
        "uq_recipients_transfer_id_email", "recipients", ["transfer_id", "email"], unique=True
    )
    op.create_index("ix_recipients_email", "recipients", ["email", "asked_at"])
    op.create_index("ix_recipients_address_hash", "recipients", ["address_hash", "asked_at"])
    op.add_column("downloads", sa.Column("recipient_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        "fk_downloads_recipient_id",
        "downloads",
        "recipients",
        ["recipient_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_index("ix_downloads_recipient_id", "downloads", ["recipient_id"])
    op.create_table(
        "outbox_mails",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", KINDS, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=True),
        sa.Column("recipient_id", sa.Uuid(), nullable=True),
        sa.Column("about_id", sa.Uuid(), nullable=False),
        sa.Column("n", sa.Integer(), server_default="1", nullable=False),
        sa.Column("words", sa.Text(), server_default="", nullable=False),
        sa.Column("state", STATES, server_default="WAITING", nullable=False),
        sa.Column(
            "created_at", INSTANT, server_default=sa.text("statement_timestamp()"), nullable=False
        ),
        sa.Column(
            "due_at", INSTANT, server_default=sa.text("statement_timestamp()"), nullable=False
        ),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("handed_at", INSTANT, nullable=True),
        sa.Column("sent_at", INSTANT, nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.CheckConstraint("state <> 'SENT' OR sent_at IS NOT NULL", name="sent_has_instant"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["recipient_id"], ["recipients.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "uq_outbox_mails_once", "outbox_mails", ["about_id", "kind", "n"], unique=True
    )
    op.create_index(
        "ix_outbox_mails_due",
        "outbox_mails",
        ["due_at"],
        postgresql_where=sa.text("state = 'WAITING'"),
    )
    op.create_index("ix_outbox_mails_email", "outbox_mails", ["email", "handed_at"])
    op.create_index("ix_outbox_mails_handed_at", "outbox_mails", ["handed_at"])
    op.create_index("ix_outbox_mails_transfer_id", "outbox_mails", ["transfer_id"])
    op.create_index("ix_outbox_mails_recipient_id", "outbox_mails", ["recipient_id"])
    op.create_table(
        "opt_outs",
        sa.Column("email_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(email_hash) = 32", name="email_is_hash"),
        sa.PrimaryKeyConstraint("email_hash"),
    )
    op.create_table(
        "sender_codes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column(
            "created_at", INSTANT, server_default=sa.text("statement_timestamp()"), nullable=False
        ),
        sa.Column("try_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("used_at", INSTANT, nullable=True),
        sa.CheckConstraint("try_count >= 0", name="try_count_not_negative"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sender_codes_email", "sender_codes", ["email", "created_at"])
    op.create_index("ix_sender_codes_address_hash", "sender_codes", ["address_hash", "created_at"])


def downgrade():
    # This breaks the recipients' own links; the transfers' links still work.
    op.drop_table("sender_codes")
    op.drop_table("opt_outs")
    op.drop_table("outbox_mails")
    op.drop_column("downloads", "recipient_id")
    op.drop_table("recipients")
    for name in ("ix_transfers_unheard", "ix_transfers_sender_email"):
        op.drop_index(name, "transfers")
    op.drop_constraint("confirmed_has_sender", "transfers", type_="check")
    for name in ("muted", "sender_confirmed_at", "sender_email"):
        op.drop_column("transfers", name)
    STATES.drop(op.get_bind())
    KINDS.drop(op.get_bind())
