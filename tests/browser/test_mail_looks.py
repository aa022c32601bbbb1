"""Every mail as a mail program shows it: light, dark, wide, on a phone; it asks nobody for anything."""

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser

from app import clock
from app.models import Harm
from app.services import abuse, delivery, news, previewing, transfers
from tests.browser.steps import AXE, SIZES, take_picture
from tests.factories import Sender
from tests.lab.mailserver import Caught, MailServer
from tests.mail import ADA, addressed, pass_time, send_mail
from tests.pictures import drawn, encoded
from tests.services.test_batches import through
from tests.services.test_delivery import download, slug_of
from tests.services.test_news import sent_days_ago

# Nobody holds a transaction open while pictures are taken of all of them.
pytestmark = pytest.mark.real_commits
BO, CY, DI = "bo@example.org", "cy@example.org", "a.person.with.a.long.name@a-long-name.example.org"
FILES = {
    "Interview with the director, final cut, really the last one this time.mov": b"x" * 4000,
    **{f"Day {n}/Camera B/A00{n}_C012_0723.braw": b"x" * n for n in range(1, 30)},
    "عنوان من اليمين.pdf": b"x" * 12,
}
MESSAGE = (
    "Hi both,\n\nthese are the rushes of Thursday. See https://example.com/notes for notes.\n\nAda"
)


@pytest.fixture
def caught(
    app: Flask, sender: Sender, mail: MailServer, configure: Callable[..., None]
) -> dict[str, Caught]:
    """One mail of each kind, by its name."""
    mail.answers[DI] = ["550 5.1.1 <a.person>: user unknown in virtual mailbox table"]
    options = {"title": "Rushes, Thursday", "message": MESSAGE, "password": "sesame"}
    sent = addressed(sender.ready(FILES, max_downloads=9, **options), BO, CY, DI)
    sender.client.post("/senders/code", json={"email": "eve@example.org"})
    configure(abuse_contact="operator@example.org", admin_emails=("operator@example.org",))
    with app.app_context():
        abuse.report(sent.slug, Harm.PHISHING, "It asks for my bank's password.", "eve@example.org")
    send_mail(app)
    photos = {f"Lake/IMG_{n}.jpg": encoded(drawn(seed=n), "JPEG") for n in range(3)}
    quiet = addressed(sender.ready(photos | {"one.pdf": b"x" * 999}), BO)
    with app.app_context():
        previewing.make(str(quiet.id))
    with app.app_context():
        delivery.pass_on_question(transfers.of_id(sent.id), "Could I have another day, please?")
    for one, days, hours in ((sent, 5, 20), (quiet, 5, 100)):
        sent_days_ago(app, one, days, hours)
    with app.app_context():
        news.queue_news()
    send_mail(app)
    for one in (BO, CY):
        client = app.test_client()
        client.post(f"/d/{slug_of(app, sent, one)}", data={"password": "sesame"})
        url = f"/d/{slug_of(app, sent, one)}/files/{sent.files[0]['id']}"
        client.get(url, headers={"User-Agent": "curl/8"})
    download(app, sent, sent.slug)
    pass_time(app, minutes=6)
    send_mail(app)
    pass_time(app, hours=2)
    through(quiet, {"two.pdf": b"x" * 9}, tell_recipients=True)
    send_mail(app)
    heads = {
        "files_for_you": (BO, f"{ADA} has sent you “Rushes"),
        "pictures": (BO, f"{ADA} has sent you 4 files"),
        "reminder": (BO, "Expires soon"),
        "new_files": (BO, f"{ADA} has added 1 file"),
        "sent": (ADA, "Sent: “Rushes"),
        "downloaded": (ADA, "2 people have downloaded"),
        "nobody_downloaded": (ADA, "Nobody has downloaded"),
        "expires_soon": (ADA, "Expires soon"),
        "somebody_asks": (ADA, "Someone is asking"),
        "undeliverable": (ADA, "Not delivered"),
        "reported": ("operator@example.org", "Report "),
    }
    found = {
        name: next(one for one in mail.to(to) if one.subject.startswith(head))
        for name, (to, head) in heads.items()
    }
    return found | {"code": mail.to("eve@example.org")[0]}


def shown(one: Caught) -> str:
    """Its page, with the pictures that it holds where a mail program puts them."""
    page = one.body("html")
    for part in one.message.walk():
        if part.get_content_maintype() == "image":
            there = f"cid:{part['Content-ID'].strip('<>')}"
            assert there in page
            body = base64.b64encode(part.get_content()).decode()
            page = page.replace(there, f"data:{part.get_content_type()};base64,{body}")
    return page


def test_every_mail(chromium: Browser, caught: dict[str, Caught]) -> None:
    assert "data:image/webp" in shown(caught["pictures"])
    assert "for notes.<br><br>Ada" in caught["files_for_you"].body("html")
    asked: list[str] = []
    wrong: list[Any] = []
    for scheme in ("light", "dark"):
        for width, size in SIZES.items():
            context = chromium.new_context(viewport=size, color_scheme=scheme)
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.evaluate(AXE.read_text())  # it stays, whatever the page is made to show
            for name, one in caught.items():
                page.set_content(shown(one))
                take_picture(page, f"mail-{name}-{width}-{scheme}")
                found = page.evaluate("axe.run(document, {runOnly: ['color-contrast']})")
                wrong += [(name, scheme, v["nodes"][0]["html"]) for v in found["violations"]]
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    wrong.append((name, scheme, width, "too wide"))
            context.close()
    assert wrong == []
    assert asked == []
    assert caught["code"].message["Date"].datetime - clock.now() < timedelta(minutes=5)
