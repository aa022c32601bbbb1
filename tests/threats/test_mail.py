"""S29, S30: nobody is flooded by mail from here, and no text becomes a header or a link."""

from collections import Counter
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import db
from app.models import Harm
from app.services import abuse
from tests.factories import Sender
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail, word_of

VICTIM = "victim@example.org"


def wish(*recipients: str, sender: str = ADA, word: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"recipients": recipients, "sender_email": sender}
    return body | ({"sender_token": word} if word else {})


def test_s29_sends_of_an_unconfirmed_sender_are_no_mail_at_all(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    for number in range(60):
        sent = sender.create()
        assert sent.call("PATCH", json=wish(f"v{number}@example.org")).status_code == 200
        if number % 10 == 0:
            sent.upload().complete().process()
        sender.client.post("/senders/code", json={"email": f"s{number}@example.org"})
    send_mail(app)
    assert len(mail.caught) <= 10
    assert {one.to[0] for one in mail.caught} <= {"s"}, "codes, and nothing else"


def test_s29_300_sends_of_a_confirmed_sender_are_a_few_mails(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    word = word_of()
    codes = Counter()
    transfers = [sender.ready() for _ in range(20)]
    for number in range(300):
        # Refused, a transfer is as it was: the last one stands for all others.
        sent = transfers[min(number, 19)]
        answer = sent.call("PATCH", json=wish(f"v{number}@example.org", word=word))
        codes[answer.status_code] += 1
    assert codes == {200: 8, 429: 292}
    assert answer.json["error"]["code"] == "too_much_mail"
    assert int(answer.headers["Retry-After"]) > 0
    send_mail(app)
    assert len(mail.caught) < 20
    pass_time(app, hours=1, seconds=1)
    assert sender.create().call("PATCH", json=wish(VICTIM, word=word)).status_code == 200


def test_s29_one_victim_gets_five_an_hour_from_whomever(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    told = Counter()
    for number in range(25):
        somebody = f"s{number}@example.org"
        told[sender.client.post("/senders/code", json={"email": VICTIM}).status_code] += (
            number % 5 == 0
        )
        sent = sender.ready()
        answer = sent.call("PATCH", json=wish(VICTIM, sender=somebody, word=word_of(somebody)))
        told[answer.status_code] += 1
    send_mail(app)
    assert len(mail.to(VICTIM)) == 5
    assert told[429] >= 20


def test_s29_what_becomes_due_at_once_is_spread_over_hours(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    """As reminders of many transfers for one person would be."""
    configure(max_mails_per_recipient_per_hour=1000)
    for number in range(12):
        addressed(sender.ready(), VICTIM, sender=f"s{number}@example.org", notifications=[])
    configure(max_mails_per_recipient_per_hour=5)
    told = []
    for _ in range(4):
        send_mail(app)
        told.append(len(mail.to(VICTIM)))
        pass_time(app, hours=1, seconds=1)
    assert told == [5, 10, 12, 12]


def test_s29_reports_are_five_mails_an_hour_and_leave_others_their_share(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    """Strangers write them, from as many addresses as they have."""
    configure(max_mails_per_hour=12, admin_emails=("operator@example.org", "admin@example.org"))
    sent = addressed(sender.ready(), VICTIM, notifications=[])
    with app.app_context():
        for _ in range(12):
            abuse.report(sent.slug, Harm.OTHER)
    told = []
    for _ in range(3):
        send_mail(app)
        told += [len(mail.to(f"{name}@example.org")) for name in ("operator", "admin")]
        pass_time(app, hours=1, seconds=1)
    assert told == [5, 5, 10, 10, 12, 12]
    assert len(mail.to(VICTIM)) == 1


def test_s29_reports_keep_no_other_mail_from_the_operator(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    operator = "operator@example.org"
    configure(abuse_contact=operator)
    sent = addressed(sender.ready(), notifications=[])
    with app.app_context():
        for _ in range(12):
            abuse.report(sent.slug, Harm.OTHER)
    send_mail(app)
    addressed(sent, operator)
    assert sender.client.post("/senders/code", json={"email": operator}).status_code == 202
    send_mail(app)
    subjects = [one.subject for one in mail.to(operator)]
    assert len(subjects) == 7
    assert sum("report" in one.lower() for one in subjects) == 5


def test_s29_networks_days_and_the_whole_installation_have_a_share(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    def ask(count: int, who: str) -> int:
        people = [f"{who}{n}@example.org" for n in range(count)]
        sent = sender.ready()
        return sent.call(
            "PATCH", json=wish(*people, sender=f"{who}@x.org", word=word_of(f"{who}@x.org"))
        ).status_code

    configure(max_recipients_per_network_per_hour=12)
    assert [ask(6, "a"), ask(6, "b"), ask(1, "c")] == [200, 200, 429]
    configure(max_recipients_per_network_per_hour=1000, max_recipients_per_day=10)
    assert [ask(4, "a"), ask(1, "a"), ask(10, "d"), ask(11, "e")] == [200, 429, 200, 429]
    configure(max_mails_per_hour=9)
    assert send_mail(app) == 9
    assert send_mail(app) == 0
    pass_time(app, hours=1, seconds=1)
    assert send_mail(app) == 9


def test_s29_codes_are_limited_for_the_whole_installation(
    app: Flask, client: FlaskClient, mail: MailServer, configure: Any
) -> None:
    """Otherwise someone with many network addresses could have codes mailed to everybody."""
    configure(max_mails_per_hour=3)

    def ask(number: int) -> int:
        asked = {"email": f"p{number}@example.org"}
        network = {"REMOTE_ADDR": f"203.0.113.{number}"}
        return client.post("/senders/code", json=asked, environ_base=network).status_code

    assert [ask(number) for number in range(5)] == [202, 202, 202, 429, 429]
    send_mail(app)
    assert len(mail.caught) == 3


def test_s29_a_server_that_was_away_for_long_uses_up_no_share(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    configure(max_mails_per_hour=5)
    mail.answers = {f"p{n}@example.org": ["451 busy", "250 fine"] for n in range(4)}
    addressed(sender.ready(), *mail.answers)
    assert send_mail(app) == 1
    pass_time(app, seconds=61)
    assert send_mail(app) == 4


HOSTILE = [
    "a@example.org\r\nBcc: eve@example.org",
    "a@example.org\nBcc: eve@example.org",
    "a@example.org\rBcc: eve@example.org",
    "a@example.org%0aBcc:eve@example.org",
    "a@example.org\0",
    "\"a\r\nBcc: eve@x.org\"@example.org",
    "a@example.org, eve@example.org",
    "a@example.org; eve@example.org",
    "<a@example.org>",
    "Eve <eve@example.org>",
    "a@example.org> RCPT TO:<eve@example.org",
    "a@exam\r\n ple.org",
    "a@example.org\u2028Bcc: eve@example.org",
    "a\u0085@example.org",
    "@evil.example:a@example.org",
    "a@example.org\u202e",
    "eve%evil.example@example.org",
    "evil.example!eve@example.org",
    "=?utf-8?q?eve=40evil.example=2c?=@example.org",
    "=?us-ascii?b?ZXZl?=@example.org",
]  # fmt: skip


@pytest.mark.parametrize("address", HOSTILE, ids=range(len(HOSTILE)))
def test_s30_hostile_addresses_are_refused(
    app: Flask, sender: Sender, client: FlaskClient, mail: MailServer, address: str
) -> None:
    sent = sender.ready()
    for body in (wish(address, word=word_of()), wish(sender=address)):
        answer = sent.call("PATCH", json=body)
        assert answer.status_code == 400, answer.json
    assert client.post("/senders/code", json={"email": address}).status_code == 400
    assert send_mail(app) == 0
    assert mail.caught == []


TITLES = [
    "Win\u2028Bcc: eve@example.org",
    "Win\u2029Bcc: eve@example.org",
    "=?utf-8?q?Win=0d=0aBcc:_eve@example.org?=",
    "=?utf-8?q?See_evil=2Eexample?=",
    "Win\\r\\nBcc: eve@example.org",
    "http://evil.example/login",
    "See www.evil.example now",
    "evil.example",
    "\u202egro.live//:ptth",
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x.png>',
    "{{ 7 * 7 }} {% raw %}",
    "x" * 200,
    "😀" * 200,
    "Bcc: eve@example.org",
    "a\u200b\u2066b",
    "1http://evil.example",
]


@pytest.mark.parametrize("title", TITLES, ids=range(len(TITLES)))
def test_s30_hostile_titles_are_only_text(
    app: Flask, sender: Sender, mail: MailServer, title: str
) -> None:
    message = f"{title}\nhttps://evil.example/a?b=c and evil.example/x, www.evil.example"
    paths = {title.replace("/", "-")[:60]: b"x", "https:/evil.example/file": b"y"}
    addressed(sender.ready(paths, title=title, message=message), VICTIM)
    assert send_mail(app) == 2
    for one in mail.caught:
        assert one.to in (VICTIM, ADA)
        assert one.message["Bcc"] is None
        assert str(one.message["To"]) == one.to
        assert len(one.message.get_all("Subject")) == 1
        for line in one.raw.split(b"\r\n"):
            assert len(line) <= 998
        subject = one.subject
        assert "\n" not in subject
        assert "evil.example" not in subject
        assert "\u202e" not in subject
        for body in (one.body("plain"), one.body("html")):
            assert "evil.example" not in body
            assert ("7 * 7" in title) == ("{{ 7 * 7 }}" in body)
        html = one.body("html")
        assert "<script" not in html
        assert "<img" not in html
        assert 'src="' not in html


def test_s30_no_signed_address_and_no_remote_thing_is_in_any_mail(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    addressed(sender.ready({f"f{n}/{n}.bin": b"x" * n for n in range(55)}), VICTIM)
    send_mail(app)
    for one in mail.caught:
        assert b"X-Amz" not in one.raw
        html = one.body("html")
        assert "url(" not in html
        assert "<link" not in html
        assert "and 35 more" in html
        assert "and 35 more" in one.body("plain")
        assert str(one.message["Auto-Submitted"]) == "auto-generated"
        assert "max-width:600px" in html


def test_s28_the_outbox_holds_no_key(app: Flask, sender: Sender, mail: MailServer) -> None:
    sent = addressed(sender.ready(password="sesame street"), VICTIM)
    send_mail(app)
    token = mail.to(ADA)[0].body("plain").split("/m/")[1].split()[0]
    with app.app_context():
        rows = db.session.execute(text("SELECT json_agg(o)::text FROM outbox_mails o")).scalar()
    for secret in (token, sent.json["owner_token"], "sesame street", sent.slug):
        assert secret not in rows
