"""/transfers: bad input of every kind is a clear 4xx that names the field and changes nothing."""

import json
import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.extensions import storage
from tests.factories import Sender

BIGGER_THAN_S3 = 10_000 * 5 * 1024**3 + 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"files": [{"path": "a", "size": -1}]}, "files.0.size"),
        ({"files": [{"path": "a", "size": BIGGER_THAN_S3}]}, "files.0.size"),
        ({"files": [{"path": "a", "size": "1"}]}, "files.0.size"),
        ({"files": [{"path": "a"}]}, "files.0.size"),
        ({"files": [{"path": "", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "..", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "/a", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "a\u0000b", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "a\u0007b", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "\ud800", "size": 1}]}, "files.0.path"),
        ({"files": [{"path": "a", "size": 1}, {"path": "a", "size": 1}]}, "files.1.path"),
        ({"files": [{"path": str(n), "size": 1} for n in range(5001)]}, "files"),
        (
            {"files": [{"path": "a", "size": 1, "checksum_algorithm": "SHA256"}]},
            "files.0.checksum_algorithm",
        ),
        (
            {"files": [{"path": "a", "size": 1, "checksum_algorithm": ["CRC32"]}]},
            "files.0.checksum_algorithm",
        ),
        ({"files": "a"}, "files"),
        ({"files": ["a"]}, "files.0"),
        ({"title": "x" * 201}, "title"),
        ({"title": "nul\u0000"}, "title"),
        ({"message": 5}, "message"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"max_downloads": 0}, "max_downloads"),
        ({"max_downloads": 2**31}, "max_downloads"),
        ({"max_downloads": True}, "max_downloads"),
        ({"state": "READY"}, "state"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_create_names_the_bad_field(client: FlaskClient, body: Any, field: str) -> None:
    """S08, S17, S37: a size is a whole number from 0, no field is unknown, text is text."""
    answer = client.post("/transfers", data=json.dumps(body), content_type="application/json")
    assert answer.status_code == 400, answer.json
    assert answer.json["error"]["code"] == "invalid"
    assert field in [one["field"] for one in answer.json["error"]["fields"]]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"title": "\xff\xfe"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 50_000, "application/json", 400),
        (b'{"max_downloads": ' + b"9" * 10_000 + b"}", "application/json", 400),
        (b'{"max_downloads": NaN}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"title=x", "application/x-www-form-urlencoded", 415),
        (b'{"title": "' + b"x" * (2 * 1024 * 1024) + b'"}', "application/json", 413),
    ],
)
def test_bodies_that_are_no_json(client: FlaskClient, body: bytes, kind: str, status: int) -> None:
    """S37."""
    answer = client.post("/transfers", data=body, content_type=kind)
    assert answer.status_code == status, answer.json
    assert set(answer.json["error"]) >= {"code", "message", "request_id"}


def test_an_unknown_transfer_and_a_wrong_token_look_the_same(sender: Sender) -> None:
    """S07, S09."""
    sent = sender.create()
    calls = [
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/parts"), ("GET", "/parts"),
        ("POST", "/files"), ("DELETE", f"/files/{sent.files[0]['id']}"), ("POST", "/complete"),
    ]  # fmt: skip
    other = sender.create()
    for method, path in calls:
        answers = []
        for url, token in (
            (sent.url, "x" * 43),
            (sent.url, other.json["owner_token"]),
            (f"/transfers/{uuid.uuid4()}", sent.json["owner_token"]),
        ):
            answer = sender.client.open(
                url + path, method=method, headers={"Authorization": f"Bearer {token}"}, json={}
            )
            answers.append((answer.status_code, answer.json["error"]["message"]))
        assert answers == [(404, "There is no such transfer.")] * 3
        assert sender.client.open(sent.url + path, method=method, json={}).status_code == 401
    assert sent.show()["status"] == "INIT"


@pytest.mark.parametrize("url", ["/transfers/nope", "/transfers/%00", "/transfers/1/2/3", "/nope"])
def test_addresses_that_do_not_exist_are_json_too(client: FlaskClient, url: str) -> None:
    answer = client.get(url)
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "not_found")


def test_wrong_method_says_which_are_right(client: FlaskClient) -> None:
    answer = client.put("/transfers")
    assert (answer.status_code, answer.json["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ([{"numbers": [0]}], "wanted.0.numbers.0"),
        ([{"numbers": [2]}], "wanted.0.numbers"),
        ([{"numbers": [10001]}], "wanted.0.numbers.0"),
        ([{"numbers": []}], "wanted.0.numbers"),
        ([{"numbers": [1, 1]}], "wanted.0.numbers"),
        ([{"numbers": ["1"]}], "wanted.0.numbers.0"),
        ([{"numbers": list(range(1, 102))}], "wanted.0.numbers"),
        ([{"file": "x", "numbers": [1]}], "wanted.0.file"),
        ([{"numbers": [1]}, {"numbers": [1]}], "wanted"),
        ([], "wanted"),
        ("x", "wanted"),
    ],
)
def test_part_numbers_outside_the_plan(sender: Sender, wanted: Any, field: str) -> None:
    """F06, S15, S18."""
    sent = sender.create()
    if isinstance(wanted, list):
        wanted = [{"file": sent.files[0]["id"], **one} for one in wanted]
    answer = sent.call("POST", "/parts", json={"wanted": wanted})
    assert answer.status_code == 400, answer.json
    assert field in [one["field"] for one in answer.json["error"]["fields"]]


@pytest.mark.parametrize(
    ("crc32", "field"),
    [
        (None, "wanted.0.crc32"),
        ("AAAAAA==", "wanted.0.crc32"),
        ([], "wanted.0.crc32"),
        (["AAAAAA=="] * 2, "wanted.0.crc32"),
        (["AAAA"], "wanted.0.crc32.0"),
        (["AAAAAAA="], "wanted.0.crc32.0"),
        (["AAAAAB=="], "wanted.0.crc32.0"),
        (["AAAAAA==\n"], "wanted.0.crc32.0"),
        (["!!!!!!=="], "wanted.0.crc32.0"),
        (["é"], "wanted.0.crc32.0"),
        ([0], "wanted.0.crc32.0"),
        ([None], "wanted.0.crc32.0"),
        ([["AAAAAA=="]], "wanted.0.crc32.0"),
        ({"0": "AAAAAA=="}, "wanted.0.crc32"),
    ],
)
def test_a_verified_part_needs_its_checksum(sender: Sender, crc32: Any, field: str) -> None:
    sent = sender.create(verified=True)
    wanted = {"file": sent.files[0]["id"], "numbers": [1], "crc32": crc32}
    answer = sent.call("POST", "/parts", json={"wanted": [wanted]})
    assert answer.status_code == 400, answer.json
    assert [one["field"] for one in answer.json["error"]["fields"]] == [field]


def test_a_part_that_is_not_verified_must_not_have_one(sender: Sender) -> None:
    """Else its sender would believe that somebody looks at it."""
    sent = sender.create()
    wanted = {"file": sent.files[0]["id"], "numbers": [1], "crc32": ["AAAAAA=="]}
    answer = sent.call("POST", "/parts", json={"wanted": [wanted]})
    assert answer.status_code == 400
    assert answer.json["error"]["fields"][0]["field"] == "wanted.0.crc32"


def test_held_parts_come_in_pages_in_the_transfers_order(sender: Sender, monkeypatch) -> None:
    sent = sender.create({f"f{n}": b"x" for n in range(7)}).upload()
    ids = [file["id"] for file in sent.files]
    pages, after = [], ""
    while after is not None:
        answer = sent.call("GET", f"/parts?limit=3{after and '&after=' + after}")
        assert answer.status_code == 200
        pages.append([one["id"] for one in answer.json["files"]])
        assert all(set(one) == {"id", "state", "held"} for one in answer.json["files"])
        after = answer.json["next"]
    assert pages == [ids[:3], ids[3:6], ids[6:]]
    whole = sent.call("GET", "/parts").json
    assert [one["held"] for one in whole["files"]] == [[1]] * 7
    assert whole["next"] is None
    exact = sent.call("GET", "/parts?limit=7").json
    assert (len(exact["files"]), exact["next"]) == (7, None)


def test_a_page_asks_storage_for_no_more_than_its_files(sender: Sender, monkeypatch) -> None:
    """And not for those that are complete: their rows know."""
    sent = sender.create({f"f{n}": b"x" for n in range(6)}).upload(without=(("f5", 1),))
    sent.complete().process()
    asked: list[str] = []
    head = storage.head
    monkeypatch.setattr(storage, "head", lambda key, **m: (asked.append(key), head(key, **m))[1])
    first = sent.call("GET", "/parts?limit=3").json
    assert [one["state"] for one in first["files"]] == ["COMPLETE"] * 3
    assert asked == []
    rest = sent.call("GET", f"/parts?after={first['next']}").json
    assert [one["held"] for one in rest["files"]] == [[1], [1], []]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("after=x", "after"),
        ("after=", "after"),
        ("after=00000000-0000-4000-8000-000000000000", "after"),
    ],
)
def test_a_page_that_cannot_be_is_named(sender: Sender, query: str, field: str) -> None:
    answer = sender.create().call("GET", f"/parts?{query}")
    assert answer.status_code == 400, answer.json
    assert [one["field"] for one in answer.json["error"]["fields"]] == [field]


def test_a_page_after_another_transfers_file_is_refused(sender: Sender) -> None:
    """S07."""
    mine, other = sender.create(), sender.create()
    assert mine.call("GET", f"/parts?after={other.files[0]['id']}").status_code == 400


def test_a_file_of_another_transfer_is_not_signed_for(sender: Sender) -> None:
    """S07."""
    mine, other = sender.create(), sender.create()
    wanted = {"wanted": [{"file": other.files[0]["id"], "numbers": [1]}]}
    assert mine.call("POST", "/parts", json=wanted).status_code == 404


def test_parts_of_many_files_are_signed_in_one_answer_in_the_order_wanted(sender: Sender) -> None:
    sent = sender.create({f"f{n}": b"x" for n in range(100)})
    wanted = [{"file": file["id"], "numbers": [1]} for file in reversed(sent.files)]
    answer = sent.call("POST", "/parts", json={"wanted": wanted, "sent_size": 7})
    assert [part["file"] for part in answer.json["parts"]] == [one["file"] for one in wanted]
    assert sent.row().sent_size == 7
    wanted.append({"file": str(uuid.uuid4()), "numbers": [1]})
    assert sent.call("POST", "/parts", json={"wanted": wanted}).status_code == 400


def test_names_come_back_byte_for_byte_and_in_order(sender: Sender) -> None:
    names = ["z", "a", "e\u0301", "é", "עברית \u202e.txt", 'quo"te', "x" * 255, "😀/☕"]
    sent = sender.create(dict.fromkeys(names, b""))
    assert [file["path"] for file in sent.show()["files"]] == names


def test_only_a_hash_of_the_owner_token_is_stored(sender: Sender) -> None:
    """S28."""
    sent = sender.create()
    token = sent.json["owner_token"]
    assert "owner_token" not in sent.show()
    assert token.encode() not in sent.row().owner_token_hash
    assert len(sent.slug) >= 32


def test_every_answer_carries_a_request_id(client: FlaskClient) -> None:
    assert len(client.get("/health").headers["X-Request-ID"]) >= 8
    given = client.get("/nope", headers={"X-Request-ID": "my-request-1"})
    assert given.json["error"]["request_id"] == given.headers["X-Request-ID"] == "my-request-1"
    evil = client.get("/nope", headers={"X-Request-ID": "<script>"})
    assert evil.headers["X-Request-ID"] != "<script>"
