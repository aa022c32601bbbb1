"""From "that is all" to READY: leases, fencing, failures, and what a sender is told."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg2
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import InterfaceError, OperationalError

from app import clock, jobs, leases
from app.config import MIB
from app.db import db
from app.errors import Gone, Outage
from app.extensions import storage
from app.gateways.s3_answers import StorageRefused
from app.models import Failure, File, Problem, State, Transfer, Upload, UploadState
from app.services import checking, completing, transfers, upkeep
from app.services.completing import Outcome
from tests.factories import Sender, Sent, put

PART = 8 * MIB
IS_PROCESSING = Transfer.state == State.PROCESSING


def test_a_transfer_goes_all_the_way(sender: Sender, queued: list) -> None:
    sent = sender.create({"a.txt": b"hello", "dir/empty": b"", "big.bin": b"b" * (PART + 3)})
    sent.upload().complete()
    assert queued == [("checking.process", str(sent.id))]
    shown = sent.process().show()
    assert shown["status"] == "READY"
    assert [file["state"] for file in shown["files"]] == ["COMPLETE"] * 3


@pytest.mark.parametrize(("wished", "most", "days"), [(2, 90, 2), (20, 7, 7)])
def test_a_date_that_passes_during_the_upload_counts_from_its_end(
    sender: Sender, configure: Callable[..., None], wished: int, most: int, days: int
) -> None:
    """Else its link would be dead as soon as it leads anywhere, and nobody would be mailed."""
    configure(max_expires_in_days=most)
    past = clock.now() - timedelta(seconds=1)
    sent = sender.create().set(created_at=past - timedelta(days=wished), expires_at=past)
    shown = sent.upload().complete().process().show()
    assert shown["status"] == "READY"
    assert sent.client.get(f"/d/{sent.slug}").status_code == 200
    left = sent.row().expires_at - clock.now()
    assert timedelta(days=days, minutes=-1) < left < timedelta(days=days)


def test_a_date_that_is_not_over_stays(sender: Sender) -> None:
    sent = sender.create()
    until = sent.row().expires_at
    assert sent.upload().complete().process().row().expires_at == until


def test_complete_twice_queues_once(sender: Sender, queued: list) -> None:
    sent = sender.create().upload().complete().complete()
    assert sent.show()["status"] == "PROCESSING"
    assert queued == [("checking.process", str(sent.id))]


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


def test_what_an_attempt_failed_of_is_not_told_of_a_later_one(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever sends would wait for the operator, instead of sending what is missing."""

    def refuse(*given: object, **named: object) -> None:
        raise StorageRefused

    sent = sender.create({"a": b"a", "b": b"b"}).upload(without=(("b", 1),)).complete()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(storage, "head", refuse)
        with pytest.raises(StorageRefused):
            sent.process()
    assert sent.row().failure is Failure.STORAGE
    shown = sent.set(lease_until=None).process().show()
    assert (shown["status"], shown["problem"]) == ("INIT", None)
    assert shown["files"][1]["problem"]["code"] == "missing"


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


def drop_multipart(sent: Sent, **files: bool) -> Upload:
    """Storage forgets what was sent of the transfer's last file, behind everybody's back."""
    upload = transfers.files_of(sent.id, **files)[-1].upload
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    return upload


def test_f15_whoever_asks_what_is_held_can_go_on_after_storage_has_dropped_it(
    sender: Sender, inside: None
) -> None:
    """Before "that is all" nobody else finds out: each address would lead to nothing for ever."""
    sent = sender.create({"big.bin": b"b" * (2 * PART)}).upload()
    drop_multipart(sent)
    assert sent.call("GET", "/parts").json["files"][0]["held"] == []
    shown = sent.upload().complete().process().show()
    assert (shown["status"], shown["problem"]) == ("READY", None)


def test_f15_more_files_can_go_on_after_storage_has_dropped_them(
    sender: Sender, inside: None
) -> None:
    sent = sender.ready()
    made = sent.call("POST", "/files", json={"files": [{"path": "b", "size": 2 * PART}]}).json
    more = Sent(sent.client, sent.json | {"files": made["files"]}, {"b": b"b" * (2 * PART)})
    drop_multipart(more.upload(), with_coming=True)
    assert [one["held"] for one in more.call("GET", "/parts").json["files"]] == [[1], []]
    more.upload()
    assert [one["held"] for one in more.call("GET", "/parts").json["files"]] == [[1], [1, 2]]


@pytest.mark.parametrize("who", ["completes a file", "checks it"])
def test_what_somebody_is_completing_is_not_begun_again(
    sender: Sender, inside: None, who: str
) -> None:
    sent = sender.create({"big.bin": b"b" * (2 * PART)}).upload()
    if who == "checks it":
        sent.complete()
    else:
        sent.set(lease_until=clock.now() + timedelta(minutes=1))
    upload = drop_multipart(sent)
    assert sent.call("GET", "/parts").json["files"][0]["held"] == []
    kept = select(Upload.s3_upload_id).where(Upload.id == upload.id)
    assert db.session.scalar(kept) == upload.s3_upload_id


def test_a_transfer_without_files_cannot_be_completed(sender: Sender) -> None:
    sent = sender.create({})
    answer = sent.call("POST", "/complete")
    assert (answer.status_code, answer.json["error"]["fields"][0]["field"]) == (400, "files")
    assert sent.show()["status"] == "INIT"


def test_process_does_nothing_for_what_is_not_processing(sender: Sender, inside: None) -> None:
    sent = sender.create()
    checking.process(str(sent.id))
    checking.process(str(uuid.uuid4()))
    assert sent.show()["status"] == "INIT"


def test_f29_a_second_runner_does_nothing_while_the_first_holds_the_lease(
    sender: Sender, inside: None
) -> None:
    sent = sender.create().upload().complete()
    with leases.hold(Transfer, sent.id, IS_PROCESSING) as first:
        assert first is not None
        checking.process(str(sent.id))
        assert sent.show()["status"] == "PROCESSING"
    assert sent.process().show()["status"] == "READY"


@contextmanager
def taken_over(sent: Sent) -> Iterator[tuple[leases.Lease, leases.Lease]]:
    """The lease of a worker that was too slow, and that of the worker that has taken over."""
    with leases.hold(Transfer, sent.id, IS_PROCESSING) as late:
        assert late is not None
        sent.set(lease_until=clock.now() - timedelta(seconds=1))
        with leases.hold(Transfer, sent.id, IS_PROCESSING) as taker:
            assert taker is not None
            yield late, taker


def test_f29_a_late_runner_is_fenced_out(sender: Sender, inside: None) -> None:
    """Its lease lapsed and another took over: whatever it still writes changes nothing."""
    sent = sender.create().upload().complete()
    with taken_over(sent) as (late, _):
        file = transfers.files_of(sent.id)[0]
        checking.record_completed(late, [completing.complete(file.upload)])
        assert transfers.files_of(sent.id)[0].upload.state is UploadState.OPEN
        lost = Outcome(file.upload.id, problem=Problem.LOST)
        checking._settle(late, {file.id: lost})
        checking._give_up(late)
        row = sent.row()
        assert (row.state, row.failure) == (State.PROCESSING, None)
        # A lost file would have been given a new upload.
        assert transfers.files_of(sent.id)[0].upload.id == file.upload.id
    assert sent.process().show()["status"] == "READY"


def test_f29_a_late_runner_does_not_make_it_ready(sender: Sender, inside: None) -> None:
    """Even with every file complete, only the worker that holds the lease may do that."""
    sent = sender.create().upload().complete()
    with taken_over(sent) as (late, taker):
        (file,) = transfers.files_of(sent.id)
        assert checking.record_completed(taker, [completing.complete(file.upload)])
        checking._settle(late, {})
        assert sent.row().state is State.PROCESSING


def test_a_failed_attempt_is_left_alone_for_a_while_and_then_succeeds(
    sender: Sender, inside: None, monkeypatch
) -> None:
    sent = sender.create().upload().complete()
    with monkeypatch.context() as broken:
        broken.setattr(storage, "head", lambda key, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checking.process(str(sent.id))
    row = sent.row()
    assert (row.state, row.lease_token, row.attempt_count) == (State.PROCESSING, None, 1)
    assert row.lease_until > clock.now()
    assert sent.process().show()["status"] == "PROCESSING"
    assert sent.set(lease_until=None).process().show()["status"] == "READY"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(ZeroDivisionError, leases.BACKOFF_SECONDS[0]), (Outage, leases.OUTAGE_SECONDS)],
)
def test_an_attempt_that_fails_after_it_was_forgiven_rests_as_shortly_as_any_first_one(
    sender: Sender, inside: None, error: type[Exception], seconds: int
) -> None:
    """The database may fail just when it is recorded that files wait for the block list."""
    sent = sender.create().upload().complete()

    def forgive_and_fail() -> None:
        with leases.hold(Transfer, sent.id, IS_PROCESSING) as lease:
            lease.forgive()
            raise error

    with pytest.raises(error):
        forgive_and_fail()
    row = sent.row()
    assert (row.lease_token, row.attempt_count) == (None, 0)
    assert row.lease_until <= clock.now() + timedelta(seconds=seconds)


def test_a_stopping_worker_hands_over(sender: Sender, inside: None, queued: list) -> None:
    sent = sender.create().upload().complete()
    queued.clear()
    jobs.stopping.set()
    checking.process(str(sent.id))
    jobs.stopping.clear()
    assert queued == [("checking.process", str(sent.id))]
    assert sent.process().show()["status"] == "READY"


def test_ready_is_refused_while_any_file_is_open(sender: Sender, inside: None) -> None:
    """The last guard: even a runner that believes all is well cannot make it READY."""
    sent = sender.create({"a": b"1", "b": b"2"}).upload().complete()
    with leases.hold(Transfer, sent.id, IS_PROCESSING) as lease:
        checking._settle(lease, {})
    assert sent.show()["status"] == "PROCESSING"


def test_deleted_while_processing_stays_deleted(sender: Sender, inside: None, monkeypatch) -> None:
    sent = sender.create({"a": b"1"}).upload().complete()
    complete_all = completing.complete_all

    def delete_meanwhile(batch: list) -> list:
        outcomes = complete_all(batch)
        transfers.delete(sent.id)
        return outcomes

    monkeypatch.setattr(completing, "complete_all", delete_meanwhile)
    sent.process()
    assert sent.row().state is State.DELETED
    assert transfers.files_of(sent.id)[0].upload.state is UploadState.ABORTED


def test_the_heartbeat_notices_that_the_lease_is_gone(app, monkeypatch, inside: None) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    lease = leases.Lease(Transfer, uuid.uuid4(), attempt=1)
    done = threading.Event()
    heart = threading.Thread(target=leases._beat, args=(db.engine, lease, done))
    heart.start()
    assert lease.lost.wait(5)
    done.set()
    heart.join()


def test_finalizing_what_was_deleted_is_gone(sender: Sender, inside: None) -> None:
    sent = sender.create()
    transfer = sent.row()
    transfers.delete(sent.id)
    with pytest.raises(Gone):
        checking.finalize(transfer)
    assert db.session.query(File).filter_by(transfer_id=sent.id).count() == 1


@pytest.mark.parametrize("is_swept", [False, True])
def test_finalizing_again_what_has_expired_is_gone_even_before_the_sweep(
    sender: Sender, inside: None, is_swept: bool
) -> None:
    sent = sender.ready().set(expires_at=clock.now())
    if is_swept:
        upkeep.expire_due()
    answer = sent.call("POST", "/complete")
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")


def failing(monkeypatch, error: Exception) -> None:
    """Let every look at storage fail from now on."""

    def fail(key: str, **more: bool) -> None:
        raise error

    monkeypatch.setattr(storage, "head", fail)


def attempts(sent: Sent, count: int, error: type[Exception]) -> None:
    """Run the job so often, as if the backoff between the attempts had passed."""
    for _ in range(count):
        with pytest.raises(error):
            sent.process()
        sent.set(lease_until=None)


@pytest.mark.parametrize(
    ("error", "code"), [(ZeroDivisionError(), "internal"), (StorageRefused(), "storage")]
)
def test_f34_a_poison_transfer_ends_with_its_reason_and_can_be_tried_again(
    sender: Sender, monkeypatch, error: Exception, code: str
) -> None:
    sent = sender.create().upload().complete()
    with monkeypatch.context() as broken:
        failing(broken, error)
        attempts(sent, checking.MOST_ATTEMPTS, type(error))
        assert sent.show()["problem"] is None
        assert sent.process().show()["status"] == "INIT"
    problem = sent.show()["problem"]
    assert problem["code"] == code
    assert "kept" in problem["message"]
    shown = sent.complete().process().show()
    assert (shown["status"], shown["problem"]) == ("READY", None)


def test_f34_a_transfer_that_kills_its_worker_is_given_up_too(sender: Sender, inside: None) -> None:
    sent = sender.create().upload().complete().set(attempt_count=checking.MOST_ATTEMPTS)
    assert sent.process().show()["problem"]["code"] == "internal"


def test_an_outage_does_not_count_as_an_attempt_and_is_over_soon(
    sender: Sender, monkeypatch
) -> None:
    sent = sender.create().upload().complete()
    with monkeypatch.context() as away:
        failing(away, Outage())
        attempts(sent, 2 * checking.MOST_ATTEMPTS, Outage)
        assert sent.row().attempt_count == 0
        with pytest.raises(Outage):
            sent.process()
    row = sent.row()
    assert row.lease_until < clock.now() + timedelta(seconds=leases.OUTAGE_SECONDS + 1)
    assert row.queued_at is None
    assert sent.set(lease_until=None).process().show()["status"] == "READY"


@pytest.mark.parametrize(
    "away",
    [
        OperationalError("UPDATE", {}, psycopg2.OperationalError("Connection refused")),
        OperationalError("UPDATE", {}, psycopg2.OperationalError("server closed the connection")),
        InterfaceError("UPDATE", {}, psycopg2.InterfaceError("connection already closed")),
    ],
    ids=["refused", "closed", "closed before"],
)
def test_f38_a_database_that_is_away_is_an_outage_and_not_a_failed_attempt(
    sender: Sender, monkeypatch, away: Exception
) -> None:
    sent = sender.create().upload().complete()
    with monkeypatch.context() as broken:
        failing(broken, away)
        attempts(sent, 2 * checking.MOST_ATTEMPTS, type(away))
        with pytest.raises(type(away)):
            sent.process()
    row = sent.row()
    assert (row.state, row.attempt_count, row.failure) == (State.PROCESSING, 0, None)
    assert row.lease_until < clock.now() + timedelta(seconds=leases.OUTAGE_SECONDS + 1)
    assert sent.set(lease_until=None).process().show()["status"] == "READY"


def test_a_statement_that_never_ends_in_time_is_a_failed_attempt(
    sender: Sender, monkeypatch
) -> None:
    """The database answers, and it is this transfer that it cannot manage: not for ever."""

    def take_too_long(key: str, **more: bool) -> None:
        db.session.execute(text("SET LOCAL statement_timeout = 1"))
        db.session.execute(text("SELECT pg_sleep(1)"))

    sent = sender.create().upload().complete()
    with monkeypatch.context() as broken:
        broken.setattr(storage, "head", take_too_long)
        attempts(sent, checking.MOST_ATTEMPTS, OperationalError)
        assert sent.process().show()["problem"]["code"] == "internal"


def test_f35_a_check_of_very_many_turns_is_never_given_up(sender: Sender, monkeypatch) -> None:
    """A turn that ends, or a worker that is told to leave, has failed at nothing."""
    sent = sender.create({f"{n}.txt": b"x" for n in range(3)}).upload().complete()
    with monkeypatch.context() as turns:
        turns.setattr(checking, "TURN_SECONDS", -1)
        for _ in range(2 * checking.MOST_ATTEMPTS):
            assert sent.process().show()["status"] == "PROCESSING"
        assert sent.row().attempt_count == 0
    assert sent.process().show()["status"] == "READY"


def test_f35_a_very_long_check_lets_others_have_their_turn(
    sender: Sender, queued: list, monkeypatch
) -> None:
    monkeypatch.setattr(checking, "TURN_SECONDS", -1)
    sent = sender.create().upload().complete()
    queued.clear()
    assert sent.process().show()["status"] == "PROCESSING"
    assert queued == [("checking.process", str(sent.id))]


def test_f36_every_reminder_has_another_number(sender: Sender, inside: None) -> None:
    sent = sender.create().upload().complete()
    counts = [sent.row().queue_count]
    for _ in range(2):
        sent.set(queued_at=None)
        checking.remind_stuck(clock.db_now())
        counts.append(sent.row().queue_count)
    assert counts == [1, 2, 3]
