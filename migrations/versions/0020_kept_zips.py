"""kept zips: whose bytes they are that stay for addresses that were given away

Numbered, never edited after it has landed. Only expands: old and new code run on it alike.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("uploads", sa.Column("kept_for", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        None, "uploads", "transfers", ["kept_for"], ["id"], ondelete="SET NULL"
    )
    op.create_index(
        "ix_uploads_kept_for",
        "uploads",
        ["kept_for"],
        postgresql_where=sa.text("kept_for IS NOT NULL"),
    )


def downgrade():
    op.drop_column("uploads", "kept_for")
