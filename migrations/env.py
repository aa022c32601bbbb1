"""How `flask db` runs the migrations: online, each in a transaction, one release at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from alembic import context
from flask import current_app
from sqlalchemy import Connection, text

from app import timeouts

# Any number, the same for every release of Beeline: whoever holds it migrates.
LOCK = 6_237_411
# How often whoever comes second looks whether the first is done.
LOOK_SECONDS = 1.0

db = current_app.extensions["migrate"].db


def wait_for_others(connection: Connection) -> None:
    """Return when this session may migrate, and say so if it has to wait for that."""
    told = False
    # Asked again and again, not waited for: a statement that waits keeps a snapshot of the
    # database, for which a CREATE INDEX CONCURRENTLY of the first would wait in turn.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
        connection.commit()
        if not told:
            click.echo("Waiting for another release to end.", err=True)
            told = True
        time.sleep(LOOK_SECONDS)


def leave_to_others(connection: Connection) -> None:
    """Give the lock back. The session's end would do, but a pooler between may keep the session."""
    if connection.invalidated:
        return
    connection.rollback()
    connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
    connection.commit()


@contextmanager
def session() -> Iterator[Connection]:
    """A connection that ends with its session: what is set and locked in it is left to no pool."""
    with db.engine.connect() as connection:
        try:
            yield connection
        finally:
            # Not detach() at its beginning: a migration may want to be without a transaction.
            connection.invalidate()


with timeouts.as_long_as_it_takes(), session() as connection:
    # The web's own limits are not for migrations.
    connection.execute(text("SET statement_timeout = 0"))
    connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
    # But none may queue behind a table's lock for long: everything else would queue behind it.
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.commit()
    # Whoever comes second waits for the first, however long that takes, and finds its work done.
    # Each migration commits, so a lock of a transaction would end with the first one.
    wait_for_others(connection)
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        transaction_per_migration=True,
        compare_server_default=False,
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        leave_to_others(connection)
