"""requests reported: reports about file requests, and their quarantine

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it, except
that old code cannot list reports about file requests.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column(
        "file_requests", sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("abuse_reports", sa.Column("file_request_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        None, "abuse_reports", "file_requests", ["file_request_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_abuse_reports_file_request_id", "abuse_reports", ["file_request_id"])
    op.drop_constraint("transfer_or_board", "abuse_reports", type_="check")
    op.create_check_constraint(
        "about_one_link",
        "abuse_reports",
        "num_nonnulls(transfer_id, board_id, file_request_id) = 1",
    )


def downgrade():
    # Older code knows neither reports nor quarantine of file requests: close quarantined ones.
    op.execute("DELETE FROM abuse_reports WHERE file_request_id IS NOT NULL")
    op.execute(
        "UPDATE file_requests SET ends_at = least(ends_at, now()) WHERE quarantined_at IS NOT NULL"
    )
    op.drop_constraint("about_one_link", "abuse_reports", type_="check")
    op.create_check_constraint(
        "transfer_or_board", "abuse_reports", "(transfer_id IS NULL) <> (board_id IS NULL)"
    )
    op.drop_column("abuse_reports", "file_request_id")
    op.drop_column("file_requests", "quarantined_at")
