"""The report page: for whoever has a link, locked or not; telling nothing of what it holds."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app import clock
from app.models import AbuseReport, Harm
from app.services import abuse
from tests.factories import Sender, Sent, http
from tests.pages.test_command_line import CURL
from tests.pages.test_pages import token_in

GOOD = {"reason": "phishing", "message": "It asks\r\nfor my bank", "contact": "eve@example.org"}


@pytest.fixture
def eve(client: FlaskClient) -> FlaskClient:
    """A browser that keeps cookies of its own."""
    return client.application.test_client()


def send(browser: FlaskClient, sent: Sent, **words: str):
    """Open the page, fill in its form, send it."""
    token = token_in(browser.get(f"/d/{sent.slug}/report").text)
    return browser.post(f"/d/{sent.slug}/report", data={"csrf_token": token, **words})


def reports(sent: Sent) -> list[AbuseReport]:
    with sent.client.application.app_context():
        return [report for report, transfer in abuse.reports() if transfer.id == sent.id]


def test_it_is_noted_and_the_page_says_thanks_once(sender: Sender, eve: FlaskClient) -> None:
    sent = sender.ready(title="Your bank")
    answer = send(eve, sent, **GOOD)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}/report")
    thanks = eve.get(answer.headers["Location"])
    assert thanks.status_code == 200
    assert "Your report has been received." in thanks.text
    assert "<form" in eve.get(f"/d/{sent.slug}/report").text
    (report,) = reports(sent)
    assert (report.reason, report.message) == (Harm.PHISHING, "It asks\nfor my bank")
    assert report.contact == "eve@example.org"
    assert len(report.address_hash or b"") == 32
    assert sent.row().download_count == 0


def test_every_page_that_holds_something_leads_there(sender: Sender, client: FlaskClient) -> None:
    past = clock.now() - timedelta(seconds=1)
    deleted = sender.ready()
    deleted.call("DELETE")
    for sent in (
        sender.create(),
        sender.create().upload().complete(),
        sender.ready(),
        sender.ready({"a": b"1", "b": b"2"}),
        sender.ready(password="open sesame"),
        sender.ready().set(expires_at=past),
        sender.ready(max_downloads=1).set(download_count=1),
        deleted,
    ):
        href = f'href="/d/{sent.slug}/report"'
        for headers in ({}, {"HX-Request": "true"}):
            page = client.get(f"/d/{sent.slug}", headers=headers).text
            assert (href in page) == (sent is not deleted)
        status = client.get(f"/d/{sent.slug}/report").status_code
        assert status == (410 if sent is deleted else 200)
    assert client.get(f"/d/{'x' * 32}/report").status_code == 404


def test_it_tells_nothing_of_what_the_link_holds(sender: Sender, eve: FlaskClient) -> None:
    sent = sender.ready({"secret.txt": b"1"}, title="Rushes", password="open sesame")
    page = eve.get(f"/d/{sent.slug}/report")
    assert page.headers["Cache-Control"] == "no-store"
    assert page.text.count("button-primary") == 1
    assert send(eve, sent, reason="malware").status_code == 303
    for text in (page.text, eve.get(f"/d/{sent.slug}/report").text):
        assert not any(word in text for word in ("Rushes", "secret.txt", "password_hash"))
    assert len(reports(sent)) == 1


@pytest.mark.parametrize(
    ("words", "name", "said"),
    [
        ({"reason": None}, "reason", "Choose one of these."),
        ({"reason": "boring"}, "reason", "Choose one of these."),
        ({"message": "x" * 2001}, "message", "This must be at most 2000 characters."),
        ({"message": "a\x1bb"}, "message", "This must not contain control characters."),
        ({"contact": "x" * 255}, "contact", "This must be at most 254 characters."),
    ],
)
def test_what_cannot_be_used_is_told_beside_its_field(
    sender: Sender, eve: FlaskClient, words: dict[str, str | None], name: str, said: str
) -> None:
    sent = sender.ready()
    given = {key: value for key, value in (GOOD | words).items() if value is not None}
    answer = send(eve, sent, **given)
    assert answer.status_code == 422
    assert re.findall(r'id="(\w+)-said" data-kind="wrong">([^<]+)', answer.text) == [(name, said)]
    assert ("for my bank" in answer.text) == (name != "message")
    assert (' value="phishing" required checked' in answer.text) == (name != "reason")
    assert re.findall(r'name="(\w+)"[^>]* autofocus', answer.text) == [name]
    assert reports(sent) == []


def test_of_several_fields_the_first_that_is_wrong_has_the_focus(
    sender: Sender, eve: FlaskClient
) -> None:
    sent = sender.ready()
    answer = send(eve, sent, reason="other", message="x" * 2001, contact="x" * 255)
    assert re.findall(r'name="(\w+)"[^>]* autofocus', answer.text) == ["message"]
    assert "autofocus" not in eve.get(f"/d/{sent.slug}/report").text


def test_s02_what_was_typed_comes_back_as_text(sender: Sender, eve: FlaskClient) -> None:
    evil = '"></textarea><script>alert(1)</script>'
    page = send(eve, sender.ready(), message=evil, contact=evil).text
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") == 2


def test_s06_it_needs_the_forms_token(sender: Sender, eve: FlaskClient) -> None:
    sent = sender.ready()
    plain = eve.application.test_client(use_cookies=False)
    for client in (plain, eve):
        assert client.post(f"/d/{sent.slug}/report", data=GOOD).status_code == 400
    assert reports(sent) == []


def test_what_went_meanwhile_is_gone_here_too(sender: Sender, eve: FlaskClient) -> None:
    sent = sender.ready()
    token = token_in(eve.get(f"/d/{sent.slug}/report").text)
    sent.call("DELETE")
    answer = eve.post(f"/d/{sent.slug}/report", data=GOOD | {"csrf_token": token})
    assert answer.status_code == 410


def test_who_to_turn_to_besides(
    sender: Sender, eve: FlaskClient, configure: Callable[..., None]
) -> None:
    sent = sender.ready()
    assert "mailto:" not in eve.get(f"/d/{sent.slug}/report").text
    configure(abuse_contact="abuse@example.org")
    assert 'href="mailto:abuse@example.org"' in eve.get(f"/d/{sent.slug}/report").text
    configure(abuse_contact="https://example.org/abuse")
    assert 'href="https://example.org/abuse"' in eve.get(f"/d/{sent.slug}/report").text


def test_a_file_that_is_called_so_is_still_a_file(sender: Sender, client: FlaskClient) -> None:
    sent = sender.ready({"report": b"1", "ask": b"2"})
    plain = client.application.test_client(use_cookies=False)
    for name, body in (("report", b"1"), ("ask", b"2")):
        answer = plain.get(f"/d/{sent.slug}/{name}", headers=CURL)
        assert http.request("GET", answer.headers["Location"]).data == body
    assert plain.get(f"/d/{sender.ready().slug}/report", headers=CURL).status_code == 404


def test_the_log_names_the_number_and_not_the_link(
    sender: Sender, eve: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    sent = sender.ready()
    send(eve, sent, **GOOD)
    (line,) = [one.getMessage() for one in caplog.records if "reported" in one.getMessage()]
    assert line == f"a link was reported: phishing, report {reports(sent)[0].id}"


def test_s09_unknown_links_share_the_one_limit(
    client: FlaskClient, configure: Callable[..., None]
) -> None:
    configure(max_unknown_per_minute=4)
    address = {"REMOTE_ADDR": "198.51.100.99"}
    told = []
    for number, (method, end) in enumerate(
        [("GET", "/report"), ("POST", "/ask"), ("GET", ""), ("POST", "/ask"), ("GET", "/report")]
    ):
        plain = client.application.test_client(use_cookies=False)
        answer = plain.open(f"/d/{number:032}{end}", method=method, environ_base=address)
        told.append(answer.status_code)
    assert told == [404, 404, 404, 404, 429]
