"""What goes wrong while a zip is made: files lost or replaced, storage away, attempts cut short."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app import clock, jobs
from app.db import db, transaction
from app.errors import Outage, Unavailable, ZipLacksFile
from app.extensions import storage
from app.gateways.http_pool import Answer
from app.gateways.s3_answers import TOKEN_FIELD, Source, SourceLost
from app.models import Archive, UploadState, ZipFailure
from app.services import archives, composing, transfers, upkeep, uploads
from tests.factories import Sender, Sent, copy_anew
from tests.services.zips import PART, SMALL, Calls, archive, contents, large


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


def test_what_is_lost_is_said(inside: None) -> None:
    with pytest.raises(SourceLost):
        storage.read(Source("beeline/none", '"e"'), 0, 1)
    assert storage.read(Source("beeline/none", '"e"'), 0, 0) == b""
