"""/v2: bytes that storage lost, never got or cannot be asked about are sent again by the same plan."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from app.errors import Outage
from app.extensions import storage
from app.models import Problem
from app.services import checking, transfers
from tests.api.v2 import BOARD_CHUNK, CHUNK, told
from tests.factories import Machine, put


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
