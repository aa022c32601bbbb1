"""Mail for many recipients in one job over one connection, against one forked job for each."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import func, insert, select, text

from app import clock, create_app, jobs
from app.db import db, release, transaction
from app.extensions import queue
from app.models import MailState, OutboxMail, Recipient, State, Transfer
from app.services import delivery, outbox
from benchmarks.place import cpu_seconds, opened
from benchmarks.turns import Turn, figure, median, ratio, table, take_turns
from tests.lab.stack import Process, kill_family

# A job for each takes minutes: only this many are run, and the result is scaled up.
SAMPLE = 100


@dataclass(frozen=True)
class OneEach:
    """A job that sends one mail, which is the obvious way to write it."""

    path: str = "benchmarks.mail.send_one"
    name: str = "benchmarks.mail.send_one"
    queue: str = "mail"
    timeout_seconds: int = 60


def send_one(mail_id: str) -> None:
    """Job: do what send_due() does, for this mail alone and on a connection of its own."""
    outbox.send_these([uuid.UUID(mail_id)])


def run() -> None:
    """Time both with a real worker, which forks for each job, and an SMTP server on loopback."""
    count = int(os.environ.get("MAIL_RECIPIENTS", "1000"))
    with (
        tempfile.TemporaryDirectory() as data,
        opened(Path(data), "s3") as place,
        _postbox() as (port, process),
    ):
        app = create_app(
            place.environ
            | {
                "SECRET_KEY": "only-for-benchmarks-0123456789abcdefghij",
                "BASE_URL": "http://localhost",
                "LOG_LEVEL": "ERROR",
                "MAIL_URL": f"smtp://127.0.0.1:{port}",
                "MAX_MAILS_PER_HOUR": "10000000",
            }
        )
        with app.app_context():
            upgrade(directory="migrations")
            _compare(app, count, process)
            db.session.remove()


def _compare(app: Flask, count: int, postbox: Process) -> None:
    sample = min(SAMPLE, count)
    rounds = take_turns(
        {
            "one job": lambda: _timed(app, count, postbox, lambda _: jobs.SEND_MAIL.later()),
            "a job each": lambda: _timed(app, sample, postbox, _put_each, times=count / sample),
        }
    )
    theirs, ours = rounds.get("a job each", []), rounds.get("one job", [])
    table(
        f"mail for {count:,} recipients",
        ["", "a job each", "one job", "x as fast"],
        [
            [
                words,
                figure(median(theirs, name), 1),
                figure(median(ours, name), 1),
                ratio(median(theirs, name), median(ours, name)),
            ]
            for words, name in (("seconds", "seconds"), ("the SMTP server's CPU", "postbox"))
        ],
    )


def _put_each(mail_ids: Sequence[uuid.UUID]) -> None:
    for one in mail_ids:
        queue.put(OneEach(), str(one))


def _timed(
    app: Flask,
    count: int,
    postbox: Process,
    put: Callable[[Sequence[uuid.UUID]], None],
    times: float = 1,
) -> Turn:
    mail_ids = _fill(count)
    spent, began = cpu_seconds(postbox.pid), time.monotonic()
    put(mail_ids)
    # It forks for each job, and ends when the queue is empty.
    queue._make_worker(app, ["mail"], threading.Event()).work(burst=True, logging_level="ERROR")
    seconds = (time.monotonic() - began) * times
    spent = (cpu_seconds(postbox.pid) - spent) * times
    left = db.session.scalar(select(func.count()).where(OutboxMail.state != MailState.SENT))
    release()
    if left:
        raise RuntimeError(f"{left} mails were not sent")
    return Turn(seconds, {"seconds": seconds, "postbox": spent})


def _fill(count: int) -> Sequence[uuid.UUID]:
    """Create one READY transfer and an outbox that announces it to `count` recipients.

    Returns the ids of the mails; there are no others.
    """
    db.session.expunge_all()
    transfer_id = uuid.uuid4()
    with transaction():
        db.session.execute(text("TRUNCATE transfers, uploads CASCADE"))
        now = clock.now()
        db.session.execute(
            insert(Transfer).values(
                id=transfer_id,
                slug=secrets.token_urlsafe(24),
                owner_token_hash=secrets.token_bytes(32),
                state=State.READY,
                title="Pictures of the lake",
                message="The best of Thursday.\n\nAda",
                sender_email="ada@example.org",
                sender_confirmed_at=now,
                muted=[kind.value for kind in delivery.TO_SENDER],
                ready_at=now,
                expires_at=now + timedelta(days=7),
            )
        )
        people = [
            {
                "transfer_id": transfer_id,
                "email": f"person-{number}@example.org",
                "slug": secrets.token_urlsafe(24),
                "asked_at": now,
                "ask_count": 1,
            }
            for number in range(count)
        ]
        db.session.execute(insert(Recipient), people)
        delivery.put(delivery.announcement())
    found = db.session.scalars(select(OutboxMail.id)).all()
    release()
    return found


@contextlib.contextmanager
def _postbox() -> Generator[tuple[int, Process]]:
    words = [sys.executable, "-m", "benchmarks.postbox"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process
    finally:
        kill_family(process)
