"""How a zip is split into parts: as S3 allows, and with as few bytes as possible sent by us."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import zip_parts
from app.config import GIB, MIB, S3_MAX_OBJECT_SIZE, S3_MAX_PART_SIZE, S3_MIN_PART_SIZE
from app.zip_layout import Data, Layout, Member

PART = S3_MIN_PART_SIZE
THEN = datetime(2024, 2, 29, tzinfo=UTC)


def layout_of(*sizes: int) -> Layout:
    return Layout([Member(f"{n}", size, THEN, b"1234") for n, size in enumerate(sizes)])


def assembled(layout: Layout) -> int:
    """The total size of the parts that storage cannot copy."""
    start, found = 0, 0
    for size in zip_parts.cut(layout):
        pieces = list(layout.pieces(start, size))
        found += 0 if len(pieces) == 1 and isinstance(pieces[0], Data) else size
        start += size
    return found


def check(layout: Layout) -> list[int]:
    sizes = zip_parts.cut(layout)
    assert sum(sizes) == layout.size
    assert len(sizes) <= 10_000
    assert all(PART <= size <= S3_MAX_PART_SIZE for size in sizes[:-1])
    assert 0 < sizes[-1] <= S3_MAX_PART_SIZE
    return sizes


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 70),
            st.integers(PART - 100, PART + 100),
            st.integers(2 * PART - 200, 2 * PART + 200),
            st.integers(0, 40 * GIB),
        ),
        max_size=12,
    )
)
def test_any_zip_is_split_as_s3_allows_and_always_the_same_way(sizes: list[int]) -> None:
    assert check(layout_of(*sizes)) == zip_parts.cut(layout_of(*sizes))


def test_at_the_edge_of_two_files_one_part_of_5_mib_is_put_together() -> None:
    layout = layout_of(*[GIB] * 10)
    # The last part is what follows all files; storage accepts a last part of any size.
    assert assembled(layout) - check(layout)[-1] == 10 * PART
    assert check(layout)[-1] < 1000
    # Twice, because these bytes are both read and sent.
    assert 2 * assembled(layout) < 0.01 * layout.size


def test_copies_are_few_and_none_takes_long() -> None:
    sizes = check(layout_of(10 * GIB, 3 * GIB))
    assert len(sizes) < 250
    assert max(sizes) <= zip_parts.COPIED_SIZE


def test_what_is_too_small_to_be_copied_goes_with_its_neighbours() -> None:
    assert check(layout_of(1, 2, 3)) == [layout_of(1, 2, 3).size]
    many = layout_of(*[10 * 1024] * 5000)
    assert max(check(many)) < 2 * PART
    # Every second file can be copied whole, because the one before it fills the part in between.
    layout = layout_of(*[9 * MIB] * 20)
    assert assembled(layout) < 0.55 * layout.size


@pytest.mark.parametrize(
    ("size", "count"),
    [(10 * MIB, 10_000), (500 * MIB, 10_000), (70 * 1024, 10_000), (5 * GIB, 900)],
)
def test_very_many_files_are_not_more_parts_than_s3_takes(size: int, count: int) -> None:
    check(layout_of(*[size] * count))


def test_the_largest_possible_zips() -> None:
    check(layout_of(S3_MAX_OBJECT_SIZE - MIB, 1))
    check(layout_of(1, S3_MAX_OBJECT_SIZE - MIB))
    check(layout_of(S3_MAX_OBJECT_SIZE // 2 - MIB, S3_MAX_OBJECT_SIZE // 2 - MIB))


def test_equal_parts_for_stores_that_want_them() -> None:
    assert zip_parts.equal(2 * PART, PART) == [PART, PART]
    assert zip_parts.equal(2 * PART + 1, PART) == [PART, PART, 1]
    assert zip_parts.equal(7, PART) == [7]
