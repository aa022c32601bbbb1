"""What an installation may keep in all (MAX_STORED_SIZE), whichever way files are announced."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from app import clock
from app.config import MIB
from app.db import db
from app.errors import Invalid
from app.gateways.s3_answers import NotOffered
from app.models import Archive, Transfer, Upload, UploadState
from app.services import accounts, boards, creating, room, transfers, upkeep, uploads
from app.services.contents import FileSpec
from app.services.doctor import Level
from tests.factories import Machine, Program, Sender, put
from tests.keeper import Keeper
from tests.services.doctor.looking import assert_found
from tests.test_races import at_once

Configure = Callable[..., None]
FULL = "would need 3.0 MB, and this site has room for 2.0 MB now"


@pytest.fixture
def room_for(inside: None, configure: Configure) -> Callable[[int], None]:
    """Leave room for this many bytes more than are kept."""

    def leave(size: int) -> None:
        configure(max_stored_size=room.taken() + size)

    return leave


def complaint(answer: Any) -> tuple[int, str, str]:
    (field,) = answer.json["error"]["fields"]
    return answer.status_code, field["field"], field["message"]


def test_a_transfer_for_which_there_is_no_room_is_not_begun(
    client: FlaskClient, room_for: Callable[[int], None]
) -> None:
    room_for(2_000_000)
    files = [{"path": name, "size": 1_500_000} for name in "ab"]
    assert complaint(client.post("/transfers", json={"files": files})) == (400, "files", FULL)
    assert db.session.scalar(select(func.count()).select_from(Transfer)) == 0
    assert client.post("/transfers", json={"files": files[:1]}).status_code == 201
    # What is announced is reserved, before any of it has arrived.
    assert client.post("/transfers", json={"files": files[1:]}).status_code == 400
    nothing = [{"path": "empty", "size": 0}]
    assert client.post("/transfers", json={"files": nothing}).status_code == 201


def test_nor_is_it_added_to(sender: Sender, room_for: Callable[[int], None]) -> None:
    more = {"files": [{"path": "more", "size": 3_000_000}]}
    begun, ready = sender.create(), sender.ready()
    room_for(2_000_000)
    for one in (begun, ready):
        assert complaint(one.call("POST", "/files", json=more)) == (400, "files", FULL)
    room_for(3_000_000)
    assert ready.call("POST", "/files", json=more).status_code == 201


def test_nor_are_assets_and_small_files_announced(
    client: FlaskClient, program: Program, room_for: Callable[[int], None]
) -> None:
    keeper = Keeper(client)
    of_asset = {"fileName": "a.png", "fileType": "image/png", "fileSize": 3_000_000}
    of_file = {"filename": "a.png", "size": 3_000_000}
    room_for(2_000_000)
    answer = keeper.get("/start-upload", **of_asset)
    assert (answer.status_code, answer.json["error"]) == (400, f"size: {FULL}")
    assert complaint(program.call("POST", "/upload-url", json=of_file)) == (400, "size", FULL)
    # Of an unknown size: as long as there is any room.
    del of_asset["fileSize"], of_file["size"]
    assert keeper.get("/start-upload", **of_asset).status_code == 200
    room_for(0)
    assert keeper.get("/start-upload", **of_asset).status_code == 400
    assert program.call("POST", "/upload-url", json=of_file).status_code == 400


def test_a_board_reserves_room_for_all_of_its_new_files_at_once(
    machine: Machine, room_for: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = accounts.authenticate(machine.key)
    board = boards.create(caller, "Rushes", None)
    room_for(100)
    count, taken = [], room.taken
    monkeypatch.setattr(room, "taken", lambda: count.append(1) or taken())
    with pytest.raises(Invalid, match="this site has room for 100 bytes now"):
        boards.add_files(board, caller, [FileSpec(name, 51) for name in "ab"])
    assert not boards.items_of(board.id)
    boards.add_files(board, caller, [FileSpec(name, 50) for name in "ab"])
    assert len(count) == 2
    assert taken() == 100


def test_what_came_by_one_put_is_judged_by_its_size_once_that_is_known(
    machine: Machine, room_for: Callable[[int], None]
) -> None:
    made = machine.make()["id"]
    room_for(10)
    told = {"filename": "a", "file_size": 11}
    answer = machine.native("POST", f"/{made}/upload-url", json=told)
    assert complaint(answer)[:2] == (400, "file_size")
    for body, status in ((b"x" * 11, 400), (b"x" * 10, 200)):
        untold = machine.native("POST", f"/{made}/upload-url", json={"filename": "a"})
        assert put(untold.json["upload_url"], body).status == 200
        assert machine.native("POST", f"/{made}/complete").status_code == status


def test_nothing_is_sent_by_one_put_where_there_is_no_room_at_all(
    machine: Machine, room_for: Callable[[int], None]
) -> None:
    made = machine.make()["id"]
    room_for(0)
    untold = {"filename": "a"}
    answer = machine.native("POST", f"/{made}/upload-url", json=untold)
    assert complaint(answer)[:2] == (400, "file_size")
    empty = machine.native("POST", f"/{made}/upload-url", json={**untold, "file_size": 0})
    assert empty.status_code == 200


def test_what_is_refused_by_one_put_leaves_no_copy_of_an_earlier_attempt_that_takes_room(
    machine: Machine, room_for: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before = machine.make()["id"], room.taken()
    untold = machine.native("POST", f"/{made}/upload-url", json={"filename": "a"})
    put(untold.json["upload_url"], b"x" * 10)

    def fail(*_: object) -> None:
        raise NotOffered

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "copy_from", fail)
        assert machine.native("POST", f"/{made}/complete").status_code == 409
    assert room.taken() == before + 10
    room_for(-1)
    assert complaint(machine.native("POST", f"/{made}/complete"))[:2] == (400, "file")
    assert room.taken() == before


def test_what_is_deleted_makes_room_and_what_has_expired_does_not(
    sender: Sender, room_for: Callable[[int], None]
) -> None:
    old, other = sender.ready({"a": b"12345"}), sender.create({"b": b"123"})
    room_for(0)
    old.set(expires_at=clock.now() - timedelta(seconds=1))
    upkeep.expire_due()
    before = room.taken()
    assert other.call("DELETE").status_code == 204
    assert room.taken() == before - 3
    transfers.delete(old.id)
    assert room.taken() == before - 8


def test_recipients_get_their_zip_although_there_is_no_room(
    sender: Sender, room_for: Callable[[int], None]
) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    room_for(0)
    sent.zip()
    made = select(Upload).join(Archive, Archive.upload_id == Upload.id)
    assert db.session.scalars(made).one().state is UploadState.COMPLETE


@pytest.mark.real_commits
def test_those_who_begin_at_the_same_time_do_not_take_more_together(
    app: Flask, configure: Configure
) -> None:
    configure(max_stored_size=30 * MIB)

    def begin(index: int) -> str:
        creating.create([FileSpec(f"{index}", 10 * MIB)])
        return "begun"

    assert at_once(app, 8, begin) == Counter(begun=3, invalid=5)
    with app.app_context():
        assert room.taken() == 30 * MIB


@pytest.mark.parametrize(
    ("most", "level", "words"),
    [
        (None, Level.OK, "not set"),
        (1_000, Level.OK, "89 % of MAX_STORED_SIZE are taken, 899 bytes of 1.0 kB."),
        (998, Level.WARNING, "90 %"),
        (500, Level.WARNING, "100 %"),
    ],
)
def test_the_operator_is_warned_before_it_is_full(
    inside: None, configure: Configure, most: int | None, level: Level, words: str
) -> None:
    for state, size in ((UploadState.OPEN, 899), (UploadState.ABORTED, 500)):
        key = f"{state}"
        db.session.add(
            Upload(
                key=key, token="t", method="multipart", size=size, part_size=5 * MIB, state=state
            )
        )
    db.session.commit()
    configure(max_stored_size=most, max_transfer_size=100)
    assert_found("room", level, words)


def test_the_operator_is_warned_where_a_stranger_could_take_all_of_it(
    inside: None, configure: Configure
) -> None:
    configure(max_stored_size=1_000)
    assert_found("room", Level.WARNING, "MAX_TRANSFER_SIZE")
    configure(senders=("@studio.example",))
    assert_found("room", Level.OK)
