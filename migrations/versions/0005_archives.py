"""archives: one zip per transfer; a file's own date; a CRC32 that we computed ourselves

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "archives",
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("done_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "failure",
            sa.Enum("file_lost", "storage", "internal", name="zip_failure"),
            nullable=True,
        ),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queue_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("done_size >= 0", name="done_size_not_negative"),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.CheckConstraint("ready_at IS NULL OR failed_at IS NULL", name="one_end"),
        sa.CheckConstraint("(failed_at IS NULL) = (failure IS NULL)", name="failed_has_reason"),
        sa.CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("transfer_id"),
        sa.UniqueConstraint("upload_id"),
    )
    op.create_index(
        "ix_archives_wanted",
        "archives",
        ["queued_at"],
        postgresql_where=sa.text("ready_at IS NULL AND failed_at IS NULL"),
    )
    op.add_column("files", sa.Column("modified_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint("crc32_is_verified", "uploads", type_="check")
    op.create_check_constraint(
        "crc32_is_of_what_is_held", "uploads", "crc32 IS NULL OR etag IS NOT NULL"
    )


def downgrade():
    # Nothing will refer to finished and unfinished zips any more: have their bytes removed.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now()"
        " WHERE id IN (SELECT upload_id FROM archives)"
    )
    op.execute("UPDATE uploads SET crc32 = NULL WHERE checksum_algorithm IS NULL")
    op.drop_constraint("crc32_is_of_what_is_held", "uploads", type_="check")
    op.create_check_constraint(
        "crc32_is_verified",
        "uploads",
        "crc32 IS NULL OR (checksum_algorithm IS NOT NULL AND etag IS NOT NULL)",
    )
    op.drop_column("files", "modified_at")
    op.drop_table("archives")
    sa.Enum(name="zip_failure").drop(op.get_bind())
