"""A transfer from creation to READY, and its end by its sender's hand."""

import threading
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import update

from app import clock, jobs, leases
from app.config import MIB
from app.db import db, transaction
from app.errors import Gone, Invalid, WrongState
from app.extensions import storage
from app.models import File, State, Transfer, Upload, UploadState
from app.services import transfers, uploads
from app.services.transfers import FileSpec
from tests.factories import Sender, put

PART = 8 * MIB


def test_a_transfer_goes_all_the_way(sender: Sender, queued: list) -> None:
    sent = sender.create({"a.txt": b"hello", "dir/empty": b"", "big.bin": b"b" * (PART + 3)})
    sent.upload().complete()
    assert queued == [("transfers.process", str(sent.id))]
    shown = sent.process().show()
    assert shown["status"] == "READY"
    assert [file["state"] for file in shown["files"]] == ["COMPLETE"] * 3


def test_complete_twice_queues_once(sender: Sender, queued: list) -> None:
    sent = sender.create().upload().complete().complete()
    assert sent.show()["status"] == "PROCESSING"
    assert queued == [("transfers.process", str(sent.id))]


def test_f18_a_file_with_a_part_missing_comes_back_named_and_can_be_finished(
    sender: Sender,
) -> None:
    contents = {"a.txt": b"hello", "big.bin": b"b" * (3 * PART), "never.txt": b"n"}
    sent = sender.create(contents)
    sent.upload(without=(("big.bin", 2), ("never.txt", 1))).complete().process()
    shown = sent.show()
    assert shown["status"] == "INIT"
    assert {f["path"]: f["problem"] and f["problem"]["code"] for f in shown["files"]} == {
        "a.txt": None,
        "big.bin": "missing",
        "never.txt": "missing",
    }
    assert shown["files"][0]["state"] == "COMPLETE"
    held = {one["id"]: one["held"] for one in sent.call("GET", "/parts").json["files"]}
    assert [held[file["id"]] for file in shown["files"]] == [[1], [1, 3], []]
    for part in sent.sign(shown["files"][1], 2) + sent.sign(shown["files"][2], 1):
        put(part["url"], b"b" * part["size"], part["headers"])
    shown = sent.complete().process().show()
    assert shown["status"] == "READY"
    assert all(file["problem"] is None for file in shown["files"])


def test_f15_a_lost_upload_starts_over_under_another_key(sender: Sender, inside: None) -> None:
    sent = sender.create({"big.bin": b"b" * (PART + 1)}).upload()
    before = transfers.files_of(sent.id)[0].upload
    storage.abort_upload(before.key, before.s3_upload_id or "")
    shown = sent.complete().process().show()
    assert (shown["status"], shown["files"][0]["problem"]["code"]) == ("INIT", "lost")
    after = transfers.files_of(sent.id)[0].upload
    assert after.key != before.key
    assert db.session.get(Upload, before.id, populate_existing=True).state is UploadState.ABORTED
    assert sent.upload().complete().process().show()["status"] == "READY"


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


def test_a_transfer_without_files_cannot_be_completed(sender: Sender) -> None:
    sent = sender.create({})
    answer = sent.call("POST", "/complete")
    assert (answer.status_code, answer.json["error"]["fields"][0]["field"]) == (400, "files")
    assert sent.show()["status"] == "INIT"


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


def test_process_does_nothing_for_what_is_not_processing(sender: Sender, inside: None) -> None:
    sent = sender.create()
    transfers.process(str(sent.id))
    transfers.process(str(uuid.uuid4()))
    assert sent.show()["status"] == "INIT"


def test_f29_a_second_runner_does_nothing_while_the_first_holds_the_lease(
    sender: Sender, inside: None
) -> None:
    sent = sender.create().upload().complete()
    with leases.hold(sent.id, State.PROCESSING) as first:
        assert first is not None
        transfers.process(str(sent.id))
        assert sent.show()["status"] == "PROCESSING"
    assert sent.process().show()["status"] == "READY"


def test_f29_a_late_runner_is_fenced_out(sender: Sender, inside: None) -> None:
    """Its lease lapsed and another took over: whatever it still writes changes nothing."""
    sent = sender.create().upload().complete()
    with leases.hold(sent.id, State.PROCESSING) as late:
        assert late is not None
        with transaction():
            db.session.execute(
                update(Transfer)
                .where(Transfer.id == sent.id)
                .values(lease_until=clock.now() - timedelta(seconds=1))
            )
        with leases.hold(sent.id, State.PROCESSING) as taker:
            assert taker is not None
            file = transfers.files_of(sent.id)[0]
            outcome = uploads.complete(file.upload)
            transfers._settle_batch(late, [outcome])
            transfers._settle(late, {})
            assert sent.show()["status"] == "PROCESSING"
            assert transfers.files_of(sent.id)[0].upload.state is UploadState.OPEN
    assert sent.process().show()["status"] == "READY"


def test_a_failed_attempt_is_left_alone_for_a_while_and_then_succeeds(
    sender: Sender, inside: None, monkeypatch
) -> None:
    sent = sender.create().upload().complete()
    with monkeypatch.context() as broken:
        broken.setattr(storage, "head", lambda key: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            transfers.process(str(sent.id))
    row = sent.row()
    assert (row.state, row.lease_token, row.attempt_count) == (State.PROCESSING, None, 1)
    assert row.lease_until > clock.now()
    assert sent.process().show()["status"] == "PROCESSING"
    assert sent.set(lease_until=None).process().show()["status"] == "READY"


def test_a_stopping_worker_hands_over(sender: Sender, inside: None, queued: list) -> None:
    sent = sender.create().upload().complete()
    queued.clear()
    jobs.stopping.set()
    transfers.process(str(sent.id))
    jobs.stopping.clear()
    assert queued == [("transfers.process", str(sent.id))]
    assert sent.process().show()["status"] == "READY"


def test_ready_is_refused_while_any_file_is_open(sender: Sender, inside: None) -> None:
    """The last guard: even a runner that believes all is well cannot make it READY."""
    sent = sender.create({"a": b"1", "b": b"2"}).upload().complete()
    with leases.hold(sent.id, State.PROCESSING) as lease:
        transfers._settle(lease, {})
    assert sent.show()["status"] == "PROCESSING"


def test_deleted_while_processing_stays_deleted(sender: Sender, inside: None, monkeypatch) -> None:
    sent = sender.create({"a": b"1"}).upload().complete()
    complete_all = uploads.complete_all

    def delete_meanwhile(batch: list) -> list:
        outcomes = complete_all(batch)
        transfers.delete(sent.id)
        return outcomes

    monkeypatch.setattr(uploads, "complete_all", delete_meanwhile)
    sent.process()
    assert sent.row().state is State.DELETED
    assert transfers.files_of(sent.id)[0].upload.state is UploadState.ABORTED


def test_the_heartbeat_notices_that_the_lease_is_gone(app, monkeypatch, inside: None) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    lease = leases.Lease(uuid.uuid4(), attempt=1)
    done = threading.Event()
    heart = threading.Thread(target=leases._beat, args=(db.engine, lease, done))
    heart.start()
    assert lease.lost.wait(5)
    done.set()
    heart.join()


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
            transfers.create(specs)
        assert field in caught.value.fields
    transfer = transfers.create([FileSpec("a", 100)]).transfer
    with pytest.raises(Invalid):
        transfers.add_files(transfer, [FileSpec("b", 51)])
    with pytest.raises(Invalid):
        transfers.add_files(transfer, [FileSpec("a", 1)])


def test_signing_for_a_file_removed_meanwhile_is_refused(sender: Sender, inside: None) -> None:
    sent = sender.create({"a": b"1"})
    file = transfers.files_of(sent.id)[0]
    with transaction():
        uploads.abandon([file.upload_id])
    with pytest.raises(WrongState), transaction():
        uploads.note_signing([file.upload])


def test_finalizing_what_was_deleted_is_gone(sender: Sender, inside: None) -> None:
    sent = sender.create()
    transfer = sent.row()
    transfers.delete(sent.id)
    with pytest.raises(Gone):
        transfers.finalize(transfer)
    assert db.session.query(File).filter_by(transfer_id=sent.id).count() == 1
