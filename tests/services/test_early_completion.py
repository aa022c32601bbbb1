"""Files that unlock one by one: early, never wrongly, and no matter for "that is all"."""

import threading
import time
import uuid

import pytest
from flask import Flask
from sqlalchemy import func, text, update

from app import clock, jobs, leases
from app.config import MIB
from app.db import db
from app.errors import Gone, NotFound, Outage, WrongState
from app.extensions import storage
from app.models import State, Transfer, Upload, UploadState
from app.services import (
    checking,
    completing,
    contents,
    downloads,
    early_completion,
    sending,
    transfer_view,
    transfers,
    upkeep,
)
from tests.factories import Sender, Sent, http, put
from tests.test_races import at_once

PART = 8 * MIB
CONTENTS = {"a.txt": b"hello", "big.bin": b"b" * (PART + 3), "late.bin": b"l" * (PART + 1)}
WITHOUT_LATE = (("late.bin", 1),)


@pytest.fixture
def sent(sender: Sender) -> Sent:
    """Two files are there whole, of the third a part is missing."""
    return sender.create(CONTENTS, verified=True).upload(without=WITHOUT_LATE)


def states(sent: Sent) -> list[str]:
    return [file["state"] for file in sent.show()["files"]]


def finish(sent: Sent) -> None:
    """What is missing is sent, and all of it becomes READY."""
    for part in sent.sign(sent.files[2], 1):
        put(part["url"], sent.piece(sent.files[2], 1), part["headers"])
    assert sent.complete().process().show()["status"] == "READY"


def url_of(sent: Sent, path: str, visitor: str | None = None) -> str:
    file = next(file for file in sent.files if file["path"] == path)
    return downloads.file_url(sent.slug, uuid.UUID(file["id"]), visitor)


def test_what_was_named_and_is_whole_is_complete_before_the_rest(sent: Sent, queued: list) -> None:
    sent.name("a.txt", "big.bin")
    assert queued == [("early_completion.complete_sent", str(sent.id))]
    shown = sent.unlock().show()
    assert (shown["status"], states(sent)) == ("INIT", ["COMPLETE", "COMPLETE", "OPEN"])
    assert all(file["crc32"] for file in shown["files"][:2])
    finish(sent)


def test_a_word_is_not_believed(sent: Sent, inside: None) -> None:
    """What storage does not confirm stays open, unharmed, and is not asked for again and again."""
    sent.name().unlock()
    assert states(sent) == ["COMPLETE", "COMPLETE", "OPEN"]
    assert transfers.files_of(sent.id)[2].upload.sent_at is None
    assert sent.show()["files"][2]["problem"] is None
    finish(sent)


def test_only_what_is_named_is_looked_at(sent: Sent, monkeypatch) -> None:
    looked: list[int] = []
    complete_all = completing.complete_all
    monkeypatch.setattr(
        completing,
        "complete_all",
        lambda batch: (looked.append(len(batch)), complete_all(batch))[1],
    )
    sent.name("big.bin").unlock().unlock()
    assert (looked, states(sent)) == ([1], ["OPEN", "COMPLETE", "OPEN"])


def test_a_named_file_that_came_back_is_no_problem_any_more(sent: Sent) -> None:
    sent.complete().process()
    assert sent.show()["files"][2]["problem"]["code"] == "missing"
    for part in sent.sign(sent.files[2], 1):
        put(part["url"], sent.piece(sent.files[2], 1), part["headers"])
    shown = sent.name("late.bin").unlock().show()
    assert (shown["status"], shown["files"][2]["problem"]) == ("INIT", None)
    assert sent.complete().process().show()["status"] == "READY"


def test_naming_queues_one_job_however_often(sent: Sent, queued: list) -> None:
    for _ in range(3):
        sent.name("a.txt").name("big.bin")
    assert queued == [("early_completion.complete_sent", str(sent.id))]
    sent.unlock()
    sent.name("late.bin")
    assert len(queued) == 2
    assert sent.row().queue_count == 2


def test_naming_what_is_complete_already_queues_nothing(sent: Sent, queued: list) -> None:
    sent.name("a.txt").unlock()
    queued.clear()
    sent.name("a.txt")
    assert queued == []


def test_a_lost_reminder_is_repeated_when_more_is_named(sent: Sent, queued: list) -> None:
    sent.name("a.txt")
    queued.clear()  # with Redis
    sent.set(queued_at=clock.now() - sending.REMIND_OF_SENT_AFTER)
    sent.name("big.bin")
    assert queued == [("early_completion.complete_sent", str(sent.id))]
    sent.unlock()
    assert states(sent) == ["COMPLETE", "COMPLETE", "OPEN"]


def test_what_is_named_while_it_runs_is_done_in_the_same_turn(sent: Sent, monkeypatch) -> None:
    complete_all = completing.complete_all

    def name_meanwhile(batch: list) -> list:
        sent.name("big.bin")
        return complete_all(batch)

    monkeypatch.setattr(completing, "complete_all", name_meanwhile)
    sent.name("a.txt").unlock()
    assert states(sent) == ["COMPLETE", "COMPLETE", "OPEN"]


def test_what_is_named_after_its_last_look_is_queued_once_the_lease_is_free(
    sent: Sent, queued: list, monkeypatch
) -> None:
    """A reminder that came at once would find the lease taken, and be lost."""
    complete_sent = early_completion._complete_sent

    def name_late(lease: leases.Lease) -> None:
        complete_sent(lease)
        sent.name("big.bin")
        assert queued == []

    monkeypatch.setattr(early_completion, "_complete_sent", name_late)
    sent.name("a.txt")
    queued.clear()
    sent.unlock()
    assert (queued, sent.row().lease_token) == (
        [("early_completion.complete_sent", str(sent.id))],
        None,
    )


def test_a_stopping_worker_hands_over(sent: Sent, queued: list) -> None:
    sent.name("a.txt")
    queued.clear()
    jobs.stopping.set()
    sent.unlock()
    jobs.stopping.clear()
    assert queued == [("early_completion.complete_sent", str(sent.id))]
    assert states(sent.unlock())[0] == "COMPLETE"


def test_it_counts_no_attempt_unless_it_fails_and_then_costs_that_is_all_nothing(
    sent: Sent, monkeypatch
) -> None:
    sent.name("a.txt").unlock()
    assert sent.row().attempt_count == 0
    sent.name("big.bin")
    with monkeypatch.context() as broken:
        broken.setattr(storage, "head", lambda key, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sent.unlock()
    row = sent.row()
    assert (row.attempt_count, row.lease_token, row.failure) == (1, None, None)
    assert states(sent.unlock())[1] == "OPEN"  # left alone for a while
    finish(sent)


def test_storage_that_is_away_loses_nothing(sent: Sent, monkeypatch) -> None:
    sent.name("a.txt")

    def away(key: str, **more: bool) -> None:
        raise Outage

    with monkeypatch.context() as broken:
        broken.setattr(storage, "head", away)
        with pytest.raises(Outage):
            sent.unlock()
    assert sent.row().attempt_count == 0
    assert states(sent.set(lease_until=None).unlock())[0] == "COMPLETE"


@pytest.mark.parametrize("end", ["finalize", "delete"])
def test_whoever_moves_the_transfer_takes_the_work_away(
    sender: Sender, inside: None, monkeypatch, end: str
) -> None:
    """Completed in storage, and not recorded: "that is all" finds it, a removal removes it."""
    sent = sender.create({"big.bin": CONTENTS["big.bin"]}, verified=True).upload().name()
    complete_all = completing.complete_all

    def end_meanwhile(batch: list) -> list:
        outcomes = complete_all(batch)
        sent.complete() if end == "finalize" else transfers.delete(sent.id)
        return outcomes

    with monkeypatch.context() as ending:
        ending.setattr(completing, "complete_all", end_meanwhile)
        sent.unlock()
    upload = transfers.files_of(sent.id)[0].upload
    if end == "finalize":
        assert upload.state is UploadState.OPEN
        shown = sent.process().show()
        assert (shown["status"], bool(shown["files"][0]["crc32"])) == ("READY", True)
    else:
        assert upload.state is UploadState.ABORTED
        upkeep.remove_bytes()
        assert storage.head(upload.key) is None


def test_a_late_one_is_fenced_out(sent: Sent, inside: None) -> None:
    sent.name("a.txt")
    with leases.hold(Transfer, sent.id, Transfer.state == State.INIT) as late:
        assert late is not None
        outcome = completing.complete(transfers.files_of(sent.id)[0].upload)
        sent.set(lease_token=uuid.uuid4())
        assert not early_completion._settle(late, [outcome])
    assert states(sent)[0] == "OPEN"


# -- what a recipient may have -----------------------------------------------------------------


def test_a_file_is_had_as_soon_as_it_is_safe_and_the_others_are_not(
    sent: Sent, inside: None
) -> None:
    sent.name("a.txt").unlock()
    assert http.request("GET", url_of(sent, "a.txt")).data == b"hello"
    for path in ("big.bin", "late.bin"):
        with pytest.raises(WrongState):
            url_of(sent, path)
    sent.complete()
    assert http.request("GET", url_of(sent, "a.txt")).data == b"hello"
    with pytest.raises(WrongState):
        url_of(sent, "big.bin")
    assert sent.row().download_count == 2
    # Sent back for what is missing, it is as it was.
    assert sent.process().show()["status"] == "INIT"
    assert url_of(sent, "big.bin")


def test_the_limit_holds_while_files_are_on_their_way(sender: Sender, inside: None) -> None:
    sent = sender.create(CONTENTS, max_downloads=1).upload(without=WITHOUT_LATE)
    sent.name("a.txt", "big.bin").unlock()
    assert url_of(sent, "a.txt", "ada")
    assert url_of(sent, "big.bin", "ada")
    with pytest.raises(Gone) as caught:
        url_of(sent, "a.txt", "bob")
    assert caught.value.details == {"reason": "limit_reached"}
    assert transfer_view.view(sent.slug, "ada").state == "uploading"
    assert transfer_view.view(sent.slug, "bob").state == "limit_reached"
    finish(sent)
    assert transfer_view.view(sent.slug, "ada").state == "ready"
    assert sent.row().download_count == 1


def test_a_date_that_passes_meanwhile_keeps_nobody_from_what_has_come(
    sent: Sent, inside: None
) -> None:
    sent.name("a.txt").unlock().set(expires_at=clock.now())
    assert transfer_view.view(sent.slug).state == "uploading"
    assert url_of(sent, "a.txt")
    assert sent.row().download_count == 1


def test_a_file_that_its_sender_takes_out_is_gone_at_once(sent: Sent, inside: None) -> None:
    sent.name("a.txt").unlock()
    key = transfers.files_of(sent.id)[0].upload.key
    assert sent.call("DELETE", f"/files/{sent.files[0]['id']}").status_code == 204
    with pytest.raises(NotFound):
        url_of(sent, "a.txt")
    with pytest.raises(NotFound):  # it was still there a moment ago
        downloads.count_once(sent.id, uuid.UUID(sent.files[0]["id"]), None)
    assert sent.row().download_count == 0
    upkeep.remove_bytes()
    assert storage.head(key) is None


def test_a_file_that_is_not_safe_is_never_counted(sent: Sent, inside: None) -> None:
    with pytest.raises(WrongState):
        downloads.count_once(sent.id, uuid.UUID(sent.files[0]["id"]), None)
    assert sent.row().download_count == 0


# -- all at once -------------------------------------------------------------------------------


@pytest.mark.real_commits
def test_several_at_once_do_it_once(app: Flask, sent: Sent, monkeypatch) -> None:
    finished: list[str] = []
    finish_upload = storage.finish_upload
    monkeypatch.setattr(
        storage,
        "finish_upload",
        lambda key, *more: (finished.append(key), finish_upload(key, *more))[1],
    )
    sent.name("a.txt", "big.bin")
    at_once(app, 6, lambda _: early_completion.complete_sent(str(sent.id)))
    assert states(sent) == ["COMPLETE", "COMPLETE", "OPEN"]
    assert len(finished) == 1


@pytest.mark.real_commits
def test_early_against_that_is_all(app: Flask, sender: Sender) -> None:
    """Both complete the same files; none is lost, and all is READY."""
    for _ in range(8):
        sent = sender.create(CONTENTS, verified=True).upload().name()

        def act(index: int, sent: Sent = sent) -> None:
            if index % 2:
                early_completion.complete_sent(str(sent.id))
            else:
                checking.finalize(transfers.of_id(sent.id))
                checking.process(str(sent.id))

        at_once(app, 4, act)
        if sent.row().state is not State.READY:  # whoever failed left it to the next
            sent.set(lease_until=None).process()
        shown = sent.show()
        assert shown["status"] == "READY"
        assert all(file["crc32"] for file in shown["files"])


@pytest.mark.real_commits
def test_early_against_taking_a_file_out_and_against_deleting(app: Flask, sender: Sender) -> None:
    for end in ("remove", "delete") * 4:
        sent = sender.create(CONTENTS).upload(without=WITHOUT_LATE).name("a.txt", "big.bin")
        with app.app_context():
            keys = [file.upload.key for file in transfers.files_of(sent.id)][:2]
        file_id = uuid.UUID(sent.files[1]["id"])

        def act(
            index: int, sent: Sent = sent, end: str = end, file_id: uuid.UUID = file_id
        ) -> None:
            if index % 2:
                early_completion.complete_sent(str(sent.id))
            elif end == "remove":
                contents.remove_file(transfers.of_id(sent.id), file_id)
            else:
                transfers.delete(sent.id)

        at_once(app, 4, act)
        with app.app_context():
            upkeep.remove_bytes()
            left = [storage.head(key) is not None for key in keys]
        assert left == ([True, False] if end == "remove" else [False, False])
        if end == "remove":
            assert states(sent)[-1] == "OPEN"


@pytest.mark.real_commits
def test_a_download_against_taking_its_file_out(app: Flask, sender: Sender) -> None:
    """Counted or not, and never a broken answer: the file's row goes while it is being counted."""
    for _ in range(6):
        sent = sender.create(CONTENTS).upload(without=WITHOUT_LATE).name("a.txt").unlock()
        file_id = uuid.UUID(sent.files[0]["id"])

        def act(index: int, sent: Sent = sent, file_id: uuid.UUID = file_id) -> str:
            if index == 0:
                contents.remove_file(transfers.of_id(sent.id), file_id)
                return "removed"
            downloads.file_url(sent.slug, file_id, f"visitor {index}")
            return "link"

        told = at_once(app, 6, act)
        assert told["removed"] == 1
        assert told["link"] + told["not_found"] == 5
        assert sent.row().download_count == told["link"]


@pytest.mark.real_commits
def test_naming_and_recording_the_same_files_never_wait_for_each_other(
    app: Flask, sender: Sender, monkeypatch
) -> None:
    """A request writes their rows in another order; whoever has the transfer's row goes first."""
    sent = sender.create({f"{n}": b"x" for n in range(3)}).upload().name()
    with app.app_context():
        first, _, last = (file.upload_id for file in transfers.files_of(sent.id))
        engine = db.engine
    is_locked = threading.Event()
    waits = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    def name_again() -> None:
        with engine.begin() as other:
            other.execute(update(Transfer).where(Transfer.id == sent.id).values(sent_size=1))
            other.execute(update(Upload).where(Upload.id == last).values(sent_at=func.now()))
            is_locked.set()
            while not other.scalar(waits):
                time.sleep(0.01)
            other.execute(update(Upload).where(Upload.id == first).values(sent_at=func.now()))

    complete_all = completing.complete_all
    naming = threading.Thread(target=name_again)

    def name_meanwhile(batch: list) -> list:
        outcomes = complete_all(batch)
        naming.start()
        is_locked.wait()
        return outcomes

    monkeypatch.setattr(completing, "complete_all", name_meanwhile)
    sent.unlock()
    naming.join()
    assert states(sent) == ["COMPLETE"] * 3
