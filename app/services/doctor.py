"""Does this installation fit together? Asked at release, before it can hurt anybody."""

from sqlalchemy import func, select, text

from app import jobs
from app.clock import db_now
from app.config import settings
from app.db import db, release
from app.models import Heartbeat

# Beside the web's pools: a worker's job with its heartbeat, a sweep, and somebody with psql.
OTHERS = 5
# A sweep is late when it has missed so many of its turns, and this much more.
TURNS_MISSED = 3
LATE_SECONDS = 60


def connections() -> tuple[int, int]:
    """How many database connections one web, one worker and one clock may open, and how many
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
    age = func.extract("epoch", db_now() - Heartbeat.at)
    ages = {
        name: float(seconds) for name, seconds in db.session.execute(select(Heartbeat.name, age))
    }
    release()
    return [
        name
        for seconds, job in jobs.SCHEDULE
        if ages.get(name := job.name.removeprefix("upkeep."), float("inf"))
        > TURNS_MISSED * seconds + LATE_SECONDS
    ]
