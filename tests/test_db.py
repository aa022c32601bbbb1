"""transaction(), after_commit() and release(): all that the code uses to commit."""

import uuid

import psycopg2
import pytest
import redis
from flask import Flask
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import IntegrityError, InternalError, OperationalError

from app import jobs, leases
from app.config import settings
from app.db import after_commit, db, is_away, release, transaction
from app.extensions import queue

pytestmark = pytest.mark.usefixtures("inside")


def test_actions_run_after_the_outermost_commit_and_never_after_a_rollback() -> None:
    done: list[str] = []
    with transaction():
        with transaction():
            after_commit(lambda: done.append("inner"))
        assert done == []
    assert done == ["inner"]
    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117
        with transaction():
            after_commit(lambda: done.append("never"))
            1 / 0  # noqa: B018
    assert done == ["inner"]
    after_commit(lambda: done.append("at once"))
    assert done == ["inner", "at once"]


@pytest.mark.parametrize("how", ["later", "again", "once"])
def test_f33_no_job_is_queued_before_the_commit_nor_after_a_rollback(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A worker may start it at once, and would not see the rows that are not committed yet."""
    put: list[str] = []
    for name in ("put", "put_again", "put_once"):
        monkeypatch.setattr(queue, name, lambda *given, name=name, **more: put.append(name))

    def remind() -> None:
        if how == "later":
            jobs.PROCESS_TRANSFER.later(uuid.uuid4())
        elif how == "again":
            jobs.PROCESS_TRANSFER.again([(uuid.uuid4(), 1)])
        else:
            jobs.EXPIRE_DUE.once(slot=1, seconds=30)

    with pytest.raises(ZeroDivisionError), transaction():  # noqa: PT012
        remind()
        1 / 0  # noqa: B018
    assert put == []
    with transaction():
        remind()
        assert put == []
    assert len(put) == 1


def test_f31_a_redis_that_is_away_takes_one_line_of_the_log_for_each_reminder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """During an outage there is one for each request that leaves work."""

    def refuse(*given: object, **more: object) -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(queue, "put", refuse)
    with transaction():
        jobs.SEND_MAIL.later()
    (line,) = caplog.records
    assert (line.levelname, line.exc_info) == ("WARNING", None)
    assert "refused" in line.getMessage()


def test_an_abandoned_session_holds_no_lock_longer_than_a_lease(app: Flask) -> None:
    given = app.config["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"]
    fresh = create_engine(settings.database_url, connect_args=given, poolclass=NullPool)
    limits = text("SELECT setting::int FROM pg_settings WHERE name = ANY(:names)")
    names = ["statement_timeout", "idle_in_transaction_session_timeout"]
    with fresh.connect() as connection:
        milliseconds = connection.scalars(limits, {"names": names}).all()
    assert len(milliseconds) == 2
    assert all(0 < one < leases.LEASE_SECONDS * 1000 for one in milliseconds)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (None, True),  # no answer: connection refused, lost, or timed out
        ("08006", True),  # connection_failure
        ("57P01", True),  # admin_shutdown
        ("57P03", True),  # cannot_connect_now
        ("53300", True),  # too_many_connections
        ("53100", True),  # disk_full
        ("57014", False),  # query_canceled
        ("40P01", False),  # deadlock_detected
        ("55P03", False),  # lock_not_available
    ],
)
def test_an_unavailable_database_is_told_apart_from_a_failed_statement(
    code: str | None, verdict: bool
) -> None:
    told = type("Told", (psycopg2.OperationalError,), {"pgcode": code})
    assert is_away(OperationalError("SELECT 1", {}, told())) is verdict
    assert is_away(IntegrityError("SELECT 1", {}, told())) is False
    assert is_away(InternalError("SELECT 1", {}, told())) is (verdict and code is not None)
    assert is_away(ValueError()) is False


def test_a_swallowed_inner_failure_dooms_the_whole() -> None:
    def swallow() -> None:
        with transaction():
            try:
                with transaction():
                    1 / 0  # noqa: B018
            except ZeroDivisionError:
                pass

    with pytest.raises(RuntimeError, match="swallowed"):
        swallow()
    with transaction():
        db.session.execute(text("SELECT 1"))


def test_an_action_that_fails_does_not_undo_or_stop_the_others(caplog) -> None:
    done: list[str] = []
    with transaction():
        after_commit(lambda: 1 / 0)
        after_commit(lambda: done.append("second"))
    assert done == ["second"]
    assert "after the commit failed" in caplog.text


def test_release_is_refused_inside_a_transaction() -> None:
    release()
    with pytest.raises(RuntimeError), transaction():
        release()
