"""own keys: workspaces that belong to a person, with the API keys that they have made themselves

Numbered, and never edited once it has landed. Expand-only: old and new code both run on it, except
that old code also accepts the keys of people who may not send any more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("workspaces", sa.Column("email", sa.Text(), nullable=True))
    op.create_unique_constraint("uq_workspaces_email", "workspaces", ["email"])


def downgrade():
    # Older code does not ask whether somebody may still send.
    op.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())"
        " WHERE workspace_id IN (SELECT id FROM workspaces WHERE email IS NOT NULL)"
    )
    # Nor does it tell a person's workspace from one for which the operator vouches: what was sent
    # with these keys goes on as if it had been sent without one, by the rules for senders.
    op.execute(
        "UPDATE transfers SET workspace_id = NULL, user_identifier = NULL"
        " WHERE workspace_id IN (SELECT id FROM workspaces WHERE email IS NOT NULL)"
    )
    op.drop_column("workspaces", "email")
