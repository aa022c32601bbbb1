"""Parts put together from ranges: in order, many at a time, and never much in memory."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any

import pytest

from app import zip_parts
from app.config import MIB
from app.errors import Outage
from app.extensions import storage
from app.gateways.s3_answers import NotOffered, Source
from app.services import composing
from app.services.composing import Composer, Stopped
from app.zip_layout import Data, Layout, Member
from tests.services.zips import pattern

PART = 5 * MIB
THEN = datetime(2024, 2, 29, tzinfo=UTC)


class Bucket:
    """Stands for storage: remembers what is under way at once, and how much of it."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.bodies = {f"k{number}": body for number, body in enumerate(bodies)}
        self.parts: dict[int, bytes] = {}
        self.copied: list[tuple[int, str]] = []
        self.reads: list[int] = []
        self.from_disk: list[int] = []
        self.delay_seconds = 0.0
        self.knows_copies = True
        self._lock = threading.Lock()
        self._now, self.most_at_once = 0, 0
        self._putting, self.most_put_at_once = 0, 0

    def read_into(self, place: memoryview, source: Source, start: int) -> None:
        with self._lock:
            self.reads.append(len(place))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay_seconds)
        with self._lock:
            self._now -= 1
        place[:] = self.bodies[source.key][start : start + len(place)]

    def copy_part(
        self, key: str, s3_id: str, number: int, source: Source, start: int, size: int
    ) -> None:
        if not self.knows_copies:
            raise NotOffered
        self.copied.append((number, source.etag))
        self.parts[number] = self.bodies[source.key][start : start + size]

    def put_part(self, key: str, s3_id: str, number: int, body: memoryview | IO[bytes]) -> None:
        with self._lock:
            self._putting += 1
            self.most_put_at_once = max(self.most_put_at_once, self._putting)
        time.sleep(self.delay_seconds)
        if isinstance(body, memoryview):
            self.parts[number] = bytes(body)
        else:
            body.seek(0)
            self.parts[number] = body.read()
            self.from_disk.append(number)
        with self._lock:
            self._putting -= 1

    @property
    def whole(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def filled(bodies: list[bytes]) -> Bucket:
        made = Bucket(bodies)
        for name in ("read_into", "copy_part", "put_part"):
            monkeypatch.setattr(storage, name, getattr(made, name))
        return made

    return filled


def layout_of(bodies: list[bytes]) -> Layout:
    """CRC32s are not looked at here."""
    return Layout([Member(f"{n}", len(body), THEN, b"1234") for n, body in enumerate(bodies)])


def expected(layout: Layout, bodies: list[bytes]) -> bytes:
    return b"".join(
        piece if isinstance(piece, bytes) else bodies[piece.index]
        for piece in layout.pieces(0, layout.size)
    )


def compose(
    layout: Layout, count: int, is_over: Any = lambda: False, sizes: list[int] | None = None
) -> list[int]:
    sources = [Source(f"k{number}", f"e{number}") for number in range(count)]
    with Composer(layout, sources, is_over) as composer:
        return list(composer.make_parts("key", "id", sizes or zip_parts.cut(layout)))


@pytest.mark.parametrize("knows_copies", [True, False])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut along files", "equal"])
def test_parts_are_together_the_whole(bucket: Any, is_cut: bool, knows_copies: bool) -> None:
    bodies = [pattern(size, n) for n, size in enumerate((3 * PART, 1, 0, PART - 9, 70_000))]
    made, layout = bucket(bodies), layout_of(bodies)
    made.knows_copies = knows_copies
    sizes = zip_parts.cut(layout) if is_cut else zip_parts.equal(layout.size, PART)
    assert sorted(compose(layout, len(bodies), sizes=sizes)) == sorted(sizes)
    assert made.whole == expected(layout, bodies)
    assert [len(made.parts[number]) for number in sorted(made.parts)] == sizes
    # Whoever copies names the object that it must still be.
    copied = [(2, "e0")] if is_cut else [(2, "e0"), (3, "e0")]
    assert sorted(made.copied) == (copied if knows_copies else [])


def test_parts_that_are_held_are_not_made_again(bucket: Any) -> None:
    bodies = [pattern(3 * PART), pattern(3 * PART, 1)]
    made, layout = bucket(bodies), layout_of(bodies)
    sizes = zip_parts.cut(layout)
    sources = [Source("k0", "e0"), Source("k1", "e1")]
    with Composer(layout, sources, lambda: False) as composer:
        done = list(composer.make_parts("key", "id", sizes, {1, 2, 4}))
    assert sorted(done) == sorted([sizes[2], sizes[4]])
    assert sorted(made.parts) == [3, 5]


def test_small_files_are_read_many_at_a_time_and_stay_in_order(bucket: Any) -> None:
    bodies = [b"%04d" % number for number in range(400)]
    made, layout = bucket(bodies), layout_of(bodies)
    made.delay_seconds = 0.002
    compose(layout, len(bodies))
    assert made.whole == expected(layout, bodies)
    assert 8 < made.most_at_once <= composing.READS_AT_ONCE


def test_what_is_read_ahead_of_a_slow_reader_is_bounded(bucket: Any) -> None:
    """However large the file is, and however long whoever wants its bytes takes."""
    made = bucket([bytes(40 * MIB)])
    layout = Layout([])
    with Composer(layout, [Source("k0", "e")], lambda: False) as composer:
        taken = 0
        for piece, chunk in composer.read([Data(0, 0, 40 * MIB)]):
            taken += len(chunk)
            assert len(chunk) == piece.size <= 4 * MIB
            under_way = sum(made.reads) - taken
            assert under_way <= 12 * MIB
    assert taken == 40 * MIB


def test_only_a_few_parts_are_put_together_at_once(bucket: Any) -> None:
    bodies = [bytes(2 * MIB) for _ in range(20)]
    made, layout = bucket(bodies), layout_of(bodies)
    made.delay_seconds = 0.02
    compose(layout, len(bodies))
    assert made.most_put_at_once <= composing.ASSEMBLED_AT_ONCE
    assert composing.ASSEMBLED_AT_ONCE * composing.IN_MEMORY <= 30 * MIB


def test_buffers_are_used_again_and_are_all_that_is_held(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bucket([pattern(2 * MIB)] * 30)
    layout = layout_of([bytes(2 * MIB)] * 30)
    used: set[int] = set()

    def putting(key: str, s3_id: str, number: int, body: memoryview) -> None:
        used.add(id(body.obj))
        held.append(body.obj)
        time.sleep(0.01)

    held: list[Any] = []
    monkeypatch.setattr(storage, "put_part", putting)
    sizes = zip_parts.cut(layout)
    compose(layout, 30, sizes=sizes)
    assert len(sizes) == len(held) > 2 * composing.ASSEMBLED_AT_ONCE
    assert len(used) <= 2 * composing.ASSEMBLED_AT_ONCE
    assert made.most_at_once <= composing.READS_AT_ONCE


def test_a_part_that_is_large_waits_on_the_disk(bucket: Any) -> None:
    """Such are those of a store without part copies, and of very many files in many gigabytes."""
    bodies = [pattern(composing.IN_MEMORY + 3 * MIB), b"small"]
    made, layout = bucket(bodies), layout_of(bodies)
    compose(layout, 2, sizes=[composing.IN_MEMORY, layout.size - composing.IN_MEMORY])
    assert (made.whole, made.from_disk) == (expected(layout, bodies), [])
    made.parts.clear()
    compose(layout, 2, sizes=[layout.size])
    assert (made.whole, made.from_disk) == (expected(layout, bodies), [1])


def test_a_read_that_fails_ends_its_part_and_no_other_writes_into_its_place(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [b"%04d" % number for number in range(200)]
    made, layout = bucket(bodies), layout_of(bodies)
    made.delay_seconds = 0.05
    read_into, under_way = made.read_into, []

    def breaking(place: memoryview, source: Source, start: int) -> None:
        if source.key == "k0":
            while len(under_way) < 3:
                time.sleep(0.001)
            raise Outage
        under_way.append(source.key)
        read_into(place, source, start)
        under_way.remove(source.key)

    monkeypatch.setattr(storage, "read_into", breaking)
    with Composer(layout, [Source(f"k{n}", "e") for n in range(200)], lambda: False) as composer:
        with pytest.raises(Outage):
            list(composer.make_parts("key", "id", zip_parts.cut(layout)))
        assert under_way == []
    assert made.parts == {}
    assert len(made.reads) < 150


def test_stopping_begins_nothing_new(bucket: Any) -> None:
    bodies = [bytes(1000)] * 50
    made, layout = bucket(bodies), layout_of(bodies)
    with pytest.raises(Stopped):
        compose(layout, len(bodies), is_over=lambda: len(made.reads) >= 3)
    assert len(made.reads) < 50
    assert made.parts == {}
