"""One object on its way to storage: geometry, signing, completing, and believing only storage."""

import hashlib
import os
import threading
import zlib
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from app.config import GIB, MIB, S3_MAX_OBJECT_SIZE, S3_MAX_PART_SIZE, S3_MAX_PARTS
from app.db import db, transaction
from app.errors import Unavailable
from app.extensions import storage
from app.gateways.s3_answers import NoSuchUpload, Stored
from app.models import Checksum, Method, Problem, Upload, UploadState
from app.services import completing, planning, removal, uploads
from app.services.completing import Outcome
from app.services.uploads import Arrival
from tests.factories import http, put

pytestmark = pytest.mark.usefixtures("inside")
PART = 8 * MIB


def added(size: int, *, verified: bool = False) -> Upload:
    """A planned upload with its row."""
    upload = planning.plan(size, Checksum.CRC32 if verified else None)
    with transaction():
        db.session.add(upload)
    return upload


def send(upload: Upload, body: bytes, *numbers: int) -> None:
    """PUT these parts of the body (all when none is named) through signed addresses."""
    uploads.begin([upload])
    numbers = numbers or tuple(range(1, planning.part_count(upload) + 1))
    pieces = [body[(n - 1) * upload.part_size : n * upload.part_size] for n in numbers]
    crc32s = [raw_crc32(piece) for piece in pieces] if upload.checksum_algorithm else None
    for part, piece in zip(uploads.sign(upload, numbers, crc32s), pieces, strict=True):
        answer = put(part.url, piece, part.headers)
        assert answer.status == 200, answer.data


def raw_crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize(
    "size",
    [0, 1, 5 * MIB - 1, 5 * MIB, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 1]
    + [int(48.8 * GIB), 1024 * GIB, 9_900 * PART, 9_900 * PART + 1, S3_MAX_OBJECT_SIZE],
)
def test_f06_f07_f11_every_plan_is_one_that_s3_accepts(size: int) -> None:
    upload = planning.plan(size)
    count = planning.part_count(upload)
    sizes = [planning.part_size_of(upload, n) for n in (1, max(1, count - 1), count)]
    assert 1 <= count <= S3_MAX_PARTS
    assert upload.part_size >= PART
    assert upload.part_size <= S3_MAX_PART_SIZE
    assert (count - 1) * upload.part_size + sizes[-1] == size
    assert all(one == upload.part_size for one in sizes[:-1]) or count == 1
    assert (upload.method is Method.SINGLE) == (size <= PART)


@pytest.mark.parametrize(
    ("size", "part_size"),
    [(0, 8), (8 * MIB, 8), (512 * MIB, 8), (GIB, 16), (2 * GIB, 32), (300 * GIB, 32)]
    + [(1024 * GIB, 106)],
)
def test_large_files_have_large_parts_that_are_a_small_share_of_them(
    size: int, part_size: int
) -> None:
    assert planning.part_size_for(size) == part_size * MIB
    assert size < 512 * MIB or planning.part_size_for(size) <= size / 64


@pytest.mark.parametrize("size", [0, 1, 1000, PART, PART + 1, 2 * PART, 2 * PART + 5])
def test_f11_bytes_come_back_equal(size: int) -> None:
    body, upload = os.urandom(size), added(size)
    send(upload, body)
    outcome = completing.complete(upload)
    assert outcome.problem is None
    assert outcome.etag
    stored = storage.head(upload.key)
    assert stored is not None
    assert (stored.size, stored.token) == (size, upload.token)
    got = fetched(upload)
    assert hashlib.sha256(got).digest() == hashlib.sha256(body).digest()


def fetched(upload: Upload) -> bytes:
    """What a signed download address of the object gives."""
    return http.request("GET", storage.urls.get(upload.key, "attachment", 60)).data


def test_without_conditional_writes_small_files_go_as_multipart(configure) -> None:
    configure(s3_conditional_writes=False)
    for size in (0, 10):
        upload = added(size)
        assert upload.method is Method.MULTIPART
        send(upload, b"x" * size)
        assert completing.complete(upload).problem is None


def test_completing_twice_gives_the_same(inside: None) -> None:
    for size in (5, PART + 5):
        upload = added(size)
        send(upload, b"y" * size)
        assert completing.complete(upload) == completing.complete(upload)


def lose_answer_of_complete(patch: pytest.MonkeyPatch) -> None:
    """Storage completes the upload, the answer is lost, and a retry finds nothing to complete."""
    finish = storage.finish_upload

    def finish_and_fail(*given: Any) -> None:
        finish(*given)
        raise NoSuchUpload("the SDK's own retry found nothing to complete")

    patch.setattr(storage, "finish_upload", finish_and_fail)


def test_f14_a_lost_answer_of_complete_is_proved_by_the_token(monkeypatch) -> None:
    upload = added(PART + 5)
    send(upload, b"z" * upload.size)
    lose_answer_of_complete(monkeypatch)
    assert completing.complete(upload).problem is None


def test_f15_an_upload_that_storage_dropped_is_lost(inside: None) -> None:
    upload = added(PART + 5)
    send(upload, b"z" * upload.size)
    storage.abort_upload(upload.key, upload.s3_upload_id or "")
    assert completing.complete(upload).problem is Problem.LOST


@pytest.mark.parametrize("size", [7, PART + 7])
def test_f16_a_foreign_object_at_the_key_is_refused(size: int) -> None:
    upload = added(size)
    storage._client.put_object(Bucket=storage._bucket, Key=upload.key, Body=b"f" * size)
    upload.s3_upload_id = "gone" if upload.method is Method.MULTIPART else None
    assert completing.complete(upload).problem is Problem.LOST


def test_f18_missing_parts_are_named_and_nothing_is_built(inside: None) -> None:
    upload = added(3 * PART)
    send(upload, b"m" * upload.size, 1, 3)
    outcome = completing.complete(upload)
    assert (outcome.problem, outcome.missing) == (Problem.MISSING, (2,))
    assert storage.head(upload.key) is None
    send(upload, b"m" * upload.size, 2)
    assert completing.complete(upload).problem is None


def test_a_file_that_never_came_is_missing(inside: None) -> None:
    for size in (0, 5, PART + 5):
        assert completing.complete(added(size)).problem is Problem.MISSING


def test_f08_the_last_bytes_sent_for_a_part_count(inside: None) -> None:
    upload = added(2 * PART)
    send(upload, b"a" * upload.size, 2, 1)
    send(upload, b"b" * upload.size, 1)
    assert completing.complete(upload).problem is None
    assert fetched(upload) == b"b" * PART + b"a" * PART


def test_f12_every_page_of_the_list_of_parts_is_read() -> None:
    """Storage lists 1000 parts per page; here every request asks for two."""
    upload = added(5 * PART)
    send(upload, b"p" * upload.size)
    asked = []

    def ask_for_two(params: dict[str, Any], **more: Any) -> None:
        asked.append(params.get("PartNumberMarker"))
        params["MaxParts"] = 2

    events = storage._client.meta.events
    events.register("before-parameter-build.s3.ListParts", ask_for_two)
    try:
        held = storage.list_parts(upload.key, upload.s3_upload_id or "")
        assert [part.number for part in held] == [1, 2, 3, 4, 5]
        assert asked == [None, 2, 4]
        assert completing.complete(upload).problem is None
    finally:
        events.unregister("before-parameter-build.s3.ListParts", ask_for_two)


@pytest.mark.parametrize("off_by", [-1, 1])
@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_body_of_another_length_is_refused_by_storage_itself(size: int, off_by: int) -> None:
    upload = added(size)
    uploads.begin([upload])
    last = planning.part_count(upload)
    part = uploads.sign(upload, [last])[0]
    assert put(part.url, b"x" * (part.size + off_by), part.headers).status == 403


def test_f27_addresses_are_worthless_once_the_upload_is_complete(inside: None) -> None:
    for size, refusal in ((10, 412), (PART + 10, 404)):
        upload = added(size)
        uploads.begin([upload])
        parts = uploads.sign(upload, range(1, planning.part_count(upload) + 1))
        for part in parts:
            assert put(part.url, b"1" * part.size, part.headers).status == 200
        etag = completing.complete(upload).etag
        for part in parts:
            assert put(part.url, b"2" * part.size, part.headers).status == refusal
        assert storage.head(upload.key).etag == etag  # type: ignore[union-attr]


def test_the_second_to_begin_keeps_the_firsts_and_aborts_its_own(monkeypatch) -> None:
    upload = added(PART + 1)
    begin = storage.begin_upload
    winner = begin(upload.key, upload.token)
    opened: list[str] = []

    def begin_while_another_is_faster(key: str, token: str, **more: bool) -> str:
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


def test_f21_when_one_cannot_be_opened_those_that_were_are_kept(monkeypatch) -> None:
    """Else they would lie there until a sweep finds them, and the next try would open others."""
    waiting = [added(PART + 1) for _ in range(3)]
    begin = storage.begin_upload
    opened: list[str] = []

    together = threading.Barrier(3)

    def begin_all_but_one(key: str, token: str, **more: bool) -> str:
        if key == waiting[1].key:
            together.wait(10)
            raise Unavailable
        s3_id = begin(key, token)
        opened.append(s3_id)
        together.wait(10)
        return s3_id

    monkeypatch.setattr(storage, "begin_upload", begin_all_but_one)
    with pytest.raises(Unavailable):
        uploads.begin(waiting)
    assert {upload.s3_upload_id for upload in waiting} == {None, *opened}
    monkeypatch.setattr(storage, "begin_upload", begin)
    uploads.begin(waiting)
    assert set(opened) < {upload.s3_upload_id for upload in waiting}


# -- checksums: F08, F09, F13-F16 --------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART, 2 * PART + 5])
@pytest.mark.parametrize("conditional", [True, False])
def test_f09_the_checksum_of_the_whole_is_known_at_the_end(
    configure, size: int, conditional: bool
) -> None:
    configure(s3_conditional_writes=conditional)
    body, upload = os.urandom(size), added(size, verified=True)
    send(upload, body)
    first = completing.complete(upload)
    assert (first.problem, first.crc32) == (None, raw_crc32(body))
    assert completing.complete(upload) == first
    stored = storage.head(upload.key, with_crc32=True)
    assert stored is not None
    assert stored.crc32 == raw_crc32(body)
    assert fetched(upload) == body


def test_without_the_plan_nothing_is_said_of_checksums(monkeypatch) -> None:
    asked: list[bool] = []
    head = storage.head
    monkeypatch.setattr(
        storage, "head", lambda key, *, with_crc32: (asked.append(with_crc32), head(key))[1]
    )
    for size in (5, PART + 5):
        upload = added(size)
        send(upload, b"n" * size)
        outcome = completing.complete(upload)
        assert (outcome.problem, outcome.crc32) == (None, None)
    assert asked == [False, False]


def test_f08_a_part_sent_again_counts_with_its_own_checksum(inside: None) -> None:
    upload = added(2 * PART, verified=True)
    send(upload, b"a" * upload.size, 2, 1)
    send(upload, b"b" * upload.size, 1)
    assert completing.complete(upload).crc32 == raw_crc32(b"b" * PART + b"a" * PART)


@pytest.mark.parametrize("size", [10, PART + 10])
def test_f09_damaged_bytes_never_get_into_storage(size: int) -> None:
    upload, body = added(size, verified=True), os.urandom(size)
    uploads.begin([upload])
    last = planning.part_count(upload)
    piece = body[(last - 1) * PART :]
    (part,) = uploads.sign(upload, [last], [raw_crc32(piece)])
    for at in range(len(piece)):
        damaged = piece[:at] + bytes([piece[at] ^ (1 << at % 8)]) + piece[at + 1 :]
        assert put(part.url, damaged, part.headers).status == 400
    assert uploads.held([upload]) == [[]]
    assert completing.complete(upload).problem is Problem.MISSING
    send(upload, body)
    assert completing.complete(upload).crc32 == raw_crc32(body)


def test_a_part_that_nobody_verified_is_missing(monkeypatch) -> None:
    upload = added(2 * PART, verified=True)
    send(upload, b"v" * upload.size)
    first, second = storage.list_parts(upload.key, upload.s3_upload_id or "")
    unverified = [first, replace(second, crc32=None)]
    monkeypatch.setattr(storage, "list_parts", lambda *given: unverified)
    outcome = completing.complete(upload)
    assert (outcome.problem, outcome.missing) == (Problem.MISSING, (2,))
    assert uploads.held([upload]) == [[1]]
    assert storage.head(upload.key) is None


def test_a_store_that_lists_no_checksums_of_parts_is_believed_of_the_whole(monkeypatch) -> None:
    """As SeaweedFS, which verifies the parts, too."""
    upload = added(2 * PART + 5, verified=True)
    body = os.urandom(upload.size)
    send(upload, body, 3, 1)
    listing_no_checksums(monkeypatch)
    assert uploads.held([upload]) == [[1, 3]]
    send(upload, body, 2)
    outcome = completing.complete(upload)
    assert (outcome.problem, outcome.crc32) == (None, raw_crc32(body))
    assert fetched(upload) == body


def test_a_store_that_says_no_checksum_at_all_is_not_believed(monkeypatch) -> None:
    upload = added(PART + 5, verified=True)
    send(upload, os.urandom(upload.size))
    listing_no_checksums(monkeypatch)
    saying(monkeypatch, None)
    assert completing.complete(upload).problem is Problem.DAMAGED


def listing_no_checksums(monkeypatch) -> None:
    """Let storage list parts without the checksums that it has verified."""
    list_parts = storage.list_parts
    monkeypatch.setattr(
        storage,
        "list_parts",
        lambda *given: [replace(part, crc32=None) for part in list_parts(*given)],
    )


def test_parts_that_do_not_come_to_their_whole_are_refused(monkeypatch) -> None:
    """By storage: what it lists of a part is not what it holds of it."""
    upload = added(2 * PART, verified=True)
    send(upload, b"w" * upload.size)
    monkeypatch.setattr(completing, "combine", lambda pieces: (list(pieces), b"\0\0\0\0")[1])
    assert completing.complete(upload).problem is Problem.DAMAGED
    assert storage.head(upload.key) is None


def saying(monkeypatch, crc32: bytes | None) -> None:
    """Let storage say this of whatever lies there."""
    head = storage.head

    def say(key: str, **more: bool) -> Stored | None:
        stored = head(key, **more)
        return stored and replace(stored, crc32=crc32)

    monkeypatch.setattr(storage, "head", say)


@pytest.mark.parametrize("size", [7, PART + 7])
def test_another_checksum_of_the_whole_is_damage(monkeypatch, size: int) -> None:
    upload = added(size, verified=True)
    send(upload, b"d" * size)
    if upload.method is Method.SINGLE:
        # Of one PUT storage's own word is all there is, and it must be there.
        saying(monkeypatch, None)
    else:
        saying(monkeypatch, b"else")
    assert completing.complete(upload) == Outcome(upload.id, problem=Problem.DAMAGED)


def test_a_store_that_knows_the_parts_only_is_believed_of_the_whole(monkeypatch) -> None:
    upload = added(PART + 7, verified=True)
    body = os.urandom(upload.size)
    send(upload, body)
    saying(monkeypatch, None)
    assert completing.complete(upload).crc32 == raw_crc32(body)
    # Once more, as after a lost answer: the list of parts is gone, and with it their checksums.
    again = completing.complete(upload)
    assert (again.problem, again.crc32) == (None, None)


def test_f14_after_a_lost_answer_storage_says_the_checksum(monkeypatch) -> None:
    upload = added(PART + 5, verified=True)
    body = os.urandom(upload.size)
    send(upload, body)
    lose_answer_of_complete(monkeypatch)
    outcome = completing.complete(upload)
    assert (outcome.problem, outcome.crc32) == (None, raw_crc32(body))
    assert uploads.held([upload]) == [[1, 2]]


def test_f15_f16_checksums_do_not_help_what_is_not_ours(inside: None) -> None:
    lost, foreign = added(PART + 5, verified=True), added(7, verified=True)
    send(lost, b"z" * lost.size)
    storage.abort_upload(lost.key, lost.s3_upload_id or "")
    storage._client.put_object(
        Bucket=storage._bucket, Key=foreign.key, Body=b"f" * 7, ChecksumAlgorithm="CRC32"
    )
    assert [completing.complete(one).problem for one in (lost, foreign)] == [Problem.LOST] * 2


def test_what_must_be_sent_again_is_planned_alike_unless_checksums_are_off(monkeypatch) -> None:
    upload = planning.plan(5, Checksum.CRC32)
    again = planning.plan_again(upload)
    assert (again.size, again.checksum_algorithm) == (5, Checksum.CRC32)
    assert (again.key != upload.key, again.token != upload.token) == (True, True)
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_checksums="off"))
    assert planning.plan_again(upload).checksum_algorithm is None


def test_storage_is_never_asked_in_a_transaction_nor_for_nobody(monkeypatch) -> None:
    monkeypatch.setattr(storage, "_probe", lambda: pytest.fail("it was asked"))
    assert planning.agree_on_checksums(is_wanted=False) is None
    with transaction(), pytest.raises(RuntimeError):
        planning.agree_on_checksums(is_wanted=True)


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
        assert removal.remove([done, half]) == [done, half]
    assert storage.head(done.key) is None
    with pytest.raises(NoSuchUpload):
        storage.list_parts(half.key, half.s3_upload_id or "")


def test_what_was_seen_complete_has_no_multipart_to_drop(inside: None, s3_calls: list[str]) -> None:
    """A request for each upload would take many times as long as a thousand keys in one."""
    done = added(PART + 1)
    send(done, b"d" * done.size, 1, 2)
    done.etag = completing.complete(done).etag
    s3_calls.clear()
    assert removal.remove([done]) == [done]
    assert s3_calls == ["DeleteObjects"]
    assert storage.head(done.key) is None


def test_keys_are_opaque_and_never_hold_what_a_person_typed(inside: None) -> None:
    keys = {planning.plan(1).key for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("beeline/") and key[8:].isalnum() for key in keys)
    assert planning.plan(1).state is UploadState.OPEN


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1])
def test_with_a_part_size_everything_goes_in_parts_and_stays_so(size: int) -> None:
    planned = planning.plan(size, part_size=5 * MIB)
    again = planning.plan_again(planned)
    for upload in (planned, again):
        assert (upload.method, upload.part_size) == (Method.MULTIPART, 5 * MIB)
        assert planning.part_count(upload) == max(1, -(-size // (5 * MIB)))
    assert again.key != planned.key


def test_what_has_arrived_is_told_while_it_comes_and_once_it_is_there(inside: None) -> None:
    """And for an upload of any kind, whoever sends it."""
    single, many = planning.plan(3), planning.plan(10 * MIB + 1, part_size=5 * MIB)
    with transaction():
        db.session.add_all([single, many])
    assert uploads.arrivals([single, many]) == [Arrival((1,), 0), Arrival((1, 2, 3), 0)]
    uploads.begin([single, many])
    (signed,) = uploads.sign(single, [1])
    assert put(signed.url, b"abc", signed.headers).status == 200
    assert put(uploads.sign_plain(many, [2])[0], b"b" * 5 * MIB).status == 200
    assert uploads.arrivals([single, many]) == [Arrival((), 3), Arrival((1, 3), 5 * MIB)]
    assert put(uploads.sign_plain(many, [1])[0], b"b" * 5 * MIB).status == 200
    assert put(uploads.sign_plain(many, [3])[0], b"bb").status == 200
    assert uploads.arrivals([many]) == [Arrival((), 10 * MIB + 2)]
    assert put(uploads.sign_plain(many, [3])[0], b"b").status == 200
    assert completing.complete(many).problem is None
    # Complete in storage, and not yet in the row.
    assert uploads.arrivals([many]) == [Arrival((), many.size)]
    storage.delete([many.key])
    assert uploads.arrivals([many]) == [Arrival((1, 2, 3), 0)]
