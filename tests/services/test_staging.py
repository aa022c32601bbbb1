"""One file by one PUT: what was completed stays what it was, whatever arrives where it was put."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app import clock
from app.config import MIB, S3_MAX_PART_SIZE
from app.db import db, transaction
from app.errors import Outage
from app.extensions import storage
from app.gateways.s3_answers import Source
from app.models import File, Staging, State, Transfer, Upload, UploadState
from app.services import staging, tombstones, transfers, upkeep, uploads
from tests.factories import Machine, http, put

pytestmark = pytest.mark.usefixtures("inside")
Configure = Callable[..., None]


def asked(machine: Machine, transfer_id: str, name: str = "a.txt", **given: Any) -> Any:
    answer = machine.native("POST", f"/{transfer_id}/upload-url", json={"filename": name, **given})
    assert answer.status_code == 200, answer.text
    return answer.json


def completed(machine: Machine, transfer_id: str) -> Any:
    return machine.native("POST", f"/{transfer_id}/complete")


def downloaded(machine: Machine, transfer_id: str) -> bytes:
    url = machine.native("GET", f"/{transfer_id}/download-url").json["download_url"]
    return http.request("GET", url).data


def keys() -> set[str]:
    """All that lies in the bucket, or is on its way into it."""
    objects = {one.key for page in storage.objects() for one in page}
    return objects | {one.key for page in storage.open_uploads() for one in page}


def of_rows() -> dict[str, UploadState]:
    return {one.key: one.state for one in db.session.scalars(select(Upload))}


def let_addresses_die() -> None:
    past = clock.now() - timedelta(hours=1)
    with transaction():
        db.session.execute(update(Upload).values(urls_until=past, remove_after=past))


def test_an_address_that_still_works_cannot_swap_what_was_completed(machine: Machine) -> None:
    made = machine.make(max_downloads=9)["id"]
    told = asked(machine, made)
    assert put(told["upload_url"], b"right").status == 200
    assert completed(machine, made).status_code == 200
    assert put(told["upload_url"], b"wrong").status == 200
    assert downloaded(machine, made) == b"right"
    # What arrived there goes too, once the address is dead, and no row is left that names it.
    upkeep.remove_bytes()
    assert put(told["upload_url"], b"wrong again").status == 200
    let_addresses_die()
    upkeep.remove_bytes()
    file = db.session.scalars(select(File)).one()
    upload = db.session.get(Upload, file.upload_id)
    assert upload is not None
    assert keys() & of_rows().keys() == {upload.key}
    assert upload.key != told["object_key"]
    assert downloaded(machine, made) == b"right"


def test_the_last_address_counts(machine: Machine) -> None:
    made = machine.make()["id"]
    first = asked(machine, made, "first.txt")
    second = asked(machine, made, "second.txt", content_type="text/plain")
    put(first["upload_url"], b"first")
    assert completed(machine, made).status_code == 502
    put(second["upload_url"], b"second", {"Content-Type": "text/plain"})
    done = completed(machine, made).json
    assert (done["filename"], done["file_size"], done["file_type"]) == (
        "second.txt",
        6,
        "text/plain",
    )
    let_addresses_die()
    upkeep.remove_bytes()
    assert first["object_key"] not in keys()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 12 * MIB + 3])
def test_files_of_any_size_are_copied_as_they_are(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(staging, "COPY_PART_SIZE", 5 * MIB)
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    made = machine.put_one(body, "ü ☕.bin", max_downloads=2)
    assert (made["file_size"], made["filename"]) == (size, "ü ☕.bin")
    assert downloaded(machine, made["id"]) == body
    link = machine.client.get(f"/d/{made['slug']}.json").json
    assert (link["state"], link["files"][0]["size"]) == ("ready", size)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        " ",
        "text/html",
        "text/plain;  charset=utf-8",
        " image/svg+xml ",
        "text",
        '<"a">,b\\=;%2',
    ],
)
def test_whatever_type_is_told_the_file_arrives_and_is_no_page(machine: Machine, kind: str) -> None:
    made = machine.make()["id"]
    url = asked(machine, made, content_type=kind)["upload_url"]
    headers = {"Content-Type": kind} if kind.strip() else {}
    assert put(url, b"<script>", headers).status == 200
    assert http.request("GET", url).status == 403, "what is staged cannot be read"
    assert completed(machine, made).json["file_type"] == kind.strip()
    link = machine.native("GET", f"/{made}/download-url").json["download_url"]
    got = http.request("GET", link)
    assert got.data == b"<script>"
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Content-Disposition"].startswith("attachment")
    upload = db.session.scalars(select(Upload).join(File)).one()
    kept = storage._client.head_object(Bucket=storage.bucket, Key=upload.key)
    assert kept["ContentType"] == "application/octet-stream"


def test_a_type_that_no_header_carries_is_refused(machine: Machine) -> None:
    made = machine.make()["id"]
    for wrong in ("text/plän", "a\r\nx-amz-acl: public-read", "x" * 256, 7):
        body = {"filename": "a", "content_type": wrong}
        answer = machine.native("POST", f"/{made}/upload-url", json=body)
        assert answer.status_code == 400
        assert answer.json["error"]["fields"][0]["field"] == "content_type"


def test_a_size_that_was_told_is_held_to(machine: Machine) -> None:
    made = machine.make()["id"]
    url = asked(machine, made, file_size=5)["upload_url"]
    assert put(url, b"123456").status == 403
    assert put(url, b"12345").status == 200
    assert completed(machine, made).status_code == 200


@pytest.mark.parametrize("size", [S3_MAX_PART_SIZE + 1, 2**43])
def test_above_what_one_put_takes_the_other_way_is_named(
    machine: Machine, configure: Configure, size: int
) -> None:
    configure(max_file_size=2**44)
    body = {"filename": "a", "file_size": size}
    answer = machine.native("POST", f"/{machine.make()['id']}/upload-url", json=body)
    assert answer.status_code == 400
    assert "/parts" in answer.json["error"]["message"]


@pytest.mark.parametrize("limit", ["max_file_size", "max_transfer_size"])
def test_what_is_too_large_here_is_refused_early_and_late(
    machine: Machine, configure: Configure, limit: str
) -> None:
    configure(**{limit: 3})
    made = machine.make()["id"]
    body = {"filename": "a", "file_size": 4}
    assert machine.native("POST", f"/{made}/upload-url", json=body).status_code == 400
    told = asked(machine, made)
    put(told["upload_url"], b"1234")
    answer = completed(machine, made)
    assert (answer.status_code, answer.json["error"]["fields"][0]["field"]) == (400, "file")
    # It does not stay for as long as the transfer waits for another.
    upkeep.remove_bytes()
    assert told["object_key"] not in keys()
    assert "Upload not started" in completed(machine, made).text
    put(asked(machine, made)["upload_url"], b"123")
    assert completed(machine, made).status_code == 200


def changed_between(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> None:
    """Something happens after it was looked at, and before it is copied; once."""
    copy = uploads.copy_from

    def late(*given: Any) -> None:
        monkeypatch.undo()
        change()
        copy(*given)

    monkeypatch.setattr(uploads, "copy_from", late)


@pytest.mark.parametrize("store", ["keeps the condition", "ignores it"])
def test_what_is_written_over_while_it_is_copied_is_not_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    made = machine.make(max_downloads=2)["id"]
    url = asked(machine, made)["upload_url"]
    put(url, b"one")
    copy_part = storage.copy_part

    def unconditionally(key: str, s3_id: str, number: int, source: Source, *span: int) -> None:
        there = storage.head(source.key)
        copy_part(key, s3_id, number, replace(source, etag=there.etag), *span)

    def change() -> None:
        put(url, b"other")
        if store == "ignores it":
            monkeypatch.setattr(storage, "copy_part", unconditionally)

    changed_between(monkeypatch, change)
    assert completed(machine, made).status_code == 409
    assert completed(machine, made).status_code == 200
    assert downloaded(machine, made) == b"other"


@pytest.mark.parametrize("what", ["deleted", "another address", "a file in parts", "over"])
def test_who_changes_it_meanwhile_wins(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made = machine.make()["id"]
    put(asked(machine, made)["upload_url"], b"one")
    change = {
        "deleted": lambda: machine.native("DELETE", f"/{made}"),
        "another address": lambda: asked(machine, made),
        "a file in parts": lambda: machine.native(
            "POST", f"/{made}/files", json={"files": [{"path": "b", "size": 1}]}
        ),
        "over": lambda: _end(made),
    }[what]
    changed_between(monkeypatch, change)
    answer = completed(machine, made)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "wrong_state")
    state = transfers.of_id(UUID(made)).state
    assert state is (State.DELETED if what == "deleted" else State.INIT)
    machine.native("DELETE", f"/{made}")
    let_addresses_die()
    upkeep.remove_bytes()
    assert keys() & of_rows().keys() == set()
    assert set(of_rows().values()) == {UploadState.ABORTED}


def _end(transfer_id: str) -> None:
    with transaction():
        db.session.execute(
            update(Transfer)
            .where(Transfer.id == UUID(transfer_id))
            .values(expires_at=clock.now() - timedelta(seconds=1))
        )


def test_while_storage_is_away_it_is_said_and_later_it_works(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine.make()["id"]
    put(asked(machine, made)["upload_url"], b"one")

    def away(*given: Any) -> None:
        raise Outage

    monkeypatch.setattr(uploads, "copy_from", away)
    assert completed(machine, made).status_code == 503
    monkeypatch.undo()
    # Others leave it alone for the seconds that the answer says.
    assert completed(machine, made).status_code == 409
    with transaction():
        db.session.execute(update(Transfer).values(lease_until=None))
    assert completed(machine, made).status_code == 200
    assert sorted(of_rows().values()) == ["ABORTED", "ABORTED", "COMPLETE"]


def test_a_storage_that_cannot_copy_says_how_it_is_done(
    machine: Machine, without_part_copies: Callable[[], None]
) -> None:
    without_part_copies()
    made = machine.make()["id"]
    put(asked(machine, made)["upload_url"], b"one")
    answer = completed(machine, made)
    assert answer.status_code == 409
    assert "in parts" in answer.json["error"]["message"]


def test_its_files_may_come_in_parts_after_all(machine: Machine) -> None:
    """Then nothing is kept of what was PUT, and it is as if it had been made so."""
    made = machine.make(files=[])["id"]
    told = asked(machine, made)
    put(told["upload_url"], b"one")
    files = {"files": [{"path": "b", "size": 1}]}
    assert machine.native("POST", f"/{made}/files", json=files).status_code == 201
    assert machine.native("PATCH", f"/{made}", json={"title": "x"}).status_code == 200
    answer = machine.native("POST", f"/{made}/upload-url", json={"filename": "a"})
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "wrong_state")
    for _ in range(2):
        assert machine.native("POST", f"/{made}/complete").status_code == 202
    let_addresses_die()
    upkeep.remove_bytes()
    assert told["object_key"] not in keys()


def test_what_was_never_completed_is_swept(machine: Machine) -> None:
    made = machine.make()["id"]
    told = asked(machine, made)
    put(told["upload_url"], b"one")
    with transaction():
        long_ago = clock.now() - timedelta(days=9)
        db.session.execute(update(Transfer).values(last_activity_at=long_ago))
    assert upkeep.delete_abandoned() == 1
    let_addresses_die()
    upkeep.remove_bytes()
    assert told["object_key"] not in keys()


def test_a_deleted_ones_name_is_forgotten_and_its_rows_go(machine: Machine) -> None:
    made = machine.make()["id"]
    asked(machine, made, "secret name.txt")
    machine.native("DELETE", f"/{made}")
    assert tombstones.forget_deleted() == 1
    assert db.session.scalars(select(Staging)).all() == []
    let_addresses_die()
    upkeep.remove_bytes()
    with transaction():
        long_ago = clock.now() - timedelta(days=999)
        db.session.execute(update(Transfer).values(deleted_at=long_ago))
        db.session.execute(update(Upload).values(removed_at=long_ago))
    assert tombstones.drop_tombstones() == 1
    assert of_rows() == {}
