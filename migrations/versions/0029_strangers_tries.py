"""strangers' tries: how often a mailed code was tried from other networks than the one that asked

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it; old
code does not count these tries apart.
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column(
        "sender_codes",
        sa.Column("stranger_try_count", sa.Integer(), server_default="0", nullable=False),
    )


def downgrade():
    op.drop_column("sender_codes", "stranger_try_count")
