"""A protected transfer's page: nothing before the password, a cookie of its own after it."""

import json
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app import clock, password_cookies
from tests.factories import Sender, Sent, http
from tests.pages.test_pages import token_in

FRAGMENT = {"HX-Request": "true"}
CURL = {"User-Agent": "curl/8.1"}
NAME = "Interview, final cut.mov"
SECRETS = (NAME, "Interview", "Rushes", "Hello Ada", "4 bytes", "1 file", "downloads left", "og:")


def protected(sender: Sender, **options) -> Sent:
    words = {"title": "Rushes", "message": "Hello Ada", "password": "open sesame"}
    return sender.ready({NAME: b"take"}, **(words | options))


@pytest.fixture
def ada(client: FlaskClient) -> FlaskClient:
    """A recipient's browser."""
    return client.application.test_client()


def unlock(browser: FlaskClient, sent: Sent, password: str = "open sesame"):
    """Open the page, fill in its form, send it."""
    token = token_in(browser.get(f"/d/{sent.slug}").text)
    form = {"csrf_token": token, "password": password}
    return browser.post(f"/d/{sent.slug}", data=form)


def file_of(sent: Sent) -> str:
    return f"/d/{sent.slug}/files/{sent.files[0]['id']}"


@pytest.mark.parametrize("headers", [{}, FRAGMENT])
@pytest.mark.parametrize("stage", ["uploading", "processing", "ready", "limit_reached"])
def test_before_the_password_nothing_is_told(
    sender: Sender, ada: FlaskClient, stage: str, headers: dict
) -> None:
    words = {"title": "Rushes", "message": "Hello Ada", "password": "open sesame"}
    sent = sender.create({NAME: b"take"}, **words, max_downloads=3)
    if stage != "uploading":
        sent.upload().complete()
    if stage in ("ready", "limit_reached"):
        sent.process()
    if stage == "limit_reached":
        sent.set(download_count=3)
    answer = ada.get(f"/d/{sent.slug}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["WWW-Authenticate"] == "Form"
    assert "HX-Request" in answer.headers["Vary"]
    assert ("<html" in answer.text) == (not headers)
    assert [word for word in SECRETS if word in answer.text] == []
    assert str(sent.id) not in answer.text
    assert sent.files[0]["id"] not in answer.text
    assert answer.text.count('type="password"') == 1
    assert answer.text.count("button-primary") == 1
    assert "hx-get" not in answer.text


def test_every_way_to_the_bytes_is_shut(sender: Sender, ada: FlaskClient) -> None:
    sent = protected(sender)
    token = token_in(ada.get(f"/d/{sent.slug}").text)
    nowhere = f"/d/{sent.slug}/files/00000000-0000-4000-8000-000000000000"
    for url in (file_of(sent), nowhere):
        plain = sender.client.application.test_client(use_cookies=False)
        told = [
            plain.get(url, headers=CURL),
            plain.post(url, headers=CURL),
            ada.get(url),
            ada.post(url, data={"csrf_token": token}),
            plain.head(url, headers=CURL),
        ]
        assert [answer.status_code for answer in told] == [401, 401, 303, 303, 303], url
        for answer in told:
            assert answer.headers.get("Location", f"/d/{sent.slug}") == f"/d/{sent.slug}"
            assert [word for word in SECRETS if word in answer.text] == []
    assert sent.row().download_count == 0


def test_the_right_one_leads_back_and_opens_everything(sender: Sender, ada: FlaskClient) -> None:
    sent = protected(sender)
    answer = unlock(ada, sent)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}")
    page = ada.get(f"/d/{sent.slug}")
    assert page.status_code == 200
    assert "Rushes" in page.text
    assert ada.get(f"/d/{sent.slug}", headers=FRAGMENT).status_code == 200
    got = ada.post(file_of(sent), data={"csrf_token": token_in(page.text)})
    assert http.request("GET", got.headers["Location"]).data == b"take"
    assert sent.row().download_count == 1


def test_a_wrong_one_is_told_and_nothing_else(sender: Sender, ada: FlaskClient) -> None:
    sent = protected(sender)
    for wrong in ("open", "Open Sesame", "open sesame ", "x" * 5000):
        answer = unlock(ada, sent, wrong)
        assert answer.status_code == 401
        assert "That password is not right." in answer.text
        assert 'aria-invalid="true"' in answer.text
        assert "<title>That password is not right." in answer.text
        assert [word for word in (*SECRETS, wrong) if f">{word}" in answer.text] == []
        assert "beeline-open" not in "".join(answer.headers.getlist("Set-Cookie"))
    assert ada.get(f"/d/{sent.slug}").status_code == 401


def test_an_empty_one_is_no_try(sender: Sender, ada: FlaskClient) -> None:
    sent = protected(sender)
    assert {unlock(ada, sent, "").status_code for _ in range(9)} == {303}
    assert unlock(ada, sent).headers["Location"] == f"/d/{sent.slug}"
    assert ada.get(f"/d/{sent.slug}").status_code == 200


def test_s10_too_many_say_when_to_come_again(
    sender: Sender, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.locks.FIRST_WAIT_SECONDS", 60)
    sent = protected(sender)
    for _ in range(5):
        assert unlock(ada, sent, "wrong").status_code == 401
    answer = unlock(ada, sent)
    assert answer.status_code == 429
    seconds = int(answer.headers["Retry-After"])
    assert 40 <= seconds <= 60
    assert f"Too many tries. Try again in {seconds} seconds." in answer.text
    assert 'type="password"' in answer.text
    # Whoever is in stays in.
    bob = sender.client.application.test_client()
    elsewhere = {"REMOTE_ADDR": "203.0.113.9"}
    token = token_in(bob.get(f"/d/{sent.slug}", environ_base=elsewhere).text)
    form = {"csrf_token": token, "password": "open sesame"}
    assert bob.post(f"/d/{sent.slug}", data=form, environ_base=elsewhere).status_code == 303
    assert bob.get(f"/d/{sent.slug}").status_code == 200


def test_a_changed_password_ends_it_and_a_removed_one_opens(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = protected(sender)
    unlock(ada, sent)
    sent.call("PATCH", json={"password": "another"})
    assert ada.get(f"/d/{sent.slug}").status_code == 401
    token = token_in(ada.get(f"/d/{sent.slug}").text)
    assert (
        ada.post(file_of(sent), data={"csrf_token": token}).headers["Location"] == f"/d/{sent.slug}"
    )
    assert unlock(ada, sent, "another").status_code == 303
    assert ada.get(f"/d/{sent.slug}").status_code == 200
    sent.call("PATCH", json={"password": None})
    assert sender.client.application.test_client().get(f"/d/{sent.slug}").status_code == 200
    # A form that was open meanwhile leads to the page too.
    assert (
        ada.post(f"/d/{sent.slug}", data={"csrf_token": token, "password": "x"}).status_code == 303
    )


def test_after_its_time_the_password_is_asked_again(
    sender: Sender, ada: FlaskClient, monkeypatch
) -> None:
    sent = protected(sender)
    unlock(ada, sent)
    now = clock.now() + timedelta(hours=12, seconds=1)
    monkeypatch.setattr(clock, "now", lambda: now)
    assert ada.get(f"/d/{sent.slug}").status_code == 401


def test_a_page_that_is_open_while_a_password_is_set_asks_for_it(sender: Sender) -> None:
    sent = sender.create({NAME: b"take"})
    page = sender.client.get(f"/d/{sent.slug}").text
    said = re.search(r"<meta name=\"htmx-config\" content='([^']+)'", page)
    assert said
    swaps = [
        one for one in json.loads(said[1])["responseHandling"] if re.fullmatch(one["code"], "401")
    ]
    assert swaps[0]["swap"] is True
    sent.call("PATCH", json={"password": "open sesame"})
    assert sender.client.get(f"/d/{sent.slug}", headers=FRAGMENT).status_code == 401


def test_a_transfer_that_has_ended_tells_its_end_and_no_more(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = protected(sender).set(expires_at=clock.now() - timedelta(seconds=1))
    page = ada.get(f"/d/{sent.slug}")
    assert page.status_code == 410
    assert "This has expired" in page.text
    assert [word for word in SECRETS if word in page.text] == []
    plain = sender.client.application.test_client(use_cookies=False)
    form = {"password": "open sesame"}
    assert plain.post(f"/d/{sent.slug}", data=form).headers["Location"] == f"/d/{sent.slug}"
    assert plain.post(f"/d/{'x' * 32}", data=form).status_code == 404


def test_a_program_opens_it_with_a_form_of_its_own(sender: Sender) -> None:
    """`curl -c jar -d password=... <link>`, then `curl -b jar -OJL <file>`."""
    sent = protected(sender)
    curl = sender.client.application.test_client()
    assert (
        curl.post(f"/d/{sent.slug}", data={"password": "open sesame"}, headers=CURL).status_code
        == 303
    )
    got = curl.get(file_of(sent), headers=CURL)
    assert http.request("GET", got.headers["Location"]).data == b"take"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Cookie": "beeline=x"}],
)
def test_s06_another_site_cannot_try_for_its_visitor(sender: Sender, headers: dict) -> None:
    sent = protected(sender)
    plain = sender.client.application.test_client(use_cookies=False)
    answer = plain.post(f"/d/{sent.slug}", data={"password": "open sesame"}, headers=headers)
    assert answer.status_code == 400
    assert "Set-Cookie" not in answer.headers


def test_a_browser_keeps_so_many_and_the_eldest_go(
    sender: Sender, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.password_cookies.MOST", 3)
    assert password_cookies.MOST * 150 < 4096
    many = [sender.create(password="open sesame") for _ in range(5)]
    for sent in many:
        assert unlock(ada, sent).status_code == 303
    told = [ada.get(f"/d/{sent.slug}").status_code for sent in many]
    assert told == [401, 401, 200, 200, 200]


@pytest.mark.parametrize("where", ["create", "edit"])
def test_the_api_never_tells_it(sender: Sender, where: str) -> None:
    sent = sender.create(**({"password": "open sesame"} if where == "create" else {}))
    answers: list[Callable] = [
        lambda: sent.call("PATCH", json={"password": "open sesame"}),
        lambda: sent.call("GET"),
        lambda: sent.call("PATCH", json={"title": "x"}),
        lambda: sent.upload().call("POST", "/complete"),
    ]
    for ask in answers:
        text = ask().text
        assert "open sesame" not in text
        assert "argon2" not in text
    assert "open sesame" not in json.dumps(sent.json)


def test_no_other_way_tells_or_gives_anything_before_the_password(
    sender: Sender, ada: FlaskClient
) -> None:
    """JSON, checksums, curl by number, path or link; the code tells no more than the link."""
    sent = protected(sender)
    link = f"/d/{sent.slug}"
    ways = [link, f"{link}/files/1", f"{link}/{NAME}", f"{link}/no such file", file_of(sent)]
    for way in [*ways, f"{link}.json", f"{link}.sfv"]:
        answer = ada.get(way, headers=CURL)
        assert answer.status_code == 401, way
        assert not any(secret in answer.text for secret in SECRETS), way
    assert ada.get(f"{link}.json").json["error"]["code"] == "password_needed"
    assert ada.get(f"{link}.svg").status_code == 200
    assert sent.row().download_count == 0
    assert unlock(ada, sent).status_code == 303
    assert ada.get(f"{link}.json").json["files"][0]["path"] == NAME
    assert NAME in ada.get(f"{link}.sfv").text
    for way in ways:
        assert ada.get(way, headers=CURL).status_code == (404 if "no such" in way else 303), way
