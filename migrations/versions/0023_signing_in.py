"""signing in: codes that sign in, and an index for the list of one sender's transfers

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

INDEX = "ix_transfers_of_sender"
# The new index begins with the only column of this one, so it serves the same queries.
FORMER = "ix_transfers_sender_email"
WHERE = sa.text("sender_email IS NOT NULL")


def upgrade():
    # Each step commits, so that no lock is held while the next step waits. If interrupted, the
    # whole migration can run again.
    with op.get_context().autocommit_block():
        op.add_column(
            "sender_codes",
            sa.Column("signs_in", sa.Boolean(), server_default=sa.false(), nullable=False),
            if_not_exists=True,
        )
        op.add_column(
            "sender_codes",
            sa.Column("signed_out_at", sa.DateTime(timezone=True), nullable=True),
            if_not_exists=True,
        )
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.drop_index(INDEX, "transfers", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "transfers",
            ["sender_email", "created_at", "id"],
            postgresql_where=WHERE,
            postgresql_concurrently=True,
        )
        op.drop_index(FORMER, "transfers", if_exists=True, postgresql_concurrently=True)


def downgrade():
    op.create_index(FORMER, "transfers", ["sender_email"], postgresql_where=WHERE)
    op.drop_index(INDEX, "transfers")
    op.drop_column("sender_codes", "signed_out_at")
    op.drop_column("sender_codes", "signs_in")
