"""turns: which run of a sweep is at it

Numbered, never edited after it has landed. Only expands: old and new code run on it alike.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column(
        "heartbeats", sa.Column("busy_until", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade():
    op.drop_column("heartbeats", "busy_until")
