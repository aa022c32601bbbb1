"""From the outbox to a topic, and from a queue to the mail server: each recipient once."""

import json
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from moto.sqs.models import sqs_backends
from sqlalchemy import select, update

import worker
from app import clock, config, jobs
from app.db import db, transaction
from app.extensions import events, mailer
from app.models import MailKind, MailState, OutboxMail
from app.services import event_queue, heartbeats, mail_links, mail_topic, outbox
from tests.factories import Sender, Sent
from tests.lab.cloud import ACCOUNT, REGION, Cloud
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail, states

PEOPLE = ["bo@example.org", "cy@example.org", "di@example.org"]


def publish(app: Flask) -> int:
    with app.app_context():
        return mail_topic.publish_due()


def listen(app: Flask) -> int:
    with app.app_context():
        return event_queue.take_messages()


def shares(app: Flask) -> list[OutboxMail]:
    with app.app_context():
        kind = OutboxMail.kind == MailKind.FILES_FOR_YOU
        return list(db.session.scalars(select(OutboxMail).where(kind).order_by(OutboxMail.email)))


def forget_publishing(app: Flask) -> None:
    """As if an hour had passed in which nobody heard of it."""
    with app.app_context(), transaction():
        db.session.execute(update(OutboxMail).values(publish_after=clock.now()))


def reveal(cloud: Cloud) -> None:
    """Whatever is hidden in the queue is visible again."""
    for one in cloud_messages(cloud):
        one.change_visibility(0)


def cloud_messages(cloud: Cloud) -> list[Any]:
    return sqs_backends[ACCOUNT][REGION].queues["mails"]._messages


def got(mail: MailServer) -> Counter[str]:
    return Counter(one.to for one in mail.caught)


@pytest.fixture
def sent(sender: Sender, cloud: Cloud) -> Sent:
    """Shared with three, in a row, and with nobody told yet."""
    return addressed(sender.ready(title="Rushes"), *PEOPLE)


@pytest.mark.parametrize("is_raw", [False, True], ids=["envelope", "raw"])
def test_what_is_shared_goes_by_the_topic_and_the_queue(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, queued: list, is_raw: bool
) -> None:
    if is_raw:
        cloud.deliver_raw()
    assert ("mail_topic.publish_due",) in queued
    # The outbox leaves it alone, and sends what is for the sender.
    assert send_mail(app) == 1
    assert got(mail) == {ADA: 1}
    assert [publish(app), publish(app)] == [3, 0]
    assert cloud.count() == 3
    assert set(states(sent).values()) == {"waiting"}
    assert listen(app) == 3
    assert set(states(sent).values()) == {"sent"}
    assert got(mail) == Counter([*PEOPLE, ADA])
    assert len({one.connection for one in mail.caught if one.to != ADA}) == 1
    assert cloud.count() == 0
    for _ in range(2):
        pass_time(app, days=1)
        forget_publishing(app)
        assert (publish(app), send_mail(app), listen(app)) == (0, 0, 0)


def test_the_message_is_the_documented_one_with_the_recipients_own_link(
    app: Flask, sent: Sent, cloud: Cloud
) -> None:
    publish(app)
    told = [json.loads(json.loads(body)["Message"]) for body in cloud.bodies()]
    assert Counter(one["emails"][0] for one in told) == Counter(PEOPLE)
    links = {one.pop("download_url") for one in told}
    assert len(links) == 3
    assert not any(sent.slug in link or "?" in link for link in links)
    for one in told:
        one.pop("emails")
        assert one == {
            "event_type": "TRANSFER_SHARED",
            "transfer_id": str(sent.id),
            "expires_at": sent.show()["expires_at"][:19] + "Z",
            "filename": "a.txt",
            "file_size": 5,
        }


def test_of_several_files_the_message_has_the_title_or_their_number(
    app: Flask, sender: Sender, cloud: Cloud
) -> None:
    for title in ("Rushes \u2603\uffff", "see evil.example.org", ""):
        addressed(sender.ready({"a": b"1", "b": b"22"}, title=title), PEOPLE[0])
    publish(app)
    told = [json.loads(json.loads(body)["Message"]) for body in cloud.bodies()]
    assert Counter(one["filename"] for one in told) == {"Rushes \u2603\uffff": 1, "2 files": 2}
    assert {one["file_size"] for one in told} == {3}


def test_all_of_it_by_ses(
    app: Flask, sender: Sender, cloud: Cloud, configure: Any, mail: MailServer
) -> None:
    configure(mail_url=f"ses://{REGION}")
    mailer.bind(config.current())
    sent = addressed(sender.ready(), *PEOPLE)
    publish(app)
    assert listen(app) == 3
    assert Counter(one.destinations[0] for one in cloud.mails) == Counter(PEOPLE)
    assert set(states(sent).values()) == {"sent"}
    assert {one.server_id for one in shares(app)} == {one.id for one in cloud.mails}


def test_a_topic_that_is_away_or_refuses_loses_nothing(
    app: Flask, sent: Sent, cloud: Cloud, configure: Any, mail: MailServer, caplog: Any
) -> None:
    configure(aws_endpoint_url="http://127.0.0.1:9")
    events.bind(config.current())
    assert publish(app) == 0
    configure(aws_endpoint_url=cloud.url, sns_topic_arn=f"{cloud.topic}-gone")
    events.bind(config.current())
    assert publish(app) == 0, "it is left alone for a minute"
    pass_time(app, seconds=61)
    assert publish(app) == 0
    (one, *_) = shares(app)
    assert (one.attempt_count, one.state, one.failure) == (
        2,
        MailState.WAITING,
        "The topic takes nothing (NotFound).",
    )
    assert "takes nothing" in caplog.text
    configure(sns_topic_arn=cloud.topic)
    events.bind(config.current())
    pass_time(app, seconds=301)
    assert publish(app) == 3
    assert listen(app) == 3
    assert got(mail) == Counter(PEOPLE)


def test_a_topic_that_takes_nothing_for_a_day_is_told_of(
    app: Flask, sent: Sent, cloud: Cloud, configure: Any
) -> None:
    configure(sns_topic_arn=f"{cloud.topic}-gone")
    events.bind(config.current())
    for _ in range(len(outbox.BACKOFF_SECONDS) + 1):
        publish(app)
        pass_time(app, hours=5)
    assert set(states(sent).values()) == {"failed"}
    assert {one.state for one in shares(app)} == {MailState.FAILED}


def test_what_nobody_heard_is_published_again_and_sent_once(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    publish(app)
    forget_publishing(app)
    assert publish(app) == 3
    assert cloud.count() == 6
    assert listen(app) == 6
    assert got(mail) == Counter(PEOPLE)
    assert cloud.count() == 0


def test_a_message_that_comes_twice_or_names_several_mails_nobody_twice(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    """Also as somebody else would write it: one for all, in other spellings, with strangers."""
    told = {
        "event_type": "TRANSFER_SHARED",
        "transfer_id": str(sent.id),
        "emails": ["Bo@Example.org", *PEOPLE, "stranger@example.org"],
    }
    for _ in range(3):
        cloud.send(told)
    assert listen(app) == 3
    assert got(mail) == Counter(PEOPLE)
    cloud.publish(told)
    assert listen(app) == 1
    assert got(mail) == Counter(PEOPLE)


def test_a_server_that_wants_it_later_gets_it_later_by_the_same_message(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    mail.answers[PEOPLE[0]] = ["451 later", "250 fine"]
    publish(app)
    assert listen(app) == 2
    assert cloud.count() == 1, "deleted only when it is done"
    assert listen(app) == 0, "and hidden until it is due"
    reveal(cloud)
    assert listen(app) == 0, "or left alone if it comes too soon"
    pass_time(app, seconds=61)
    assert publish(app) == 0, "the message is still there"
    reveal(cloud)
    assert listen(app) == 1
    assert got(mail) == Counter(PEOPLE)
    assert cloud.count() == 0


def test_a_refused_address_is_done_with_and_told(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    mail.answers[PEOPLE[0]] = ["550 no such user"]
    publish(app)
    assert listen(app) == 3
    assert states(sent)[PEOPLE[0]] == "failed"
    assert cloud.count() == 0
    pass_time(app, minutes=3)
    send_mail(app)
    assert mail.to(ADA)[-1].subject.startswith("Not delivered")


def test_a_share_that_is_used_up_is_waited_for(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, configure: Any
) -> None:
    publish(app)
    configure(max_mails_per_hour=1)
    assert listen(app) == 1
    assert cloud.count() == 2
    configure(max_mails_per_hour=1000)
    reveal(cloud)
    assert listen(app) == 2
    assert got(mail) == Counter(PEOPLE)


@pytest.mark.parametrize("end", ["deleted", "expired", "opted out"])
def test_what_is_no_longer_true_is_neither_published_nor_sent(
    app: Flask, sender: Sender, cloud: Cloud, mail: MailServer, end: str
) -> None:
    first, second = (addressed(sender.ready(), PEOPLE[0], notifications=[]) for _ in range(2))
    with app.app_context():
        claimed = outbox.claim(OutboxMail.transfer_id == first.id, publish_after=clock.now())
        mail_topic._publish(claimed)
    for sent in (first, second):
        if end == "deleted":
            sent.call("DELETE")
        if end == "expired":
            sent.set(expires_at=clock.now() - timedelta(seconds=1))
    if end == "opted out":
        with app.app_context():
            mail_links.opt_out(PEOPLE[0])
    assert publish(app) == 1
    assert cloud.count() == 1
    assert listen(app) == 1
    assert mail.caught == []
    assert {one.state for one in shares(app)} == {MailState.DROPPED}


def test_who_is_taken_out_and_put_in_again_is_told_of_at_once(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    publish(app)
    addressed(sent, PEOPLE[0])
    assert listen(app) == 3
    assert got(mail) == {PEOPLE[0]: 1}
    addressed(sent, *PEOPLE)
    assert (publish(app), listen(app)) == (2, 2)
    assert got(mail) == Counter(PEOPLE)


def test_without_a_queue_what_the_topic_takes_is_sent_by_somebody_else(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, configure: Any
) -> None:
    configure(sqs_queue_url="", max_mails_per_hour=2)
    events.bind(config.current())
    assert publish(app) == 2, "the limits hold all the same"
    pass_time(app, hours=2)
    assert publish(app) == 1
    assert set(states(sent).values()) == {"sent"}
    assert got(mail) == {}
    assert cloud.count() == 3


def test_switched_off_or_on_meanwhile_each_is_mailed_once(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, configure: Any
) -> None:
    publish(app)
    configure(sns_topic_arn="")
    events.bind(config.current())
    assert send_mail(app) == 4
    assert listen(app) == 3
    assert publish(app) == 0
    assert got(mail) == Counter([*PEOPLE, ADA])
    assert cloud.count() == 0


# -- what cannot be worked on --------------------------------------------------------------------

MALFORMED = {
    "no JSON": "{",
    "no object": "[1]",
    "deep": "[" * 100_000,
    "no kind": "{}",
    "envelope of nothing": json.dumps({"Type": "Notification", "Message": "hello"}),
    "to be confirmed": json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": "http://x"}),
    "no id": json.dumps({"event_type": "TRANSFER_SHARED", "emails": ["a@b.org"]}),
    "odd id": json.dumps({"event_type": "TRANSFER_SHARED", "transfer_id": 7, "emails": ["a@b.c"]}),
    "unknown": json.dumps(
        {
            "event_type": "TRANSFER_SHARED",
            "transfer_id": "00000000-0000-4000-8000-000000000000",
            "emails": ["a@b.org"],
        }
    ),
    "no people": json.dumps({"eventType": "Bounce", "bounce": {}, "mail": {}}),
    "no address": json.dumps(
        {
            "notificationType": "Complaint",
            "complaint": {"complainedRecipients": [{"emailAddress": "a\r\nBcc: b@c.org"}]},
        }
    ),
}


def test_what_nobody_can_read_becomes_a_dead_letter_and_keeps_no_other(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(event_queue, "HIDDEN_SECONDS", 0)
    emails = {"event_type": "TRANSFER_SHARED", "transfer_id": str(sent.id), "emails": [PEOPLE[0]]}
    for body in MALFORMED.values():
        cloud.send(body)
    cloud.send(emails)
    done = sum(listen(app) for _ in range(10))
    assert done == 1
    assert got(mail) == {PEOPLE[0]: 1}
    assert cloud.count() == 0
    assert cloud.count(cloud.dead_letters) == len(MALFORMED)
    assert "cannot be worked on" in caplog.text
    assert "hello" not in caplog.text


def test_what_is_not_about_us_is_done_with(app: Flask, cloud: Cloud) -> None:
    for told in ({"event_type": "TRANSFER_DELETED"}, {"eventType": "Delivery"}):
        cloud.send(told)
    assert listen(app) == 2
    assert cloud.count() == 0


def test_one_that_fails_here_keeps_no_other(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, monkeypatch: Any, caplog: Any
) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(event_queue.bounces, "complained", fail)
    cloud.send(
        {
            "notificationType": "Complaint",
            "complaint": {"complainedRecipients": [{"emailAddress": PEOPLE[0]}]},
        }
    )
    publish(app)
    assert listen(app) == 3
    assert got(mail) == Counter(PEOPLE)
    assert cloud.count() == 1
    assert "has failed" in caplog.text


def test_a_queue_without_dead_letters_is_told_of(app: Flask, cloud: Cloud, caplog: Any) -> None:
    event_queue.check_queue()
    assert caplog.text == ""
    cloud.put_aside_after(None)
    event_queue.check_queue()
    assert "dead-letter" in caplog.text


def test_all_that_a_turn_asks_for_is_sent_in_it(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many mails are claimed at once: what is left waits for minutes."""
    monkeypatch.setattr(outbox, "BATCH", 2)
    publish(app)
    assert listen(app) == 3
    assert got(mail) == dict.fromkeys(PEOPLE, 1)
    assert cloud.bodies() == []


# -- holding, stopping, being seen -----------------------------------------------------------------


def test_messages_stay_hidden_as_long_as_they_are_worked_on(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(event_queue, "HIDDEN_SECONDS", 1)
    mail.delay_seconds = 0.7
    publish(app)
    seen: list[int] = []
    send_these = outbox.send_these

    def sending(ids: Any) -> int:
        try:
            return send_these(ids)
        finally:
            seen.append(len(cloud.bodies()))

    monkeypatch.setattr(outbox, "send_these", sending)
    assert listen(app) == 3
    assert seen == [0]


def test_who_is_told_to_stop_gives_back_what_it_has_not_begun(
    app: Flask, sent: Sent, cloud: Cloud, mail: MailServer
) -> None:
    publish(app)
    jobs.stopping.set()
    assert listen(app) == 0
    jobs.stopping.clear()
    assert len(cloud.bodies()) == 3
    assert mail.caught == []
    assert listen(app) == 3


def test_a_listener_that_is_not_there_is_seen(app: Flask, client: Any, cloud: Cloud) -> None:
    assert client.get("/ready").json["checks"]["listener"] == "late"
    listen(app)
    assert client.get("/ready").json["checks"]["listener"] == "OK"
    with app.app_context():
        assert heartbeats.count_of("take_messages") == 0


def test_without_a_queue_nobody_misses_a_listener(client: Any) -> None:
    assert "listener" not in client.get("/ready").json["checks"]


def test_a_listener_without_a_queue_waits_to_be_told_to_stop(app: Flask, monkeypatch: Any) -> None:
    """Whatever starts each line of the Procfile would else start it again and again."""
    monkeypatch.setattr(event_queue, "take_messages", lambda: pytest.fail("there is no queue"))
    stop = threading.Event()
    waiting = threading.Thread(target=worker.listen, args=(app, stop))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    stop.set()
    waiting.join(5)
    assert not waiting.is_alive()
