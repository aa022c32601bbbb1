"""What happens while a zip is made: its transfer ends, and others ask for it or make it too."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from app import clock
from app.db import db, transaction
from app.errors import Gone
from app.extensions import storage
from app.gateways.s3_answers import PartsRefused, SourceLost
from app.models import Archive, Problem, Upload, UploadState
from app.services import archives, completing, composing, downloads, planning, transfers, upkeep
from app.services.completing import Outcome
from tests.factories import Sender
from tests.services.zips import SMALL, Calls, archive, contents, large

# -- the transfer's end ----------------------------------------------------------------------


def test_it_goes_with_its_transfer(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL).zip()
    upload = archive(sent).upload
    assert transfers.delete(sent.id)
    with transaction():
        db.session.execute(update(Upload).values(remove_after=clock.now() - timedelta(hours=2)))
    upkeep.remove_bytes()
    assert storage.head(upload.key) is None
    archives.build(str(sent.id))
    assert storage.head(upload.key) is None


def test_a_transfer_that_ends_in_the_middle_ends_the_build(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    complete = completing.complete

    def delete_first(*given: Any) -> Any:
        transfers.delete(sent.id)
        return complete(*given)

    monkeypatch.setattr(completing, "complete", delete_first)
    archives.build(str(sent.id))
    upload = archive(sent).upload
    assert upload.state is UploadState.ABORTED
    assert archive(sent).ready_at is None
    with transaction():
        db.session.execute(
            update(Upload).values(urls_until=None, remove_after=clock.now() - timedelta(hours=2))
        )
    upkeep.remove_bytes()
    assert storage.head(upload.key) is None


@pytest.mark.parametrize("end", ["refused", "lost", "copied anew"])
def test_who_has_lost_the_lease_leaves_the_parts_to_who_has_it(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)

    def lose_the_lease(upload: Upload, *given: Any) -> Outcome:
        with transaction():
            db.session.execute(update(Archive).values(lease_token=uuid.uuid4()))
        if end == "refused":
            raise PartsRefused
        if end == "copied anew":
            raise SourceLost
        return Outcome(upload.id, problem=Problem.LOST)

    monkeypatch.setattr(completing, "complete", lose_the_lease)
    anew = [(file.upload, storage.head(file.upload.key)) for file in transfers.files_of(sent.id)]
    monkeypatch.setattr(completing, "copied_anew", lambda uploads: anew)
    # The other's parts have the checksums that this may clear.
    monkeypatch.setattr(completing, "note_copied", lambda copied: pytest.fail("cleared"))
    archives.build(str(sent.id))
    upload = archive(sent).upload
    assert upload.s3_upload_id is not None
    assert upload.part_size == planning.ANY_PART_SIZE
    assert storage.list_parts(upload.key, upload.s3_upload_id)


def test_a_transfer_that_ends_among_the_parts_has_no_more_of_them_made(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    monkeypatch.setattr(archives, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(composing, "BATCH", 1)
    calls = Calls(monkeypatch)
    tell = archives._Turn.tell

    def telling(turn: Any, done_size: int) -> None:
        transfers.delete(sent.id)
        tell(turn, done_size)

    monkeypatch.setattr(archives._Turn, "tell", telling)
    archives.build(str(sent.id))
    assert len(calls.copied) + len(calls.put) == 1
    assert archive(sent).ready_at is None


def test_what_a_maker_writes_after_the_removal_is_removed_too(sender: Sender, inside: None) -> None:
    """One that hung may go on writing for a while after its transfer was deleted."""
    sent = sender.ready(SMALL).zip()
    upload = archive(sent).upload
    transfers.delete(sent.id)
    upkeep.remove_bytes()
    assert storage.head(upload.key) is None
    storage.put_object(upload.key, upload.token, b"late", "application/zip")
    upkeep.remove_bytes()
    assert storage.head(upload.key), "not due yet"
    long_ago = clock.now() - timedelta(days=9)
    with transaction():
        it = update(Upload).where(Upload.id == upload.id)
        db.session.execute(it.values(urls_until=long_ago, remove_after=long_ago))
    upkeep.remove_bytes()
    assert storage.head(upload.key) is None
    db.session.refresh(upload)
    assert upload.removed_at is not None


def test_an_expired_transfer_waits_with_its_zip(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL)
    archives.request(sent.id)
    sent.set(expires_at=clock.now() - timedelta(seconds=1))
    upkeep.expire_due()
    archives.build(str(sent.id))
    assert archive(sent).upload.s3_upload_id is None
    with pytest.raises(Gone):
        downloads.zip_url(sent.slug, None)


# -- many at once ----------------------------------------------------------------------------


def test_while_one_is_at_it_no_other_begins(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL, verified=True)
    archives.request(sent.id)
    held = {"lease_token": uuid.uuid4(), "lease_until": clock.now() + timedelta(minutes=1)}
    with transaction():
        db.session.execute(update(Archive).values(held))
    archives.build(str(sent.id))
    assert archive(sent).upload.s3_upload_id is None
    with transaction():
        db.session.execute(update(Archive).values(lease_until=clock.now() - timedelta(minutes=1)))
    archives.build(str(sent.id))
    assert contents(sent) == SMALL


def test_who_has_lost_the_lease_settles_nothing(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is at it by now, and says when it is made."""
    sent = sender.ready(SMALL, verified=True)
    archives.request(sent.id)
    complete = completing.complete

    def taken_away(*given: Any) -> Any:
        with transaction():
            db.session.execute(update(Archive).values(lease_token=uuid.uuid4()))
        return complete(*given)

    with monkeypatch.context() as late:
        late.setattr(completing, "complete", taken_away)
        archives.build(str(sent.id))
    assert archive(sent).ready_at is None
    with transaction():
        db.session.execute(update(Archive).values(lease_token=None, lease_until=None))
    archives.build(str(sent.id))
    assert contents(sent) == SMALL


def at_once(app: Flask, *acts: Callable[[], None]) -> list[Exception]:
    """Each in a thread and with a session of its own; what was raised."""
    failures: list[Exception] = []

    def run(act: Callable[[], None]) -> None:
        with app.app_context():
            try:
                act()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@pytest.mark.real_commits
def test_many_who_ask_at_once_get_one_build(app: Flask, sender: Sender, queued: list) -> None:
    sent = sender.ready(SMALL)
    queued.clear()
    assert at_once(app, *[lambda: archives.request(sent.id)] * 12) == []
    assert queued == [("archives.build", str(sent.id))]


@pytest.mark.real_commits
def test_two_who_ask_in_the_same_moment_get_one_build(
    app: Flask, sender: Sender, queued: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look whether there is a zip before either has planned one, if nothing keeps them."""
    sent = sender.ready(SMALL)
    queued.clear()
    files_of, both = archives.files_of, threading.Barrier(2)

    def slowly(transfer_id: uuid.UUID) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)
        return files_of(transfer_id)

    monkeypatch.setattr(archives, "files_of", slowly)
    failures = at_once(app, *[lambda: archives.request(sent.id)] * 2)
    assert failures == []
    assert queued == [("archives.build", str(sent.id))]


@pytest.mark.real_commits
def test_a_transfer_that_ends_while_its_zip_is_asked_for_takes_it_along(
    app: Flask, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(SMALL)
    files_of, asked = archives.files_of, threading.Event()

    def slowly(transfer_id: uuid.UUID) -> Any:
        asked.set()
        # Long enough for the end to come between, if nothing keeps it.
        time.sleep(0.5)
        return files_of(transfer_id)

    def end() -> None:
        asked.wait(timeout=10)
        monkeypatch.setattr(archives, "files_of", files_of)
        assert transfers.delete(sent.id)

    monkeypatch.setattr(archives, "files_of", slowly)
    assert at_once(app, lambda: archives.request(sent.id), end) == []
    with app.app_context():
        assert archive(sent).upload.state is UploadState.ABORTED


@pytest.mark.real_commits
def test_several_builders_at_once_make_one_zip(app: Flask, sender: Sender) -> None:
    sent = sender.ready(large(), verified=True)
    with app.app_context():
        archives.request(sent.id)

    assert at_once(app, *[lambda: archives.build(str(sent.id))] * 4) == []
    with app.app_context():
        assert contents(sent) == large()
        key = archive(sent).upload.key
        assert [one for page in storage.open_uploads() for one in page if one.key == key] == []
