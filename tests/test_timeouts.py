"""Timeouts for PostgreSQL, tested with a proxy in between that can swallow all data."""

import os
import socket
import time
from collections.abc import Iterator

import psycopg2
import pytest
from flask import Flask

from app import timeouts
from app.circuit import Circuit
from app.db import db, end_session
from app.timeouts import DatabaseSilent
from tests.lab.proxy import Proxy


@pytest.fixture(autouse=True)
def _quick(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, but shorter; and a fresh circuit breaker."""
    monkeypatch.setattr(timeouts, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(timeouts, "QUERY_SECONDS", 0.4)
    monkeypatch.setattr(timeouts, "JOB_QUERY_SECONDS", 0.8)
    monkeypatch.setattr(timeouts, "_circuit", Circuit(1.0))


@pytest.fixture
def proxy(environ: dict[str, str]) -> Iterator[Proxy]:
    with Proxy.before(environ["DATABASE_URL"]) as between:
        yield between


@pytest.fixture
def address(environ: dict[str, str], proxy: Proxy) -> str:
    return proxy.instead(environ["DATABASE_URL"])


def _seconds(act) -> float:
    began = time.monotonic()
    with pytest.raises(DatabaseSilent):
        act()
    return time.monotonic() - began


@pytest.mark.parametrize(("is_request", "limit"), [(True, 0.4), (False, 0.8)])
def test_a_query_without_an_answer_times_out_and_closes_its_connection(
    app: Flask, proxy: Proxy, address: str, is_request: bool, limit: float
) -> None:
    """F39: the limit is short in a request and longer in a job, but never infinite."""
    connection = psycopg2.connect(address)
    proxy.blackhole()
    with app.test_request_context() if is_request else app.app_context():
        if is_request:
            app.preprocess_request()
        took = _seconds(lambda: connection.cursor().execute("SELECT 1"))
    assert limit <= took < limit + 0.4
    assert connection.closed


def test_a_connection_attempt_times_out_and_requests_then_make_none_for_a_while(
    app: Flask, proxy: Proxy, address: str
) -> None:
    proxy.blackhole()
    with app.test_request_context():
        app.preprocess_request()
        assert 0.3 <= _seconds(lambda: psycopg2.connect(address)) < 0.7
        assert _seconds(lambda: psycopg2.connect(address)) < 0.1
        proxy.up()
        time.sleep(1)
        psycopg2.connect(address).close()


def test_a_job_tries_even_if_requests_have_opened_the_circuit(
    app: Flask, proxy: Proxy, address: str
) -> None:
    proxy.blackhole()
    with app.test_request_context():
        app.preprocess_request()
        _seconds(lambda: psycopg2.connect(address))
    proxy.up()
    with app.app_context():
        psycopg2.connect(address).close()


def test_a_slow_answer_within_the_limit_is_accepted(address: str) -> None:
    with psycopg2.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.3), 7")
        assert cursor.fetchone()[1] == 7
    connection.close()


def test_without_a_limit_a_late_answer_is_accepted(address: str) -> None:
    """For migrating a large table; later queries have a limit again."""
    cursor = psycopg2.connect(address).cursor()
    with timeouts.as_long_as_it_takes():
        cursor.execute("SELECT pg_sleep(1.2), 7")
    assert cursor.fetchone()[1] == 7
    assert _seconds(lambda: cursor.execute("SELECT pg_sleep(9)")) < 1.2


def test_a_dead_server_is_noticed_within_a_minute_even_without_a_limit(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:
        line = connection.connection.dbapi_connection
        with socket.socket(fileno=os.dup(line.fileno())) as twin:
            idle, pause, count = (
                twin.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + pause * count <= 60


def test_a_refused_connection_does_not_open_the_circuit(
    app: Flask, proxy: Proxy, address: str
) -> None:
    """Too many connections or a wrong password are answers: the next attempt may succeed."""
    proxy.down()
    with app.test_request_context():
        app.preprocess_request()
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            psycopg2.connect(address)
        proxy.up()
        psycopg2.connect(address).close()


def test_a_request_is_over_when_its_context_is(app: Flask, client) -> None:
    """The session's final statements still belong to the request."""
    heard = []
    app.teardown_appcontext_funcs.insert(1, lambda error: heard.append(timeouts.is_short()))
    try:
        client.get("/health")
    finally:
        app.teardown_appcontext_funcs.pop(1)
    assert heard == [True]
    assert not timeouts.is_short()
    assert end_session in app.teardown_appcontext_funcs
