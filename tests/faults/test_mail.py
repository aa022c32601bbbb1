"""F47: a worker that dies between handing over and noting it; and several at once."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from flask import Flask
from sqlalchemy import update

from app import jobs
from app.clock import db_now
from app.db import db, transaction
from app.models import Recipient
from app.services import checking, claims, delivery, mail_quotas, outbox
from tests.factories import Sender, Sent
from tests.faults.test_crashes import STEPS
from tests.lab.crasher import DIED, Crasher
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail, states, word_of
from tests.test_races import at_once

pytestmark = pytest.mark.real_commits
PEOPLE = [f"p{n}@example.org" for n in range(4)]
EVERYBODY = [*PEOPLE, ADA]


@pytest.fixture
def crasher(mail: MailServer, environ: dict[str, str]) -> Iterator[Crasher]:
    made = Crasher(environ | {"MAIL_URL": mail.url, "MAIL_FROM": "bee@send.example.org"})
    yield made
    made.close()


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("mail.")])
def test_f47_each_death_doubles_one_mail_at_most(
    step: str, app: Flask, crasher: Crasher, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), *PEOPLE)
    deaths = 4
    for _ in range(deaths):
        assert crasher.run("send_mail", dies_at=step) == DIED
        assert sent.show()["status"] == "READY"
        # The claim lapses; whoever comes next goes on.
        pass_time(app, seconds=claims.CLAIM_SECONDS + 1)
    assert crasher.run("send_mail") == 0
    got = Counter(one.to for one in mail.caught)
    assert set(got) == set(EVERYBODY)
    assert set(states(sent).values()) == {"sent"}
    assert sum(got.values()) - len(EVERYBODY) <= (deaths if step == "mail.2" else 0)
    for person in EVERYBODY:
        assert len({one.message["Message-ID"] for one in mail.to(person)}) == 1
    assert send_mail(app) == 0


def six_workers_at_once(app: Flask) -> list[int]:
    """How many mails each of them has handed over."""
    gate = threading.Barrier(6)

    def work(_: int) -> int:
        with app.app_context():
            gate.wait()
            try:
                return outbox.send_due()
            finally:
                db.session.remove()

    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(work, range(6)))


def test_six_workers_at_once_send_each_mail_once(
    app: Flask, sender: Sender, mail: MailServer, configure, monkeypatch
) -> None:
    configure(max_sends_per_hour=100, max_mails_per_recipient_per_hour=100)
    monkeypatch.setattr(outbox, "BATCH", 3)
    for _ in range(6):
        addressed(sender.ready(), *PEOPLE)
    configure(max_mails_per_recipient_per_hour=5)
    taken = six_workers_at_once(app)
    # Five an hour for each recipient, however many ask; senders are told of all six.
    assert Counter(one.to for one in mail.caught) == dict.fromkeys(PEOPLE, 5) | {ADA: 6}
    assert sum(taken) == 26
    assert len({one.message["Message-ID"] for one in mail.caught}) == 26


def test_six_workers_at_once_keep_to_the_installations_share(
    app: Flask, sender: Sender, mail: MailServer, configure, monkeypatch
) -> None:
    """Each has counted before any of them has claimed, unless they take turns."""
    for number in range(4):
        addressed(sender.ready(), *PEOPLE, sender=f"{number}@example.org")
    configure(max_mails_per_hour=9)
    turns = itertools.count()
    left = mail_quotas.left_to_hand_over
    monkeypatch.setattr(
        mail_quotas, "left_to_hand_over", lambda: (left(), time.sleep(0.1 * next(turns)))[0]
    )
    assert sum(six_workers_at_once(app)) == 9
    assert len(mail.caught) == 9


def test_recipients_named_while_it_becomes_ready_are_mailed_once(
    app: Flask, sender: Sender, mail: MailServer, configure
) -> None:
    configure(max_sends_per_hour=100, max_mails_per_recipient_per_hour=100)
    for _ in range(5):
        sent = sender.create().upload().complete()
        body = {"recipients": PEOPLE, "sender_email": ADA, "sender_token": word_of()}

        def act(index: int, sent: Sent = sent, body: dict = body) -> None:
            if index:
                checking.process(str(sent.id))
            else:
                answer = app.test_client().patch(sent.url, json=body, headers=sent.headers)
                assert answer.status_code == 200

        at_once(app, 2, act)
        send_mail(app)
        assert set(states(sent).values()) == {"sent"}
    assert Counter(one.to for one in mail.caught) == dict.fromkeys(EVERYBODY, 5)


def test_a_download_that_is_just_being_noted_is_told(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    """Its mail waits already; whoever would send it now must not miss it."""
    sent = addressed(sender.ready(), *PEOPLE[:2])
    send_mail(app)
    first, second = (uuid.UUID(one["id"]) for one in sent.show()["recipients"])
    with app.app_context(), transaction():
        delivery.note_download(sent.id, first)
    pass_time(app, minutes=6)
    noted, go_on = threading.Event(), threading.Event()

    def note_slowly() -> None:
        with app.app_context(), transaction():
            delivery.note_download(sent.id, second)
            noted.set()
            assert go_on.wait(10)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(note_slowly)
        assert noted.wait(10)
        taken = send_mail(app)
        go_on.set()
        other.result()
    taken += send_mail(app)
    assert taken == 1
    assert mail.caught[-1].subject == "2 people have downloaded 1 file"


def test_a_mail_that_kills_whoever_takes_it_takes_no_other_along(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch
) -> None:
    addressed(sender.ready(), *PEOPLE)
    compose = outbox.mail_rendering.compose

    def die_of_one(row, *more):
        if row.email == PEOPLE[0]:
            raise KeyboardInterrupt  # as near to a death as a thread can come
        return compose(row, *more)

    monkeypatch.setattr(outbox.mail_rendering, "compose", die_of_one)
    for _ in range(20):
        with suppress(KeyboardInterrupt):
            send_mail(app)
        pass_time(app, seconds=claims.CLAIM_SECONDS + 1)
    # It is given up, and that is told.
    told = Counter(one.to for one in mail.caught)
    assert told == dict.fromkeys(PEOPLE[1:], 1) | {ADA: 2}


def test_a_worker_that_is_told_to_stop_leaves_the_rest_to_others(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch, queued: list
) -> None:
    addressed(sender.ready(), *PEOPLE)
    queued.clear()
    with monkeypatch.context() as over:
        over.setattr(outbox, "TURN_SECONDS", -1)
        assert send_mail(app) == 0
    assert queued == [("outbox.send_due",)]
    jobs.stopping.set()
    assert send_mail(app) == 0
    jobs.stopping.clear()
    assert send_mail(app) == 5
    assert max(Counter(one.to for one in mail.caught).values()) == 1


def test_word_that_a_mail_came_back_stays_though_it_comes_while_the_mail_is_noted(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), PEOPLE[0], notifications=[])
    (one,) = sent.show()["recipients"]
    noted, go_on = threading.Event(), threading.Event()

    def come_back_slowly() -> None:
        with app.app_context(), transaction():
            mail.wait_for_attempt(10)
            db.session.execute(
                update(Recipient)
                .where(Recipient.id == uuid.UUID(one["id"]))
                .values(failed_at=db_now(), failure="no such user")
            )
            noted.set()
            assert go_on.wait(10)

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(come_back_slowly)
        mail.delay_seconds = 0.5
        sending = pool.submit(send_mail, app)
        assert noted.wait(10)
        while not mail.caught:
            time.sleep(0.05)
        time.sleep(0.3)
        assert not sending.done(), "it waits for the recipient's row"
        go_on.set()
        other.result()
        assert sending.result() == 1
    (one,) = sent.show()["recipients"]
    assert (one["state"], one["failure"]) == ("failed", "no such user")
    assert one["sent_at"] is not None
