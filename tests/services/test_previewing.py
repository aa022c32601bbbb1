"""Previews from READY to the end: one set of objects, whatever happens, and nothing waits for it."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text, update

from app import clock, jobs
from app.db import db, transaction
from app.errors import Outage
from app.extensions import storage
from app.gateways import darkroom
from app.gateways.darkroom import Interrupted
from app.gateways.s3_answers import SourceLost
from app.models import File, Preview, PreviewState, State, Transfer, Upload, UploadState
from app.services import (
    dry_runs,
    picturing,
    previewing,
    previews,
    reconciling,
    transfers,
    upkeep,
)
from tests import pictures
from tests.factories import Sender, Sent, copy_anew
from tests.pictures import drawn, encoded

pytestmark = pytest.mark.usefixtures("inside")
PHOTO = encoded(drawn(), "JPEG")
HOSTILE = {
    "bomb.png": pictures.bomb(),
    "large.png": pictures.png_that_says(100_000, 100_000, b"x\x9c\3\0\0\0\0\1"),
    "cut.jpg": PHOTO[:2000],
    "noise.jpg": b"\xff\xd8" + bytes(range(256)) * 40,
    "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "garbage.pdf": b"%PDF-1.7\n" + b"<<" * 5000,
    "garbage.mp4": b"\0\0\0\x18ftypisom" + b"\xff" * 5000,
    "noise.txt": bytes(range(256)),
}


def rows(sent: Sent) -> dict[str, Preview]:
    """The previews by path, as they are now."""
    found = db.session.execute(
        select(File.path, Preview)
        .join(Preview, Preview.file_id == File.id)
        .where(File.transfer_id == sent.id)
        .execution_options(populate_existing=True)
    )
    return dict(found.all())


def states(sent: Sent) -> dict[str, str]:
    return {path: row.state.value for path, row in rows(sent).items()}


def pictures_of(sent: Sent) -> list[Upload]:
    """The uploads of its pictures, from the one table that the sweeps know."""
    ids = [one for row in rows(sent).values() for one in (row.thumbnail_id, row.picture_id) if one]
    return list(
        db.session.scalars(
            select(Upload).where(Upload.id.in_(ids)).execution_options(populate_existing=True)
        )
    )


def stored() -> set[str]:
    return {one.key for page in storage.objects() for one in page}


def change(sent: Sent, **values: Any) -> None:
    files = select(File.id).where(File.transfer_id == sent.id)
    with transaction():
        db.session.execute(update(Preview).where(Preview.file_id.in_(files)).values(**values))


def sweep_away() -> None:
    """What time brings about: everything that is to go has gone."""
    with transaction():
        db.session.execute(
            update(Upload)
            .where(Upload.state == UploadState.ABORTED)
            .values(remove_after=clock.now(), urls_until=clock.now() - timedelta(hours=1))
        )
    upkeep.remove_bytes()


def test_files_get_what_is_seen_of_them_after_ready(sender: Sender, queued: list) -> None:
    sent = sender.ready(
        {
            "a.jpg": PHOTO,
            "b.pdf": pictures.pdf(),
            "c.mp4": pictures.video(),
            "d.wav": pictures.wav(),
            "e.txt": "Grüße\n".encode(),
            "f.bin": b"123",
        }
    )
    assert ("previewing.make", str(sent.id)) in queued
    assert states(sent) == dict.fromkeys(("a.jpg", "b.pdf", "c.mp4", "d.wav", "e.txt"), "WAITING")
    previewing.make(str(sent.id))
    made = rows(sent)
    assert states(sent) == dict.fromkeys(made, "MADE")
    assert [made[p].media_type for p in sorted(made)] == [
        None,
        None,
        "video/mp4",
        "audio/wav",
        None,
    ]
    assert (made["a.jpg"].width, made["a.jpg"].height) == (640, 480)
    assert (
        db.session.scalar(select(Preview.excerpt).where(Preview.excerpt.is_not(None))) == "Grüße\n"
    )
    objects = pictures_of(sent)
    assert len(objects) == 6
    assert {one.state for one in objects} == {UploadState.COMPLETE}
    for one in objects:
        found = storage.head(one.key)
        assert found
        assert (found.size, found.token, found.etag) == (one.size, one.token, one.etag)


@pytest.mark.parametrize("name", HOSTILE)
def test_s23_a_hostile_file_has_no_preview_and_its_transfer_is_as_good_as_any(
    sender: Sender, name: str
) -> None:
    sent = sender.ready({name: HOSTILE[name], "photo.jpg": PHOTO})
    previewing.make(str(sent.id))
    found = states(sent)
    # A film that cannot be decoded here may still be played by the browser, which knows best.
    assert found.pop(name) == ("MADE" if name.endswith("mp4") else "NONE")
    assert found == {"photo.jpg": "MADE"}
    assert sent.show()["status"] == "READY"
    assert len(pictures_of(sent)) == 2


def test_twice_makes_one_set(sender: Sender) -> None:
    sent = sender.ready({"a.jpg": PHOTO})
    before = stored()
    previewing.make(str(sent.id))
    previewing.make(str(sent.id))
    assert stored() - before == {one.key for one in pictures_of(sent)}
    assert len(stored() - before) == 2


@pytest.mark.parametrize("point", ["preview.1", "preview.2", "preview.3", "preview.4"])
def test_f_dying_anywhere_leaves_one_set_and_nothing_unknown(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    sent = sender.ready({"a.jpg": PHOTO})
    before = stored()

    class Died(BaseException):
        pass

    def die(at: str) -> None:
        if at == point:
            raise Died

    with monkeypatch.context() as dying:
        dying.setattr(previewing.crash, "point", die)
        # As after a kill, nobody gives anything back.
        dying.setattr(picturing, "_give_back", lambda *row, is_counted: True)
        with pytest.raises(Died):
            previewing.make(str(sent.id))
    previewing.make(str(sent.id))
    if point != "preview.4":
        assert states(sent) == {"a.jpg": "WAITING"}, "somebody else's claim was not respected"
    change(sent, claimed_until=clock.now() - timedelta(seconds=1))
    previewing.make(str(sent.id))
    assert states(sent) == {"a.jpg": "MADE"}
    sweep_away()
    assert stored() - before == {one.key for one in pictures_of(sent)}
    assert len(pictures_of(sent)) == 2


def test_who_is_late_changes_nothing(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim has lapsed, and another has made it meanwhile."""
    sent = sender.ready({"a.jpg": PHOTO})
    develop, before = darkroom.develop, stored()

    def slowly(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(darkroom, "develop", develop)
        change(sent, claimed_until=clock.now() - timedelta(seconds=1))
        previewing.make(str(sent.id))
        assert states(sent) == {"a.jpg": "MADE"}
        return develop(*given, **named)

    monkeypatch.setattr(darkroom, "develop", slowly)
    previewing.make(str(sent.id))
    assert states(sent) == {"a.jpg": "MADE"}
    assert stored() - before == {one.key for one in pictures_of(sent)}


@pytest.mark.parametrize("point", ["preview.1", "preview.2", "preview.3"])
def test_deleted_while_it_is_made_everything_goes(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = stored()
    sent = sender.ready({"a.jpg": PHOTO, "b.txt": b"words"})

    def delete(at: str) -> None:
        if at == point:
            transfers.delete(sent.id)
            upkeep.remove_bytes()

    monkeypatch.setattr(previewing.crash, "point", delete)
    previewing.make(str(sent.id))
    assert rows(sent) == {}
    sweep_away()
    assert stored() == before


@pytest.mark.real_commits
def test_whoever_deletes_at_this_very_moment_leaves_nothing(
    app: Flask, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are about to be linked while the transfer's end is not yet committed."""
    before = stored()
    sent = sender.ready({"a.jpg": PHOTO})
    is_ending, is_waited_for = (
        threading.Event(),
        text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ),
    )

    def meet(at: str) -> None:
        if at == "preview.1":
            ending.start()
            assert is_ending.wait(10)
        if at == "delete.1":
            is_ending.set()
            for _ in range(60):
                # In a transaction of its own each time: PostgreSQL shows one always the same.
                with db.engine.connect() as watcher:
                    if watcher.scalar(is_waited_for):
                        return
                time.sleep(0.05)
            raise AssertionError("nobody waits")

    def delete() -> None:
        with app.app_context():
            transfers.delete(sent.id)

    ending = threading.Thread(target=delete)
    monkeypatch.setattr(previewing.crash, "point", meet)
    previewing.make(str(sent.id))
    ending.join()
    assert rows(sent) == {}
    assert set(db.session.scalars(select(Upload.state))) == {UploadState.ABORTED}
    sweep_away()
    assert stored() == before


@pytest.mark.parametrize("way", ["deleted", "expired"])
def test_what_was_made_goes_with_its_transfer(sender: Sender, way: str) -> None:
    before = stored()
    sent = sender.ready({"a.jpg": PHOTO, "b.txt": b"words"})
    previewing.make(str(sent.id))
    assert len(stored() - before) == 4
    if way == "deleted":
        transfers.delete(sent.id)
    else:
        gone = clock.now() - timedelta(days=9)
        sent.set(expires_at=gone, state=State.EXPIRED, expired_at=gone)
        (removals,) = (one for one in dry_runs.SWEEPS if one.run is upkeep.remove_bytes)
        assert removals.look(lambda *_: None).count == 4
        upkeep.delete_expired()
    assert rows(sent) == {}
    sweep_away()
    assert stored() == before


def test_what_older_code_has_deleted_is_found_by_the_daily_sweep(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready({"a.jpg": PHOTO})
    previewing.make(str(sent.id))
    keys = {one.key for one in pictures_of(sent)}
    with monkeypatch.context() as older:
        older.setattr(previews, "end", lambda ids: None)
        transfers.delete(sent.id)
    upkeep.remove_orphans()
    sweep_away()
    assert not keys & stored()


def test_pictures_are_no_orphans(sender: Sender) -> None:
    sent = sender.ready({"a.jpg": PHOTO})
    previewing.make(str(sent.id))
    orphans = {
        one.key
        for page in storage.objects()
        for one in reconciling.orphans_in(page, clock.now() + timedelta(minutes=5))
    }
    assert not orphans & {one.key for one in pictures_of(sent)}


def test_a_file_that_kills_its_worker_is_given_up(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready({"a.jpg": PHOTO, "b.txt": b"words"})
    begun: list[uuid.UUID] = []

    def die(claim: Any) -> Any:
        if claim.file.path == "a.jpg":
            begun.append(claim.file.id)
            raise ZeroDivisionError
        return look(claim)

    look = previewing._look_at
    monkeypatch.setattr(previewing, "_look_at", die)
    for _ in range(6):
        try:
            previewing.make(str(sent.id))
        except ZeroDivisionError:
            change(sent, claimed_until=clock.now() - timedelta(seconds=1))
    assert len(begun) == picturing.MOST_ATTEMPTS
    assert states(sent) == {"a.jpg": "NONE", "b.txt": "MADE"}
    assert sent.show()["status"] == "READY"


@pytest.mark.parametrize("why", [Outage(), Interrupted()])
def test_an_outage_or_a_stop_is_no_fault_of_the_file(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    sent = sender.ready({"a.jpg": PHOTO})

    def fail(claim: Any) -> Any:
        raise why

    with monkeypatch.context() as away:
        away.setattr(previewing, "_look_at", fail)
        for _ in range(picturing.MOST_ATTEMPTS + 2):
            with contextlib.suppress(Outage):
                previewing.make(str(sent.id))
            change(sent, claimed_until=clock.now() - timedelta(seconds=1))
    previewing.make(str(sent.id))
    assert states(sent) == {"a.jpg": "MADE"}


def test_a_file_that_was_copied_anew_is_found_again(sender: Sender) -> None:
    """As in a bucket that was moved."""
    sent = sender.ready({"a.jpg": PHOTO})
    (file,) = transfers.files_of(sent.id)
    copy_anew(file.upload, PHOTO)
    previewing.make(str(sent.id))
    db.session.expire_all()
    assert states(sent) == {"a.jpg": "WAITING"}
    change(sent, claimed_until=clock.now() - timedelta(seconds=1))
    previewing.make(str(sent.id))
    assert states(sent) == {"a.jpg": "MADE"}


def test_bytes_that_are_not_there_are_no_endless_work(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready({"a.txt": b"words"})
    storage.delete([transfers.files_of(sent.id)[0].upload.key])
    for _ in range(picturing.MOST_ATTEMPTS):
        with pytest.raises(SourceLost):
            previewing.make(str(sent.id))
        change(sent, claimed_until=clock.now() - timedelta(seconds=1))
    previewing.make(str(sent.id))
    assert states(sent) == {"a.txt": "NONE"}


def test_a_lost_reminder_is_missed_and_one_that_waits_is_not_repeated(
    sender: Sender, queued: list
) -> None:
    lost = sender.ready({"a.txt": b"1"}).set(queued_at=clock.now() - timedelta(minutes=2))
    sender.ready({"a.txt": b"1"})
    busy = sender.ready({"a.txt": b"1"}).set(queued_at=clock.now() - timedelta(minutes=2))
    change(busy, claimed_until=clock.now() + timedelta(minutes=1))
    queued.clear()
    upkeep.requeue_stuck()
    upkeep.requeue_stuck()
    assert [put for put in queued if put[0] == "previewing.make"] == [
        ("previewing.make", str(lost.id))
    ]


def test_f35_a_turn_ends_soon_and_goes_on_behind_the_others(
    sender: Sender, queued: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready({f"{n}.txt": b"words" for n in range(3)})
    monkeypatch.setattr(previewing, "TURN_SECONDS", -1)
    queued.clear()
    previewing.make(str(sent.id))
    assert sorted(states(sent).values()) == ["MADE", "WAITING", "WAITING"]
    assert queued == [("previewing.make", str(sent.id))]
    assert jobs.QUEUES.index(jobs.MAKE_PREVIEWS.queue) > jobs.QUEUES.index("default")


def test_only_of_what_is_ready(sender: Sender) -> None:
    sent = sender.create({"a.txt": b"words"}).upload()
    previewing.make(str(sent.id))
    assert rows(sent) == {}
    sent.complete().process().set(state=State.EXPIRED, expired_at=clock.now())
    previewing.make(str(sent.id))
    assert states(sent) == {"a.txt": "WAITING"}


def test_switched_off_nothing_is_expected(
    sender: Sender, configure: Callable[..., None], queued: list
) -> None:
    before = sender.ready({"a.txt": b"words"}).set(queued_at=clock.now() - timedelta(hours=1))
    configure(previews=False)
    queued.clear()
    sent = sender.ready({"a.txt": b"words"})
    upkeep.requeue_stuck()
    assert rows(sent) == {}
    assert states(before) == {"a.txt": "WAITING"}
    assert [put for put in queued if put[0] == "previewing.make"] == []


def test_a_limit_of_memory_means_no_picture(sender: Sender, configure: Callable[..., None]) -> None:
    configure(preview_memory_in_mib=256)
    sent = sender.ready({"a.png": encoded(drawn(7000, 7000), "PNG")})
    previewing.make(str(sent.id))
    assert states(sent) == {"a.png": "NONE"}


@pytest.mark.real_commits
def test_ready_and_its_previews_are_one(
    app: Flask, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.create({"a.txt": b"1"}).upload().complete()
    with monkeypatch.context() as broken:
        broken.setattr(previews, "remind", lambda one: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sent.process()
    assert db.session.scalar(select(Transfer.state)) is State.PROCESSING
    assert rows(sent) == {}
    sent.set(lease_until=None).process()
    assert sent.show()["status"] == "READY"
    assert {row.state for row in rows(sent).values()} == {PreviewState.WAITING}
