"""What `flask doctor` finds out about our processes: the way to web, who runs, late work, figures."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq import Queue
from sqlalchemy import text, update

from app import clock, jobs, timeouts
from app.db import db, transaction
from app.extensions import queue
from app.gateways.queue import BeelineWorker
from app.models import Archive, Harm, Heartbeat, MailKind, MailState, OutboxMail
from app.services import abuse, archives, doctor, heartbeats
from app.services.doctor import Check, Level, processes
from app.services.doctor.findings import figure
from tests.factories import Sender
from tests.mail import ADA
from tests.services.doctor.looking import assert_found, look, sends, site

Configure = Callable[..., None]


# -- settings and the way to the site ----------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "level"),
    [
        ("http://localhost:8000", Level.OK),
        ("http://127.0.0.1:8000", Level.OK),
        ("https://send.example.org", Level.OK),
        ("http://send.example.org", Level.WARNING),
        ("http://192.0.2.7", Level.WARNING),
    ],
)
def test_an_address_without_tls_is_only_for_this_machine(
    app: Flask, inside: None, configure: Configure, base_url: str, level: Level
) -> None:
    configure(base_url=base_url)
    assert_found("BASE_URL", level, base_url)


@pytest.mark.parametrize(
    ("answer", "level", "remedy"),
    [
        (sends(200), Level.OK, "answers"),
        (sends(308, Location="http://{host}/"), Level.FAILED, "TRUSTED_PROXIES"),
        (sends(421), Level.FAILED, "Host header"),
        (sends(502), Level.FAILED, "BASE_URL"),
        (sends(200, b"Welcome to nginx!"), Level.FAILED, "BASE_URL"),
    ],
)
def test_what_is_in_front_of_the_web_process_passes_requests_on_as_it_should(
    app: Flask, inside: None, configure: Configure, answer: Any, level: Level, remedy: str
) -> None:
    with site(answer) as url:
        configure(base_url=url)
        assert_found("web", level, remedy)
    assert_found("web", Level.WARNING, "Connection refused", "`web`")


def test_a_page_that_redirects_to_itself_is_what_web_does_without_its_proxies(
    app: Flask, configure: Configure
) -> None:
    """What the check above recognises."""
    configure(base_url="https://localhost")
    answer = app.test_client().get("/", base_url="http://localhost")
    assert (answer.status_code, answer.location) == (308, "https://localhost/")


# -- processes and their work ------------------------------------------------------------------


@contextmanager
def taking(server: redis.Redis, *names: str) -> Iterator[BeelineWorker]:
    """A process that takes jobs from these queues, as far as Redis knows."""
    made = BeelineWorker([Queue(name, connection=server) for name in names], connection=server)
    made.register_birth()
    made.heartbeat()
    yield made
    made.register_death()


def test_processes_that_do_not_run_are_named(app: Flask, inside: None, server: redis.Redis) -> None:
    assert_found("clock", Level.FAILED, "No clock runs", "`python worker.py clock`")
    assert_found("worker", Level.FAILED, "No worker runs", "`python worker.py sweep default early")
    assert_found("maker", Level.FAILED, "No maker runs", "`python worker.py inspections webhooks")
    queue.put_once(jobs.REQUEUE_STUCK, 0, 5)
    assert_found("clock", Level.FAILED)
    queue.put_once(jobs.REQUEUE_STUCK, int(clock.now().timestamp() // 5), 5)
    assert_found("clock", Level.OK)
    with taking(server, *jobs.QUICK_QUEUES) as worker, taking(server, "archives"):
        assert_found("worker", Level.OK, "1 process takes these jobs, last heard of 0 s ago")
        remedy = "Start `python worker.py inspections webhooks previews`"
        assert_found("maker", Level.FAILED, "Nobody takes jobs from inspections, webhooks", remedy)
        long_ago = clock.now() - timedelta(seconds=70)
        server.hset(worker.key, "last_heartbeat", f"{long_ago:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert_found("worker", Level.FAILED, "No worker runs")
    with taking(server, *jobs.QUEUES), taking(server, *jobs.QUEUES):
        assert_found("maker", Level.OK, "2 processes take")


def late_sweeps() -> list[str]:
    return [run.name for run in heartbeats.runs() if processes.is_late(run)]


def test_f52_a_sweep_that_stopped_coming_is_seen(client: FlaskClient, inside: None) -> None:
    sweeps = [heartbeats.name_of(job) for _, job in jobs.SCHEDULE]
    assert late_sweeps() == sweeps
    assert_found("scheduled jobs", Level.FAILED, "expire_due, due every 30 s, has never run")
    for name in sweeps:
        heartbeats.note_run(name)
    assert late_sweeps() == []
    assert_found("scheduled jobs", Level.OK, "All 17", "the last 0 s ago")
    assert client.get("/ready").json["checks"]["sweeps"] == "OK"
    with transaction():
        row = db.session.get(Heartbeat, "expire_due")
        assert row is not None
        row.at = clock.now() - timedelta(minutes=10)
    assert late_sweeps() == ["expire_due"]
    assert_found("scheduled jobs", Level.FAILED, "expire_due, due every 30 s, ran 10 min ago")
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["sweeps"]) == (200, "late")


def test_zips_that_wait_are_told(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    archives.request(sent.id)
    assert_found("long work", Level.OK)
    with transaction():
        db.session.execute(update(Archive).values(created_at=clock.now() - timedelta(minutes=9)))
    assert_found("long work", Level.FAILED, "Zips have waited for 9 min", "Start a maker")


@pytest.mark.real_commits
def test_a_figure_that_takes_too_long_to_count_is_left_out(
    app: Flask, inside: None, monkeypatch
) -> None:
    monkeypatch.setattr(timeouts, "QUERY_SECONDS", 0.2)
    with db.engine.connect() as other:
        other.execute(text("LOCK TABLE abuse_reports"))
        assert_found("open reports", Level.FIGURE, "not counted")
    assert_found("open reports", Level.FIGURE, "0")


def test_a_page_does_not_wait_for_what_is_slow(app: Flask, inside: None, monkeypatch) -> None:
    def counted(name: str, seconds: float) -> Check:
        return Check("Figures", name, lambda: time.sleep(seconds) or figure("1"), ("Redis",))

    slow, quick = counted("slow", 0.6), counted("quick", 0)
    monkeypatch.setattr(doctor, "CHECKS", [slow, quick, slow, slow, quick])
    monkeypatch.setattr(doctor, "PAGE_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "PAGE_SECONDS", 0.5)
    began = time.monotonic()
    too_slow = "not counted: too slow"
    assert doctor.figures_in_time() == [
        ("slow", too_slow),
        ("quick", "1"),
        ("slow", too_slow),
        ("slow", too_slow),
        ("quick", too_slow),
    ]
    assert time.monotonic() - began < 1.2


def test_a_page_runs_the_checks_that_ask_only_database_and_redis(
    app: Flask, inside: None, server: redis.Redis, monkeypatch
) -> None:
    found = [check.name for check, _ in doctor.quick_look()]
    assert found == [
        "database",
        "migrations",
        "connections",
        "database clock",
        "Redis",
        "memory",
        "lost files",
        "room",
        "clock",
        "worker",
        "maker",
        "scheduled jobs",
        "long work",
    ]
    monkeypatch.setattr(doctor, "PAGE_SECONDS", 0.0)
    assert {finding.level for _, finding in doctor.quick_look()} == {Level.SKIPPED}


def test_the_figures_are_those_of_the_rows_and_of_the_queue(
    sender: Sender, inside: None, server: redis.Redis
) -> None:
    sent = sender.ready({"a": b"12345", "b": b"1"})
    sender.create()
    abuse.report(sent.slug, Harm.OTHER)
    with transaction():
        kinds = (MailKind.CODE, MailKind.SENT)
        db.session.add_all(
            OutboxMail(kind=kind, email=ADA, about_id=sent.id, state=MailState.WAITING)
            for kind in kinds
        )
        db.session.add(
            OutboxMail(kind=MailKind.REMINDER, email=ADA, about_id=sent.id, state=MailState.FAILED)
        )
    held = Queue("mail", connection=server)
    held.failed_job_registry.add(held.enqueue("app.services.outbox.send_due"), ttl=600)
    found = {one.name: look(one.name).said for one in doctor.CHECKS if one.group == "Figures"}
    assert found == {
        "kept in storage": "6 bytes in 2 objects",
        "transfers": "1 INIT, 0 PROCESSING, 1 READY, 0 EXPIRED, 0 DELETED",
        "files": "2",
        "mails": "2 waiting, 1 failed",
        "webhooks waiting": "0",
        "waiting jobs": "1 mail",
        "failed jobs": "1 mail within the last ten minutes",
        "open reports": "1",
    }
