"""Does this installation fit together? Asked at release, before it can hurt anybody."""

from sqlalchemy import text

from app import jobs
from app.config import settings
from app.db import db, release
from app.services import upkeep

# Beside the web's pools: a job of worker and of maker with its heartbeat, a sweep, and somebody
# with psql.
OTHERS = 7
# A sweep is late when it has missed so many of its turns, and this much more.
TURNS_MISSED = 3
LATE_SECONDS = 60


def connections() -> tuple[int, int]:
    """How many database connections one of each process may open, and how many
    PostgreSQL lets an ordinary role have."""
    row = db.session.execute(
        text(
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
        )
    )
    allowed = row.scalar_one()
    release()
    return settings.web_concurrency * settings.database_pool_size + OTHERS, allowed


def late_sweeps() -> list[str]:
    """The sweeps that have not come to their end for far too long: no worker, no clock, a bug."""
    age_of = upkeep.ages()
    return [
        job.name.removeprefix("upkeep.")
        for seconds, job in jobs.SCHEDULE
        if age_of[job] > TURNS_MISSED * seconds + LATE_SECONDS
    ]
