"""The recipient's page while files are on their way: what is safe has its button, polls are cheap."""

import re

import pytest
from flask import Flask

from app import clock
from tests.factories import Sender, Sent, http
from tests.watching import statements

CURL = {"User-Agent": "curl/8.5.0"}


@pytest.fixture
def sent(sender: Sender) -> Sent:
    """One file is safe, another is there and was not named, the third is not there."""
    contents = {"a.txt": b"content", "trip/b.txt": b"2", "trip/c.txt": b"3"}
    sent = sender.create(contents, title="Rushes")
    return sent.upload(without=(("trip/c.txt", 1),)).name("a.txt").unlock()


def page_of(sent: Sent, **headers: str) -> str:
    return sent.client.get(f"/d/{sent.slug}", headers=headers).text


def version_in(page: str) -> str:
    """As htmx reads it from the region and sends it along."""
    found = re.search(r"""hx-headers='{"If-None-Match": "(W/\\"[0-9a-f]+\\")"}'""", page)
    assert found
    return found[1].replace('\\"', '"')


def buttons(page: str) -> list[str]:
    return re.findall(r'aria-label="Download ([^"]+)"', page)


def test_each_row_has_its_button_or_a_quiet_word(sent: Sent) -> None:
    page = page_of(sent)
    assert buttons(page) == ["a.txt"]
    assert page.count("On its way</span>") == 2
    assert "1</span> can already be downloaded" in page
    sent.complete()
    page = page_of(sent)
    assert buttons(page) == ["a.txt"]
    assert page.count("Being checked</span>") == 2
    sent.process()  # comes back for what is missing
    assert buttons(page_of(sent)) == ["a.txt", "trip/b.txt"]


def test_a_click_while_the_others_are_on_their_way(sent: Sent) -> None:
    page = page_of(sent)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    files = {file["path"]: f"/d/{sent.slug}/files/{file['id']}" for file in sent.files}
    form = {"csrf_token": token[1]}
    for _ in range(2):  # the visitor is known before the first click
        answer = sent.client.post(files["a.txt"], data=form)
        assert answer.status_code == 303
        assert http.request("GET", answer.headers["Location"]).data == b"content"
    answer = sent.client.post(files["trip/b.txt"], data=form)
    assert (answer.status_code, answer.mimetype) == (409, "text/html")
    assert sent.row().download_count == 1


def test_a_button_that_a_poll_brings_works_too(sender: Sender) -> None:
    """The form's token comes with it, where the page had none."""
    sent = sender.create({"a": b"1", "b": b"2"}).upload(without=(("b", 1),))
    assert "csrf_token" not in page_of(sent)
    assert sent.client.get_cookie("beeline") is None
    sent.name("a").unlock()
    token = re.search(r'name="csrf_token" value="([^"]+)"', page_of(sent, HX_Request="true"))
    assert token
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert sent.client.post(url, data={"csrf_token": token[1]}).status_code == 303


def test_the_limit_that_is_reached_meanwhile_is_told_to_others(sent: Sent, app: Flask) -> None:
    sent.call("PATCH", json={"max_downloads": 1})
    page_of(sent)
    plain = app.test_client(use_cookies=False)
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert plain.post(url).status_code == 303
    answer = app.test_client().get(f"/d/{sent.slug}")
    assert answer.status_code == 410
    assert "The only download has been used" in answer.text


def test_a_protected_one_tells_nothing_before_its_password(sent: Sent, app: Flask) -> None:
    version = version_in(page_of(sent))
    sent.call("PATCH", json={"password": "open sesame"})
    plain = app.test_client(use_cookies=False)
    answer = plain.get(f"/d/{sent.slug}", headers={"If-None-Match": version})
    assert (answer.status_code, "ETag" in answer.headers) == (401, False)
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert plain.post(url).status_code == 401


# -- a command line ----------------------------------------------------------------------------


def test_a_command_line_fetches_what_is_safe_and_is_told_of_the_rest(sent: Sent) -> None:
    plain = sent.client.application.test_client(use_cookies=False)
    answer = plain.get(f"/d/{sent.slug}/a.txt", headers=CURL)
    assert http.request("GET", answer.headers["Location"]).data == b"content"
    answer = plain.get(f"/d/{sent.slug}/trip/c.txt", headers=CURL)
    assert answer.status_code == 409
    assert answer.text.strip().endswith("This file has not fully arrived yet.")
    said = plain.get(f"/d/{sent.slug}", headers=CURL).text
    assert "a.txt  (7 bytes)" in said
    assert "trip/c.txt  (1 byte, on its way)" in said
    assert sent.row().download_count == 1


# -- polls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["uploading", "processing"])
def test_an_unchanged_poll_is_answered_by_one_statement(sent: Sent, app: Flask, state: str) -> None:
    if state == "processing":
        sent.complete()
    asked = {"HX-Request": "true", "If-None-Match": version_in(page_of(sent))}
    with statements(app) as said:
        answer = sent.client.get(f"/d/{sent.slug}", headers=asked)
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == asked["If-None-Match"]
    assert "HX-Request" in answer.headers["Vary"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(said) == 1, said
    assert not any("files.path" in one for one in said)


@pytest.mark.real_commits
def test_whatever_the_page_shows_makes_another_version(sent: Sent) -> None:
    def is_new() -> bool:
        nonlocal version
        asked = {"HX-Request": "true", "If-None-Match": version}
        answer = sent.client.get(f"/d/{sent.slug}", headers=asked)
        if answer.status_code == 304:
            return False
        assert answer.status_code == 200
        fresh = version_in(answer.text)
        assert answer.headers["ETag"] == fresh
        is_other, version = fresh != version, fresh
        return is_other

    version = version_in(page_of(sent))
    assert not is_new()
    # Its sender is at work, and nothing is to be seen of it.
    sent.sign(sent.files[2])
    assert not is_new()
    for title in ("Other", "Words"):
        sent.call("PATCH", json={"title": title})
        assert is_new()
    for changes in ({"message": "Hi"}, {"max_downloads": 5}):
        sent.call("PATCH", json=changes)
        assert is_new()
    sent.set(expires_at=clock.now() + (sent.row().expires_at - clock.now()) / 2)
    assert is_new()
    sent.call("POST", "/parts", json={"wanted": [], "sent": [sent.files[1]["id"]], "sent_size": 5})
    assert is_new()
    sent.unlock()
    assert is_new()
    # One for another: as many files as before, and as many complete.
    sent.call("DELETE", f"/files/{sent.files[2]['id']}")
    sent.call("POST", "/files", json={"files": [{"path": "trip/c.txt", "size": 1}]})
    assert is_new()
    sent.call("DELETE", f"/files/{sent.files[0]['id']}")
    assert is_new()
    sent.complete()
    assert is_new()
    assert not is_new()


def test_what_is_settled_is_not_answered_by_its_version(sent: Sent) -> None:
    version = version_in(page_of(sent))
    sent.call("DELETE", f"/files/{sent.files[2]['id']}")
    assert sent.complete().process().show()["status"] == "READY"
    for asked in (version, "*", 'W/"x"', '"', "x" * 5000):
        answer = sent.client.get(f"/d/{sent.slug}", headers={"If-None-Match": asked})
        assert (answer.status_code, "ETag" in answer.headers) == (200, False)
    assert sent.client.get("/d/" + "x" * 32, headers={"If-None-Match": "*"}).status_code == 404
