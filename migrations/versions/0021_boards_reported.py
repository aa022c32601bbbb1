"""boards reported: reports about boards, and their quarantine

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("boards", sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("abuse_reports", sa.Column("board_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        None, "abuse_reports", "boards", ["board_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_abuse_reports_board_id", "abuse_reports", ["board_id"])
    op.alter_column("abuse_reports", "transfer_id", nullable=True)
    op.create_check_constraint(
        "transfer_or_board", "abuse_reports", "(transfer_id IS NULL) <> (board_id IS NULL)"
    )


def downgrade():
    # Older code knows neither reports nor quarantine of boards: give quarantined boards a new,
    # unknown link.
    op.execute("DELETE FROM abuse_reports WHERE transfer_id IS NULL")
    op.execute(
        "UPDATE boards SET slug = gen_random_uuid()::text WHERE quarantined_at IS NOT NULL"
    )
    op.drop_constraint("transfer_or_board", "abuse_reports", type_="check")
    op.alter_column("abuse_reports", "transfer_id", nullable=False)
    op.drop_column("abuse_reports", "board_id")
    op.drop_column("boards", "quarantined_at")
