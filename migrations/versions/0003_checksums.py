"""checksums: the algorithm planned for an upload, and the whole file's CRC32 once verified

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ALGORITHM = sa.Enum("CRC32", name="checksum_algorithm")


def upgrade():
    # PostgreSQL would refuse to use the new value in the same transaction; nothing here does.
    op.execute("ALTER TYPE file_problem ADD VALUE IF NOT EXISTS 'damaged'")
    ALGORITHM.create(op.get_bind())
    op.add_column("uploads", sa.Column("checksum_algorithm", ALGORITHM, nullable=True))
    op.add_column("uploads", sa.Column("crc32", sa.LargeBinary(length=4), nullable=True))
    op.create_check_constraint("crc32_is_crc32", "uploads", "octet_length(crc32) = 4")
    op.create_check_constraint(
        "crc32_is_verified",
        "uploads",
        "crc32 IS NULL OR (checksum_algorithm IS NOT NULL AND etag IS NOT NULL)",
    )


def downgrade():
    op.drop_constraint("crc32_is_verified", "uploads", type_="check")
    op.drop_constraint("crc32_is_crc32", "uploads", type_="check")
    op.drop_column("uploads", "crc32")
    op.drop_column("uploads", "checksum_algorithm")
    ALGORITHM.drop(op.get_bind())
    # PostgreSQL cannot remove a value from an enum: it stays, unused.
    op.execute("UPDATE files SET problem = 'wrong_size' WHERE problem::text = 'damaged'")
