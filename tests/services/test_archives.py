"""One zip of all files, put together inside the bucket: from real objects, by real storage."""

import uuid
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import clock, jobs, zip_parts
from app.config import MIB
from app.db import transaction
from app.errors import Gone, NotFound, WrongState
from app.extensions import storage
from app.gateways.s3_answers import Part, PartsRefused, Source, SourceLost
from app.models import UploadState
from app.services import archives, completing, composing, downloads, planning, transfers
from app.zip_layout import Layout
from tests.factories import Sender, Sent
from tests.services.zips import PART, SMALL, Calls, archive, contents, large, opened, pattern


def part_sizes(sent: Sent) -> list[int]:
    return zip_parts.cut(Layout(archives._members(transfers.files_of(sent.id))))


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


def test_more_than_one_object_can_hold_is_refused_before_anything_is_made(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, configure
) -> None:
    configure(zip_at_once=True)
    monkeypatch.setattr(archives, "S3_MAX_OBJECT_SIZE", 100)
    sent = sender.ready(SMALL)
    with pytest.raises(WrongState):
        archives.request(sent.id)
    assert archives.find(sent.id) is None


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
