"""Connections to PostgreSQL: no dead one is handed out, and no needless BEGIN is sent."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2 import extensions
from sqlalchemy import literal, select, text

from app import connections
from app.config import settings
from app.db import ask, db, insert_now, is_away, release, transaction
from app.models import Workspace
from tests.lab.people import SLOWEST_SECONDS

pytestmark = [pytest.mark.real_commits, pytest.mark.usefixtures("inside")]
STATE = "SELECT state FROM pg_stat_activity WHERE pid = :pid"
Count = Callable[[], int]


@pytest.fixture(autouse=True)
def _alone(inside: None) -> None:
    """Start with an empty pool, so that the test has the only connection."""
    db.engine.dispose()


@pytest.fixture
def round_trips() -> Iterator[Count]:
    """A function that returns the number of round trips to PostgreSQL since its last call."""
    wait, count = extensions.get_wait_callback(), [0]

    def counting(connection: object) -> None:
        count[0] += 1
        wait(connection)

    def told() -> int:
        found, count[0] = count[0], 0
        return found

    extensions.set_wait_callback(counting)
    yield told
    extensions.set_wait_callback(wait)


def pid() -> int:
    return db.session.scalar(text("SELECT pg_backend_pid()"))


def seen_by_another(statement: str, **given: object) -> object:
    with db.engine.connect() as another:
        return another.scalar(text(statement), given)


def test_a_recently_used_connection_is_not_pinged(round_trips: Count) -> None:
    mine = pid()
    release()
    round_trips()
    assert pid() == mine
    assert round_trips() == 1
    release()


def test_the_connection_that_was_used_last_is_used_next() -> None:
    """After a crowd there are several: used in turn, each would be idle for long, and pinged."""
    with ExitStack() as crowd:
        for _ in range(3):
            crowd.enter_context(db.engine.connect())
    used = []
    for _ in range(4):
        used.append(pid())
        release()
    assert len(set(used)) == 1


def test_a_connection_that_was_idle_for_long_is_pinged_before_use(
    round_trips: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TRUSTED_SECONDS", 0.0)
    mine = pid()
    release()
    round_trips()
    assert pid() == mine
    assert round_trips() == 2


def test_f38_a_terminated_connection_is_never_handed_out() -> None:
    """Nor are other connections that the same restart has ended: one failed ping discards all."""
    mine = pid()
    with db.engine.connect() as other, db.engine.connect() as last:
        ended = [mine, other.scalar(text("SELECT pg_backend_pid()"))]
        release()
        other.close()
        for one in ended:
            last.execute(text("SELECT pg_terminate_backend(:pid, 1000)"), {"pid": one})
        assert pid() not in ended
        release()


def test_reads_run_outside_a_transaction(round_trips: Count) -> None:
    mine = pid()
    assert seen_by_another(STATE, pid=mine) == "idle"
    round_trips()
    db.session.scalars(select(Workspace)).all()
    ask(select(Workspace.id), {})
    release()
    assert round_trips() == 2


def test_writes_after_reads_run_in_a_transaction(round_trips: Count) -> None:
    mine = pid()
    with pytest.raises(ZeroDivisionError), transaction():  # noqa: PT012
        insert_now(Workspace(name="never"))
        assert seen_by_another(STATE, pid=mine) == "idle in transaction"
        1 / 0  # noqa: B018
    assert db.session.scalar(select(Workspace.name)) is None
    round_trips()
    with transaction():
        insert_now(Workspace(name="there"))
    # BEGIN, INSERT, COMMIT.
    assert round_trips() == 3
    assert seen_by_another("SELECT name FROM workspaces") == "there"


def test_a_connection_taken_from_the_engine_works_as_usual() -> None:
    pid()
    release()
    with pytest.raises(ZeroDivisionError), db.engine.begin() as connection:  # noqa: PT012
        connection.execute(
            text("INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'x')")
        )
        1 / 0  # noqa: B018
    assert db.session.scalar(select(Workspace.name)) is None


def test_a_connection_lost_before_a_transaction_raises_when_it_is_used(app: Flask) -> None:
    """F38: it counts as an outage, answered with 503, not as an internal error."""
    mine = pid()
    seen_by_another("SELECT pg_terminate_backend(:pid, 1000)", pid=mine)
    with pytest.raises(Exception, match=r"terminat|closed") as lost, transaction():
        insert_now(Workspace(name="never"))
    assert is_away(lost.value)
    db.session.rollback()
    assert pid() != mine


def test_f39_a_request_that_finds_every_connection_in_use_is_refused_in_time(
    client: FlaskClient,
) -> None:
    """WEB_THREADS may exceed DATABASE_POOL_SIZE: a thread then waits for a connection, but not long."""
    began = time.monotonic()
    with ExitStack() as in_use:
        for _ in range(settings.database_pool_size):
            in_use.enter_context(db.engine.connect())
        answer = client.get(f"/d/{'x' * 32}")
    assert time.monotonic() - began < SLOWEST_SECONDS
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_every_time_that_is_taken_is_read_again_whatever_zone_the_database_is_set_to() -> None:
    """The last moment of the year 9999 is in the year 10000 there, for which Python has no date."""
    database = db.engine.url.database
    last = datetime.max.replace(tzinfo=UTC)
    with transaction():
        db.session.execute(text(f"ALTER DATABASE {database} SET timezone TO 'Asia/Tokyo'"))
    try:
        db.engine.dispose()
        read = db.session.scalar(select(literal(last)))
        assert (read, read.utcoffset()) == (last, last.utcoffset())
    finally:
        release()
        with transaction():
            db.session.execute(text(f"ALTER DATABASE {database} RESET timezone"))
        db.engine.dispose()
