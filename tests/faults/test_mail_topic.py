"""Whoever publishes or listens dies at any step: nobody's mail is lost, and none is sent twice."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app import config
from app.extensions import mailer
from app.services import previewing
from tests.factories import Sender
from tests.faults.test_crashes import STEPS
from tests.lab.cloud import REGION, Cloud
from tests.lab.crasher import DIED, Crasher
from tests.lab.mailserver import MailServer
from tests.lab.stack import begin, kill_family
from tests.mail import addressed, pass_time, states
from tests.pictures import drawn, encoded
from tests.services.test_bounces import COMPLAINT, bounce
from tests.services.test_mail_topic import PEOPLE, forget_publishing, got, listen, publish, reveal
from tests.watching import Watch

pytestmark = pytest.mark.real_commits


@pytest.fixture
def settings(cloud: Cloud, mail: MailServer, environ: dict[str, str]) -> dict[str, str]:
    """What processes of their own need to come here."""
    return environ | {
        "MAIL_URL": mail.url,
        "MAIL_FROM": "bee@send.example.org",
        "SNS_TOPIC_ARN": cloud.topic,
        "SQS_QUEUE_URL": cloud.queue,
        "AWS_ENDPOINT_URL": cloud.url,
        **cloud.keys,
    }


@pytest.fixture
def crasher(settings: dict[str, str]) -> Iterator[Crasher]:
    made = Crasher(settings)
    yield made
    made.close()


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith(("publish.", "listen."))])
def test_a_death_loses_no_mail_and_doubles_none(
    step: str, app: Flask, crasher: Crasher, sender: Sender, cloud: Cloud, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), *PEOPLE, notifications=[])
    if step.startswith("publish."):
        assert crasher.run("publish_shares", dies_at=step) == DIED
        assert publish(app) == 0, "it is left alone for a while"
        forget_publishing(app)
    assert publish(app) == 3
    if step.startswith("listen."):
        assert crasher.run("take_messages", dies_at=step) == DIED
        assert set(states(sent).values()) == {"sent"}
        assert cloud.count() == 3, "sent, and not yet deleted"
        reveal(cloud)
    while cloud.count():
        listen(app)
    assert got(mail) == Counter(PEOPLE)
    assert set(states(sent).values()) == {"sent"}


def test_no_transaction_is_open_while_anybody_else_is_asked(
    app: Flask, sender: Sender, cloud: Cloud, configure: Any, watch: Watch
) -> None:
    """SNS, SQS, SES and storage, each asked with a look at who is idle in a transaction."""
    configure(mail_url=f"ses://{REGION}")
    mailer.bind(config.current())
    sent = addressed(sender.ready({"a.jpg": encoded(drawn(), "JPEG")}), *PEOPLE)
    with app.app_context():
        previewing.make(str(sent.id))
    assert (publish(app), listen(app)) == (3, 3)
    for told in (bounce(), bounce("Transient"), COMPLAINT):
        cloud.send(told)
    while cloud.count():
        listen(app)
    assert len(cloud.mails) == 3
    assert {
        "PublishBatch",
        "ReceiveMessage",
        "SendEmail",
        "GetObject",
        "DeleteMessageBatch",
    } <= set(watch.asked)
    assert watch.idle == []


def test_one_that_dies_between_sending_and_noting_it_doubles_one_mail_at_most(
    app: Flask, crasher: Crasher, sender: Sender, cloud: Cloud, mail: MailServer
) -> None:
    """As in the outbox, and by the same step of it."""
    addressed(sender.ready(), *PEOPLE, notifications=[])
    publish(app)
    assert crasher.run("take_messages", dies_at="mail.2") == DIED
    reveal(cloud)
    assert listen(app) == 0, "the claim of who died has not lapsed"
    assert cloud.count() == 3
    pass_time(app, minutes=4)
    reveal(cloud)
    assert listen(app) == 3
    doubled = got(mail) - Counter(PEOPLE)
    assert sum(doubled.values()) == 1
    (email,) = doubled
    assert len({one.message["Message-ID"] for one in mail.to(email)}) == 1


def test_a_real_listener_works_and_leaves_when_told_to(
    app: Flask, sender: Sender, cloud: Cloud, mail: MailServer, settings: dict[str, str]
) -> None:
    sent = addressed(sender.ready(), *PEOPLE, notifications=[])
    mail.delay_seconds = 1.0
    listener = begin([sys.executable, "worker.py", "sqs"], settings)
    try:
        publish(app)
        mail.wait_for_attempt(30)
        listener.send_signal(signal.SIGTERM)
        assert listener.wait(25) == 0
        # The mail that it was at has gone out; the others were given back at once.
        given_back = 3 - len(mail.caught)
        assert 0 < given_back < 3
        mail.delay_seconds = 0.0
        assert listen(app) == given_back
    finally:
        kill_family(listener)
    assert got(mail) == Counter(PEOPLE)
    assert set(states(sent).values()) == {"sent"}
