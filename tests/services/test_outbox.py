"""From the row to the mail server: each once, whatever the server does. F45, F46."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from app import clock, jobs
from app.db import db
from app.models import MailKind, MailState, OutboxMail, State
from app.services import mail_links, mail_rendering, outbox
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.lab.proxy import Proxy
from tests.mail import ADA, addressed, pass_time, send_mail, states, turn_on
from tests.watching import statements

PEOPLE = ["bo@example.org", "cy@example.org", "di@example.org"]
Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Lets something happen between the first mail of a batch and the second."""

    def let(act: Callable[[], object]) -> None:
        settle = outbox.settle

        def settle_and_act(*given: Any) -> None:
            settle(*given)
            monkeypatch.setattr(outbox, "settle", settle)
            act()

        monkeypatch.setattr(outbox, "settle", settle_and_act)

    return let


def rows(app: Flask, *conditions: Any) -> list[OutboxMail]:
    with app.app_context():
        return list(db.session.scalars(select(OutboxMail).where(*conditions)))


def test_ready_is_told_to_each_recipient_and_to_the_sender(
    app: Flask, sender: Sender, mail: MailServer, queued: list
) -> None:
    sent = addressed(sender.create(title="Rushes").upload(), *PEOPLE)
    assert send_mail(app) == 0
    assert set(states(sent).values()) == {"waiting"}
    sent.complete().process()
    assert ("outbox.send_due",) in queued
    assert send_mail(app) == 4
    assert Counter(one.to for one in mail.caught) == Counter([*PEOPLE, ADA])
    assert {one.connection for one in mail.caught} == {1}, "one connection for all"
    assert set(states(sent).values()) == {"sent"}
    assert send_mail(app) == 0
    # Everybody has a link of their own, and nobody the transfer's.
    links = {
        one.to: one.body("plain").split("Download:\n")[1].split()[0]
        for one in mail.caught
        if one.to != ADA
    }
    assert len(set(links.values())) == 3
    for to, link in links.items():
        (one,) = mail.to(to)
        assert sent.slug not in str(one.raw)
        assert link in one.body("html")
        assert one.message["Reply-To"] == ADA
        assert one.message["From"] == "Beeline <bee@send.example.org>"
        assert one.sender == "bee@send.example.org"
    assert sent.json["link"] in mail.to(ADA)[0].body("plain")


def test_a_domain_that_is_not_ascii_is_spelled_in_headers_as_mail_servers_take_it(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    addressed(sender.ready(), "bo@bücher.example", sender="ada@straße.example")
    send_mail(app)
    told = {one.to: one.raw for one in mail.caught}
    assert b"\r\nTo: ada@xn--strae-oqa.example\r\n" in told["ada@xn--strae-oqa.example"]
    to_bo = told["bo@xn--bcher-kva.example"]
    assert b"To: bo@xn--bcher-kva.example\r\n" in to_bo
    assert b"Reply-To: ada@xn--strae-oqa.example\r\n" in to_bo


def test_recipients_added_afterwards_are_mailed_at_once_and_the_others_not_again(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), PEOPLE[0])
    send_mail(app)
    for _ in range(3):
        addressed(sent, *PEOPLE)
    assert send_mail(app) == 2
    assert Counter(one.to for one in mail.caught) == Counter([*PEOPLE, ADA])


def test_f46_one_refused_address_keeps_nobody_else(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    mail.answers[PEOPLE[1]] = ["550 5.1.1 no such user"]
    sent = addressed(sender.ready(), *PEOPLE)
    assert send_mail(app) == 3
    assert states(sent) == {PEOPLE[0]: "sent", PEOPLE[1]: "failed", PEOPLE[2]: "sent"}
    assert sent.row().state is State.READY
    failed = next(one for one in sent.show()["recipients"] if one["state"] == "failed")
    assert "no such user" in failed["failure"]
    pass_time(app, minutes=3)
    assert send_mail(app) == 1
    told = mail.to(ADA)[-1]
    assert told.subject == f"Not delivered to {PEOPLE[1]}: 1 file"
    assert "no such user" in told.body("plain")
    pass_time(app, days=2)
    assert send_mail(app) == 0
    assert mail.attempts[PEOPLE[1]] == 1


def test_f45_451_is_tried_again_until_it_is_taken(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    mail.answers[PEOPLE[0]] = ["451 greylisted", "451 greylisted", "250 fine"]
    sent = addressed(sender.ready(), *PEOPLE)
    assert send_mail(app) == 3
    assert states(sent)[PEOPLE[0]] == "waiting"
    assert send_mail(app) == 0
    pass_time(app, seconds=61)
    assert send_mail(app) == 0
    pass_time(app, seconds=61)
    assert send_mail(app) == 0, "the second wait is longer"
    pass_time(app, seconds=300)
    assert send_mail(app) == 1
    assert set(states(sent).values()) == {"sent"}
    assert Counter(one.to for one in mail.caught) == Counter([*PEOPLE, ADA])


def test_f45_accepted_then_dropped_is_the_only_one_that_is_doubled(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    mail.drops = [PEOPLE[1]]
    sent = addressed(sender.ready(), *PEOPLE)
    assert send_mail(app) == 3
    pass_time(app, seconds=61)
    assert send_mail(app) == 1
    assert set(states(sent).values()) == {"sent"}
    assert Counter(one.to for one in mail.caught) == Counter([*PEOPLE, PEOPLE[1], ADA])
    first, second = mail.to(PEOPLE[1])
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert len({one.message["Message-ID"] for one in mail.caught}) == 4


def test_f45_what_nobody_takes_for_a_day_is_given_up_and_told(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    mail.answers[PEOPLE[0]] = ["451 not now"]
    sent = addressed(sender.ready(), PEOPLE[0])
    waited = 0
    for seconds in outbox.BACKOFF_SECONDS:
        send_mail(app)
        pass_time(app, seconds=seconds + 1)
        waited += seconds
    assert 0.9 < waited / 86400 < 1.1
    assert states(sent)[PEOPLE[0]] == "waiting"
    send_mail(app)
    assert states(sent)[PEOPLE[0]] == "failed"
    pass_time(app, minutes=3)
    send_mail(app)
    assert mail.to(ADA)[-1].subject.startswith("Not delivered")


def test_f45_a_server_that_is_down_slow_or_cuts_blocks_nothing(
    app: Flask, sender: Sender, mail: MailServer, configure: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("app.gateways.mailer.TIMEOUT_SECONDS", 0.5)
    with Proxy("127.0.0.1", mail.port) as proxy:
        turn_on(configure, f"smtp://127.0.0.1:{proxy.port}")
        proxy.down()
        sent = addressed(sender.ready(), *PEOPLE)
        assert send_mail(app) == 0
        assert sent.row().state is State.READY
        proxy.up()
        proxy.blackhole()
        pass_time(app, seconds=61)
        assert send_mail(app) == 0
        proxy.up()
        proxy.cut_after(500)
        pass_time(app, seconds=301)
        send_mail(app)
        proxy.up()
        mail.delay_seconds = 0.7
        pass_time(app, seconds=901)
        send_mail(app)
        mail.delay_seconds = 0.0
        for _ in range(3):
            pass_time(app, hours=4)
            send_mail(app)
    assert set(states(sent).values()) == {"sent"}
    assert set(Counter(one.to for one in mail.caught)) == {*PEOPLE, ADA}


def test_a_mail_that_cannot_be_written_keeps_no_other(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch: Any, caplog: Any
) -> None:
    compose = mail_rendering.compose

    def fail_for_one(row: OutboxMail, *more: Any) -> Any:
        if row.email == PEOPLE[0]:
            raise ZeroDivisionError
        return compose(row, *more)

    monkeypatch.setattr(mail_rendering, "compose", fail_for_one)
    sent = addressed(sender.ready(), *PEOPLE)
    assert send_mail(app) == 3
    assert "could not be written" in caplog.text
    monkeypatch.setattr(mail_rendering, "compose", compose)
    pass_time(app, seconds=61)
    assert send_mail(app) == 1
    assert set(states(sent).values()) == {"sent"}


@pytest.mark.parametrize("end", ["deleted", "expired", "revoked", "opted out"])
def test_what_is_no_longer_true_is_not_mailed(
    app: Flask, sender: Sender, mail: MailServer, end: str
) -> None:
    sent = addressed(sender.ready(), PEOPLE[0], notifications=[])
    if end == "deleted":
        sent.call("DELETE")
    if end == "expired":
        sent.set(expires_at=clock.now() - timedelta(seconds=1))
    if end == "revoked":
        one = sent.show()["recipients"][0]
        assert sent.call("DELETE", f"/recipients/{one['id']}").status_code == 204
    if end == "opted out":
        with app.app_context():
            mail_links.opt_out(PEOPLE[0])
    assert send_mail(app) == 0
    assert mail.caught == []
    (row,) = rows(app, OutboxMail.kind == MailKind.FILES_FOR_YOU)
    assert row.state is MailState.DROPPED
    if end == "opted out":
        assert (
            sent.show()["recipients"][0]["failure"]
            == "This person wants no e-mails from this site."
        )


def statements_for(app: Flask, sent: Sent, *people: str) -> list[str]:
    """What the database is asked to mail so many, but for transactions."""
    addressed(sent, *people, notifications=[])
    with statements(app) as asked:
        assert send_mail(app) == len(people)
    return asked


def test_each_mail_of_a_batch_takes_two_statements(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    configure(max_mails_per_recipient_per_hour=100, max_sends_per_hour=100)
    many = [f"p{n}@example.org" for n in range(12)]
    few = statements_for(app, sender.ready(), *many[:2])
    more = statements_for(app, sender.ready(), *many)
    assert len(more) - len(few) == 2 * 10
    assert len(few) - 2 * 2 < 15


@pytest.mark.parametrize("end", ["revoked", "opted out", "expired", "quarantined"])
def test_what_ends_while_others_of_its_batch_are_sent_is_not_mailed(
    app: Flask, sender: Sender, mail: MailServer, meanwhile: Meanwhile, end: str
) -> None:
    sent = addressed(sender.ready(), *PEOPLE, notifications=[])

    def act() -> None:
        (first,) = mail.caught
        (other, *_) = [one for one in sent.show()["recipients"] if one["email"] != first.to]
        if end == "revoked":
            assert sent.call("DELETE", f"/recipients/{other['id']}").status_code == 204
        if end == "opted out":
            with app.app_context():
                mail_links.opt_out(other["email"])
        if end == "expired":
            sent.set(expires_at=clock.now() - timedelta(seconds=1))
        if end == "quarantined":
            sent.set(quarantined_at=clock.now())

    meanwhile(act)
    assert send_mail(app) == (1 if end in ("expired", "quarantined") else 2)


def test_what_changes_while_others_of_its_batch_are_sent_is_told(
    app: Flask, sender: Sender, mail: MailServer, meanwhile: Meanwhile
) -> None:
    sent = addressed(sender.ready(title="Before"), *PEOPLE, notifications=[])
    meanwhile(lambda: sent.set(title="After"))
    assert send_mail(app) == 3
    assert [one.subject for one in mail.caught] == [
        f"{ADA} has sent you “{title}”" for title in ("Before", "After", "After")
    ]


def test_who_stops_gives_back_only_what_nobody_has_claimed_since(
    app: Flask, sender: Sender, mail: MailServer, meanwhile: Meanwhile, monkeypatch: Any
) -> None:
    """As after a mail server that was so slow that the claims have lapsed."""
    addressed(sender.ready(), *PEOPLE, notifications=[])
    waits = OutboxMail.state == MailState.WAITING
    others: list[OutboxMail] = []

    def claim_one() -> None:
        pass_time(app, minutes=4)
        with app.app_context():
            first, _ = db.session.scalars(select(OutboxMail).where(waits))
            others.extend(outbox._claim_to_send(OutboxMail.id == first.id))
        monkeypatch.setattr(jobs.stopping, "is_set", lambda: True)

    meanwhile(claim_one)
    assert send_mail(app) == 1
    (theirs,) = others
    now = {one.id: one for one in rows(app, waits)}
    assert len(now) == 2
    found = now.pop(theirs.id)
    assert (found.attempt_count, found.due_at) == (2, theirs.due_at)
    assert [one.attempt_count for one in now.values()] == [0]


def test_mail_that_is_off_leaves_no_rows(app: Flask, sender: Sender) -> None:
    sender.ready()
    assert rows(app) == []
    assert send_mail(app) == 0
