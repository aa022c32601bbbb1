"""sent files: an upload records when its sender reported that all of it was sent

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
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
