"""What `flask doctor` finds out about PostgreSQL, Redis, the mail server and the queue of events."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from aiosmtpd.smtp import AuthResult
from flask import Flask
from sqlalchemy import NullPool, create_engine, text

from app import clock, config
from app.db import db, transaction
from app.extensions import events, queue
from app.services import doctor, heartbeats
from app.services.doctor import Level, backing_services, processes
from tests.lab.mailserver import MailServer
from tests.mail import turn_off, turn_on
from tests.services.doctor.looking import SECRETS, assert_found, levels_in, look

Configure = Callable[..., None]


# -- database ----------------------------------------------------------------------------------


def test_f40_the_default_fits_and_too_much_is_refused(app: Flask, configure: Configure) -> None:
    runner = app.test_cli_runner()
    assert runner.invoke(args=["database", "check"]).exit_code == 0
    configure(web_concurrency=50, database_pool_size=20)
    refused = runner.invoke(args=["database", "check"])
    assert refused.exit_code == 1
    assert "1008" in refused.output
    assert "DATABASE_POOL_SIZE" in refused.output


@pytest.mark.parametrize("whose", ["ROLE SESSION_USER", "DATABASE"])
def test_f40_a_plan_that_limits_the_role_or_the_database_is_believed(
    app: Flask, inside: None, whose: str
) -> None:
    """As hosted PostgreSQL does, whatever max_connections says."""
    name = db.session.execute(text("SELECT quote_ident(current_database())")).scalar_one()
    whose = f"DATABASE {name}" if whose == "DATABASE" else whose
    db.session.execute(text(f"ALTER {whose} CONNECTION LIMIT 20"))
    db.session.commit()
    assert_found(
        "connections",
        Level.FAILED,
        "may open 24 database",
        "PostgreSQL allows 20",
        "DATABASE_POOL_SIZE",
    )


@pytest.fixture
def read_only(app: Flask) -> Iterator[None]:
    """As a replica, or a hosted plan that is full, whatever else it answers."""
    with app.app_context():
        engine = db.engine
    name = engine.url.database
    switch = f'ALTER DATABASE "{name}" SET default_transaction_read_only'
    writing = {"options": "-c default_transaction_read_only=off"}
    other = create_engine(
        engine.url, connect_args=writing, isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    for state in ("on", "off"):
        with other.connect() as line:
            line.execute(text(f"{switch} = {state}"))
        engine.dispose()
        if state == "on":
            yield


@pytest.mark.real_commits
def test_f39_a_database_that_is_read_only_is_told_and_makes_no_error_of_ours(
    app: Flask, read_only: None, caplog
) -> None:
    client = app.test_client()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["database"]) == (503, "not answering")
    answer = client.post("/transfers", json={"files": [{"path": "a", "size": 1}]})
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "unavailable")
    assert "the database cannot be used: cannot execute" in caplog.text
    assert "Traceback" not in caplog.text
    done = app.test_cli_runner().invoke(
        args=["keys", "issue", "--workspace", "Acme", "--name", "n", "--scope", "read"]
    )
    assert (done.exit_code, done.output) == (1, f"Error: {backing_services.READ_ONLY}\n")
    with app.app_context():
        assert_found("database", Level.FAILED, "read-only", "name the primary")


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ("UPDATE alembic_version SET version_num = '0020'", Level.FAILED, " migrations (0021, "),
        ("DROP TABLE alembic_version", Level.FAILED, "`flask release`"),
        ("UPDATE alembic_version SET version_num = '9999'", Level.WARNING, "newer release (9999)"),
    ],
)
def test_a_database_that_is_behind_or_ahead_is_told(
    app: Flask, inside: None, change: str, level: Level, words: str
) -> None:
    assert look("migrations").level is Level.OK
    with transaction():
        db.session.execute(text(change))
    assert_found("migrations", level, words)


@pytest.mark.parametrize(
    ("seconds", "of_database", "of_storage"),
    [
        (20, Level.OK, Level.OK),
        (300, Level.WARNING, Level.WARNING),
        (-300, Level.WARNING, Level.WARNING),
        (1200, Level.WARNING, Level.FAILED),
        # Storage is so far ahead of us that it finds every download's URL expired.
        (-310, Level.WARNING, Level.FAILED),
    ],
)
def test_f66_a_clock_that_is_wrong_is_told(
    app: Flask,
    inside: None,
    monkeypatch,
    seconds: int,
    of_database: Level,
    of_storage: Level,
) -> None:
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + timedelta(seconds=seconds))
    way = "behind" if seconds > 0 else "ahead of"
    assert_found("database clock", of_database, way)
    assert_found("storage clock", of_storage, way)
    if abs(seconds) > 60:
        assert_found("storage clock", of_storage, "NTP")


# -- Redis -------------------------------------------------------------------------------------


def test_a_redis_that_may_drop_jobs_or_is_nearly_full_is_told(
    app: Flask, inside: None, server: redis.Redis
) -> None:
    assert_found("memory", Level.OK, "no limit")
    server.config_set("maxmemory", 10**9)
    assert_found("memory", Level.OK, "% of Redis's memory")
    server.config_set("maxmemory-policy", "allkeys-lru")
    assert_found("memory", Level.WARNING, "allkeys-lru", "noeviction")
    server.config_set("maxmemory-policy", "volatile-lru")
    assert_found("memory", Level.OK)
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.05))
    assert_found("memory", Level.WARNING, "raise maxmemory")


def test_a_redis_that_does_not_let_us_ask_about_it_is_used_all_the_same(
    app: Flask, inside: None, server: redis.Redis, monkeypatch
) -> None:
    """As a user of Redis Cloud, who has no right to dangerous commands."""
    allowed = ["+@all", "-@dangerous"]
    server.acl_setuser("bee", enabled=True, passwords=["+x"], keys=["*"], categories=allowed)
    place = server.get_connection_kwargs()
    client = redis.Redis(place["host"], place["port"], place["db"], username="bee", password="x")
    monkeypatch.setattr(queue, "_redis", client)
    try:
        assert_found("Redis", Level.OK, "accepts jobs")
        assert_found("memory", Level.OK, "INFO")
        assert_found("failed jobs", Level.FIGURE, "ten minutes")
    finally:
        client.close()
        server.acl_deluser("bee")


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (lambda server: server.config_set("maxmemory", 1), "Raise its maxmemory"),
        (lambda server: server.replicaof("127.0.0.1", 1), "REDIS_URL name the primary"),
    ],
)
def test_a_redis_that_accepts_no_jobs_is_told(
    app: Flask, inside: None, server: redis.Redis, spoil: Any, remedy: str
) -> None:
    assert_found("Redis", Level.OK, "accepts jobs")
    spoil(server)
    try:
        assert_found("Redis", Level.FAILED, remedy)
    finally:
        queue.circuit._set(0.0)


# -- mail and events ---------------------------------------------------------------------------


@pytest.fixture
def off_afterwards() -> Iterator[None]:
    yield
    turn_off()


def test_a_mail_server_is_connected_to_and_sent_nothing(
    app: Flask, inside: None, configure: Configure, off_afterwards: None
) -> None:
    assert_found("mail server", Level.OK, "MAIL_URL is empty")
    with MailServer() as server:
        turn_on(configure, server.url)
        assert_found("mail server", Level.OK)
        assert (server.connections, server.caught) == (1, [])
    assert_found("mail server", Level.FAILED, "Connection refused", "MAIL_URL")
    turn_on(configure, "ses://eu-west-1")
    assert_found("mail server", Level.OK, "SES, which is only asked when mail is sent")


def test_a_mail_server_that_does_not_let_us_in_is_told(
    app: Flask, inside: None, configure: Configure, off_afterwards: None
) -> None:
    def refusing(*given: Any) -> AuthResult:
        return AuthResult(success=False, handled=False)

    with MailServer(auth_require_tls=False, authenticator=refusing) as server:
        turn_on(configure, server.url.replace("//", f"//beeline:{SECRETS[3]}@"))
        found = look("mail server")
    assert found.level is Level.FAILED
    assert "does not let us in (535). Correct MAIL_URL" in found.said
    assert SECRETS[3] not in found.said


def test_a_test_mail_is_handed_over_or_its_refusal_told(
    app: Flask, mail: MailServer, monkeypatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", [one for one in doctor.CHECKS if one.group == "Mail"])
    run = app.test_cli_runner().invoke
    done = run(args=["doctor", "--mail-to", "Op@Example.org"])
    assert (done.exit_code, levels_in(done.output)["test mail"]) == (0, "OK")
    (caught,) = mail.to("op@example.org")
    assert caught.subject == "Beeline can send mail"
    assert caught.message["From"] == "Beeline <bee@send.example.org>"
    mail.answers["op@example.org"] = ["550 nobody here"]
    done = run(args=["doctor", "--mail-to", "op@example.org"])
    assert (done.exit_code, levels_in(done.output)["test mail"]) == (1, "failed")
    assert "550 nobody here. Look at MAIL_URL and MAIL_FROM." in done.output
    assert run(args=["doctor", "--mail-to", "nobody"]).exit_code == 2
    assert len(mail.caught) == 1


def test_a_queue_of_events_that_nobody_reads_or_that_does_not_answer_is_told(
    app: Flask, inside: None, configure: Configure, bound: None, monkeypatch
) -> None:
    assert not {"event queue", "sqs"} & {one.name for one in doctor.checks()}
    configure(sqs_queue_url="http://127.0.0.1:1/1/events", s3_endpoint_url="")
    events.bind(config.current())
    assert_found("event queue", Level.FAILED, "SQS_QUEUE_URL")
    assert_found("sqs", Level.FAILED, "`python worker.py sqs`")
    heartbeats.note_run(processes.LISTENER)
    assert_found("sqs", Level.OK, "0 s ago")
    for has_dead_letters, level in ((True, Level.OK), (False, Level.WARNING)):
        monkeypatch.setattr(events, "has_dead_letters", lambda: has_dead_letters)  # noqa: B023
        assert_found("event queue", level, "dead-letter queue")
