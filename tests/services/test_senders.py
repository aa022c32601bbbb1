"""S29: whose address it is. A code is mailed, is guessed by nobody, and proves one address."""

import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app import addresses, clock
from app.config import settings
from app.db import db, transaction
from app.models import NoMail, OutboxMail, SenderCode
from app.services import mail_links, senders, suppression
from tests.conftest import SECRET
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail


def ask(client: FlaskClient, email: str = ADA, **given: Any) -> int:
    return client.post("/senders/code", json={"email": email}, **given).status_code


def confirm(client: FlaskClient, code: str, email: str = ADA, **given: Any) -> Any:
    return client.post("/senders/confirm", json={"email": email, "code": code}, **given)


def code_in(mail: MailServer, at: int = -1) -> str:
    found = re.fullmatch(r"(\d{8}) is your code for Beeline", mail.caught[at].subject)
    assert found
    return found[1]


def other_than(code: str, number: int) -> str:
    return f"{(int(code) + number + 1) % 10**8:08}"


@pytest.mark.parametrize(
    "given", ["J\u030coe@Example.org", "\u0399\u0342@example.org", "\u212ay@x.org"]
)
def test_an_address_is_spelled_alike_however_often_it_is_read(given: str) -> None:
    """Else nobody could use what proves it: it is read again with each request."""
    once = addresses.normalised(given)
    assert addresses.normalised(once) == once


def test_the_mailed_code_proves_the_address_and_only_that(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    assert ask(client, "Ada@Example.org") == 202
    assert send_mail(app) == 1
    code = code_in(mail)
    assert code in mail.caught[0].body("plain")
    assert code in mail.caught[0].body("html")
    assert mail.caught[0].to == ADA
    answer = confirm(client, f" {code[:3]} {code[3:]} ", "ADA@example.org")
    assert answer.status_code == 200
    word = answer.json["sender_token"]
    with app.app_context():
        assert senders.is_confirmed(ADA, word)
        for wrong in (None, "", word[:-1], word.replace("ada", "eve"), f"x{word}"):
            assert not senders.is_confirmed(ADA, wrong)
        assert not senders.is_confirmed("eve@example.org", word)
    assert confirm(client, code).status_code == 400, "once"


def test_the_word_is_good_for_months_and_no_longer(
    app: Flask, client: FlaskClient, mail: MailServer, monkeypatch: Any
) -> None:
    ask(client)
    send_mail(app)
    word = confirm(client, code_in(mail)).json["sender_token"]
    for days, good in ((89, True), (91, False)):
        later = clock.now() + timedelta(days=days)
        with monkeypatch.context() as then:
            then.setattr(clock, "now", lambda later=later: later)
            assert senders.is_confirmed(ADA, word) is good


def test_five_tries_and_the_code_is_gone(app: Flask, client: FlaskClient, mail: MailServer) -> None:
    ask(client)
    send_mail(app)
    code = code_in(mail)
    for number in range(5):
        answer = confirm(client, other_than(code, number))
        assert answer.status_code == 400
        assert answer.json["error"]["fields"][0]["message"] == "is not the one that was mailed"
    answer = confirm(client, code)
    assert answer.status_code == 400
    assert "ask for a new one" in answer.json["error"]["fields"][0]["message"]


def test_strangers_use_up_no_more_than_two_tries_of_who_asked_for_the_code(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    """From however many networks; who asked has the others, and all five are wrong tries at most."""
    ask(client)
    send_mail(app)
    code = code_in(mail)
    told = []
    for number in range(6):
        elsewhere = {"REMOTE_ADDR": f"203.0.113.{number}"}
        answer = confirm(client, other_than(code, number), environ_base=elsewhere)
        told.append(answer.json["error"]["fields"][0]["message"])
    assert told[:2] == ["is not the one that was mailed"] * 2
    assert set(told[2:]) == {"is no longer valid: ask for a new one"}
    for number in range(2):
        assert confirm(client, other_than(code, number)).status_code == 400
    assert confirm(client, code).status_code == 200


def test_strangers_tries_count_as_tries(app: Flask, client: FlaskClient, mail: MailServer) -> None:
    ask(client)
    send_mail(app)
    code = code_in(mail)
    for number in range(2):
        elsewhere = {"REMOTE_ADDR": f"203.0.113.{number}"}
        confirm(client, other_than(code, number), environ_base=elsewhere)
    for number in range(3):
        confirm(client, other_than(code, number))
    assert confirm(client, code).status_code == 400


def test_a_code_can_be_entered_in_another_network(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    ask(client)
    send_mail(app)
    elsewhere = {"REMOTE_ADDR": "2001:db8::1"}
    assert confirm(client, "not it", environ_base=elsewhere).status_code == 400
    assert confirm(client, code_in(mail), environ_base=elsewhere).status_code == 200


def test_whatever_is_asked_a_code_is_guessed_25_times_an_hour_at_most(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    told = Counter()
    for number in range(60):
        ask(client, environ_base={"REMOTE_ADDR": f"203.0.113.{number}"})
        answer = confirm(client, "not it")
        told[answer.json["error"]["fields"][0]["message"]] += 1
    assert told["is not the one that was mailed"] <= 25
    assert send_mail(app) <= 5


def test_a_code_is_good_for_a_quarter_of_an_hour(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    ask(client)
    send_mail(app)
    with app.app_context(), transaction():
        by = timedelta(minutes=15, seconds=1)
        db.session.execute(update(SenderCode).values(created_at=SenderCode.created_at - by))
    assert confirm(client, code_in(mail)).status_code == 400
    # One that waited for so long is not even mailed.
    mail.caught.clear()
    ask(client)
    with app.app_context(), transaction():
        db.session.execute(update(SenderCode).values(created_at=SenderCode.created_at - by))
    assert send_mail(app) == 0


@pytest.mark.parametrize(
    ("why", "mailed"), [(NoMail.ASKED, [1, 0, 1]), (NoMail.COMPLAINED, [0, 0, 0])]
)
def test_who_wants_no_mail_has_one_code_a_day_and_who_complained_none(
    app: Flask, client: FlaskClient, mail: MailServer, why: NoMail, mailed: list[int]
) -> None:
    with app.app_context(), transaction():
        suppression.suppress(ADA, why)
    half_a_day = timedelta(hours=13)
    for count in mailed:
        assert ask(client) == 202
        assert confirm(client, "not it").json["error"]["fields"][0]["message"] == (
            "is not the one that was mailed"
        )
        assert send_mail(app) == count
        with app.app_context(), transaction():
            for table in (OutboxMail, SenderCode):
                earlier = table.created_at - half_a_day
                db.session.execute(update(table).values(created_at=earlier))


def test_who_wants_no_mail_proves_an_address_by_the_one_code(
    app: Flask, client: FlaskClient, mail: MailServer
) -> None:
    with app.app_context():
        mail_links.opt_out(ADA)
    ask(client)
    send_mail(app)
    assert confirm(client, code_in(mail)).status_code == 200
    with app.app_context():
        assert mail_links.has_opted_out(ADA), "what others send is as unwanted as before"


def test_a_code_lies_nowhere(app: Flask, client: FlaskClient, mail: MailServer) -> None:
    ask(client)
    send_mail(app)
    code = code_in(mail)
    with app.app_context():
        for table in (OutboxMail.__table__, SenderCode.__table__):
            for row in db.session.execute(select(table)):
                for value in row:
                    assert str(value) != code


def test_a_code_survives_a_changed_key(
    app: Flask, client: FlaskClient, mail: MailServer, configure: Any
) -> None:
    ask(client)
    send_mail(app)
    configure(secret_key="another-key-0123456789-abcdefghij", secret_key_fallbacks=(SECRET,))
    word = confirm(client, code_in(mail)).json["sender_token"]
    configure(secret_key=settings.secret_key, secret_key_fallbacks=())
    assert senders.is_confirmed(ADA, word)


@pytest.mark.parametrize(
    "body",
    [{}, {"email": ""}, {"email": "ada"}, {"email": 5}, {"email": "a@b.org\r\nBcc: x@y.org"}],
)
def test_what_is_no_address_gets_no_code(client: FlaskClient, mail: MailServer, body: Any) -> None:
    answer = client.post("/senders/code", json=body)
    assert answer.status_code == 400
    assert answer.json["error"]["fields"][0]["field"] == "email"


def test_without_mail_there_are_no_codes(client: FlaskClient) -> None:
    assert ask(client) == 400
