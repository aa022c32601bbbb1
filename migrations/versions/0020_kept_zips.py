"""kept zips: which transfer owns bytes that are kept for URLs that were handed out

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


FOREIGN_KEY = "fk_uploads_kept_for"
INDEX = "ix_uploads_kept_for"


def upgrade():
    # The two busiest tables: each step commits, so that no lock is held for long, or while the next
    # step waits for another one. If interrupted, the whole migration can run again.
    with op.get_context().autocommit_block():
        op.add_column(
            "uploads", sa.Column("kept_for", sa.Uuid(), nullable=True), if_not_exists=True
        )
    if not _has_foreign_key():
        # Lock in the order in which the application writes these tables, to avoid deadlocks.
        op.execute("LOCK TABLE transfers IN SHARE ROW EXCLUSIVE MODE")
        op.create_foreign_key(
            FOREIGN_KEY,
            "uploads",
            "transfers",
            ["kept_for"],
            ["id"],
            ondelete="SET NULL",
            postgresql_not_valid=True,
        )
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE uploads VALIDATE CONSTRAINT {FOREIGN_KEY}")
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.drop_index(INDEX, "uploads", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "uploads",
            ["kept_for"],
            postgresql_where=sa.text("kept_for IS NOT NULL"),
            postgresql_concurrently=True,
        )


def _has_foreign_key():
    found = sa.inspect(op.get_bind()).get_foreign_keys("uploads")
    return any(one["name"] == FOREIGN_KEY for one in found)


def downgrade():
    op.drop_column("uploads", "kept_for")
