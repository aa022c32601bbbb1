"""/v2: each row of WeTransfer's contract, each of its errors, and the rules its clients rest on."""

import re
import secrets
import threading
import unicodedata
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app import clock
from app.config import MIB
from app.db import db
from app.errors import Outage
from app.extensions import storage
from app.models import Problem, Scope, State, Transfer
from app.services import accounts, checking, transfers
from tests.factories import Machine, put
from tests.test_dispositions import NAMES
from tests.threats.test_names import MORE_NAMES

Configure = Callable[..., None]
NOWHERE = "00000000-0000-4000-8000-000000000000"
FILE_KEYS = {"id", "name", "size", "type", "multipart"}
CHUNK, BOARD_CHUNK = 5 * MIB, 6 * MIB
JSON = {"content_type": "application/json"}


# -- the table of calls --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data": "", **JSON},
        {"json": {}},
        {"json": {"user_identifier": "somebody"}},
        {"json": {"user_identifier": None}},
        {"data": b"{}", "content_type": "application/json; charset=utf-8"},
    ],
)
def test_authorize_takes_any_body_and_none(machine: Machine, given: Any) -> None:
    answer = machine.client.post("/v2/authorize", headers={"x-api-key": machine.key}, **given)
    assert answer.status_code == 200
    assert set(answer.json) == {"success", "token"}
    assert answer.json["success"] is True
    assert isinstance(answer.json["token"], str)


def test_a_transfer_goes_all_the_way(machine: Machine, queued: list) -> None:
    contents = {"a.txt": b"hello", "big.bin": b"b" * (CHUNK + 1)}
    made = machine.create(contents, message="For you")
    assert made["success"] is True
    assert (made["state"], made["url"], made["message"]) == ("uploading", None, "For you")
    assert [file["multipart"] for file in made["files"]] == [
        {"part_numbers": 1, "chunk_size": 5},
        {"part_numbers": 2, "chunk_size": CHUNK},
    ]
    before = machine.call("GET", f"/transfers/{made['id']}")
    assert (before.status_code, before.json | {"success": True}) == (200, made)
    machine.upload(made, contents)
    done = machine.call("PUT", f"/transfers/{made['id']}/finalize", data="", **JSON)
    assert (done.status_code, done.json["state"]) == (200, "processing")
    assert re.fullmatch(r"http://localhost/d/[\w-]{32}", done.json["url"])
    assert queued == [("checking.process", made["id"])]
    machine.process(made["id"])
    shown = machine.call("GET", f"/transfers/{made['id']}")
    assert (shown.status_code, shown.json) == (200, done.json | {"state": "downloadable"})
    slug = shown.json["url"].rpartition("/")[2]
    link = machine.client.get(f"/d/{slug}.json").json
    assert [(f["path"], f["size"]) for f in link["files"]] == [("a.txt", 5), ("big.bin", CHUNK + 1)]


def test_upload_complete_answers_with_the_file(machine: Machine) -> None:
    made = machine.create({"a": b"12345"})
    file = made["files"][0]
    at = f"/transfers/{made['id']}/files/{file['id']}"
    put(machine.call("GET", f"{at}/upload-url/1").json["url"], b"12345")
    for body in ({"json": {"part_numbers": 1}}, {"data": "", **JSON}, {}):
        answer = machine.call("PUT", f"{at}/upload-complete", **body)
        assert answer.status_code == 200
        assert answer.json == {
            "id": file["id"],
            "retries": 0,
            "name": "a",
            "size": 5,
            "chunk_size": 5,
        }


def test_a_board_goes_all_the_way(machine: Machine, queued: list) -> None:
    answer = machine.call("POST", "/boards", json={"name": "B", "description": None})
    assert answer.status_code == 201
    board = answer.json
    assert set(board) == {"id", "name", "description", "state", "url", "items"}
    assert (board["name"], board["description"], board["items"]) == ("B", None, [])
    at = f"/boards/{board['id']}"
    links = [{"url": "https://example.org/a", "title": "A"}, {"url": "https://example.org/b"}]
    added = machine.call("POST", f"{at}/links", json=links)
    assert added.status_code == 201
    assert [(one["url"], one["meta"], one["type"]) for one in added.json] == [
        ("https://example.org/a", {"title": "A"}, "link"),
        ("https://example.org/b", {"title": "https://example.org/b"}, "link"),
    ]
    contents = {"one": b"1", "big": b"b" * (BOARD_CHUNK + 2)}
    specs = [{"name": name, "size": len(body)} for name, body in contents.items()]
    files = machine.call("POST", f"{at}/files", json=specs)
    assert files.status_code == 201
    assert [
        (file["multipart"]["part_numbers"], file["multipart"]["chunk_size"]) for file in files.json
    ] == [(1, 1), (2, BOARD_CHUNK)]
    assert all(re.fullmatch(r"[\w-]+", file["multipart"]["id"]) for file in files.json)
    assert machine.call("GET", at).json["state"] == "processing"
    for file in files.json:
        machine.send(at, file, contents[file["name"]], status=202)
    jobs = [one for one in queued if one[0] == "checking.process"]
    assert len(jobs) == 2
    for _, transfer_id in jobs:
        machine.process(transfer_id)
    shown = machine.call("GET", at)
    assert shown.status_code == 200
    assert [one["type"] for one in shown.json["items"]] == ["link", "link", "file", "file"]
    assert (shown.json["state"], shown.json["url"]) == ("downloadable", board["url"])
    assert [one["id"] for one in shown.json["items"]] == [
        one["id"] for one in added.json + files.json
    ]


@pytest.mark.parametrize(
    "body", [{}, {"data": "", **JSON}, {"json": {}}, {"json": {"part_numbers": 1}}]
)
def test_a_boards_upload_complete_takes_any_body(machine: Machine, body: Any) -> None:
    board = machine.board()
    at = f"/boards/{board['id']}"
    file = machine.call("POST", f"{at}/files", json=[{"name": "a", "size": 1}]).json[0]
    url = f"{at}/files/{file['id']}/upload-url/1/{file['multipart']['id']}"
    told = machine.call("GET", url)
    assert (told.status_code, set(told.json)) == (200, {"success", "url"})
    put(told.json["url"], b"1")
    for _ in range(2):
        answer = machine.call("PUT", f"{at}/files/{file['id']}/upload-complete", **body)
        assert answer.status_code == 202
        assert answer.json["success"] is True
        assert isinstance(answer.json["message"], str)


def test_a_trailing_slash_is_the_same(machine: Machine) -> None:
    made = machine.create()
    file = made["files"][0]["id"]
    board = machine.board()
    for method, path, status in (
        ("POST", "/authorize/", 200),
        ("GET", f"/transfers/{made['id']}/", 200),
        ("GET", f"/transfers/{made['id']}/files/{file}/upload-url/1/", 200),
        ("PUT", f"/transfers/{made['id']}/files/{file}/upload-complete/", 417),
        ("PUT", f"/transfers/{made['id']}/finalize/", 417),
        ("GET", f"/boards/{board['id']}/", 200),
    ):
        assert machine.call(method, path).status_code == status, path
    sent = machine.call("POST", "/transfers/", json={"files": [{"name": "a", "size": 1}]})
    assert sent.status_code == 201


# -- the table of errors -------------------------------------------------------------------------


def told(answer: Any) -> tuple[int, str]:
    """Status and message, of a body that is an error and nothing but."""
    assert set(answer.json) == {"success", "message"}, answer.text
    assert answer.json["success"] is False
    assert answer.content_type == "application/json"
    return answer.status_code, answer.json["message"]


NO_KEY = (403, "Forbidden: invalid API Key")
NO_TOKEN = (403, "Forbidden: invalid or expired token")


def test_a_bad_or_missing_key_is_told_alike(machine: Machine) -> None:
    token = f"Bearer {machine.token}"
    wrong = [None, "", "x", machine.key[:-1], machine.key + "x", machine.key.swapcase(), "é"]
    wrong += [f"bee_{'a' * 12}_{'b' * 43}"]
    for key in wrong:
        headers = {"Authorization": token} | ({} if key is None else {"x-api-key": key})
        for method, path in (("POST", "/v2/authorize"), ("GET", f"/v2/transfers/{NOWHERE}")):
            answer = machine.client.open(path, method=method, headers=headers)
            assert told(answer) == NO_KEY, key
            assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_key_that_stays_wrong_is_never_told_to_wait(
    machine: Machine, configure: Configure, is_revoked: bool
) -> None:
    """The JavaScript SDK repeats a 429 for ever. The tries are counted all the same."""
    configure(max_unknown_per_minute=20)
    token = {"Authorization": f"Bearer {machine.token}"}
    if is_revoked:
        with machine.client.application.app_context():
            assert accounts.revoke_key(machine.key[:16])
    key = machine.key if is_revoked else f"bee_{secrets.token_hex(6)}_{'b' * 43}"
    # An address of its own, because the count outlives this test.
    address = {"REMOTE_ADDR": f"198.51.100.{10 + is_revoked}"}
    for _ in range(30):
        answer = machine.client.get(
            f"/v2/transfers/{NOWHERE}",
            headers=token | {"x-api-key": key},
            environ_base=address,
        )
        assert told(answer) == NO_KEY
        assert "Retry-After" not in answer.headers
    native = machine.client.get("/transfers", headers={"x-api-key": key}, environ_base=address)
    assert native.status_code == 429
    assert 0 < int(native.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer x", "Basic eDp5"])
def test_a_bad_or_missing_token(machine: Machine, token: str | None) -> None:
    headers = {"x-api-key": machine.key} | ({} if token is None else {"Authorization": token})
    answer = machine.client.get(f"/v2/transfers/{NOWHERE}", headers=headers)
    assert told(answer) == NO_TOKEN


FILE = {"name": "a", "size": 1}
BAD_TRANSFERS: list[tuple[Any, str]] = [
    ({"message": 1, "files": [FILE]}, '"transfer.message" must be a string'),
    ({"message": None, "files": [FILE]}, '"transfer.message" must be a string'),
    ({"message": "m"}, '"transfer.files" must contain at least 1 items'),
    ({"message": "m", "files": []}, '"transfer.files" must contain at least 1 items'),
    ({"files": {}}, '"transfer.files" must be an array'),
    ({"files": [1]}, '"transfer.files" must be an object'),
    ({"files": [{"name": "", "size": 1}]}, '"transfer.files.name" is not allowed to be empty'),
    ({"files": [{"size": 1}]}, '"transfer.files.name" is required'),
    ({"files": [{"name": 1, "size": 1}]}, '"transfer.files.name" must be a string'),
    ({"files": [{"name": "a"}]}, '"transfer.files.size" is required'),
    ({"files": [{"name": "a", "size": "1"}]}, '"transfer.files.size" must be a number'),
    ({"files": [{"name": "a", "size": True}]}, '"transfer.files.size" must be a number'),
    ({"files": [{"name": "a", "size": 1.5}]}, '"transfer.files.size" must be a number'),
    ({"files": [{"name": "a", "size": -1}]}, '"transfer.files.size" must be greater than -1'),
    (
        {"files": [{"name": "a", "size": 10_000 * 10 * MIB + 1}]},
        '"transfer.files.size" must be less than or equal to 104857600000',
    ),
    ({"files": [FILE, FILE]}, '"transfer.files" position 1 contains a duplicate value'),
    (
        {"files": [FILE, {"name": "b", "size": 1}, {"name": "a", "size": 2}]},
        '"transfer.files" position 2 contains a duplicate value',
    ),
    ({"files": [{"name": "a\0", "size": 1}]}, '"transfer.files.name" must not contain control characters'),
    ({"files": [{"name": "\ud800", "size": 1}]}, '"transfer.files.name" must be valid Unicode'),
    (
        {"message": "m" * 5001, "files": [FILE]},
        '"transfer.message" length must be less than or equal to 5000 characters long',
    ),
    ([], '"transfer" must be an object'),
    (None, '"transfer" must be an object'),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD_TRANSFERS)
def test_a_transfer_that_cannot_be(machine: Machine, body: Any, message: str) -> None:
    assert told(machine.call("POST", "/transfers", json=body)) == (400, message)


def test_a_transfer_of_nothing_at_all(machine: Machine) -> None:
    answer = machine.call("POST", "/transfers", data="", **JSON)
    assert told(answer) == (400, '"transfer" must be an object')


LONG = '"board.files.name" length must be less than or equal to 255 characters long'
BAD_BOARDS: list[tuple[str, Any, str]] = [
    ("", {}, '"board.name" is required'),
    ("", {"name": ""}, '"board.name" is not allowed to be empty'),
    ("", {"name": 1}, '"board.name" must be a string'),
    ("", {"name": "b", "description": 1}, '"board.description" must be a string'),
    ("", None, '"board" must be an object'),
    ("", [], '"board" must be an object'),
    ("/links", {}, '"board.links" must be an array'),
    ("/links", None, '"board.links" must be an array'),
    ("/links", [{}], '"board.links.url" is required'),
    ("/links", [{"url": ""}], '"board.links.url" is not allowed to be empty'),
    ("/links", [{"url": "https://a/" + "a" * 1991}], '"board.links.url" length must be less than or equal to 2000 characters long'),
    ("/links", [{"url": "https://a/", "title": "t" * 2981}], '"board.links.title" length must be less than or equal to 2980 characters long'),
    ("/links", [{"url": "javascript:alert(1)"}], '"board.links.url" must be a valid uri with a scheme of http or https'),
    ("/links", [{"url": "javascript://example.org/%0aalert(1)"}], '"board.links.url" must be a valid uri with a scheme of http or https'),
    ("/links", [{"url": "https://"}], '"board.links.url" must be a valid uri with a scheme of http or https'),
    ("/links", [{"url": "example.org"}], '"board.links.url" must be a valid uri with a scheme of http or https'),
    ("/links", [{"url": "https://[x"}], '"board.links.url" must be a valid uri with a scheme of http or https'),
    ("/files", {}, '"board.files" must be an array'),
    ("/files", [{"name": "a", "size": 0}], '"board.files.size" must be greater than 1'),
    ("/files", [{"name": "a"}], '"board.files.size" is required'),
    ("/files", [{"size": 1}], '"board.files.name" is required'),
    ("/files", [{"name": "a" * 256, "size": 1}], LONG),
    ("/files", [FILE] * 501, '"board.files" must contain less than or equal to 500 items'),
    ("/files", [], '"board.files" must contain at least 1 items'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "message"), BAD_BOARDS)
def test_a_board_that_cannot_be(machine: Machine, path: str, body: Any, message: str) -> None:
    at = f"/boards/{machine.board()['id']}" if path else "/boards"
    assert told(machine.call("POST", f"{at}{path}", json=body)) == (400, message)


def test_what_is_just_right_on_a_board(machine: Machine) -> None:
    at = f"/boards/{machine.board()['id']}"
    links = [{"url": "https://a/" + "a" * 1990, "title": "t" * 2980}]
    assert machine.call("POST", f"{at}/links", json=links).status_code == 201
    files = [{"name": "é" * 255, "size": 1}, {"name": "é" * 255, "size": 1}]
    assert machine.call("POST", f"{at}/files", json=files).status_code == 201


def test_a_chunk_that_is_none(machine: Machine) -> None:
    made = machine.create()
    good = f"/transfers/{made['id']}/files/{made['files'][0]['id']}"
    other = machine.create()["files"][0]["id"]
    unknown = (404, "Invalid transfer or file id")
    first = (417, "Chunk numbers are 1-based")
    for path, expected in (
        (f"/transfers/{NOWHERE}/files/{made['files'][0]['id']}/upload-url/1", unknown),
        (f"/transfers/x/files/{made['files'][0]['id']}/upload-url/1", unknown),
        (f"/transfers/{made['id']}/files/{NOWHERE}/upload-url/1", unknown),
        (f"/transfers/{made['id']}/files/x/upload-url/1", unknown),
        (f"/transfers/{made['id']}/files/{other}/upload-url/1", unknown),
        (f"{good}/upload-url/x", unknown),
        (f"{good}/upload-url/१", unknown),
        (f"{good}/upload-url/{'9' * 5000}", unknown),
        (f"{good}/upload-url/0", first),
        (f"{good}/upload-url/-1", first),
        (f"{good}/upload-url/2", (417, "This file has no chunk 2, its last is 1")),
    ):
        assert told(machine.call("GET", path)) == expected, path


def test_a_boards_chunk_that_is_none(machine: Machine) -> None:
    board = machine.board()
    at = f"/boards/{board['id']}"
    mine, other = machine.call("POST", f"{at}/files", json=[FILE, FILE]).json
    elsewhere = machine.board()
    good, id_ = f"/files/{mine['id']}/upload-url", mine["multipart"]["id"]
    unknown = (404, "File not found")
    for path, expected in (
        (f"{at}/files/{NOWHERE}/upload-url/1/{id_}", unknown),
        (f"{at}/files/x/upload-url/1/{id_}", unknown),
        (f"{at}{good}/1/{other['multipart']['id']}", unknown),
        (f"{at}{good}/1/x", unknown),
        (f"/boards/{elsewhere['id']}{good}/1/{id_}", unknown),
        (f"{at}{good}/0/{id_}", (417, "Chunk numbers are 1-based")),
        (f"/boards/{NOWHERE}{good}/1/{id_}", (404, "This board does not exist")),
    ):
        assert told(machine.call("GET", path)) == expected, path


@pytest.mark.parametrize("last", ["files/{file}/upload-complete", "finalize"])
def test_what_has_not_arrived_is_named(machine: Machine, last: str) -> None:
    made = machine.create({"big": b"b" * (2 * CHUNK + 1)})
    file = made["files"][0]["id"]
    at = f"/transfers/{made['id']}"
    done = f"{at}/{last.format(file=file)}"
    assert told(machine.call("PUT", done)) == (417, "Chunks 1, 2, 3 are still missing")
    for number in (2, 3):
        url = machine.call("GET", f"{at}/files/{file}/upload-url/{number}").json["url"]
        put(url, b"b" * (CHUNK if number == 2 else 1))
    assert told(machine.call("PUT", done)) == (417, "Chunks 1 are still missing")
    assert machine.call("GET", at).json["state"] == "uploading"


def test_what_has_not_arrived_of_a_very_large_file(machine: Machine) -> None:
    spec = {"name": "a", "size": 150 * CHUNK}
    made = machine.call("POST", "/transfers", json={"files": [spec]}).json
    status, message = told(machine.call("PUT", f"/transfers/{made['id']}/finalize"))
    assert status == 417
    assert message.endswith(" 99, 100 and 50 more are still missing")


@pytest.mark.parametrize("last", ["files/{file}/upload-complete", "finalize"])
def test_another_count_of_bytes(machine: Machine, last: str) -> None:
    answer = machine.call("POST", "/transfers", json={"files": [{"name": "a", "size": 3_243_214}]})
    made = answer.json
    at = f"/transfers/{made['id']}"
    file = made["files"][0]["id"]
    put(machine.call("GET", f"{at}/files/{file}/upload-url/1").json["url"], b"b" * 1200)
    answer = machine.call("PUT", f"{at}/{last.format(file=file)}")
    assert told(answer) == (400, "Expected 1200 to be 3243214")


def test_chunks_cut_in_other_places_are_to_be_sent_again(machine: Machine) -> None:
    made = machine.create({"big": b"b" * (CHUNK + 10)})
    at = f"/transfers/{made['id']}"
    file = made["files"][0]["id"]
    for number, size in ((1, CHUNK + 5), (2, 5)):
        put(machine.call("GET", f"{at}/files/{file}/upload-url/{number}").json["url"], b"b" * size)
    answer = machine.call("PUT", f"{at}/finalize")
    assert told(answer) == (417, "Chunks 1, 2 are still missing")


def test_a_boards_file_that_has_not_arrived(machine: Machine) -> None:
    at = f"/boards/{machine.board()['id']}"
    file = machine.call("POST", f"{at}/files", json=[{"name": "a", "size": 5}]).json[0]
    done = f"{at}/files/{file['id']}/upload-complete"
    assert told(machine.call("PUT", done)) == (400, "expected at least 1 part")
    url = f"{at}/files/{file['id']}/upload-url/1/{file['multipart']['id']}"
    put(machine.call("GET", url).json["url"], b"b")
    assert told(machine.call("PUT", done)) == (400, "Expected 1 to be 5")


def test_what_is_unknown(machine: Machine) -> None:
    for path, expected in (
        (f"/transfers/{NOWHERE}", (404, "Couldn't find Transfer")),
        ("/transfers/x", (404, "Couldn't find Transfer")),
        (f"/boards/{NOWHERE}", (404, "This board does not exist")),
        ("/boards/x", (404, "This board does not exist")),
        ("/nothing", (404, "Resource not found")),
        ("/", (404, "Resource not found")),
        ("", (404, "Resource not found")),
    ):
        assert told(machine.call("GET", path)) == expected
    assert told(machine.call("PUT", f"/transfers/{NOWHERE}/finalize")) == (
        404,
        "Couldn't find Transfer",
    )


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
def test_a_method_that_is_none(machine: Machine, method: str) -> None:
    answer = machine.call(method, "/authorize")
    assert told(answer) == (405, "The HTTP method or resources may not be supported.")
    assert answer.headers["Allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_type_than_json(machine: Machine, kind: str) -> None:
    answer = machine.call("POST", "/transfers", data=b'{"files": []}', content_type=kind)
    assert told(answer)[0] == 415


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b"\xff", b'{"files": ' + b"9" * 5000 + b"}"]
)
def test_json_that_is_none(machine: Machine, body: bytes) -> None:
    assert told(machine.call("POST", "/transfers", data=body, **JSON))[0] == 400


def test_more_calls_than_a_key_has_in_a_day(machine: Machine, configure: Configure) -> None:
    made = machine.create()
    configure(max_calls_per_key_and_day=3)
    answers = [machine.call("GET", f"/transfers/{made['id']}") for _ in range(5)]
    assert [one.status_code for one in answers] == [200] * 3 + [429] * 2
    assert told(answers[-1]) == (429, "Limit Exceeded Exception")
    # And not its workspace: each key has a day of its own.
    another = Machine(machine.client)
    assert another.call("GET", f"/transfers/{made['id']}").status_code == 200


def test_what_has_ended_is_gone(machine: Machine, inside: None) -> None:
    shown = machine.ready()
    at = f"/transfers/{shown['id']}"
    row = db.session.get(Transfer, shown["id"])
    row.expires_at = clock.now() - timedelta(seconds=1)
    db.session.commit()
    file = f"{at}/files/{shown['files'][0]['id']}"
    calls = [
        ("PUT", f"{at}/finalize"),
        ("GET", f"{file}/upload-url/1"),
        ("PUT", f"{file}/upload-complete"),
    ]
    for state in (State.READY, State.EXPIRED):
        row.state, row.expired_at = state, clock.now()
        db.session.commit()
        assert machine.call("GET", at).json["state"] == "expired"
        for method, path in calls:
            assert told(machine.call(method, path)) == (410, "This transfer has expired.")
    transfers.delete(row.id)
    for method, path in [("GET", at), *calls]:
        assert told(machine.call(method, path)) == (410, "This transfer was deleted.")


def test_a_key_that_may_only_read(machine: Machine) -> None:
    made = machine.create()
    board = machine.board()
    reader = Machine(machine.client, scope=Scope.READ)
    assert reader.call("GET", f"/transfers/{made['id']}").status_code == 200
    assert reader.call("GET", f"/boards/{board['id']}").status_code == 200
    for method, path in (
        ("POST", "/transfers"),
        ("PUT", f"/transfers/{made['id']}/finalize"),
        ("GET", f"/transfers/{made['id']}/files/{made['files'][0]['id']}/upload-url/1"),
        ("POST", "/boards"),
        ("POST", f"/boards/{board['id']}/links"),
    ):
        assert told(reader.call(method, path, json={})) == (403, "This API key may only read.")


# -- the rules -----------------------------------------------------------------------------------


def test_rule_1_files_and_links_have_no_other_keys(machine: Machine) -> None:
    shown = machine.ready()
    assert {frozenset(file) for file in shown["files"]} == {frozenset(FILE_KEYS)}
    at = f"/boards/{machine.board()['id']}"
    added = machine.call("POST", f"{at}/files", json=[FILE]).json
    assert set(added[0]) == FILE_KEYS
    assert set(added[0]["multipart"]) == {"id", "part_numbers", "chunk_size"}
    link = machine.call("POST", f"{at}/links", json=[{"url": "https://example.org"}]).json[0]
    assert set(link) == {"id", "url", "meta", "type"}
    items = machine.call("GET", at).json["items"]
    assert [set(one) for one in items] == [FILE_KEYS, set(link)]


def test_rule_2_what_is_always_there(machine: Machine) -> None:
    answer = machine.call("POST", "/transfers", json={"files": [FILE]})
    for shown in (answer.json, machine.call("GET", f"/transfers/{answer.json['id']}").json):
        assert {"id", "state", "url", "message"} <= set(shown)
        assert (shown["message"], shown["url"]) == ("", None)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["expires_at"])
        assert datetime.fromisoformat(shown["expires_at"]) > clock.now()


def test_rule_2_times_are_utc_wherever_the_database_is(machine: Machine, inside: None) -> None:
    made = machine.create()
    db.session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
    assert machine.call("GET", f"/transfers/{made['id']}").json["expires_at"] == made["expires_at"]


def test_rule_3_names_and_words_come_back_as_they_were_sent(machine: Machine) -> None:
    zoe = [unicodedata.normalize(form, "Zoë.txt") for form in ("NFC", "NFD")]
    names = [*zoe, *NAMES, *MORE_NAMES, " a ", "..", "/etc/passwd", "a/../b", "C:\\x", "日" * 255]
    names = [n for n in dict.fromkeys(names) if 0 < len(n) <= 255 and is_text(n)]
    assert len(names) > 40
    message = " Zwei\r\nZeilen\t— ja \n"
    files = [{"name": name, "size": 1} for name in names]
    made = machine.call("POST", "/transfers", json={"message": message, "files": files})
    assert made.status_code == 201, made.text
    shown = machine.call("GET", f"/transfers/{made.json['id']}").json
    assert ([file["name"] for file in shown["files"]], shown["message"]) == (names, message)


def is_text(name: str) -> bool:
    return not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name)


def test_rule_4_files_come_back_in_their_order(machine: Machine) -> None:
    names = [f"{n * 7919 % 100}" for n in range(100)]
    made = machine.create(dict.fromkeys(names, b""))
    assert [file["name"] for file in made["files"]] == names
    shown = machine.call("GET", f"/transfers/{made['id']}").json
    assert [file["name"] for file in shown["files"]] == names


LARGEST = 10_000 * 10 * MIB


@pytest.mark.parametrize("on_board", [False, True], ids=["transfer", "board"])
@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BOARD_CHUNK, BOARD_CHUNK + 1, 3 * CHUNK,
             10_000 * CHUNK, 10_000 * CHUNK + 1, 10_000 * BOARD_CHUNK + 1, LARGEST]
)  # fmt: skip
def test_rule_5_how_a_file_is_cut(machine: Machine, size: int, on_board: bool) -> None:
    spec = {"name": "a", "size": size}
    if on_board:
        at = f"/boards/{machine.board()['id']}/files"
        answer = machine.call("POST", at, json=[spec])
        if size == 0:
            assert answer.status_code == 400
            return
        plan = answer.json[0]["multipart"]
    else:
        plan = machine.call("POST", "/transfers", json={"files": [spec]}).json["files"][0][
            "multipart"
        ]
    usual = BOARD_CHUNK if on_board else CHUNK
    chunk, count = plan["chunk_size"], plan["part_numbers"]
    assert chunk == size if count == 1 else usual <= chunk <= 10 * MIB
    assert count == (max(1, -(-size // chunk)) if size else 1)
    assert count <= 10_000
    if size <= 10_000 * usual:
        assert chunk == min(size, usual)


def test_rule_7_every_error_is_json_with_a_message(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine.create()
    at = f"/transfers/{made['id']}"

    def fail(*given: Any) -> None:
        raise ZeroDivisionError("https://secret")

    monkeypatch.setattr(transfers, "of_caller", fail)
    answer = machine.call("GET", at)
    assert told(answer) == (500, "Something went wrong on our side.")
    assert "http" not in answer.text


def test_rule_8_nothing_but_the_host_is_signed(machine: Machine) -> None:
    made = machine.create({"a": b"12345"})
    at = f"/transfers/{made['id']}/files/{made['files'][0]['id']}"
    url = machine.call("GET", f"{at}/upload-url/1").json["url"]
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert query["X-Amz-Expires"] == ["3600"]
    for headers in (
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "binary/octet-stream"},
    ):
        assert put(url, b"12345", headers).status == 200


def test_rule_8_an_address_cannot_change_what_has_been_checked(machine: Machine) -> None:
    contents = {"a": b"12345"}
    made = machine.create(contents)
    at = f"/transfers/{made['id']}/files/{made['files'][0]['id']}"
    url = machine.call("GET", f"{at}/upload-url/1").json["url"]
    machine.upload(made, contents)
    machine.call("PUT", f"/transfers/{made['id']}/finalize")
    # After finalize: no new address, and what an old one brings is looked at once more.
    assert told(machine.call("GET", f"{at}/upload-url/1"))[0] == 409
    machine.process(made["id"])
    assert put(url, b"evil!").status == 404
    assert put(url, b"evil!").status == 404
    assert told(machine.call("GET", f"{at}/upload-url/1"))[0] == 409


def test_rule_8_a_chunk_changed_after_finalize_is_sent_again(machine: Machine) -> None:
    contents = {"a": b"12345"}
    made = machine.create(contents)
    at = f"/transfers/{made['id']}"
    url = machine.call("GET", f"{at}/files/{made['files'][0]['id']}/upload-url/1").json["url"]
    machine.upload(made, contents)
    machine.call("PUT", f"{at}/finalize")
    assert put(url, b"longer than was planned").status == 200
    machine.process(made["id"])
    shown = machine.call("GET", at).json
    assert (shown["state"], shown["url"]) == ("uploading", None)
    machine.upload(made, contents)
    assert machine.call("PUT", f"{at}/finalize").status_code == 200
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "downloadable"


@pytest.mark.parametrize("on_board", [False, True], ids=["transfer", "board"])
def test_bytes_that_storage_lost_are_sent_again_by_the_same_plan(
    machine: Machine, queued: list, inside: None, on_board: bool
) -> None:
    body = b"b" * (BOARD_CHUNK + 1)
    if on_board:
        at = f"/boards/{machine.board()['id']}"
        file = machine.call("POST", f"{at}/files", json=[{"name": "a", "size": len(body)}]).json[0]
    else:
        made = machine.create({"a": body})
        at, file = f"/transfers/{made['id']}", made["files"][0]

    def send() -> None:
        machine.send(at, file, body, status=202 if on_board else 200)
        if not on_board:
            assert machine.call("PUT", f"{at}/finalize").status_code == 200

    send()
    transfer_id = next(ids for name, ids in queued if name == "checking.process")
    upload = transfers.files_of(uuid.UUID(transfer_id))[0].upload
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    machine.process(transfer_id)
    shown = machine.call("GET", at).json
    kept = shown["items" if on_board else "files"][0]
    assert shown["state"] == ("processing" if on_board else "uploading")
    assert kept["multipart"].items() <= file["multipart"].items()
    send()
    machine.process(transfer_id)
    assert machine.call("GET", at).json["state"] == "downloadable"


@pytest.mark.parametrize("last", ["files/{file}/upload-complete", "finalize"])
def test_bytes_that_storage_lost_before_the_end_are_sent_again(
    machine: Machine, inside: None, last: str
) -> None:
    contents = {"a": b"a" * (CHUNK + 1)}
    made = machine.create(contents)
    at = f"/transfers/{made['id']}"
    done = f"{at}/{last.format(file=made['files'][0]['id'])}"
    url = machine.call("GET", f"{at}/files/{made['files'][0]['id']}/upload-url/1").json["url"]
    assert put(url, b"a" * CHUNK).status == 200
    upload = transfers.files_of(uuid.UUID(made["id"]))[0].upload
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    assert told(machine.call("PUT", done)) == (417, "Chunks 1, 2 are still missing")
    machine.upload(made, contents)
    assert machine.call("PUT", f"{at}/finalize").status_code == 200
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "downloadable"


@pytest.mark.parametrize("last", ["files/{file}/upload-complete", "finalize"])
def test_an_empty_file_that_storage_lost_before_the_end_is_sent_again_by_us(
    machine: Machine, inside: None, last: str
) -> None:
    made = machine.create({"empty": b""})
    at = f"/transfers/{made['id']}"
    file = made["files"][0]["id"]
    assert machine.call("GET", f"{at}/files/{file}/upload-url/1").status_code == 200
    upload = transfers.files_of(uuid.UUID(made["id"]))[0].upload
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    assert machine.call("PUT", f"{at}/{last.format(file=file)}").status_code == 200
    assert machine.call("PUT", f"{at}/finalize").status_code == 200
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "downloadable"


@pytest.mark.real_commits
def test_two_finalize_calls_at_once_both_succeed(
    app: Flask, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the empty file missing and send it; one comes when all has been completed."""
    made = machine.create({"empty": b""})
    at = f"/transfers/{made['id']}"
    put_part, both, is_done = storage.put_part, threading.Barrier(2), threading.Event()

    def putting(*given: Any) -> None:
        if both.wait(20) == 0:
            assert is_done.wait(20)
        put_part(*given)

    def finalize(_: int) -> tuple[int, str]:
        with app.app_context():
            answer = machine.call("PUT", f"{at}/finalize")
            checking.process(made["id"])
        is_done.set()
        return answer.status_code, answer.json.get("state")

    monkeypatch.setattr(storage, "put_part", putting)
    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(finalize, range(2)))
    assert answers == [(200, "downloadable"), (200, "processing")]


def test_of_very_many_files_the_check_alone_finds_what_is_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever said "that is all" does not wait until storage was asked of each."""
    monkeypatch.setattr(checking, "MOST_LOOKED_AT", 2)
    contents = {"a": b"1", "b": b"2", "empty": b""}
    made = machine.create(contents)
    at = f"/transfers/{made['id']}"
    url = machine.call("GET", f"{at}/files/{made['files'][0]['id']}/upload-url/1").json["url"]
    assert put(url, b"1").status == 200
    assert machine.call("PUT", f"{at}/finalize").json["state"] == "processing"
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "uploading"
    problems = [file.problem for file in transfers.files_of(uuid.UUID(made["id"]))]
    assert problems == [None, Problem.MISSING, None]
    url = machine.call("GET", f"{at}/files/{made['files'][1]['id']}/upload-url/1").json["url"]
    assert put(url, b"2").status == 200
    assert machine.call("PUT", f"{at}/finalize").status_code == 200
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "downloadable"


def test_rule_9_both_ends_may_be_said_again(machine: Machine, queued: list) -> None:
    contents = {"a": b"1", "b": b"2"}
    made = machine.create(contents)
    machine.upload(made, contents)
    at = f"/transfers/{made['id']}"
    complete = f"{at}/files/{made['files'][0]['id']}/upload-complete"
    first = machine.call("PUT", f"{at}/finalize")
    again = machine.call("PUT", f"{at}/finalize")
    assert (again.status_code, again.json) == (200, first.json)
    assert machine.call("PUT", complete).status_code == 200
    machine.process(made["id"])
    assert machine.call("PUT", f"{at}/finalize").json["state"] == "downloadable"
    assert machine.call("PUT", complete).status_code == 200
    assert queued == [("checking.process", made["id"])]


def test_a_file_of_nothing_arrives_whether_it_is_sent_or_not(machine: Machine) -> None:
    made = machine.create({"sent": b"", "never sent": b"", "other": b"1"})
    at = f"/transfers/{made['id']}"
    for file in (made["files"][0], made["files"][2]):
        machine.send(at, file, b"" if file["name"] == "sent" else b"1")
    assert machine.call("PUT", f"{at}/finalize").status_code == 200
    machine.process(made["id"])
    assert machine.call("GET", at).json["state"] == "downloadable"


def test_a_store_that_is_away_says_so_and_nothing_is_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one 5xx that is told: it passes, and asking again is right."""
    contents = {"a": b"1"}
    made = machine.create(contents)
    machine.upload(made, contents)

    def away(*given: Any) -> None:
        raise Outage

    with monkeypatch.context() as patched:
        patched.setattr(storage, "list_parts", away)
        answer = machine.call("PUT", f"/transfers/{made['id']}/finalize")
        assert told(answer)[0] == 503
        assert answer.headers["Retry-After"]
    assert machine.call("PUT", f"/transfers/{made['id']}/finalize").status_code == 200


def test_f20_the_same_create_again_is_the_same_transfer(machine: Machine) -> None:
    headers = {"Idempotency-Key": "k" * 20}
    body = {"files": [FILE]}
    made = [machine.call("POST", "/transfers", json=body, headers=headers).json for _ in range(3)]
    assert len({one["id"] for one in made}) == 1
    other = machine.call(
        "POST", "/transfers", json={"files": [{"name": "b", "size": 1}]}, headers=headers
    )
    assert other.status_code == 422
    # The same words of somebody else are another's.
    for stranger in (Machine(machine.client, "Other"), Machine(machine.client, user="u")):
        theirs = stranger.call("POST", "/transfers", json=body, headers=headers)
        assert theirs.status_code == 201
        assert theirs.json["id"] != made[0]["id"]


@pytest.mark.parametrize("is_native_first", [False, True])
def test_f20_a_create_of_the_native_api_is_another_request(
    machine: Machine, is_native_first: bool
) -> None:
    """It is cut in another way, and has another answer."""
    headers = {"Idempotency-Key": "n" * 20}
    file = {"path": FILE["name"], "size": FILE["size"]}
    asks = [
        partial(machine.call, "POST", "/transfers", json={"files": [FILE]}, headers=headers),
        partial(machine.native, "POST", "", json={"files": [file]}, headers=headers),
    ]
    first, other = reversed(asks) if is_native_first else asks
    made = first()
    assert made.status_code == 201
    assert other().status_code == 422
    assert first().json["id"] == made.json["id"]


def test_f20_no_users_name_makes_the_same_request_somebody_elses(machine: Machine) -> None:
    headers = {"Idempotency-Key": "x" * 20}
    made = set()
    for user in (None, "None", "'None'", "a", "'a"):
        theirs = Machine(machine.client, user=user, key=machine.key)
        for path, body in (("/transfers", {"files": [FILE]}), ("/boards", {"name": "b"})):
            answers = [theirs.call("POST", path, json=body, headers=headers) for _ in range(2)]
            assert [one.status_code for one in answers] == [201, 201], answers[0].text
            assert answers[0].json["id"] == answers[1].json["id"]
            made.add(answers[0].json["id"])
    assert len(made) == 10
    # Not even together with the beginning of the key.
    one = Machine(machine.client, user="a", key=machine.key)
    other = Machine(machine.client, user="a:b", key=machine.key)
    body = {"files": [FILE]}
    first = one.call("POST", "/transfers", json=body, headers={"Idempotency-Key": "b:" + "x" * 20})
    second = other.call("POST", "/transfers", json=body, headers=headers)
    assert first.json["id"] != second.json["id"]


def test_limits_of_size_are_the_installations(machine: Machine, configure: Configure) -> None:
    configure(max_file_size=10, max_files=2)
    answer = machine.call("POST", "/transfers", json={"files": [{"name": "a", "size": 11}]})
    assert told(answer)[0] == 400
    at = f"/boards/{machine.board()['id']}"
    assert told(machine.call("POST", f"{at}/files", json=[{"name": "a", "size": 11}]))[0] == 400
    links = [{"url": "https://example.org"}] * 2
    assert machine.call("POST", f"{at}/links", json=links).status_code == 201
    assert told(machine.call("POST", f"{at}/links", json=links[:1]))[0] == 400


def test_a_keys_transfers_are_no_addresss_share(machine: Machine, configure: Configure) -> None:
    configure(max_open_transfers_per_address=1)
    for _ in range(3):
        machine.create()


def test_a_boards_file_is_gone_when_its_time_is_over(
    machine: Machine, inside: None, configure: Configure
) -> None:
    at = f"/boards/{machine.board()['id']}"
    file = machine.call("POST", f"{at}/files", json=[FILE]).json[0]
    assert len(machine.call("GET", at).json["items"]) == 1
    row = db.session.scalars(db.select(Transfer)).one()
    row.state, row.ready_at = State.READY, clock.now()
    db.session.commit()
    assert machine.call("GET", at).json["state"] == "downloadable"
    row.expires_at = clock.now() - timedelta(seconds=1)
    db.session.commit()
    assert machine.call("GET", at).json["items"] == []
    done = f"{at}/files/{file['id']}/upload-complete"
    assert told(machine.call("PUT", done)) == (404, "File not found")
    # And it takes no place any more.
    configure(max_files=1)
    assert machine.call("POST", f"{at}/files", json=[FILE]).status_code == 201
    assert told(machine.call("POST", f"{at}/files", json=[FILE]))[0] == 400


def test_no_cookie_is_ever_set_or_read(client: FlaskClient, machine: Machine) -> None:
    made = machine.call("POST", "/transfers", json={"files": [FILE]})
    assert "Set-Cookie" not in made.headers
