"""A letter that is filled in is the letter that the library would have written, byte for byte."""

import re
import uuid
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from app.db import db, release
from app.gateways.mailer import _PLAIN, _UTF8
from app.models import MailKind, OutboxMail
from app.services import delivery, mail_rendering, mail_templates
from app.services.mail_pictures import Thumbnail
from app.services.mail_templates import Drawer, Stencil
from tests.factories import Sender
from tests.lab.mailserver import MailServer
from tests.mail import addressed
from tests.pictures import drawn, encoded

BO, LONG, JURGEN = "bo@example.org", f"{'b' * 60}@example.org", "jürgen@exämple.org"
PICTURES = {"Lake/1.jpg": Thumbnail("1@thumbnails", encoded(drawn(seed=1), "WEBP"))}
TITLES = [
    "Pictures of the lake",
    "😀 Grüße = Ümläute  ",
    "<b>&amp;</b> {{ link }}",
    ".",
    "From me",
    "=?utf-8?q?Bcc:_eve=40example.org?=",
]


def parts_of(raw: bytes) -> tuple[list[str], str]:
    """The headers in whatever order, and the rest with boundaries that are alike."""
    text = re.sub(r"={15}\d+==", "boundary", raw.decode())
    text = re.sub(r"(?m)^Date: .*\r$", "Date: now\r", text)
    head, _, body = text.partition("\r\n\r\n")
    return sorted(re.split(r"\r\n(?! )", head)), body


def mails(kind: MailKind) -> list[OutboxMail]:
    """As the outbox would hold them, of one kind."""
    found = db.session.scalars(
        select(OutboxMail).where(OutboxMail.kind == MailKind.FILES_FOR_YOU)
    ).all()
    return [
        OutboxMail(
            id=uuid.uuid4(),
            kind=kind,
            # The first batch; the others are as the first time that they were asked for.
            n=0 if kind is MailKind.NEW_FILES else one.n,
            email=one.email,
            transfer_id=one.transfer_id,
            recipient_id=one.recipient_id,
        )
        for one in found
    ]


def test_what_is_filled_in_is_what_the_library_would_write(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready({"Lake/1.jpg": b"x", "Grüße & <b>.bin": b"y"}), BO, LONG, JURGEN)
    for title in TITLES:
        sent.set(title=title, message=f"{title}\r\n\n  \n.\n{'word ' * 40}")
        with app.app_context():
            for kind in delivery.TO_RECIPIENT:
                drawer = Drawer()
                for one in mails(kind):
                    plain = mail_rendering.compose(one, PICTURES)
                    filled = mail_rendering.compose(one, PICTURES, drawer)
                    assert isinstance(plain, EmailMessage)
                    assert filled is not None
                    assert not isinstance(filled, EmailMessage)
                    assert filled["Message-ID"] == plain["Message-ID"]
                    for form in (_PLAIN, _UTF8):
                        raw = filled.as_bytes(policy=form)
                        assert parts_of(raw) == parts_of(plain.as_bytes(policy=form))
            release()


def cut() -> Stencil:
    letter = EmailMessage(policy=policy.SMTP)
    letter["From"] = "bee@example.org"
    letter.set_content("Hello\n\nhere: MARK-1\nGrüße\n", cte=mail_templates.CTE)
    letter.add_alternative('<a href="MARK-1">ü</a>\n', subtype="html", cte=mail_templates.CTE)
    return Stencil(letter, {"link": "MARK-1"})


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("name", ["To", "Date", "Message-ID", "List-Unsubscribe"])
def test_no_value_becomes_a_header(end: str, name: str) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        cut().fill({name: f"a@example.org{end}Bcc: eve@example.org"}, {"link": "x"})


def test_values_are_text_in_a_page_and_as_they_are_in_plain_text() -> None:
    value = 'https://x.org/?a=1&b="<ü>"' + "x" * 200
    raw = cut().fill({"To": JURGEN}, {"link": value}).as_bytes(policy=_PLAIN)
    assert all(len(line) <= 78 for line in raw.split(b"\r\n"))
    assert raw.isascii()
    read = message_from_bytes(raw, policy=policy.default)
    assert isinstance(read, EmailMessage)
    plain, page = read.get_body(("plain",)), read.get_body(("html",))
    assert plain is not None
    assert page is not None
    assert plain.get_content().splitlines() == ["Hello", "", f"here: {value}", "Grüße"]
    escaped = value.replace("&", "&amp;").replace('"', "&#34;")
    escaped = escaped.replace("<", "&lt;").replace(">", "&gt;")
    assert page.get_content().splitlines() == [f'<a href="{escaped}">ü</a>']


def test_a_drawer_holds_the_last_one() -> None:
    made: list[str] = []

    def cutting(name: str) -> Any:
        def cut_one() -> Stencil:
            made.append(name)
            return cut()

        return cut_one

    drawer = Drawer()
    taken = [drawer.take(name, cutting(name)) for name in "aabba"]
    assert made == ["a", "b", "a"]
    assert taken[0] is taken[1]
    assert taken[1] is not taken[2]
