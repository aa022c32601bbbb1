"""turns: until when a sweep is reserved for the run that is working on it

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
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
