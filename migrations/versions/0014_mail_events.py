"""mail events: when a mail was published, its id at the server, why an address gets no mail

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

REASON = sa.Enum("asked", "bounced", "complained", name="no_mail")


def upgrade():
    op.add_column(
        "outbox_mails", sa.Column("publish_after", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("outbox_mails", sa.Column("server_id", sa.Text(), nullable=True))
    op.create_index(
        "ix_outbox_mails_server_id",
        "outbox_mails",
        ["server_id"],
        postgresql_where=sa.text("server_id IS NOT NULL"),
    )
    REASON.create(op.get_bind())
    op.add_column(
        "opt_outs", sa.Column("reason", REASON, server_default="asked", nullable=False)
    )


def downgrade():
    # Older code takes every row for the owner's own opt-out, so an address that only bounced would
    # never get mail again: delete those rows.
    op.execute("DELETE FROM opt_outs WHERE reason = 'bounced'")
    op.drop_column("opt_outs", "reason")
    REASON.drop(op.get_bind())
    op.drop_index("ix_outbox_mails_server_id", table_name="outbox_mails")
    op.drop_column("outbox_mails", "server_id")
    op.drop_column("outbox_mails", "publish_after")
