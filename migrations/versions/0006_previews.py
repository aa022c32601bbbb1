"""previews: what the page shows of a file, and which worker is making it

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "previews",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state", sa.Enum("WAITING", "MADE", "NONE", name="preview_state"), nullable=False
        ),
        sa.Column(
            "sight",
            sa.Enum("image", "video", "audio", "pdf", "text", name="preview_sight"),
            nullable=False,
        ),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("thumbnail_id", sa.Uuid(), nullable=True),
        sa.Column("picture_id", sa.Uuid(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("excerpt", sa.Text(), nullable=True),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("width > 0 AND height > 0", name="size_positive"),
        sa.CheckConstraint("octet_length(excerpt) <= 8192", name="excerpt_is_short"),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["thumbnail_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(["picture_id"], ["uploads.id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("file_id"),
        sa.UniqueConstraint("thumbnail_id"),
        sa.UniqueConstraint("picture_id"),
    )
    op.create_index(
        "ix_previews_waiting",
        "previews",
        ["claimed_until"],
        postgresql_where=sa.text("state = 'WAITING'"),
    )


def downgrade():
    # Older code does not know previews: have the sweep remove their objects.
    op.execute(
        "UPDATE uploads SET state = 'ABORTED', remove_after = now() WHERE id IN"
        " (SELECT thumbnail_id FROM previews UNION SELECT picture_id FROM previews)"
        " AND state <> 'ABORTED'"
    )
    op.drop_table("previews")
    op.execute("DROP TYPE preview_state")
    op.execute("DROP TYPE preview_sight")
