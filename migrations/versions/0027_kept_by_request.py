"""kept by request: for how many days files that are sent for a file request are kept

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("file_requests", sa.Column("keep_days", sa.Integer(), nullable=True))
    op.create_check_constraint("keep_days_positive", "file_requests", "keep_days > 0")


def downgrade():
    op.drop_column("file_requests", "keep_days")
