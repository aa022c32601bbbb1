"""A board's page in a real browser: a picture of each state, axe, and a file that is fetched."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3
from playwright.sync_api import Page, expect

from tests.browser.steps import look
from tests.browser.test_asking import flask
from tests.lab.stack import Stack

http = urllib3.PoolManager(retries=False)
BODY = os.urandom(300_000)


def key_of(live: Stack) -> str:
    """An API key, issued as an operator does it."""
    return flask(live, "keys", "issue", "--workspace", "Acme", "--name", "a test's").strip()


@pytest.fixture(scope="module")
def board(live: Stack) -> dict[str, str]:
    """A board of a link, a file that has arrived and one that is on its way."""
    headers = {"x-api-key": key_of(live), "Content-Type": "application/json"}

    def ask(method: str, path: str, body: object = None) -> dict:
        given = None if body is None else json.dumps(body)
        return http.request(method, f"{live.url}/v2{path}", headers=headers, body=given).json()

    headers["Authorization"] = f"Bearer {ask('POST', '/authorize')['token']}"
    words = {"name": "Scouting, second week", "description": "Places we liked.\nAdd yours."}
    made = ask("POST", "/boards", words)
    at = f"/boards/{made['id']}"
    title = "A map of all the places, with the light at seven in the morning" + "." * 2900
    ask("POST", f"{at}/links", [{"url": "https://example.org/map", "title": title}])
    names = [("Lighthouse from the pier, early.jpg", len(BODY)), ("quarry.mov", 10**9)]
    here, _ = ask("POST", f"{at}/files", [{"name": name, "size": size} for name, size in names])
    url = ask("GET", f"{at}/files/{here['id']}/upload-url/1/{here['multipart']['id']}")["url"]
    assert http.request("PUT", url, body=BODY).status == 200
    ask("PUT", f"{at}/files/{here['id']}/upload-complete", {})
    return made


def test_how_it_looks(open_page: Callable[..., Page], board: dict[str, str]) -> None:
    path = "/b/" + board["url"].rpartition("/")[2]
    page = open_page(path)
    expect(page.get_by_role("button", name="Download Lighthouse")).to_be_visible()
    expect(page.get_by_text("On its way")).to_be_visible()
    look(page, "board")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        box = page.get_by_role("link", name="A map of all the places").bounding_box()
        assert box is not None
        assert box["height"] >= 44


def test_a_file_arrives_as_it_was_sent(
    open_page: Callable[..., Page], board: dict[str, str]
) -> None:
    page = open_page("/b/" + board["url"].rpartition("/")[2])
    with page.expect_download() as started:
        page.get_by_role("button", name="Download Lighthouse").click()
    assert started.value.suggested_filename == "Lighthouse from the pier, early.jpg"
    got = Path(started.value.path()).read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(BODY).digest()


def test_a_board_that_is_stopped_while_it_is_open_says_so_by_itself(
    open_page: Callable[..., Page], live: Stack, board: dict[str, str]
) -> None:
    page = open_page("/b/" + board["url"].rpartition("/")[2])
    expect(page.get_by_text("On its way")).to_be_visible()
    flask(live, "transfers", "quarantine", board["url"])
    try:
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("This is not available", timeout=15_000)
    finally:
        flask(live, "transfers", "release", board["url"])
