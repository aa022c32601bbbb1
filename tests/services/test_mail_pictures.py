"""Small pictures in mails: in the mail itself, read once, and never in a mail's way. S16."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.errors import Outage
from app.extensions import storage
from app.gateways.s3_answers import SourceLost
from app.services import mail_pictures, previewing
from tests.factories import Sender, Sent
from tests.lab.mailserver import Caught, MailServer
from tests.mail import ADA, addressed, send_mail
from tests.pictures import drawn, encoded

PEOPLE = ["bo@example.org", "cy@example.org"]
PHOTOS = {f"Lake/{n}.jpg": encoded(drawn(seed=n), "JPEG") for n in range(7)}
Read = Callable[..., bytes]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which objects were asked for."""
    asked: list[str] = []
    read: Read = storage.read

    def noting(source: Any, *given: Any, **more: Any) -> bytes:
        asked.append(source.key)
        return read(source, *given, **more)

    monkeypatch.setattr(storage, "read", noting)
    return asked


def with_pictures(app: Flask, sender: Sender, reads: list[str], **options: Any) -> Sent:
    """Ready, with all its previews made."""
    sent = sender.ready({"notes.txt": b"hello", **PHOTOS}, **options)
    with app.app_context():
        previewing.make(str(sent.id))
    reads.clear()
    return sent


def pictures_in(one: Caught) -> dict[str, bytes]:
    """By the file's name, as the page shows them."""
    page = one.body("html")
    held = {
        part["Content-ID"].strip("<>"): part.get_content()
        for part in one.message.walk()
        if part.get_content_maintype() == "image"
    }
    found = re.findall(r'src="cid:([^"]+)".*?</span>([^<]+)</td>', page)
    assert {cid for cid, _ in found} == set(held)
    return {name: held[cid] for cid, name in found}


def test_pictures_lie_in_the_mail_and_are_read_once_for_all(
    app: Flask, sender: Sender, mail: MailServer, reads: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(previewing, "TURN_SECONDS", 600)
    sent = addressed(with_pictures(app, sender, reads), *PEOPLE)
    assert send_mail(app) == 3
    assert len(reads) == 6
    assert sent.show()["status"] == "READY"
    for person in PEOPLE:
        (one,) = mail.to(person)
        assert one.message.get_content_type() == "multipart/alternative"
        plain, related = one.message.iter_parts()
        assert plain.get_content_type() == "text/plain"
        assert related.get_content_type() == "multipart/related"
        shown = pictures_in(one)
        assert list(shown) == [f"{n}.\u200bjpg" for n in range(6)]
        assert all(body[:4] + body[8:12] == b"RIFFWEBP" for body in shown.values())
        assert len(set(shown.values())) > 1
        assert sum(map(len, shown.values())) < mail_pictures.MOST_BYTES
        assert "X-Amz" not in str(one.message)
        assert not re.search(r'src="(?!cid:)', one.body("html"))
    assert pictures_in(mail.to(ADA)[0]) == {}


@pytest.mark.parametrize("why", ["password", "not made", "away", "one lost", "large"])
def test_whatever_keeps_us_from_pictures_keeps_no_mail(
    app: Flask, sender: Sender, mail: MailServer, reads: list[str], monkeypatch: Any, why: str
) -> None:
    monkeypatch.setattr(previewing, "TURN_SECONDS", 600)
    if why == "not made":
        sent = sender.ready(PHOTOS)
    else:
        sent = with_pictures(
            app, sender, reads, **{"password": "sesame"} if why == "password" else {}
        )
    tries: list[str] = []

    def fail(source: Any, *given: Any, **more: Any) -> bytes:
        tries.append(source.key)
        raise Outage if why == "away" else SourceLost(source.key)

    if why == "away":
        monkeypatch.setattr(storage, "read", fail)
    if why == "one lost":
        read = storage.read
        monkeypatch.setattr(
            storage,
            "read",
            lambda *given, **more: (read if tries else fail)(*given, **more),
        )
    if why == "large":
        monkeypatch.setattr(mail_pictures, "MOST_BYTES", 0)
    addressed(sent, *PEOPLE)
    assert send_mail(app) == 3
    counts = [len(pictures_in(mail.to(person)[0])) for person in PEOPLE]
    assert counts == ([5, 5] if why == "one lost" else [0, 0])
    assert len(tries) == (1 if why in ("away", "one lost") else 0)
