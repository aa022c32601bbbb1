"""More files from the sender's page: where the uploader is, and what it says of them without a script."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import clock
from app.services import abuse, mail_links, upkeep
from tests.factories import Sender, Sent
from tests.pages.test_manage import HTMX, browser, form_in, open_page, page_of
from tests.pages.test_pages import token_in

__all__ = ["browser"]


def added(sent: Sent, *paths: str) -> list[dict[str, Any]]:
    files = [{"path": path, "size": 1} for path in paths]
    answer = sent.call("POST", "/files", json={"files": files})
    assert answer.status_code == 201, answer.json
    return answer.json["files"]


def test_the_uploader_is_led_to_from_what_is_ready(browser: FlaskClient, sender: Sender) -> None:
    sent = sender.ready(title="<b>Rushes</b>")
    assert f"{page_of(sent)}/add" in open_page(browser, sent)
    page = browser.get(f"{page_of(sent)}/add")
    assert page.status_code == 200
    assert "&lt;b&gt;Rushes&lt;/b&gt;" in page.text
    assert f"{sent.id}.{sent.json['owner_token']}" in page.text
    assert 'id="options"' not in page.text
    assert 'id="mine"' not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert browser.get(f"/m/{sent.id}.nonsense/add").status_code == 404


def test_a_mailed_word_opens_it_too_and_is_its_own_token(
    browser: FlaskClient, sender: Sender, inside: None
) -> None:
    sent = sender.ready()
    word = mail_links.manage_token(sent.id)
    assert word in browser.get(f"/m/{word}/add").text
    answer = browser.get(sent.url, headers={"Authorization": f"Bearer {word}"})
    assert answer.json["id"] == str(sent.id)


@pytest.mark.parametrize("end", ["uploading", "expired", "blocked", "checked"])
def test_what_takes_no_more_leads_back_to_where_that_is_said(
    browser: FlaskClient, sender: Sender, inside: None, end: str
) -> None:
    sent = sender.create() if end == "uploading" else sender.ready()
    if end == "expired":
        sent.set(expires_at=clock.now() - timedelta(seconds=1))
    if end == "blocked":
        abuse.quarantine(sent.id)
    if end == "checked":
        added(sent, "b")
        sent.complete()
    assert f"{page_of(sent)}/add" not in open_page(browser, sent)
    answer = browser.get(f"{page_of(sent)}/add")
    assert (answer.status_code, answer.location) == (303, page_of(sent))


def test_what_is_on_its_way_is_shown_and_can_be_taken_out(
    browser: FlaskClient, sender: Sender
) -> None:
    sent = sender.ready({"a": b"1"})
    first, second = added(sent, "b", "c")
    page = open_page(browser, sent)
    assert "2 more files" in page
    assert f"/files/{sent.files[0]['id']}/remove" not in page
    token = {"csrf_token": token_in(page)}
    removed = browser.post(f"{page_of(sent)}/files/{first['id']}/remove", data=token, headers=HTMX)
    assert (removed.status_code, "1 more file," in removed.text) == (200, True)
    # What is there stays, whoever asks.
    there = f"{page_of(sent)}/files/{sent.files[0]['id']}/remove"
    assert browser.post(there, data=token, headers=HTMX).status_code == 409
    polled = browser.get(f"{page_of(sent)}/now", headers=HTMX).text
    assert 'hx-trigger="every 2s"' in polled
    assert browser.post(f"{page_of(sent)}/batch/drop").status_code == 400  # without its token
    dropped = browser.post(f"{page_of(sent)}/batch/drop", data=token)
    assert dropped.status_code == 303
    page = open_page(browser, sent)
    assert "The files on their way have been removed." in page
    assert "more file" not in page
    assert second["id"] not in page


def test_the_form_of_what_has_expired_brings_it_back_as_long_as_it_is_kept(
    browser: FlaskClient, sender: Sender, inside: None
) -> None:
    sent = sender.ready(max_downloads=3).set(expires_at=clock.now() - timedelta(seconds=1))
    upkeep.expire_due()
    form = form_in(page := open_page(browser, sent))
    assert "Make it available again" in page
    assert '<option value="">' not in page
    # Without a date, as from a form that was opened before its end, nothing comes back.
    answer = browser.post(f"{page_of(sent)}/details", data=form | {"title": "x"})
    assert (answer.status_code, sent.show()["status"]) == (409, "EXPIRED")
    changed = form | {"title": "Again", "expires_in_days": "3"}
    answer = browser.post(f"{page_of(sent)}/details", data=changed, headers=HTMX)
    assert answer.status_code == 200
    assert "It is available again." in answer.text
    for region in ("now", "files", "people"):
        assert f'id="manage-{region}" hx-swap-oob' in answer.text
    assert (sent.show()["status"], sent.show()["title"]) == ("READY", "Again")


def test_after_the_grace_period_there_is_no_form(
    browser: FlaskClient, sender: Sender, inside: None
) -> None:
    sent = sender.ready().set(expires_at=clock.now() - timedelta(days=4))
    upkeep.expire_due()
    sent.set(expired_at=clock.now() - timedelta(days=4))
    page = open_page(browser, sent)
    assert "The files are being removed." in page
    assert "Make it available again" not in page
