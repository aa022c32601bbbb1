"""reliability: idempotency, queue attempts, failures, heartbeats, audit

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FAILURE = sa.Enum("storage", "internal", name="transfer_failure")


def upgrade():
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("statement_timestamp()"),
            nullable=False,
        ),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=True),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_transfer_id", "audit_events", ["transfer_id"])
    # The table is append-only. Its owner can still TRUNCATE it, for retention.
    op.execute(
        """
        CREATE FUNCTION audit_events_only_grow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'audit_events rows are only ever added'; END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER audit_events_only_grow BEFORE UPDATE OR DELETE ON audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION audit_events_only_grow()
        """
    )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_heartbeats"),
    )
    FAILURE.create(op.get_bind())
    for column in (
        sa.Column("idempotency_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("address_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("queue_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure", FAILURE, nullable=True),
    ):
        op.add_column("transfers", column)
    op.create_check_constraint(
        "idempotency_is_whole",
        "transfers",
        "(idempotency_hash IS NULL) = (request_hash IS NULL)",
    )
    op.create_index(
        "ix_transfers_address",
        "transfers",
        ["address_hash"],
        postgresql_where=sa.text("state = 'INIT'"),
    )
    op.create_unique_constraint(
        "uq_transfers_idempotency_hash", "transfers", ["idempotency_hash"]
    )


def downgrade():
    op.drop_constraint("uq_transfers_idempotency_hash", "transfers", type_="unique")
    op.drop_index("ix_transfers_address", "transfers")
    op.drop_constraint("idempotency_is_whole", "transfers", type_="check")
    for name in ("failure", "queue_count", "address_hash", "request_hash", "idempotency_hash"):
        op.drop_column("transfers", name)
    FAILURE.drop(op.get_bind())
    op.drop_table("heartbeats")
    op.drop_table("audit_events")
    op.execute("DROP FUNCTION audit_events_only_grow()")
