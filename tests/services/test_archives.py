"""One zip of all files, put together inside the bucket: from real objects, by real storage."""

import io
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from app import clock, jobs, zip_parts
from app.config import MIB
from app.db import db, transaction
from app.errors import Gone, NotFound, Outage, Unavailable, WrongState, ZipLacksFile
from app.extensions import storage
from app.gateways.http_pool import Answer
from app.gateways.s3_answers import TOKEN_FIELD, Part, PartsRefused, Source, SourceLost
from app.models import Archive, Upload, UploadState, ZipFailure
from app.services import (
    archives,
    completing,
    composing,
    downloads,
    planning,
    transfers,
    upkeep,
    uploads,
)
from app.zip_layout import Layout
from tests.factories import Sender, Sent, copy_anew, http

PART = 5 * MIB
SMALL = {"a.txt": b"hello", "dir/empty": b"", "dir/ü 🐝.bin": b"bee" * 1000}


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes that differ from their neighbours, so that a shifted range is seen."""
    block = b"".join((salt + at).to_bytes(4, "big") for at in range(4096))
    return (block * (size // len(block) + 1))[:size]


def large() -> dict[str, bytes]:
    """Files whose ends fall before, on and behind the ends of parts."""
    return {
        "one.bin": pattern(2 * PART + 17),
        "tiny": b"t",
        "two.bin": pattern(3 * PART, 1),
        "three.bin": pattern(PART - 100, 2),
    }


def opened(sent: Sent) -> zipfile.ZipFile:
    """The zip as a recipient gets it: by a signed address, over HTTP."""
    found = downloads.zip_url(sent.slug, None)
    assert found is not None
    answer = http.request("GET", found.url)
    assert answer.status == 200
    return zipfile.ZipFile(io.BytesIO(answer.data))


def contents(sent: Sent) -> dict[str, bytes]:
    with opened(sent) as made:
        assert made.testzip() is None
        return {info.filename: made.read(info) for info in made.infolist()}


def archive(sent: Sent) -> Archive:
    found = archives.find(sent.id)
    assert found is not None
    return found


def part_sizes(sent: Sent) -> list[int]:
    return zip_parts.cut(Layout(archives._members(transfers.files_of(sent.id))))


class Calls:
    """What storage was asked for, by the gateway's own words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copied: list[tuple[int, int]] = []
        self.put: list[int] = []
        self.read_size = 0
        copy_part, put_part, read_into = storage.copy_part, storage.put_part, storage.read_into

        def copying(key: str, s3_id: str, number: int, source: Source, start: int, size: int):
            self.copied.append((number, size))
            return copy_part(key, s3_id, number, source, start, size)

        def putting(key: str, s3_id: str, number: int, body: Any):
            self.put.append(number)
            return put_part(key, s3_id, number, body)

        def reading(place: memoryview, source: Source, start: int) -> None:
            self.read_size += len(place)
            read_into(place, source, start)

        monkeypatch.setattr(storage, "copy_part", copying)
        monkeypatch.setattr(storage, "put_part", putting)
        monkeypatch.setattr(storage, "read_into", reading)


@pytest.mark.parametrize("verified", [True, False], ids=["with CRC32s", "without"])
def test_small_files_and_folders_are_one_zip(
    sender: Sender, inside: None, queued: list, verified: bool
) -> None:
    sent = sender.ready(SMALL, verified=verified)
    queued.clear()
    archives.request(sent.id)
    assert queued == [("archives.build", str(sent.id))]
    assert downloads.zip_url(sent.slug, None) is None
    archives.build(str(sent.id))
    assert contents(sent) == SMALL
    made = archive(sent)
    assert made.upload.state is UploadState.COMPLETE
    assert made.done_size == made.upload.size == storage.head(made.upload.key).size


def test_a_part_inside_one_file_is_copied_by_storage_and_edges_are_put_together(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    calls = Calls(monkeypatch)
    sent.zip()
    assert contents(sent) == large()
    # What is before "two.bin" is filled up from it, and then storage has all of the rest.
    assert sorted(calls.put) == [1, 3, 5]
    assert sorted(number for number, _ in calls.copied) == [2, 4]
    assert calls.read_size < len(calls.put) * PART


def test_a_store_that_wants_equal_parts_gets_them(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, configure
) -> None:
    monkeypatch.setattr(type(storage), "wants_equal_parts", True)
    sent = sender.ready(large(), verified=True)
    calls = Calls(monkeypatch)
    sent.zip()
    assert contents(sent) == large()
    parts = planning.part_count(archive(sent).upload)
    assert {number for number, _ in calls.copied} | set(calls.put) == set(range(1, parts + 1))
    assert [size for _, size in calls.copied] == [PART] * 3


def test_a_store_that_turns_out_to_want_them_gets_them_the_second_time(
    sender: Sender, inside: None, queued: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    finish_upload = storage.finish_upload

    def picky(key: str, s3_id: str, parts: list[Part], crc32: bytes | None = None) -> None:
        if {part.size for part in parts[:-1]} != {PART}:
            raise PartsRefused
        finish_upload(key, s3_id, parts, crc32)

    monkeypatch.setattr(storage, "finish_upload", picky)
    queued.clear()
    archives.build(str(sent.id))
    assert archive(sent).ready_at is None
    assert queued == [("archives.build", str(sent.id))]
    archives.build(str(sent.id))
    assert contents(sent) == large()
    key = archive(sent).upload.key
    assert [one for page in storage.open_uploads() for one in page if one.key == key] == []


def test_a_store_that_refuses_equal_parts_too_has_failed(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*given: Any) -> None:
        raise PartsRefused

    monkeypatch.setattr(storage, "finish_upload", refusing)
    sent = sender.ready(SMALL, verified=True)
    archives.request(sent.id)
    archives.build(str(sent.id))
    with pytest.raises(PartsRefused):
        archives.build(str(sent.id))
    assert archive(sent).attempt_count > 0


def test_a_store_without_part_copies_has_it_streamed(
    without_part_copies, sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_part_copies()
    sent = sender.ready(large())
    calls = Calls(monkeypatch)
    sent.zip()
    assert contents(sent) == large()
    assert sorted(calls.put) == [1, 2, 3, 4, 5]


def test_crc32s_that_nobody_knew_are_read_once_and_kept(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(SMALL)
    calls = Calls(monkeypatch)
    sent.zip()
    size = sum(map(len, SMALL.values()))
    assert calls.read_size == 2 * size
    assert all(file.upload.crc32 for file in transfers.files_of(sent.id))
    sums = sent.client.get(f"/d/{sent.slug}.sfv").text
    assert "a.txt 3610A686" in sums
    with transaction():
        archives.forget(sent.id)
    sent.zip()
    assert calls.read_size == 3 * size


def test_dates_are_the_files_own(sender: Sender, inside: None) -> None:
    then = "2019-05-04T03:02:02Z"
    files = [{"path": "a", "size": 1, "modified_at": then}, {"path": "b", "size": 1}]
    answer = sender.client.post("/transfers", json={"files": files})
    sent = Sent(sender.client, answer.json, {"a": b"1", "b": b"2"})
    sent.upload().complete().process().zip()
    with opened(sent) as made:
        dates = {info.filename: info.date_time for info in made.infolist()}
    assert dates["a"] == (2019, 5, 4, 3, 2, 2)
    assert abs(datetime(*dates["b"], tzinfo=UTC) - clock.now()) < timedelta(minutes=1)


def test_s21_names_are_safe_and_unique(sender: Sender, inside: None) -> None:
    sent = sender.ready({"A.txt": b"1", "a.txt": b"2", "con": b"3", "x:y": b"4"}).zip()
    assert contents(sent) == {"A.txt": b"1", "a (2).txt": b"2", "_con": b"3", "x_y": b"4"}


def test_whoever_asks_again_asks_for_the_same(sender: Sender, inside: None, queued: list) -> None:
    sent = sender.ready(SMALL)
    queued.clear()
    for _ in range(3):
        archives.request(sent.id)
    assert queued == [("archives.build", str(sent.id))]
    archives.build(str(sent.id))
    archives.request(sent.id)
    key = archive(sent).upload.key
    archives.build(str(sent.id))
    assert archive(sent).upload.key == key
    assert len(queued) == 1


def test_there_is_none_of_one_file_or_of_what_is_not_ready(sender: Sender, inside: None) -> None:
    with pytest.raises(NotFound):
        archives.request(sender.ready({"a": b"1"}).id)
    with pytest.raises(Gone):
        archives.request(sender.create(SMALL).upload().id)
    with pytest.raises(Gone):
        archives.request(uuid.uuid4())


def test_at_once_if_the_operator_wishes(
    sender: Sender, inside: None, queued: list, configure
) -> None:
    configure(zip_at_once=True)
    sent = sender.ready(SMALL)
    assert ("archives.build", str(sent.id)) in queued
    archives.build(str(sent.id))
    assert contents(sent) == SMALL
    single = sender.ready({"a": b"1"})
    assert archives.find(single.id) is None


# -- what goes wrong -------------------------------------------------------------------------


def test_a_file_that_storage_has_lost_is_an_error_and_no_zip_without_it(
    sender: Sender, inside: None, queued: list
) -> None:
    sent = sender.ready(SMALL, verified=True)
    storage.delete([transfers.files_of(sent.id)[0].upload.key])
    sent.zip()
    made = archive(sent)
    assert (made.failure, made.ready_at) == (ZipFailure.FILE_LOST, None)
    assert made.upload.state is UploadState.ABORTED
    assert ("upkeep.remove_bytes",) in queued
    assert archives.progress(sent.id).state == "failed"
    # It may be asked for again, but not all the time.
    with pytest.raises(ZipLacksFile):
        archives.request(sent.id)
    first = made.upload_id
    assert archive(sent).upload_id == first
    with transaction():
        db.session.execute(update(Archive).values(failed_at=clock.now() - timedelta(minutes=2)))
    archives.request(sent.id)
    assert archive(sent).failed_at is None
    assert archive(sent).upload_id != first


def test_another_object_in_a_files_place_is_noticed(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL, verified=True)
    key = transfers.files_of(sent.id)[0].upload.key
    storage._client.put_object(Bucket=storage._bucket, Key=key, Body=b"HELLO")
    assert archive(sent.zip()).failure is ZipFailure.FILE_LOST


@pytest.mark.parametrize("asked", ["_get", "copy_part"])
def test_a_file_that_storage_misses_once_costs_an_attempt_and_no_part(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    sent = sender.ready(large(), verified=True)
    honest = getattr(storage, asked)
    made: list[str] = []

    def missing_once(*args: Any) -> Any:
        made.append(asked)
        if len(made) > 1:
            return honest(*args)
        if asked == "copy_part":
            raise SourceLost(args[3].key)
        return Answer(404, 0, b"")

    monkeypatch.setattr(storage, asked, missing_once)
    monkeypatch.setattr(composing, "BATCH", 1)
    archives.request(sent.id)
    with pytest.raises(Unavailable):
        archives.build(str(sent.id))
    assert (archive(sent).failed_at, archive(sent).attempt_count) == (None, 1)
    multipart = archive(sent).upload.s3_upload_id
    assert multipart is not None
    with transaction():
        db.session.execute(update(Archive).values(lease_until=None))
    archives.build(str(sent.id))
    assert archive(sent).upload.s3_upload_id == multipart, "what was made of it is kept"
    assert contents(sent) == large()


@pytest.mark.parametrize("verified", [True, False])
def test_files_that_were_copied_anew_are_found_again(
    sender: Sender, inside: None, verified: bool
) -> None:
    """As in a bucket that was moved: the same bytes and metadata, but cut otherwise."""
    sent = sender.ready(SMALL, verified=verified)
    copied_anew(sent, SMALL)
    sent.zip()
    archives.build(str(sent.id))
    assert archive(sent).failure is None
    assert contents(sent) == SMALL


@pytest.mark.parametrize("verified", [True, False])
def test_what_nobody_confirms_of_files_that_were_copied_anew_is_read_again(
    sender: Sender, inside: None, verified: bool
) -> None:
    """Storage says no CRC32 of the whole: an own one could be of bytes that lie there no more."""
    sent = sender.ready(SMALL, verified=verified).zip()
    with transaction():
        archives.forget(sent.id)
    others = {path: bytes(len(body)) for path, body in SMALL.items()}
    copied_anew(sent, others)
    sent.zip()
    assert archive(sent).upload.s3_upload_id is None, "its parts were of the former CRC32s"
    archives.build(str(sent.id))
    assert contents(sent) == others


def copied_anew(sent: Sent, bodies: dict[str, bytes]) -> None:
    for file in transfers.files_of(sent.id):
        copy_anew(file.upload, bodies[file.path])


def test_other_bytes_under_a_files_own_token_are_noticed(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL, verified=True)
    (upload, *_) = (file.upload for file in transfers.files_of(sent.id) if file.size)
    storage._client.put_object(
        Bucket=storage._bucket,
        Key=upload.key,
        Body=bytes(upload.size),
        Metadata={TOKEN_FIELD: upload.token},
        ChecksumAlgorithm="CRC32",
    )
    assert archive(sent.zip()).failure is ZipFailure.FILE_LOST


def test_f58_an_answer_cut_short_is_asked_for_again_and_never_taken(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(SMALL, verified=True)
    get, cut = storage._get, []

    def cutting(url: str, headers: dict, place: memoryview) -> Answer:
        answer = get(url, headers, place)
        if len(cut) < 2:
            cut.append(url)
            place[-1:] = b"?"
            return replace(answer, size=answer.size - 1)
        return answer

    monkeypatch.setattr(storage, "_get", cutting)
    monkeypatch.setattr("app.gateways.storage.WAITS", (0.0, 0.0, 0.0))
    assert contents(sent.zip()) == SMALL
    assert len(cut) == 2


def test_storage_away_is_no_attempt_and_it_goes_on_from_what_is_there(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    put_part = storage.put_part

    def breaking(key: str, s3_id: str, number: int, body: Any) -> None:
        if number == 3:
            raise Outage
        put_part(key, s3_id, number, body)

    monkeypatch.setattr(composing, "BATCH", 2)
    archives.request(sent.id)
    with monkeypatch.context() as broken:
        broken.setattr(storage, "put_part", breaking)
        with pytest.raises(Outage):
            archives.build(str(sent.id))
    assert archive(sent).attempt_count == 0
    with transaction():
        db.session.execute(update(Archive).values(lease_until=None))
    calls = Calls(monkeypatch)
    archives.build(str(sent.id))
    made = {number for number, _ in calls.copied} | set(calls.put)
    assert not made & {1, 2}
    assert 3 in made
    assert contents(sent) == large()


def test_a_turn_that_is_over_lets_others_go_first_and_then_goes_on(
    sender: Sender, inside: None, queued: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    queued.clear()
    with monkeypatch.context() as short:
        short.setattr(archives, "TURN_SECONDS", -1)
        archives.build(str(sent.id))
    assert queued == [("archives.build", str(sent.id))]
    assert archive(sent).attempt_count == 0
    jobs.stopping.set()
    archives.build(str(sent.id))
    jobs.stopping.clear()
    archives.build(str(sent.id))
    assert contents(sent) == large()


def test_a_multipart_that_was_aborted_is_begun_again(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    with monkeypatch.context() as short:
        short.setattr(archives, "TURN_SECONDS", -1)
        archives.build(str(sent.id))
    upload = archive(sent).upload
    storage.abort_upload(upload.key, upload.s3_upload_id)
    archives.build(str(sent.id))
    assert archive(sent).upload.s3_upload_id is None
    archives.build(str(sent.id))
    assert contents(sent) == large()


def test_the_last_attempt_is_made(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL, verified=True)
    archives.request(sent.id)
    with transaction():
        db.session.execute(update(Archive).values(attempt_count=archives.MOST_ATTEMPTS - 1))
    archives.build(str(sent.id))
    assert contents(sent) == SMALL


@pytest.mark.parametrize("is_equal", [False, True], ids=["cut", "equal"])
def test_a_part_that_is_not_of_the_plan_is_made_again(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, is_equal: bool
) -> None:
    """Whatever left it there: it would shift all that comes after it."""
    monkeypatch.setattr(type(storage), "wants_equal_parts", is_equal)
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    upload = archive(sent).upload
    uploads.begin([upload])
    storage.put_part(upload.key, upload.s3_upload_id, 2, memoryview(bytes(PART + 1)))
    archives.build(str(sent.id))
    assert contents(sent) == large()


def test_too_many_failed_attempts_are_told(sender: Sender, inside: None) -> None:
    sent = sender.ready(SMALL)
    archives.request(sent.id)
    with transaction():
        db.session.execute(update(Archive).values(attempt_count=archives.MOST_ATTEMPTS))
    archives.build(str(sent.id))
    assert archive(sent).failure is ZipFailure.INTERNAL


def test_a_lost_reminder_is_missed_by_the_sweep(sender: Sender, inside: None, queued: list) -> None:
    sent = sender.ready(SMALL)
    archives.request(sent.id)
    queued.clear()
    upkeep.requeue_stuck()
    assert ("archives.build", str(sent.id)) not in queued
    with transaction():
        db.session.execute(update(Archive).values(queued_at=clock.now() - timedelta(minutes=1)))
    upkeep.requeue_stuck()
    assert ("archives.build", str(sent.id)) in queued


def test_what_was_read_for_its_crc32_is_kept_whatever_comes_then(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(SMALL)
    archives.request(sent.id)
    read_into, lost = storage.read_into, transfers.files_of(sent.id)[2].upload.key

    def breaking(place: memoryview, source: Source, start: int) -> None:
        if source.key == lost:
            raise Outage
        read_into(place, source, start)

    monkeypatch.setattr(storage, "read_into", breaking)
    with pytest.raises(Outage):
        archives.build(str(sent.id))
    known = [file.upload.crc32 is not None for file in transfers.files_of(sent.id)]
    assert known == [True, True, False]


def test_more_than_one_object_can_hold_is_refused_before_anything_is_made(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, configure
) -> None:
    configure(zip_at_once=True)
    monkeypatch.setattr(archives, "S3_MAX_OBJECT_SIZE", 100)
    sent = sender.ready(SMALL)
    with pytest.raises(WrongState):
        archives.request(sent.id)
    assert archives.find(sent.id) is None


def test_zips_have_a_queue_that_delays_no_check() -> None:
    assert jobs.BUILD_ARCHIVE.queue not in jobs.QUICK_QUEUES


# -- how far it is ---------------------------------------------------------------------------


def test_progress_is_what_storage_holds_and_never_whole_too_soon(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(large(), verified=True)
    archives.request(sent.id)
    monkeypatch.setattr(archives, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(composing, "BATCH", 1)
    told: list[int] = []
    complete = completing.complete

    def counting(*given: Any) -> Any:
        told.append(archives.progress(sent.id).percent)
        return complete(*given)

    tell = archives._Turn.tell

    def telling(turn: Any, done_size: int) -> None:
        tell(turn, done_size)
        told.append(archives.progress(sent.id).percent)
        if len(told) == 2:
            jobs.stopping.set()

    monkeypatch.setattr(archives._Turn, "tell", telling)
    monkeypatch.setattr(completing, "complete", counting)
    archives.build(str(sent.id))
    jobs.stopping.clear()
    done = list(accumulate(part_sizes(sent)))
    size = archive(sent).upload.size
    assert done[-1] == size
    assert told == [100 * one // size for one in done[:2]]
    archives.build(str(sent.id))
    # It goes on from where it was, and is whole only when it can be had.
    assert told == sorted(told)
    assert told[2] == 100 * done[2] // size
    # All parts are there, and it cannot be had yet.
    assert told[-2:] == [99, 99]
    assert archives.progress(sent.id).percent == 100


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


# -- whatever the files ----------------------------------------------------------------------

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='/\\:*?"<>|.'),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tree=st.dictionaries(
        st.lists(names, min_size=1, max_size=3).map("/".join),
        st.integers(0, 70).flatmap(
            lambda off: st.sampled_from([0, 1, 5000 + off, max(0, PART - off)])
        ),
        min_size=2,
        max_size=5,
    )
)
def test_any_tree_of_any_sizes_comes_to_a_zip_that_holds_it(
    sender: Sender, inside: None, tree: dict[str, int]
) -> None:
    files = {path: pattern(size, salt) for salt, (path, size) in enumerate(tree.items())}
    answer = sender.client.post(
        "/transfers", json={"files": [{"path": p, "size": len(b)} for p, b in files.items()]}
    )
    if answer.status_code == 400:
        return
    sent = Sent(sender.client, answer.json, files)
    sent.upload().complete().process().zip()
    found = contents(sent)
    assert sorted(found.values()) == sorted(files.values())


def test_what_is_lost_is_said(inside: None) -> None:
    with pytest.raises(SourceLost):
        storage.read(Source("beeline/none", '"e"'), 0, 1)
    assert storage.read(Source("beeline/none", '"e"'), 0, 0) == b""


def test_a_copy_names_the_object_that_it_must_still_be(inside: None) -> None:
    """Whatever was put in its place meanwhile must not become a part of anything."""
    source = planning.plan_ours(6 * MIB)
    etag = storage.put_object(source.key, source.token, bytes(6 * MIB), "text/plain")
    made = planning.plan_whole(PART)
    s3_id = storage.begin_upload(made.key, made.token)
    with pytest.raises(SourceLost):
        storage.copy_part(made.key, s3_id, 1, Source(source.key, '"another"'), 0, PART)
    storage.copy_part(made.key, s3_id, 1, Source(source.key, etag), 0, PART)
    assert [part.number for part in storage.list_parts(made.key, s3_id)] == [1]
    storage.abort_upload(made.key, s3_id)
