"""passwords: a transfer may have one, and attempts to enter it are counted

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("transfers", sa.Column("password_hash", sa.Text(), nullable=True))
    op.create_check_constraint(
        "password_is_argon2id", "transfers", "password_hash LIKE '$argon2id$%'"
    )
    op.create_table(
        "unlock_tries",
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("try_count", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(address_hash) IN (0, 32)", name="address_is_hash_or_all"),
        sa.CheckConstraint("try_count >= 1", name="try_count_positive"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("transfer_id", "address_hash"),
    )


def downgrade():
    # Older code does not ask for passwords. Expire these links rather than leave them open; their
    # bytes are removed after the grace period.
    op.execute(
        "UPDATE transfers SET state = 'EXPIRED', expired_at = now(), lease_token = NULL"
        " WHERE password_hash IS NOT NULL AND state IN ('INIT', 'PROCESSING', 'READY')"
    )
    op.drop_table("unlock_tries")
    op.drop_constraint("password_is_argon2id", "transfers", type_="check")
    op.drop_column("transfers", "password_hash")
