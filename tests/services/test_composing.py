"""Parts put together from ranges: in order, many at a time, and never much in memory."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any

import pytest

from app.config import MIB
from app.extensions import storage
from app.gateways.storage import CannotCopy, Source
from app.services import composing
from app.services.composing import Composer, Stopped
from app.zip_layout import Data, Layout, Member
from tests.services.test_archives import pattern

PART = 5 * MIB
THEN = datetime(2024, 2, 29, tzinfo=UTC)


class Bucket:
    """Stands for storage: remembers what is under way at once, and how much of it."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.bodies = {f"k{number}": body for number, body in enumerate(bodies)}
        self.parts: dict[int, bytes] = {}
        self.copied: list[tuple[int, str]] = []
        self.reads: list[int] = []
        self.delay_seconds = 0.0
        self.knows_copies = True
        self._lock = threading.Lock()
        self._now, self.most_at_once = 0, 0
        self._putting, self.most_put_at_once = 0, 0

    def read(self, source: Source, start: int, size: int) -> bytes:
        with self._lock:
            self.reads.append(size)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay_seconds)
        with self._lock:
            self._now -= 1
        return self.bodies[source.key][start : start + size]

    def copy_part(
        self, key: str, s3_id: str, number: int, source: Source, start: int, size: int
    ) -> None:
        if not self.knows_copies:
            raise CannotCopy
        self.copied.append((number, source.etag))
        self.parts[number] = self.bodies[source.key][start : start + size]

    def put_part(self, key: str, s3_id: str, number: int, body: IO[bytes]) -> None:
        with self._lock:
            self._putting += 1
            self.most_put_at_once = max(self.most_put_at_once, self._putting)
        time.sleep(self.delay_seconds)
        self.parts[number] = body.read()
        with self._lock:
            self._putting -= 1

    @property
    def whole(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def filled(bodies: list[bytes]) -> Bucket:
        made = Bucket(bodies)
        for name in ("read", "copy_part", "put_part"):
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


def compose(layout: Layout, count: int, is_over: Any = lambda: False) -> list[int]:
    sources = [Source(f"k{number}", f"e{number}") for number in range(count)]
    numbers = range(1, -(-layout.size // PART) + 1)
    with Composer(layout, sources, is_over) as composer:
        return list(composer.make_parts("key", "id", numbers, PART))


@pytest.mark.parametrize("knows_copies", [True, False])
def test_parts_are_equal_and_together_the_whole(bucket: Any, knows_copies: bool) -> None:
    bodies = [pattern(size, n) for n, size in enumerate((3 * PART, 1, 0, PART - 9, 70_000))]
    made, layout = bucket(bodies), layout_of(bodies)
    made.knows_copies = knows_copies
    compose(layout, len(bodies))
    assert made.whole == expected(layout, bodies)
    assert {len(made.parts[number]) for number in sorted(made.parts)[:-1]} == {PART}
    # Whoever copies names the object that it must still be.
    assert sorted(made.copied) == ([(2, "e0"), (3, "e0")] if knows_copies else [])


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
    assert composing.ASSEMBLED_AT_ONCE * (PART + composing.READ_AHEAD) < 64 * MIB


def test_a_part_that_is_large_waits_on_the_disk() -> None:
    """Zips above 160 GB have such parts; three of them in memory would be too much."""
    # Nothing would mean that all of it stays in memory.
    assert 0 < composing.ASSEMBLED_AT_ONCE * composing.IN_MEMORY < 64 * MIB


def test_stopping_begins_nothing_new(bucket: Any) -> None:
    bodies = [bytes(1000)] * 50
    made, layout = bucket(bodies), layout_of(bodies)
    with pytest.raises(Stopped):
        compose(layout, len(bodies), is_over=lambda: len(made.reads) >= 3)
    assert len(made.reads) < 50
    assert made.parts == {}
