"""One object on its way to storage: geometry, signing, completing, and believing only storage."""

import hashlib
import os
from typing import Any

import pytest
from sqlalchemy import update

from app.config import GIB, MIB, S3_MAX_OBJECT_SIZE, S3_MAX_PART_SIZE, S3_MAX_PARTS
from app.db import db, transaction
from app.extensions import storage
from app.gateways.storage import NoSuchUpload
from app.models import Method, Problem, Upload, UploadState
from app.services import uploads
from tests.factories import http, put

pytestmark = pytest.mark.usefixtures("inside")
PART = 8 * MIB


def added(size: int) -> Upload:
    """A planned upload with its row."""
    upload = uploads.plan(size)
    with transaction():
        db.session.add(upload)
    return upload


def send(upload: Upload, body: bytes, *numbers: int) -> None:
    """PUT these parts of the body (all when none is named) through signed addresses."""
    uploads.begin([upload])
    for part in uploads.sign(upload, numbers or range(1, uploads.part_count(upload) + 1)):
        start = (part.number - 1) * upload.part_size
        answer = put(part.url, body[start : start + part.size], part.headers)
        assert answer.status == 200, answer.data


@pytest.mark.parametrize(
    "size",
    [0, 1, 5 * MIB - 1, 5 * MIB, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 1]
    + [int(48.8 * GIB), 1024 * GIB, 9_900 * PART, 9_900 * PART + 1, S3_MAX_OBJECT_SIZE],
)
def test_f06_f07_f11_every_plan_is_one_that_s3_accepts(size: int) -> None:
    upload = uploads.plan(size)
    count = uploads.part_count(upload)
    sizes = [uploads.part_size_of(upload, n) for n in (1, max(1, count - 1), count)]
    assert 1 <= count <= S3_MAX_PARTS
    assert upload.part_size >= PART
    assert upload.part_size <= S3_MAX_PART_SIZE
    assert (count - 1) * upload.part_size + sizes[-1] == size
    assert all(one == upload.part_size for one in sizes[:-1]) or count == 1
    assert (upload.method is Method.SINGLE) == (size <= PART)


@pytest.mark.parametrize("size", [0, 1, 1000, PART, PART + 1, 2 * PART, 2 * PART + 5])
def test_f11_bytes_come_back_equal(size: int) -> None:
    body, upload = os.urandom(size), added(size)
    send(upload, body)
    outcome = uploads.complete(upload)
    assert outcome.problem is None
    assert outcome.etag
    stored = storage.head(upload.key)
    assert stored is not None
    assert (stored.size, stored.token) == (size, upload.token)
    got = fetched(upload)
    assert hashlib.sha256(got).digest() == hashlib.sha256(body).digest()


def fetched(upload: Upload) -> bytes:
    """What a signed download address of the object gives."""
    return http.request("GET", storage.get_url(upload.key, "attachment", 60)).data


def test_without_conditional_writes_small_files_go_as_multipart(configure) -> None:
    configure(s3_conditional_writes=False)
    for size in (0, 10):
        upload = added(size)
        assert upload.method is Method.MULTIPART
        send(upload, b"x" * size)
        assert uploads.complete(upload).problem is None


def test_completing_twice_gives_the_same(inside: None) -> None:
    for size in (5, PART + 5):
        upload = added(size)
        send(upload, b"y" * size)
        assert uploads.complete(upload) == uploads.complete(upload)


def test_f14_a_lost_answer_of_complete_is_proved_by_the_token(monkeypatch) -> None:
    upload = added(PART + 5)
    send(upload, b"z" * upload.size)
    finish = storage.finish_upload

    def commit_then_lose(*given: object) -> None:
        finish(*given)  # type: ignore[arg-type]
        raise NoSuchUpload("the SDK's own retry found nothing to complete")

    monkeypatch.setattr(storage, "finish_upload", commit_then_lose)
    assert uploads.complete(upload).problem is None


def test_f15_an_upload_that_storage_dropped_is_lost(inside: None) -> None:
    upload = added(PART + 5)
    send(upload, b"z" * upload.size)
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    assert uploads.complete(upload).problem is Problem.LOST


@pytest.mark.parametrize("size", [7, PART + 7])
def test_f16_a_foreign_object_at_the_key_is_refused(size: int) -> None:
    upload = added(size)
    storage._client.put_object(Bucket=storage._bucket, Key=upload.key, Body=b"f" * size)
    upload.s3_upload_id = "gone" if upload.method is Method.MULTIPART else None
    assert uploads.complete(upload).problem is Problem.LOST


def test_f18_missing_parts_are_named_and_nothing_is_built(inside: None) -> None:
    upload = added(3 * PART)
    send(upload, b"m" * upload.size, 1, 3)
    outcome = uploads.complete(upload)
    assert (outcome.problem, outcome.missing) == (Problem.MISSING, (2,))
    assert storage.head(upload.key) is None
    send(upload, b"m" * upload.size, 2)
    assert uploads.complete(upload).problem is None


def test_a_file_that_never_came_is_missing(inside: None) -> None:
    for size in (0, 5, PART + 5):
        assert uploads.complete(added(size)).problem is Problem.MISSING


def test_f08_the_last_bytes_sent_for_a_part_count(inside: None) -> None:
    upload = added(2 * PART)
    send(upload, b"a" * upload.size, 2, 1)
    send(upload, b"b" * upload.size, 1)
    assert uploads.complete(upload).problem is None
    assert fetched(upload) == b"b" * PART + b"a" * PART


class TwoAtATime:
    """A paginator of boto3's with pages of two; a real store cuts them at 1000."""

    def __init__(self, paginator: Any) -> None:
        self.paginator = paginator

    def paginate(self, **given: Any) -> Any:
        return self.paginator.paginate(**given, PaginationConfig={"PageSize": 2})


def test_f12_every_page_of_the_list_of_parts_is_read(monkeypatch) -> None:
    upload = added(5 * PART)
    send(upload, b"p" * upload.size)
    get = storage._client.get_paginator
    monkeypatch.setattr(storage._client, "get_paginator", lambda name: TwoAtATime(get(name)))
    held = storage.list_parts(upload.key, upload.s3_upload_id or "")
    assert [part.number for part in held] == [1, 2, 3, 4, 5]
    assert uploads.complete(upload).problem is None


@pytest.mark.parametrize("off_by", [-1, 1])
@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_body_of_another_length_is_refused_by_storage_itself(size: int, off_by: int) -> None:
    upload = added(size)
    uploads.begin([upload])
    last = uploads.part_count(upload)
    part = uploads.sign(upload, [last])[0]
    assert put(part.url, b"x" * (part.size + off_by), part.headers).status == 403


def test_f27_addresses_are_worthless_once_the_upload_is_complete(inside: None) -> None:
    for size, refusal in ((10, 412), (PART + 10, 404)):
        upload = added(size)
        uploads.begin([upload])
        parts = uploads.sign(upload, range(1, uploads.part_count(upload) + 1))
        for part in parts:
            assert put(part.url, b"1" * part.size, part.headers).status == 200
        etag = uploads.complete(upload).etag
        for part in parts:
            assert put(part.url, b"2" * part.size, part.headers).status == refusal
        assert storage.head(upload.key).etag == etag  # type: ignore[union-attr]


def test_the_second_to_begin_keeps_the_firsts_and_aborts_its_own(monkeypatch) -> None:
    upload = added(PART + 1)
    begin = storage.begin_upload
    winner = begin(upload.key, upload.token)
    opened: list[str] = []

    def begin_while_another_is_faster(key: str, token: str) -> str:
        opened.append(begin(key, token))
        with transaction():
            db.session.execute(
                update(Upload).where(Upload.id == upload.id).values(s3_upload_id=winner)
            )
        return opened[0]

    monkeypatch.setattr(storage, "begin_upload", begin_while_another_is_faster)
    uploads.begin([upload])
    assert upload.s3_upload_id == winner
    with pytest.raises(NoSuchUpload):
        storage.list_parts(upload.key, opened[0])
    assert storage.list_parts(upload.key, winner) == []


def test_what_is_held_is_asked_of_storage(inside: None) -> None:
    small, big, untouched = added(5), added(3 * PART), added(3 * PART)
    send(small, b"12345")
    send(big, b"h" * big.size, 3, 1)
    assert uploads.held([small, big, untouched]) == [[1], [1, 3], []]


def test_removing_leaves_nothing_in_storage_and_may_be_repeated(inside: None) -> None:
    done, half = added(5), added(2 * PART)
    send(done, b"12345")
    send(half, b"h" * half.size, 1)
    for _ in range(2):
        assert uploads.remove([done, half]) == [done, half]
    assert storage.head(done.key) is None
    with pytest.raises(NoSuchUpload):
        storage.list_parts(half.key, half.s3_upload_id or "")


def test_keys_are_opaque_and_never_hold_what_a_person_typed(inside: None) -> None:
    keys = {uploads.plan(1).key for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("beeline/") and key[8:].isalnum() for key in keys)
    assert uploads.plan(1).state is UploadState.OPEN
