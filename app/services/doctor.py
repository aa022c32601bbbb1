"""Checks whether the installation fits together, before a release can do harm."""

from sqlalchemy import text

from app.config import settings
from app.db import db, release
from app.services import archives, heartbeats

# Connections beside the web's pools: a job of worker and of maker, each with its heartbeat, a sweep
# with its second session, and an operator's psql.
OTHERS = 8
# A sweep is late when it has missed this many turns, and this many seconds more.
TURNS_MISSED = 3
LATE_SECONDS = 60
# A maker takes a zip within seconds, and the next after a minute.
NO_MAKER_SECONDS = 300
# `worker.py sqs` finishes a turn every few seconds, and after minutes at worst.
LISTENER = "take_messages"
NO_LISTENER_SECONDS = 300

# -1 means no limit; reserved_connections came with PostgreSQL 16. Hosted plans limit all three.
_ALLOWED = """
SELECT least(
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = session_user),
    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
)
"""


def connections() -> tuple[int, int]:
    """How many database connections all processes may open, and how many PostgreSQL allows us.

    The latter is what ordinary roles may have in all, or the limit of our role or database.
    """
    allowed = db.session.execute(text(_ALLOWED)).scalar_one()
    release()
    return settings.web_concurrency * settings.database_pool_size + OTHERS, allowed


def is_late(run: heartbeats.Run) -> bool:
    """Whether a sweep has missed too many turns: no worker, no clock, or a bug."""
    return run.age_seconds > TURNS_MISSED * run.interval_seconds + LATE_SECONDS


def has_no_listener() -> bool:
    """Whether no worker has polled the event queue for long."""
    return heartbeats.age_of(LISTENER) > NO_LISTENER_SECONDS


def has_no_maker(waiting: archives.Waiting) -> bool:
    """Whether zips (or files to be read) wait long while none is being made: no maker runs."""
    return (waiting.oldest_seconds or 0) > NO_MAKER_SECONDS and not waiting.being_made_count
