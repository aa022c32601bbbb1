"""Download all: what the page shows of the zip, what a click does, and what counts."""

from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from app import clock
from app.db import db, transaction
from app.models import Archive, ZipFailure
from app.pages import command_line
from app.services import archives
from tests.factories import Sender, Sent, http
from tests.pages.test_pages import token_in

FILES = {"a.txt": b"one", "b.txt": b"two"}
HTMX = {"HX-Request": "true"}
CURL = {"User-Agent": "curl/8.5.0", "Accept": "*/*"}


def press(sent: Sent, **given: Any) -> Any:
    """The button, in a page that was looked at."""
    page = sent.client.get(f"/d/{sent.slug}").text
    data = {"csrf_token": token_in(page)}
    return sent.client.post(f"/d/{sent.slug}/zip", data=data, **given)


def build(sent: Sent) -> None:
    with sent.client.application.app_context():
        archives.build(str(sent.id))


def fail(sent: Sent, failure: ZipFailure, at: datetime | None = None) -> None:
    """Its zip was given up, just now or then."""
    with sent.client.application.app_context(), transaction():
        values = {"failed_at": at or clock.now(), "failure": failure}
        db.session.execute(update(Archive).values(values))


def test_it_is_asked_for_made_and_fetched_without_script(sender: Sender) -> None:
    sent = sender.ready(FILES, max_downloads=1)
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "Download all" in page
    assert "http-equiv" not in page
    answer = press(sent)
    assert (answer.status_code, answer.location) == (303, f"/d/{sent.slug}")
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "Making one zip of everything" in page
    assert '<noscript><meta http-equiv="refresh"' in page
    assert sent.row().download_count == 0
    build(sent)
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "One zip, " in page
    answer = press(sent)
    assert answer.status_code == 303
    got = http.request("GET", answer.location)
    assert got.status == 200
    assert 'filename="files.zip"' in got.headers["Content-Disposition"]
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert sent.row().download_count == 1


def test_the_region_polls_while_it_is_made_and_a_script_is_led_to_storage(sender: Sender) -> None:
    sent = sender.ready(FILES, title="Two files")
    region = press(sent, headers=HTMX)
    assert region.status_code == 200
    assert f'hx-get="/d/{sent.slug}/zip"' in region.text
    assert "The download starts by itself" in region.text
    again = sender.client.get(f"/d/{sent.slug}/zip", headers=HTMX)
    assert "hx-get" in again.text
    build(sent)
    done = sender.client.get(f"/d/{sent.slug}/zip", headers=HTMX)
    assert "hx-get" not in done.text
    assert 'data-state="ready"' in done.text
    assert sent.row().download_count == 0
    fetched = press(sent, headers=HTMX)
    assert "X-Amz-Signature" in fetched.headers["HX-Redirect"]
    assert sent.row().download_count == 1
    # What follows is the same download: the zip and the files count by one rule (F57).
    page = sender.client.get(f"/d/{sent.slug}").text
    data = {"csrf_token": token_in(page)}
    sender.client.post(f"/d/{sent.slug}/files/{sent.files[0]['id']}", data=data)
    assert sent.row().download_count == 1


def test_a_look_at_the_address_makes_nothing_and_counts_nothing(sender: Sender) -> None:
    sent = sender.ready(FILES)
    for method in ("GET", "HEAD"):
        answer = sender.client.open(f"/d/{sent.slug}/zip", method=method)
        assert (answer.status_code, answer.location) == (303, f"/d/{sent.slug}")
    assert sender.client.get(f"/d/{sent.slug}.json").json["zip"]["state"] == "none"


def test_a_click_from_elsewhere_is_refused(sender: Sender) -> None:
    sent = sender.ready(FILES)
    sender.client.get(f"/d/{sent.slug}")
    assert sender.client.post(f"/d/{sent.slug}/zip").status_code == 400
    assert sender.client.get(f"/d/{sent.slug}.json").json["zip"]["state"] == "none"


def test_whoever_may_download_nothing_has_no_zip_made(sender: Sender) -> None:
    sent = sender.ready(FILES, max_downloads=1)
    stranger = sender.client.application.test_client()
    token = token_in(stranger.get(f"/d/{sent.slug}").text)
    assert sender.client.get(f"/d/{sent.slug}/files/1", headers=CURL).status_code == 303
    data = {"csrf_token": token}
    refused = stranger.post(f"/d/{sent.slug}/zip", data=data)
    assert refused.location == f"/d/{sent.slug}"
    refused = stranger.post(f"/d/{sent.slug}/zip", data=data, headers=HTMX)
    assert refused.headers["HX-Redirect"] == f"/d/{sent.slug}"
    plain = sender.client.application.test_client(use_cookies=False)
    assert plain.get(f"/d/{sent.slug}/zip", headers=CURL).status_code == 410
    with sender.client.application.app_context():
        assert archives.find(sent.id) is None


def test_a_password_guards_it(sender: Sender) -> None:
    sent = sender.ready(FILES, password="open sesame")
    for answer in (
        sent.client.get(f"/d/{sent.slug}/zip", headers=CURL),
        sent.client.application.test_client().post(f"/d/{sent.slug}/zip"),
    ):
        assert answer.status_code == 401
    hidden = sent.client.get(f"/d/{sent.slug}/zip", headers=HTMX)
    assert hidden.headers["HX-Redirect"] == f"/d/{sent.slug}"


def test_one_file_has_no_zip(sender: Sender) -> None:
    sent = sender.ready({"a": b"1"})
    assert "Download all" not in sender.client.get(f"/d/{sent.slug}").text
    assert sender.client.get(f"/d/{sent.slug}/zip", headers=CURL).status_code == 404
    assert sender.client.get(f"/d/{sent.slug}.json").json["zip"] is None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ZipFailure.FILE_LOST, "Storage has lost one of the files. The others can"),
        (ZipFailure.INTERNAL, "Something went wrong on our side. The files can"),
    ],
)
def test_a_zip_that_could_not_be_made_says_so(
    sender: Sender, failure: ZipFailure, words: str
) -> None:
    sent = sender.ready(FILES)
    press(sent)
    fail(sent, failure)
    page = sender.client.get(f"/d/{sent.slug}").text
    assert words in page
    assert "Try the zip again" in page
    assert sender.client.get(f"/d/{sent.slug}.json").json["zip"]["state"] == "failed"
    # Nor does it help to ask for it at once.
    assert words in press(sent, headers=HTMX).text
    assert press(sent).location == f"/d/{sent.slug}"


# -- programs --------------------------------------------------------------------------------


def test_a_program_waits_is_led_back_and_gets_it(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "WAIT_SECONDS", 0.01)
    sent = sender.ready(FILES, title="Zwei: Dateien", max_downloads=1)
    plain: FlaskClient = sender.client.application.test_client(use_cookies=False)
    first = plain.get(f"/d/{sent.slug}/zip", headers=CURL)
    assert first.status_code == 303
    assert first.location.endswith(f"/d/{sent.slug}/zip?turn=1")
    late = plain.get(f"/d/{sent.slug}/zip?turn={command_line.MOST_TURNS}", headers=CURL)
    assert (late.status_code, late.headers["Retry-After"]) == (503, "5")
    assert sent.row().download_count == 0
    build(sent)
    got = plain.get(f"/d/{sent.slug}/zip?turn=1", headers=CURL)
    assert got.status_code == 303
    assert got.headers["Content-Disposition"] == ('attachment; filename="Zwei: Dateien.zip"')
    assert http.request("GET", got.location).data[:2] == b"PK"
    assert plain.get(f"/d/{sent.slug}/zip", headers=CURL).status_code == 410


@pytest.mark.parametrize(
    ("failure", "status", "retry_after", "words"),
    [
        (ZipFailure.FILE_LOST, 409, None, "storage has lost one of the files"),
        (ZipFailure.INTERNAL, 503, "60", "something went wrong on our side"),
    ],
)
def test_a_program_is_told_of_a_zip_that_could_not_be_made_and_waits_no_longer(
    sender: Sender, monkeypatch: pytest.MonkeyPatch,
    failure: ZipFailure, status: int, retry_after: str | None, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(command_line, "WAIT_SECONDS", 0.01)
    sent = sender.ready(FILES)
    plain: FlaskClient = sender.client.application.test_client(use_cookies=False)
    assert plain.get(f"/d/{sent.slug}/zip", headers=CURL).status_code == 303
    fail(sent, failure)
    for turn in (1, command_line.MOST_TURNS):
        told = plain.get(f"/d/{sent.slug}/zip?turn={turn}", headers=CURL)
        assert (told.status_code, told.headers.get("Retry-After")) == (status, retry_after)
        assert words in told.text
    told = sent.call("GET", "/download-url")
    assert told.status_code == status
    assert words in told.json["error"]["message"]
    assert plain.post(f"/d/{sent.slug}/zip").status_code == status
    # After a minute it is tried anew.
    fail(sent, failure, clock.now() - archives.AGAIN_AFTER)
    assert plain.get(f"/d/{sent.slug}/zip", headers=CURL).status_code == 303


def test_only_a_few_programs_hold_a_thread_while_they_wait(sender: Sender) -> None:
    sent = sender.ready(FILES)
    taken = [command_line._waiting.acquire(blocking=False) for _ in range(2)]
    assert taken == [True, True]
    try:
        answer = sender.client.get(f"/d/{sent.slug}/zip", headers=CURL)
    finally:
        for _ in taken:
            command_line._waiting.release()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("turn", ["-1", "x", "99999999999999999999", "1e3", ""])
def test_a_strange_turn_does_no_harm(sender: Sender, turn: str, monkeypatch) -> None:
    monkeypatch.setattr(command_line, "WAIT_SECONDS", 0.01)
    sent = sender.ready(FILES)
    answer = sender.client.get(f"/d/{sent.slug}/zip?turn={turn}", headers=CURL)
    assert answer.status_code in (303, 503)
