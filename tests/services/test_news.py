"""What time makes news: reminders and warnings, each once, in sets; and what is forgotten."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text

from app import clock, lifecycle
from app.db import db, transaction
from app.models import OutboxMail, Recipient, State
from app.services import (
    abuse,
    asking,
    delivery,
    extension_requests,
    mail_links,
    news,
    options,
    transfers,
    upkeep,
)
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail
from tests.services.test_delivery import download, slug_of

BO, CY = "bo@example.org", "cy@example.org"


def queue_news(app: Flask) -> int:
    with app.app_context():
        return news.queue_news()


def sent_days_ago(app: Flask, sent: Sent, days: float, left_hours: float) -> Sent:
    """As if it had been sent long ago, and ended so soon."""
    past = clock.now() - timedelta(days=days)
    until = clock.now() + timedelta(hours=left_hours)
    sent.set(ready_at=past, last_activity_at=past, expires_at=until)
    with app.app_context(), transaction():
        for one in delivery.recipients_of(sent.id):
            one.sent_at = past
    return sent


def subjects(mail: MailServer, to: str) -> list[str]:
    return [one.subject for one in mail.to(to)]


def test_who_has_not_downloaded_is_reminded_once_before_the_end(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(title="Rushes"), BO, CY, notifications=[])
    send_mail(app)
    download(app, sent, slug_of(app, sent, CY))
    sent_days_ago(app, sent, 5, 25)
    assert queue_news(app) == 0
    sent_days_ago(app, sent, 5, 23)
    assert [queue_news(app) for _ in range(3)] == [1, 0, 0]
    send_mail(app)
    assert subjects(mail, BO)[1:] == [f"Expires soon: “Rushes” from {ADA}"]
    assert len(mail.to(CY)) == 1
    assert slug_of(app, sent, BO) in mail.to(BO)[1].body("plain")
    # Given more time, it comes to its end again.
    sent.set(expires_at=clock.now() + timedelta(hours=20))
    assert queue_news(app) == 0


@pytest.mark.parametrize("why_not", ["fresh", "revoked", "failed", "used up", "downloaded since"])
def test_nobody_is_reminded_in_vain(
    app: Flask, sender: Sender, mail: MailServer, why_not: str
) -> None:
    if why_not == "failed":
        mail.answers[BO] = ["550 no"]
    sent = addressed(sender.ready(max_downloads=1), BO, notifications=[])
    send_mail(app)
    sent_days_ago(app, sent, 0.5 if why_not == "fresh" else 5, 20)
    if why_not == "revoked":
        addressed(sent)
    if why_not == "used up":
        download(app, sent, sent.slug)
    if why_not == "downloaded since":
        assert queue_news(app) == 1
        download(app, sent, slug_of(app, sent, BO))
    else:
        assert queue_news(app) == 0
    send_mail(app)
    assert len(mail.to(BO)) == (0 if why_not == "failed" else 1)


def test_a_sender_hears_that_nobody_has_downloaded_once(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    fetched, unfetched = (addressed(sender.ready(title=t), BO) for t in ("one", "two"))
    download(app, fetched, fetched.slug)
    for one in (fetched, unfetched):
        sent_days_ago(app, one, 2.9, 100)
    assert queue_news(app) == 0
    for one in (fetched, unfetched):
        sent_days_ago(app, one, 3.1, 100)
    assert [queue_news(app) for _ in range(2)] == [1, 0]
    send_mail(app)
    (told,) = [one for one in mail.to(ADA) if one.subject.startswith("Nobody")]
    assert told.subject == "Nobody has downloaded yet: “two”"
    assert BO in told.body("plain")


def test_a_sender_hears_that_it_ends_once_for_each_date(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), notifications=["expires_soon"])
    sent_days_ago(app, sent, 6, 20)
    short = addressed(sender.ready(), notifications=["expires_soon"])
    sent_days_ago(app, short, 0.1, 20)
    assert [queue_news(app) for _ in range(2)] == [1, 0]
    assert send_mail(app) == 1
    assert "/m/extend/" in mail.caught[0].body("html")
    with app.app_context():
        mail_links.extend(transfers.of_id(sent.id))
    assert queue_news(app) == 0
    sent.set(expires_at=clock.now() + timedelta(hours=20) + timedelta(days=2))
    sent_days_ago(app, sent, 8, 47)
    assert queue_news(app) == 0


def test_of_what_was_revived_a_sender_hears_only_what_is_news_since(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = sent_days_ago(app, addressed(sender.ready()), 6, -1)
    with app.app_context():
        upkeep.expire_due()
        options.edit(sent.row(), {"expires_at": clock.now() + timedelta(hours=20)})
    assert queue_news(app) == 0
    sent_days_ago(app, sent, 6, 20)
    assert queue_news(app) == 2


def test_what_was_made_ready_by_a_process_that_knows_no_mail_is_announced(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch: Any
) -> None:
    """As during a release: the worker of the release before was quicker."""
    sent = addressed(sender.create().upload(), BO)
    with monkeypatch.context() as before:
        before.setattr(delivery, "announce", lambda transfer_id: None)
        sent.complete().process()
    assert send_mail(app) == 0
    assert [queue_news(app) for _ in range(2)] == [2, 0]
    assert send_mail(app) == 2


def test_news_are_queued_set_by_set(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(news, "BATCH", 2)
    for _ in range(5):
        sent_days_ago(app, addressed(sender.ready(), BO, sender=f"{_}@x.org"), 4, 100)
    assert queue_news(app) == 5


@pytest.mark.parametrize("kind", ["nobody_downloaded", "expires_soon"])
def test_what_is_switched_off_is_not_queued(
    app: Flask, sender: Sender, mail: MailServer, kind: str
) -> None:
    wanted = [one.value for one in delivery.TO_SENDER if one != kind]
    sent_days_ago(app, addressed(sender.ready(), notifications=wanted), 4, 20)
    assert queue_news(app) == 1
    send_mail(app)
    heads = {"nobody_downloaded": "Nobody has", "expires_soon": "Expires soon"}
    assert not [one for one in subjects(mail, ADA) if one.startswith(heads[kind])]


@pytest.mark.parametrize("due", [news._unannounced, news._unsent, news._nobody_downloaded])
def test_what_names_no_sender_is_not_looked_at(inside: None, due: Callable[[], Any]) -> None:
    """Most of them are such ones, and this is asked every few minutes."""
    db.session.execute(
        text(
            "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
            " SELECT gen_random_uuid(), 's' || n, sha256('x'), 'READY', now() + interval '9 days',"
            " now() - n * interval '2 minutes' FROM generate_series(1, 5000) n"
        )
    )
    db.session.execute(text("ANALYZE transfers"))
    compiled = due().compile(db.engine, compile_kwargs={"literal_binds": True})
    plan = "\n".join(db.session.scalars(text(f"EXPLAIN {compiled}".replace(":", "\\:"))))
    assert "ix_transfers_unheard" in plan, plan


def test_addresses_are_forgotten_after_a_month(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    alive, dead = (addressed(sender.ready(), BO) for _ in range(2))
    send_mail(app)
    with app.app_context(), transaction():
        lifecycle.move(dead.id, State.DELETED)
    queue_news(app)
    assert dead.row().sender_email == ADA
    dead.set(deleted_at=clock.now() - timedelta(days=31))
    queue_news(app)
    assert dead.row().sender_email is None
    with app.app_context():
        counts = [
            db.session.scalar(select(func.count()).where(table.transfer_id == one.id))
            for one in (alive, dead)
            for table in (Recipient, OutboxMail)
        ]
    assert counts == [1, 2, 0, 0]


def test_whom_a_transfer_was_mailed_to_is_forgotten_even_if_it_lost_its_sender(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    dead = addressed(sender.ready(), BO)
    send_mail(app)
    dead.call("PATCH", json={"recipients": [], "sender_email": None})
    assert dead.row().sender_email is None
    dead.call("DELETE")
    dead.set(deleted_at=clock.now() - timedelta(days=29))
    with app.app_context():
        assert news.forget() == 0
        dead.set(deleted_at=clock.now() - timedelta(days=31))
        assert [news.forget(), news.forget()] == [1, 0]
        for table in (Recipient, OutboxMail):
            assert db.session.scalar(select(func.count()).select_from(table)) == 0


def test_the_sender_of_what_is_reported_is_kept_and_nobody_else(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    dead = addressed(sender.ready(), BO)
    with app.app_context():
        abuse.quarantine(dead.id)
    dead.call("DELETE")
    dead.set(deleted_at=clock.now() - timedelta(days=31))
    with app.app_context():
        assert [news.forget(), news.forget()] == [1, 0]
        assert dead.row().sender_email == ADA
        assert db.session.scalar(select(func.count()).select_from(Recipient)) == 0
        abuse.lift_quarantine(dead.id)
        assert [news.forget(), news.forget()] == [1, 0]
    assert dead.row().sender_email is None


def test_a_question_reaches_a_sender_whose_transfer_has_expired(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    past = clock.now() - timedelta(hours=1)
    sent = addressed(sender.ready())
    send_mail(app)
    sent.set(state=State.EXPIRED, expires_at=past, expired_at=past)
    with app.app_context():
        assert asking.ask(sent.slug, "bo", None, "Could I have it?", "bo@example.org")
        # Another the same day is noted; the sender, who was told an hour ago at most, reads it there.
        assert asking.ask(sent.slug, "cy", None, "Me too")
        assert extension_requests.count(sent.id) == 2
    send_mail(app)
    told = mail.to(ADA)[-1].body("html")
    assert "Could I have it?" in told
    assert "bo@example.\u200borg" in told  # so that no mail program makes a link of it
    assert "Me too" not in told
    pass_time(app, minutes=1)
    assert send_mail(app) == 0


def test_a_sweep_by_hand_tells_and_does_it(app: Flask, sender: Sender, mail: MailServer) -> None:
    """Two mails wait, one reminder is due, and one transfer's people are to be forgotten."""
    sent = addressed(sender.ready(), BO, notifications=[])
    send_mail(app)
    sent_days_ago(app, sent, 5, 20)
    addressed(sender.ready(), CY)
    gone = addressed(sender.ready(), CY, notifications=[])
    gone.call("DELETE")
    gone.set(deleted_at=clock.now() - timedelta(days=31))

    def figures(*words: str) -> list[str]:
        done = app.test_cli_runner().invoke(args=["sweep", *words])
        assert done.exit_code == 0, done.output
        abouts = ("reminders", "mails to hand", "mails to tell", "deleted transfers whose")
        lines = [line for line in done.output.splitlines() if line.startswith(abouts)]
        return [line.split()[-1] for line in lines]

    # The two that wait, the reminder, and one for the deleted one, which is forgotten with it.
    assert figures("--dry-run") == ["1", "1", "4", "0"]
    assert len(mail.caught) == 1
    assert figures() == ["1", "1", "3", "0"]
    assert Counter(one.to for one in mail.caught) == {BO: 2, CY: 1, ADA: 1}
    assert figures("--dry-run") == ["0", "0", "0", "0"]
