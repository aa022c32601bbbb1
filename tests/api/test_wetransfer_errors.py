"""/v2: each error of WeTransfer's contract, by its status and words."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app import clock
from app.config import MIB
from app.db import db
from app.models import Scope, State, Transfer
from app.services import accounts, transfers
from tests.api.v2 import CHUNK, FILE, JSON, NOWHERE, told
from tests.factories import Machine, put

Configure = Callable[..., None]
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
