"""file requests: links at which anyone can send files to one address

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it, as long
as no files are sent at such a link.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade():
    op.execute("ALTER TYPE mail_kind ADD VALUE IF NOT EXISTS 'received'")
    op.create_table(
        "file_requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("ends_at", INSTANT, nullable=False),
        sa.CheckConstraint("title <> ''", name="title_not_empty"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("slug"),
    )
    op.create_index("ix_file_requests_email", "file_requests", ["email", "created_at"])
    op.create_index("ix_file_requests_ends_at", "file_requests", ["ends_at"])
    op.create_table(
        "arrivals",
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("file_request_id", sa.Uuid(), nullable=False),
        sa.Column("came_at", INSTANT, nullable=True),
        sa.Column("told_in", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file_request_id"], ["file_requests.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("transfer_id"),
    )
    op.create_index("ix_arrivals_file_request_id", "arrivals", ["file_request_id"])


def downgrade():
    op.drop_table("arrivals")
    op.drop_table("file_requests")
    # The value stays in the enum mail_kind, unused, but mails of that kind must go.
    op.execute("DELETE FROM outbox_mails WHERE kind = 'received'")
