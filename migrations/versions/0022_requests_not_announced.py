"""requests not announced: drop the index on `announced_at`, which no query uses

Numbered, and never edited once it has landed. The column itself stays: while this release is rolled
out, processes of the previous release still write it. The next release may drop it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

INDEX = "ix_extension_requests_to_announce"


def upgrade():
    # Concurrently: a plain DROP INDEX waits for every query that uses the table, and all later
    # queries wait behind it.
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, "extension_requests", if_exists=True, postgresql_concurrently=True)


def downgrade():
    op.create_index(
        INDEX,
        "extension_requests",
        ["created_at"],
        postgresql_where=sa.text("announced_at IS NULL"),
    )
