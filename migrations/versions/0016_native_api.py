"""the native API for keys: listing a workspace, files by a single PUT, idempotent requests

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

LISTED = ("state", "created_at", "expires_at", "max_downloads", "total_size")


def upgrade():
    op.add_column(
        "transfers", sa.Column("total_size", sa.BigInteger(), server_default="0", nullable=False)
    )
    # Only transfers with a workspace are ever listed. Updating more rows would hold more locks.
    op.execute(
        "UPDATE transfers SET total_size = held.size FROM ("
        " SELECT files.transfer_id, sum(uploads.size) AS size FROM files"
        " JOIN uploads ON uploads.id = files.upload_id"
        " JOIN transfers ON transfers.id = files.transfer_id"
        " WHERE transfers.workspace_id IS NOT NULL GROUP BY files.transfer_id"
        ") AS held WHERE transfers.id = held.transfer_id"
    )
    for name in LISTED:
        op.create_index(
            f"ix_transfers_listed_{name}",
            "transfers",
            ["workspace_id", name, "id"],
            postgresql_where=sa.text("workspace_id IS NOT NULL"),
        )
    op.create_table(
        "stagings",
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=True),
        sa.Column("copy_id", sa.Uuid(), nullable=True),
        sa.Column("filename", sa.Text(), server_default="", nullable=False),
        sa.Column("content_type", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint(
            "upload_id IS NULL OR filename <> ''", name=op.f("ck_stagings_upload_has_name")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"],
            ["transfers.id"],
            name=op.f("fk_stagings_transfer_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_stagings_upload_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["copy_id"], ["uploads.id"], name=op.f("fk_stagings_copy_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("transfer_id", name=op.f("pk_stagings")),
        sa.UniqueConstraint("upload_id", name=op.f("uq_stagings_upload_id")),
        sa.UniqueConstraint("copy_id", name=op.f("uq_stagings_copy_id")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("made_ids", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.CheckConstraint(
            "octet_length(key_hash) = 32", name=op.f("ck_idempotency_keys_key_is_hash")
        ),
        sa.CheckConstraint(
            "octet_length(request_hash) = 32", name=op.f("ck_idempotency_keys_request_is_hash")
        ),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade():
    op.drop_table("idempotency_keys")
    # Older code knows these bytes only through their uploads: have them removed.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now() FROM stagings"
        " WHERE uploads.id IN (stagings.upload_id, stagings.copy_id)"
    )
    op.drop_table("stagings")
    for name in LISTED:
        op.drop_index(f"ix_transfers_listed_{name}", "transfers")
    op.drop_column("transfers", "total_size")
