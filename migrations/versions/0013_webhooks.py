"""webhooks: the URLs a workspace wants notified, and the deliveries queued for them

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NOW = {"server_default": sa.func.statement_timestamp(), "nullable": False}
EVENTS = ("transfer.ready", "transfer.downloaded", "transfer.expired", "webhook.test")
WAITING = {"postgresql_where": sa.text("state = 'WAITING'")}


def upgrade():
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", INSTANT, **NOW),
        sa.Column("disabled_at", INSTANT, nullable=True),
        sa.Column(
            "disabled_for", sa.Enum("asked", "gone", "failing", name="webhook_off"), nullable=True
        ),
        sa.Column("failing_since", INSTANT, nullable=True),
        sa.Column("failure_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rest_until", INSTANT, nullable=True),
        sa.CheckConstraint("url <> ''", name="url_not_empty"),
        sa.CheckConstraint("cardinality(events) > 0", name="events_not_empty"),
        sa.CheckConstraint("octet_length(secret) = 32", name="secret_is_whole"),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_for IS NULL)", name="disabled_is_whole"
        ),
        sa.CheckConstraint("failure_count >= 0", name="failure_count_not_negative"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_webhooks_workspace_id", "webhooks", ["workspace_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=True),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Enum(*EVENTS, name="webhook_event"), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("WAITING", "SENT", "FAILED", name="webhook_delivery_state"),
            server_default="WAITING",
            nullable=False,
        ),
        sa.Column("created_at", INSTANT, **NOW),
        sa.Column("due_at", INSTANT, **NOW),
        sa.Column("ends_at", INSTANT, nullable=False),
        sa.Column("attempt_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempted_at", INSTANT, nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    table = "webhook_deliveries"
    op.create_index("uq_webhook_deliveries_once", table, ["webhook_id", "event_id"], unique=True)
    op.create_index("ix_webhook_deliveries_due", table, ["webhook_id", "due_at"], **WAITING)
    op.create_index("ix_webhook_deliveries_ending", table, ["ends_at"], **WAITING)
    op.create_index("ix_webhook_deliveries_log", table, ["webhook_id", "created_at", "id"])
    op.create_index("ix_webhook_deliveries_created_at", table, ["created_at"])
    op.create_index("ix_webhook_deliveries_transfer_id", table, ["transfer_id"])


def downgrade():
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    for name in ("webhook_delivery_state", "webhook_event", "webhook_off"):
        sa.Enum(name=name).drop(op.get_bind())
