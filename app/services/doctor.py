"""Does this installation fit together? Asked at release, before it can hurt anybody."""

from sqlalchemy import text

from app.config import settings
from app.db import db, release
from app.services import archives, heartbeats

# Beside the web's pools: a job of worker and of maker with its heartbeat, a sweep and what helps
# it, and somebody with psql.
OTHERS = 8
# A sweep is late when it has missed so many of its turns, and this much more.
TURNS_MISSED = 3
LATE_SECONDS = 60
# A maker takes a zip within seconds, and another one after a minute.
NO_MAKER_SECONDS = 300
# One of `worker.py sqs` comes to the end of a turn every few seconds, and after minutes at worst.
LISTENER = "take_messages"
NO_LISTENER_SECONDS = 300

# -1 is no limit; reserved_connections came with PostgreSQL 16. Hosted plans limit all three.
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
    """How many database connections one of each process may open, and how many PostgreSQL lets
    our role have: those of any ordinary one, or what role or database are held to."""
    allowed = db.session.execute(text(_ALLOWED)).scalar_one()
    release()
    return settings.web_concurrency * settings.database_pool_size + OTHERS, allowed


def is_late(run: heartbeats.Run) -> bool:
    """Whether a sweep has missed too many of its turns: no worker, no clock, or a bug."""
    return run.age_seconds > TURNS_MISSED * run.interval_seconds + LATE_SECONDS


def has_no_listener() -> bool:
    """Whether nobody has come to the event queue for long."""
    return heartbeats.age_of(LISTENER) > NO_LISTENER_SECONDS


def has_no_maker(waiting: archives.Waiting) -> bool:
    """Whether zips (or files to be read) wait so long, and nobody is at one, that there is nobody
    for them."""
    return (waiting.oldest_seconds or 0) > NO_MAKER_SECONDS and not waiting.being_made_count
