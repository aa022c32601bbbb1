"""S31: a link that does harm is reported by whoever sees it, and stopped at once by one command.

And F54 again, over every link that a page has.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from app import clock
from app.config import MIB
from app.db import db
from app.models import AbuseReport, ExtensionRequest
from app.services import abuse
from tests.factories import Sender, Sent, http
from tests.pages.test_command_line import CURL, SCANNERS, addresses, signed
from tests.pages.test_pages import token_in
from tests.threats.conftest import LoggedStack

HTMX = {"HX-Request": "true"}


@pytest.fixture
def ada(client: FlaskClient) -> FlaskClient:
    """A recipient's browser."""
    return client.application.test_client()


def quarantine(sent: Sent) -> None:
    with sent.client.application.app_context():
        assert abuse.quarantine(sent.id)


# -- quarantine --------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "open sesame"])
@pytest.mark.parametrize("stage", ["uploading", "processing", "ready", "limit_reached"])
def test_s31_every_way_to_a_quarantined_link_is_shut_and_says_nothing(
    sender: Sender, ada: FlaskClient, stage: str, password: str | None
) -> None:
    words = {"title": "Your bank", "message": "Log in here", "password": password}
    sent = sender.create({"a.txt": b"1", "b/c.txt": b"2"}, **words, max_downloads=2)
    if stage != "uploading":
        sent.upload().complete()
    if stage in ("ready", "limit_reached"):
        sent.process()
    if stage == "limit_reached":
        sent.set(download_count=2)
    quarantine(sent)
    plain = ada.application.test_client(use_cookies=False)
    for url in [*addresses(sent), f"/d/{sent.slug}/report"]:
        for client, headers in ((plain, CURL), (ada, {}), (ada, HTMX), (plain, {})):
            answer = client.get(url, headers=headers)
            if answer.status_code == 303:  # a browser's look at a file
                assert answer.headers["Location"] == f"/d/{sent.slug}"
                continue
            assert answer.status_code == 410, (url, headers)
            for told in ("bank", "Log in", "a.txt", "c.txt", "quarantine", "block"):
                assert told not in answer.text, (url, told)
    assert plain.get(f"/d/{sent.slug}.json").json["reason"] == "unavailable"
    assert plain.get(f"/d/{sent.slug}", headers=CURL).text == "This is not available.\n"
    page = ada.get(f"/d/{sent.slug}").text
    assert "<h1" in page
    assert "This is not available" in page
    assert "<form" not in page
    file = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert plain.post(file, headers=CURL).status_code == 410
    unlocking = plain.post(f"/d/{sent.slug}", data={"password": "open sesame"})
    assert (unlocking.status_code, "Set-Cookie" in unlocking.headers) == (303, False)
    for end in ("ask", "report"):
        assert plain.post(f"/d/{sent.slug}/{end}", headers=CURL).status_code in (400, 410)
    assert sent.row().download_count == (2 if stage == "limit_reached" else 0)


def test_s31_who_has_the_page_and_has_been_counted_gets_nothing_more(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    form = {"csrf_token": token_in(ada.get(f"/d/{sent.slug}").text)}
    files = [f"/d/{sent.slug}/files/{file['id']}" for file in sent.files]
    assert signed(ada.post(files[0], data=form))
    quarantine(sent)
    for file in files:
        answer = ada.post(file, data=form)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}")
        assert ada.get(answer.headers["Location"]).status_code == 410
        assert ada.get(file, headers=CURL).status_code == 410
    assert ada.get(f"/d/{sent.slug}", headers=HTMX).status_code == 410
    assert sent.row().download_count == 1


def test_s31_a_proof_of_the_password_opens_it_no_more(sender: Sender, ada: FlaskClient) -> None:
    sent = sender.ready(password="open sesame")
    form = {"csrf_token": token_in(ada.get(f"/d/{sent.slug}").text), "password": "open sesame"}
    ada.post(f"/d/{sent.slug}", data=form)
    assert ada.get(f"/d/{sent.slug}").status_code == 200
    quarantine(sent)
    assert ada.get(f"/d/{sent.slug}").status_code == 410
    assert ada.get(f"/d/{sent.slug}.json").status_code == 410


def test_s31_its_sender_is_told_and_can_change_nothing(sender: Sender) -> None:
    sent = sender.create({"a": b"1", "big": b"b" * (8 * MIB + 1)})
    assert sent.show()["is_blocked"] is False
    quarantine(sent)
    shown = sent.show()
    assert (shown["is_blocked"], shown["status"]) == (True, "INIT")
    wanted = {"wanted": [{"file": sent.files[1]["id"], "numbers": [1]}]}
    for method, path, body in (
        ("PATCH", "", {"title": "Another"}),
        ("PATCH", "", {"password": "another"}),
        ("POST", "/parts", wanted),
        ("POST", "/files", {"files": [{"path": "b", "size": 1}]}),
        ("DELETE", f"/files/{sent.files[0]['id']}", None),
        ("POST", "/complete", None),
    ):
        answer = sent.call(method, path, json=body)
        assert answer.status_code == 403, (method, path, answer.json)
        assert answer.json["error"]["code"] == "blocked"
    assert sent.show() == shown
    assert sent.call("GET", "/parts").status_code == 200
    assert sent.call("DELETE").status_code == 204
    for ready in (sender.ready(), sender.ready().set(expires_at=clock.now() - timedelta(days=1))):
        quarantine(ready)
        assert ready.call("PATCH", json={"title": "Another"}).json["error"]["code"] == "blocked"
        assert ready.call("POST", "/complete").json["error"]["code"] in ("blocked", "gone")


def test_s31_what_is_checked_meanwhile_becomes_ready_and_stays_shut(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = sender.create().upload().complete()
    quarantine(sent)
    sent.process()
    assert sent.show()["status"] == "READY"
    assert ada.get(f"/d/{sent.slug}").status_code == 410
    with ada.application.app_context():
        abuse.lift_quarantine(sent.id)
    assert ada.get(f"/d/{sent.slug}").status_code == 200


@pytest.mark.real_commits
def test_s31_all_processes_know_at_once(
    app: Flask, environ: dict[str, str], sender: Sender, tmp_path: Any
) -> None:
    """Three web processes; the command runs in a fourth."""
    stack = LoggedStack(environ | {"WEB_CONCURRENCY": "3"}, tmp_path / "output")
    sent = sender.ready()
    url = f"{stack.url}/d/{sent.slug}"
    try:
        stack.start("web")
        assert {http.request("GET", url).status for _ in range(12)} == {200}
        told = app.test_cli_runner().invoke(args=["transfers", "quarantine", url])
        assert told.exit_code == 0, told.output
        assert {http.request("GET", url).status for _ in range(30)} == {410}
        curl = {"User-Agent": "curl/8"}
        assert {http.request("GET", url, headers=curl).status for _ in range(12)} == {410}
    finally:
        stack.stop()


# -- scanners ----------------------------------------------------------------------------------


def links_on(page: str) -> set[str]:
    """Every address of ours that a page leads to, or takes something from, or polls."""
    found = re.findall(r'(?:href|src|hx-get|data-refresh)="(/[^"#]*)"', page)
    return {url for url in found if not url.startswith("/static/")}


def test_f54_fifteen_scanners_follow_every_link_on_the_page(
    sender: Sender, client: FlaskClient, ada: FlaskClient
) -> None:
    """By four methods, in every state that has links; nothing is counted, noted or reported."""
    past = clock.now() - timedelta(seconds=1)
    ready = sender.ready(max_downloads=1)
    pages = [
        ready,
        sender.create(),
        sender.ready().set(expires_at=past),
        sender.ready(max_downloads=1).set(download_count=1),
        sender.ready(password="open sesame"),
    ]
    urls = {url for sent in pages for url in links_on(client.get(f"/d/{sent.slug}").text)}
    assert {f"/d/{sent.slug}/report" for sent in pages} <= urls
    urls |= {f"/d/{sent.slug}" for sent in pages}
    before = [sent.row().download_count for sent in pages]
    assert len(SCANNERS) == 15
    for agent in SCANNERS:
        plain = client.application.test_client(use_cookies=False)
        for url in urls:
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                answer = plain.open(url, method=method, headers={"User-Agent": agent})
                assert answer.status_code < 500
                assert not signed(answer), (agent, method, url)
    assert [sent.row().download_count for sent in pages] == before
    with client.application.app_context():
        assert db.session.query(AbuseReport).count() == 0
        assert db.session.query(ExtensionRequest).count() == 0
    form = {"csrf_token": token_in(ada.get(f"/d/{ready.slug}").text)}
    got = ada.post(f"/d/{ready.slug}/files/{ready.files[0]['id']}", data=form)
    assert http.request("GET", got.headers["Location"]).data == b"hello"
    assert ready.row().download_count == 1


# -- floods ------------------------------------------------------------------------------------


@pytest.fixture
def _nothing_counted(environ: dict[str, str]) -> Iterator[None]:
    known = redis.Redis.from_url(environ["REDIS_URL"])
    for key in known.scan_iter("LIMITS:*"):
        known.delete(key)
    yield
    for key in known.scan_iter("LIMITS:*"):
        assert b"/d/" not in key
        known.delete(key)


@pytest.mark.usefixtures("_nothing_counted")
def test_s31_reports_are_limited_by_address_and_by_link(
    sender: Sender, client: FlaskClient, configure: Callable[..., None]
) -> None:
    one, other = sender.ready(), sender.ready()
    configure(max_messages_per_hour=2, max_messages_per_link_and_hour=3)

    def told(sent: Sent, last: int) -> int:
        address = {"REMOTE_ADDR": f"198.51.100.{last}"}
        browser = client.application.test_client()
        page = browser.get(f"/d/{sent.slug}/report", environ_base=address)
        form = {"csrf_token": token_in(page.text), "reason": "other"}
        url = f"/d/{sent.slug}/report"
        return browser.post(url, data=form, environ_base=address).status_code

    assert [told(one, 1) for _ in range(3)] == [303, 303, 429]
    assert told(other, 1) == 429
    assert [told(one, 2), told(one, 3)] == [303, 429]
    assert told(other, 3) == 303
    with client.application.app_context():
        assert db.session.query(AbuseReport).count() == 4
