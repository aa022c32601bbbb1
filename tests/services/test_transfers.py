"""A transfer from creation to READY, and its end by its sender's hand."""

from datetime import timedelta

import pytest
from flask import Flask

from app import clock
from app.config import MIB
from app.db import db, transaction
from app.errors import Invalid, WrongState
from app.models import Upload, UploadState
from app.services import contents, creating, removal, sending, transfers, uploads
from app.services.contents import FileSpec
from tests.factories import Sender
from tests.watching import statements

PART = 8 * MIB


def test_nothing_can_be_signed_or_changed_after_that_is_all(sender: Sender) -> None:
    sent = sender.create().upload().complete()
    wanted = {"wanted": [{"file": sent.files[0]["id"], "numbers": [1]}]}
    for answer in (
        sent.call("POST", "/parts", json=wanted),
        sent.call("POST", "/files", json={"files": [{"path": "b", "size": 1}]}),
        sent.call("DELETE", f"/files/{sent.files[0]['id']}"),
    ):
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "wrong_state")
    assert sent.process().show()["status"] == "READY"


def test_files_can_be_added_and_removed_while_in_init(sender: Sender, inside: None) -> None:
    sent = sender.create({"a": b"1"})
    added = sent.call("POST", "/files", json={"files": [{"path": "b", "size": 2}]})
    assert added.status_code == 201
    assert sent.call("DELETE", f"/files/{sent.files[0]['id']}").status_code == 204
    assert [file["path"] for file in sent.show()["files"]] == ["b"]
    aborted = db.session.query(Upload).filter_by(state=UploadState.ABORTED).count()
    assert aborted == 1


def test_the_total_size_is_stored_with_the_transfer_and_follows_its_files(
    app: Flask, sender: Sender
) -> None:
    with statements(app) as told:
        sent = sender.create({"a": b"1", "b": b"22"})
    assert not [one for one in told if one.startswith("UPDATE")]
    sizes = [sent.row().total_size]
    sent.call("POST", "/files", json={"files": [{"path": "c", "size": 4}]})
    sizes.append(sent.row().total_size)
    sent.call("DELETE", f"/files/{sent.files[0]['id']}")
    assert [*sizes, sent.row().total_size] == [3, 7, 6]


def test_deleting_kills_the_link_at_once_and_gives_up_every_upload(
    sender: Sender, queued: list, inside: None
) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    assert sent.call("DELETE").status_code == 204
    assert sent.call("GET").status_code == 410
    states = {file.upload.state for file in transfers.files_of(sent.id)}
    assert states == {UploadState.ABORTED}
    assert ("upkeep.remove_bytes",) in queued
    assert transfers.delete(sent.id) is False


def test_options_are_checked_and_the_rest_stays(sender: Sender) -> None:
    sent = sender.create(title="Before", max_downloads=3)
    far = (clock.now() + timedelta(days=4000)).isoformat()
    past = (clock.now() - timedelta(seconds=1)).isoformat()
    for bad in ({"expires_at": past}, {"expires_at": far}, {"max_downloads": 0}):
        answer = sent.call("PATCH", json={"title": "After", **bad})
        assert answer.status_code == 400
        assert answer.json["error"]["fields"][0]["field"] == next(iter(bad))
    assert sent.show()["title"] == "Before"
    assert sent.call("PATCH", json={"title": " After "}).json["title"] == "After"
    assert sent.show()["max_downloads"] == 3
    assert sent.call("PATCH", json={"max_downloads": None}).json["max_downloads"] is None


def test_the_limit_cannot_go_below_what_has_happened(sender: Sender) -> None:
    sent = sender.ready(max_downloads=5).set(download_count=3)
    answer = sent.call("PATCH", json={"max_downloads": 2})
    assert (answer.status_code, answer.json["error"]["fields"][0]["field"]) == (
        400,
        "max_downloads",
    )
    assert sent.call("PATCH", json={"max_downloads": 3}).status_code == 200


def test_an_expired_transfer_is_not_edited(sender: Sender) -> None:
    sent = sender.ready().set(expires_at=clock.now() - timedelta(seconds=1))
    answer = sent.call("PATCH", json={"title": "x"})
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")


def test_limits_of_the_whole_transfer(configure, inside: None) -> None:
    configure(max_files=2, max_file_size=100, max_transfer_size=150)
    for specs, field in (
        ([FileSpec("a", 1), FileSpec("b", 1), FileSpec("c", 1)], "files"),
        ([FileSpec("a", 101)], "files.0.size"),
        ([FileSpec("a", 100), FileSpec("b", 51)], "files"),
        ([FileSpec("a", 1), FileSpec("a", 2)], "files.1.path"),
    ):
        with pytest.raises(Invalid) as caught:
            creating.create(specs)
        assert field in caught.value.fields
    transfer = creating.create([FileSpec("a", 100)]).transfer
    with pytest.raises(Invalid):
        contents.add_files(transfer, [FileSpec("b", 51)])
    with pytest.raises(Invalid):
        contents.add_files(transfer, [FileSpec("a", 1)])


def test_signing_for_a_file_removed_meanwhile_is_refused(sender: Sender, inside: None) -> None:
    sent = sender.create({"a": b"1"})
    file = transfers.files_of(sent.id)[0]
    with transaction():
        removal.abandon([file.upload_id])
    with pytest.raises(WrongState), transaction():
        uploads.note_signing([file.upload.id])


def test_no_plain_address_is_signed_that_could_be_used_after_the_check(
    sender: Sender, inside: None
) -> None:
    """That of a single PUT could, and one without its checksum would be refused by storage."""
    for sent in (
        sender.create({"a": b"1"}),
        sender.create({"b": b"b" * (PART + 1)}, verified=True),
    ):
        transfer = transfers.of_id(sent.id)
        with pytest.raises(WrongState):
            sending.sign_part(transfer, transfers.files_of(sent.id)[0], 1)
