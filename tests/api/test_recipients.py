"""Recipients that are named with the transfer: the rules of naming them later, and all or nothing."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from app.db import db
from app.models import Recipient, Transfer
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail, states, word_of

BO, CY = "bo@example.org", "cy@example.org"
MAIL = {"recipients": [BO, "Bo@Example.org", CY], "sender_email": ADA}


def create(sender: Sender, key: str | None = None, **more: Any) -> Any:
    body = {"files": [{"path": "a.txt", "size": 5}]} | more
    headers = {"Idempotency-Key": key} if key else {}
    return sender.client.post("/transfers", json=body, headers=headers)


def count_of(app: Flask, table: Any) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(table)) or 0


def test_they_are_mailed_once_the_files_are_there(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    answer = create(sender, **MAIL, sender_token=word_of(), notifications=["downloaded"])
    assert answer.status_code == 201, answer.json
    assert [one["email"] for one in answer.json["recipients"]] == [BO, CY]
    assert (answer.json["sender_confirmed"], answer.json["notifications"]) == (True, ["downloaded"])
    sent = Sent(sender.client, answer.json, {"a.txt": b"hello"})
    assert send_mail(app) == 0
    sent.upload().complete().process()
    assert send_mail(app) == 2
    assert states(sent) == {BO: "sent", CY: "sent"}


def test_nobody_is_mailed_before_the_sender_is_confirmed(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    answer = create(sender, **MAIL)
    assert answer.json["sender_confirmed"] is False
    Sent(sender.client, answer.json, {"a.txt": b"hello"}).upload().complete().process()
    assert send_mail(app) == 0


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"recipients": [BO]}, "sender_email"),
        ({"recipients": ["bo", BO], "sender_email": ADA}, "recipients.0"),
        ({"recipients": "bo", "sender_email": ADA}, "recipients"),
        ({"recipients": [BO] + [f"p{n}@example.org" for n in range(20)], "sender_email": ADA}, "recipients"),
        ({"sender_email": "ada"}, "sender_email"),
        ({**MAIL, "sender_token": "forged"}, "sender_token"),
        ({"notifications": ["nonsense"]}, "notifications.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_makes_nothing(
    app: Flask, sender: Sender, mail: MailServer, given: dict[str, Any], field: str
) -> None:
    answer = create(sender, **given)
    assert answer.status_code == 400, answer.json
    assert [one["field"] for one in answer.json["error"]["fields"]] == [field]
    assert count_of(app, Transfer) == 0


def test_too_much_mail_makes_nothing(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    configure(max_recipients_per_day=1)
    answer = create(sender, **MAIL, sender_token=word_of())
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "too_much_mail")
    assert (count_of(app, Transfer), count_of(app, Recipient)) == (0, 0)


def test_where_no_mail_is_sent_it_is_refused(app: Flask, sender: Sender) -> None:
    answer = create(sender, **MAIL)
    assert [one["field"] for one in answer.json["error"]["fields"]] == ["recipients"]
    assert count_of(app, Transfer) == 0


def test_the_same_request_again_is_the_same_transfer_and_another_is_refused(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    key = "a-key-that-nobody-else-has"
    first = create(sender, key, **MAIL, sender_token=word_of())
    again = create(sender, key, **MAIL, sender_token=word_of())
    assert (again.status_code, again.json["id"]) == (201, first.json["id"])
    assert again.json["owner_token"] == first.json["owner_token"]
    assert create(sender, key, **MAIL | {"recipients": [BO]}).status_code == 422
    assert create(sender, key).status_code == 422
    assert count_of(app, Recipient) == 2
