"""What an operator calls the site, and the links below every page and mail."""

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Sender
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, send_mail

Configure = Callable[..., None]
OURS: dict[str, Any] = {
    "site_name": "Night & Day",
    "footer_links": (
        ("Legal <notice>", "https://example.org/legal?a=1&b=2"),
        ("Help", "mailto:help@example.org"),
    ),
}
LEGAL = '<a href="https://example.org/legal?a=1&amp;b=2">Legal &lt;notice&gt;</a>'


def test_every_page_has_the_name_and_the_links(sender: Sender, configure: Configure) -> None:
    sent = sender.ready({"a.txt": b"a"}, title="Rushes")
    configure(**OURS)
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "<title>Rushes · Night &amp; Day</title>" in page.replace("\n", "")
    assert "</svg>Night &amp; Day</a>" in page
    assert LEGAL in page
    assert '<a href="mailto:help@example.org">Help</a>' in page
    for path in ("/", "/docs", "/d/" + "x" * 32):
        other = sender.client.get(path, headers={"Accept": "text/html"}).text
        assert LEGAL in other
        assert "Beeline" not in other.partition("<main")[0]


def test_without_settings_it_is_beeline_and_there_are_no_links(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "</svg>Beeline</a>" in page
    assert page.partition('class="colophon"')[2].count("<a ") == 1


def test_mails_have_both_in_either_form(
    app: Flask, sender: Sender, mail: MailServer, configure: Configure
) -> None:
    configure(**OURS)
    addressed(sender.ready({"a.txt": b"a"}), "bo@example.org")
    send_mail(app)
    for to in (ADA, "bo@example.org"):
        (one,) = mail.to(to)
        assert "&nbsp; Night &amp; Day</td>" in one.body("html")
        assert 'href="https://example.org/legal?a=1&amp;b=2"' in one.body("html")
        assert one.body("plain").endswith(
            "\nLegal <notice>: https://example.org/legal?a=1&b=2\nHelp: mailto:help@example.org\n"
        )
        assert not one.body("plain").count("\n\n\n")
