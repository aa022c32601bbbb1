"""How `flask db` runs the migrations: online, each in a transaction, one release at a time."""

from alembic import context
from flask import current_app
from sqlalchemy import text

# Any number, the same for every release of Beeline: whoever holds it migrates.
LOCK = 6_237_411

db = current_app.extensions["migrate"].db

with db.engine.connect() as connection:
    # What is set and locked here is the session's: it ends with it, and is not left to a pool.
    connection.detach()
    # The web's own limits are not for migrations.
    connection.execute(text("SET statement_timeout = 0"))
    connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
    # Whoever comes second waits for the first, however long that takes, and finds its work done.
    # Each migration commits, so a lock of a transaction would end with the first one.
    connection.execute(text("SET lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    # But none may queue behind a table's lock for long: everything else would queue behind it.
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        transaction_per_migration=True,
        compare_server_default=False,
    )
    with context.begin_transaction():
        context.run_migrations()
