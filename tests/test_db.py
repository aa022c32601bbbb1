"""transaction(), after_commit() and release(): the only words about commits."""

import pytest
from flask import Flask
from sqlalchemy import NullPool, create_engine, text

from app import leases
from app.config import settings
from app.db import after_commit, db, release, transaction

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


def test_a_session_that_is_gone_holds_no_row_longer_than_its_lease_would(app: Flask) -> None:
    given = app.config["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"]
    fresh = create_engine(settings.database_url, connect_args=given, poolclass=NullPool)
    limits = text("SELECT setting::int FROM pg_settings WHERE name = ANY(:names)")
    names = ["statement_timeout", "idle_in_transaction_session_timeout"]
    with fresh.connect() as connection:
        milliseconds = connection.scalars(limits, {"names": names}).all()
    assert len(milliseconds) == 2
    assert all(0 < one < leases.LEASE_SECONDS * 1000 for one in milliseconds)


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
