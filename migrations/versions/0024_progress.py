"""progress: what a sweep that has not come to its end has done so far

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("heartbeats", sa.Column("progress", postgresql.JSONB(), nullable=True))


def downgrade():
    op.drop_column("heartbeats", "progress")
