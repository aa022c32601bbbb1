"""Records when each sweep last finished, what it did, and how often it has failed since.

A sweep that no longer runs must be noticed, and so must one that keeps failing. Sweeps of which
parallel runs would do the same work take turns here, and long ones keep here what they have done.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, TypeVar

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from app import jobs
from app.clock import db_now
from app.db import db, discard, release, transaction
from app.models import Heartbeat

log = logging.getLogger(__name__)

# What a sweep returns: how many items it dealt with; None if it has not come to its end.
Done = TypeVar("Done", int, int | None)
# The `at` of a sweep that has failed and never finished. Older code, which expects every row to
# have an instant, reads it as infinitely long ago.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# A run that did nothing and took no longer is logged at DEBUG only.
QUICK_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """The state of a sweep in the schedule."""

    name: str
    interval_seconds: int
    # When it last finished; how many items it dealt with then, and how long that took.
    at: datetime | None
    age_seconds: float
    count: int | None
    seconds: float | None
    # How often it has failed since.
    failure_count: int
    # Whether it is in the middle of its work, and the next run has to go on.
    is_unfinished: bool


def name_of(job: jobs.Job) -> str:
    """The name of a job's sweep, in its row and for people."""
    return job.name.rpartition(".")[2]


def noted(sweep: Callable[..., Done]) -> Callable[..., Done]:
    """Decorate a sweep: record when it finished and what it did, or that it failed."""

    @functools.wraps(sweep)
    def run(*given: Any, **named: Any) -> Done:
        began = time.monotonic()
        try:
            done = sweep(*given, **named)
        except Exception:
            _note_failure(sweep.__name__)
            raise
        if done is not None and not jobs.stopping.is_set():
            seconds = time.monotonic() - began
            note_run(sweep.__name__, done, seconds)
            level = logging.INFO if done or seconds > QUICK_SECONDS else logging.DEBUG
            log.log(level, "%s dealt with %d in %.1f s", sweep.__name__, done, seconds)
        return done

    return run


@contextmanager
def alone(name: str, lasting: timedelta) -> Iterator[Callable[[], bool] | None]:
    """Let one run of a sweep work at a time; yields a function that renews its turn, or None.

    None means that another run has the turn. A turn lapses `lasting` after it was taken or renewed,
    so that a dead run does not block others for longer. Renewing returns whether the turn is still
    this run's. Leaving the block gives it back.
    """
    # A turn is identified by the exact time at which it lapses.
    until = _take_turn(name, lasting)
    if until is None:
        yield None
        return

    def renew() -> bool:
        nonlocal until
        if until is not None:
            until = _move_turn(name, until, db_now() + lasting)
        return until is not None

    try:
        yield renew
    finally:
        discard()
        if until is not None:
            _move_turn(name, until, None)


def _take_turn(name: str, lasting: timedelta) -> datetime | None:
    until, held = db_now() + lasting, Heartbeat.busy_until
    with transaction():
        return db.session.scalar(
            insert(Heartbeat)
            .values(name=name, at=NEVER, busy_until=until)
            .on_conflict_do_update(
                index_elements=["name"],
                set_={"busy_until": until},
                where=or_(held.is_(None), held < db_now()),
            )
            .returning(held)
            .execution_options(synchronize_session=False)
        )


def _move_turn(name: str, until: datetime, to: Any) -> datetime | None:
    with transaction():
        return db.session.scalar(
            update(Heartbeat)
            .where(Heartbeat.name == name, Heartbeat.busy_until == until)
            .values(busy_until=to)
            .returning(Heartbeat.busy_until)
            .execution_options(synchronize_session=False)
        )


def note_run(name: str, count: int = 0, seconds: float = 0.0) -> None:
    """Record that this sweep has just finished."""
    done = {
        "at": db_now(),
        "last_count": count,
        "seconds": seconds,
        "failure_count": 0,
        "progress": None,
    }
    with transaction():
        _write(name, fresh=done, known=done)


def note_progress(name: str, progress: dict[str, Any] | None) -> None:
    """Record what this sweep has done so far, or forget it: a run of it is unfinished, or none."""
    with transaction():
        _write(name, fresh={"at": NEVER, "progress": progress}, known={"progress": progress})


def progress_of(name: str) -> dict[str, Any] | None:
    """What a run of this name that has not come to its end left behind; None if there is none."""
    progress = db.session.scalar(select(Heartbeat.progress).where(Heartbeat.name == name))
    release()
    return progress


def count_of(name: str) -> int | None:
    """The count of the last run of this name; None if there was none."""
    count = db.session.scalar(select(Heartbeat.last_count).where(Heartbeat.name == name))
    release()
    return count


def age_of(name: str) -> float:
    """Seconds since a run of this name finished; infinite if none has."""
    age = func.extract("epoch", db_now() - Heartbeat.at)
    found = db.session.scalar(select(age).where(Heartbeat.name == name))
    release()
    return inf if found is None else float(found)


def runs() -> list[Run]:
    """The state of each sweep of the schedule, in its order."""
    age = func.extract("epoch", db_now() - Heartbeat.at)
    rows = db.session.execute(
        select(Heartbeat, age).execution_options(populate_existing=True)
    ).all()
    release()
    noted_as = {row.name: (row, float(ago)) for row, ago in rows}
    return [_run(seconds, name_of(job), noted_as) for seconds, job in jobs.SCHEDULE]


def _run(seconds: int, name: str, noted_as: dict[str, tuple[Heartbeat, float]]) -> Run:
    row, ago = noted_as.get(name, (None, inf))
    if row is None:
        return Run(name, seconds, None, inf, None, None, 0, False)
    since = row.failure_count, row.progress is not None
    if row.at == NEVER:
        return Run(name, seconds, None, inf, None, None, *since)
    return Run(name, seconds, row.at, ago, row.last_count, row.seconds, *since)


def _note_failure(name: str) -> None:
    """Count a failure. What made the sweep fail may prevent this too, which is only logged."""
    try:
        discard()
        with transaction():
            _write(
                name,
                fresh={"at": NEVER, "failure_count": 1},
                known={"failure_count": Heartbeat.failure_count + 1},
            )
    except Exception as error:
        log.warning("could not note that %s failed: %s", name, type(error).__name__)


def _write(name: str, *, fresh: dict[str, Any], known: dict[str, Any]) -> None:
    """Insert the sweep's row, or update the existing one."""
    db.session.execute(
        insert(Heartbeat)
        .values(name=name, **fresh)
        .on_conflict_do_update(index_elements=["name"], set_=known)
        .execution_options(synchronize_session=False)
    )
