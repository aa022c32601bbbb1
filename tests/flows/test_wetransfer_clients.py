"""/v2 by the clients that were written for it: their own code, a real server, worker and storage."""

import hashlib
import json
import os
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wetransfer
from flask import Flask

from app.config import MIB
from app.models import Scope
from app.services import accounts
from tests.factories import http
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits
CHUNK, BOARD_CHUNK = 5 * MIB, 6 * MIB

# What each client sends, by the names of the files.
SENDINGS: dict[str, dict[str, bytes]] = {
    "one byte": {"a": b"1"},
    "200 KB": {"photo.jpg": os.urandom(200_000)},
    "12 MiB": {"film.mov": os.urandom(12 * MIB)},
    "just a chunk": {"chunk.bin": os.urandom(CHUNK)},
    "a chunk and a byte": {"chunk.bin": os.urandom(CHUNK + 1)},
    "three chunks": {"chunks.bin": os.urandom(3 * CHUNK)},
    "two files": {"b.txt": b"second", "a.bin": os.urandom(CHUNK + 7)},
    "unicode": {"Füße 日本語 — ñ.txt": b"u", unicodedata.normalize("NFD", "Zoë é.txt"): b"nfd"},
    "an empty one": {"empty.txt": b"", "other.txt": b"x"},
}


@pytest.fixture(scope="module")
def stack(
    app: Flask, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedStack]:
    """A web process and a worker."""
    output = tmp_path_factory.mktemp("web") / "output"
    stack = LoggedStack(environ | {"WEB_CONCURRENCY": "1"}, output)
    stack.start("web")
    stack.start("worker")
    yield stack
    stack.stop()


@pytest.fixture
def key(app: Flask) -> str:
    with app.app_context():
        return accounts.issue_key("Acme", "a client's", Scope.WRITE).text


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def written(contents: dict[str, bytes], folder: Path) -> list[dict[str, str]]:
    """As files, each in a folder of its own, because a file system may change a name."""
    listed = []
    for number, (name, body) in enumerate(contents.items()):
        path = folder / str(number) / name
        path.parent.mkdir()
        path.write_bytes(body)
        listed.append({"name": name, "path": str(path)})
    return listed


def fetched(link: str) -> list[tuple[str, str]]:
    """(name, SHA-256) of each file behind a link, once it is ready, in its order."""
    deadline = time.monotonic() + 30
    while (shown := http.request("GET", f"{link}.json").json())["state"] != "ready":
        assert time.monotonic() < deadline, shown
        time.sleep(0.2)
    found = []
    for file in shown["files"]:
        led = http.request("POST", file["download_url"], redirect=False)
        assert led.status == 303
        found.append((file["path"], sha256(http.request("GET", led.headers["Location"]).data)))
    return found


def by_sdk(stack: LoggedStack, key: str, **asked: Any) -> Any:
    """Have WeTransfer's JavaScript SDK do it."""
    done = subprocess.run(
        [str(Path(".venv/bin/node")), "tests/flows/wetransfer_sdk.cjs"],
        input=json.dumps(asked),
        env=os.environ | {"BASE_URL": stack.url, "API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout or json.dumps({"error": done.stderr}))


@pytest.mark.parametrize("sending", SENDINGS)
def test_the_javascript_sdk_sends_and_it_arrives(
    stack: LoggedStack, key: str, tmp_path: Path, sending: str
) -> None:
    contents = SENDINGS[sending]
    told = by_sdk(stack, key, message="from JS", files=written(contents, tmp_path))
    assert "error" not in told, told
    assert told["made"]["state"] in ("processing", "downloadable")
    assert [file["name"] for file in told["found"]["files"]] == list(contents)
    expected = [(name, sha256(body)) for name, body in contents.items()]
    assert fetched(told["made"]["url"]) == expected


@pytest.mark.parametrize("sending", SENDINGS)
def test_py3wetransfer_sends_and_it_arrives(
    stack: LoggedStack, key: str, tmp_path: Path, monkeypatch: Any, sending: str
) -> None:
    monkeypatch.setattr(wetransfer.TransferApi, "WE_ENDPOINT_DEV", stack.url)
    contents = SENDINGS[sending]
    paths = [one["path"] for one in written(contents, tmp_path)]
    client = wetransfer.TransferApi(key, user_identifier="somebody")
    link = client.upload_files("from Python", paths)
    assert fetched(link) == [(name, sha256(body)) for name, body in contents.items()]


def test_the_javascript_sdk_fills_a_board(stack: LoggedStack, key: str, tmp_path: Path) -> None:
    contents = {"a.txt": b"1", "b.bin": os.urandom(2 * BOARD_CHUNK)}
    links = [{"url": "https://example.org/", "title": "There"}]
    told = by_sdk(stack, key, board={"name": "B"}, links=links, files=written(contents, tmp_path))
    assert "error" not in told, told
    items = told["found"]["items"]
    assert [one["type"] for one in items] == ["link", "file", "file"]
    assert items[0]["meta"]["title"] == "There"
    assert board_files(told["found"]["url"]) == {sha256(body) for body in contents.values()}


def test_py3wetransfer_fills_a_board(
    stack: LoggedStack, key: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(wetransfer.BoardApi, "WE_ENDPOINT_DEV", stack.url)
    client = wetransfer.BoardApi(key)
    board, url = client.create_new_board("B")
    shown = client.add_links_to_board(board, [{"url": "https://example.org/"}])
    assert [one["type"] for one in shown["items"]] == ["link"]
    contents = {"a.txt": b"1", "b.bin": os.urandom(BOARD_CHUNK + 1)}
    paths = [one["path"] for one in written(contents, tmp_path)]
    shown = client.add_files_to_board(board, paths)
    assert [one.get("name") for one in shown["items"]] == [None, *contents]
    assert board_files(url) == {sha256(body) for body in contents.values()}


def board_files(url: str) -> set[str]:
    """SHA-256 of all that can be downloaded from a board's page, once all is there."""
    deadline = time.monotonic() + 30
    while 'data-state="ready"' not in (page := http.request("GET", url).data.decode()):
        assert time.monotonic() < deadline, page
        time.sleep(0.2)
    actions = [piece.split('"', 1)[0] for piece in page.split('action="')[1:]]
    base = url.partition("/b/")[0]
    led = [http.request("POST", f"{base}{action}", redirect=False) for action in actions]
    return {sha256(http.request("GET", one.headers["Location"]).data) for one in led}


def test_a_client_with_a_revoked_key_gives_up_at_once(
    app: Flask, stack: LoggedStack, key: str, tmp_path: Path
) -> None:
    """Rule 9: it repeats a 5xx and a 429, and so must never meet one that stays."""
    with app.app_context():
        accounts.revoke_key(key[:16])
    began = time.monotonic()
    told = by_sdk(stack, key, files=written({"a": b"1"}, tmp_path), options={"retries": 15})
    assert told["status"] == 403
    assert time.monotonic() - began < 10


def test_what_a_client_sent_is_in_no_log(stack: LoggedStack, key: str, tmp_path: Path) -> None:
    by_sdk(stack, key, files=written({"a": b"1"}, tmp_path))
    assert key not in stack.said()
    assert "Traceback" not in stack.said()
