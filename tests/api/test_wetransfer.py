"""/v2: each row of WeTransfer's contract, and the rules its clients rest on."""

import re
import unicodedata
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from sqlalchemy import text

from app import clock
from app.config import MIB
from app.db import db
from app.services import transfers
from tests.api.v2 import BOARD_CHUNK, CHUNK, FILE, JSON, told
from tests.factories import Machine, put
from tests.test_dispositions import NAMES
from tests.threats.test_names import MORE_NAMES
from tests.watching import statements

FILE_KEYS = {"id", "name", "size", "type", "multipart"}


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


def test_each_file_that_is_added_to_a_board_takes_five_statements(
    app: Flask, machine: Machine
) -> None:
    """Meanwhile the board is locked and, where it is limited, the room in the bucket."""
    board = machine.board()

    def statement_count(count: int) -> int:
        files = [{"name": f"{count} {n}", "size": 1} for n in range(count)]
        with statements(app) as told:
            answer = machine.call("POST", f"/boards/{board['id']}/files", json=files)
        assert [file["name"] for file in answer.json] == [file["name"] for file in files]
        return len(told)

    assert statement_count(12) - statement_count(2) == 5 * 10


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


def test_no_cookie_is_ever_set_or_read(machine: Machine) -> None:
    at = f"/boards/{machine.board()['id']}"
    for answer in (
        machine.call("POST", "/authorize"),
        machine.call("POST", "/transfers", json={"files": [FILE]}),
        machine.call("GET", at),
        machine.call("GET", "/nothing"),
    ):
        assert "Set-Cookie" not in answer.headers
        # Flask says so itself, as soon as anything looks at the session.
        assert "Cookie" not in answer.headers.get("Vary", "")
