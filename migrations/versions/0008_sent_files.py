"""sent files: an upload notes when its sender said that all of it was sent

Numbered, never edited after it has landed. Only expands: old and new code run on it alike.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("uploads", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))


def downgrade():
    op.drop_column("uploads", "sent_at")
