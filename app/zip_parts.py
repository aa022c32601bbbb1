"""Cuts a zip into upload parts, so that storage copies most of it. Pure arithmetic, no I/O.

The same layout is always cut alike, so another worker can go on with a zip and find the parts that
are already there.
"""

from collections.abc import Iterator

from app.config import MIB, S3_MAX_PART_SIZE, S3_MAX_PARTS, S3_MIN_PART_SIZE
from app.zip_layout import Layout

# Large enough that 10 GiB take few requests, small enough that a copy soon shows as progress.
COPIED_SIZE = 64 * MIB
# Half of the parts that S3 allows; the other half is for what lies between files.
MOST_COPIED = S3_MAX_PARTS // 2


def cut(layout: Layout) -> list[int]:
    """The sizes of the zip's parts, in order: each at least 5 MiB, except the last.

    A file's data becomes parts of its own wherever it is large enough; what lies between two such
    files is cut by itself, and takes in the second's beginning where it would be too small.
    """
    smallest, copied = S3_MIN_PART_SIZE, max(COPIED_SIZE, _whole_mib(layout.size // MOST_COPIED))
    while 2 * smallest <= S3_MAX_PART_SIZE:
        largest = min(max(copied, 2 * smallest), S3_MAX_PART_SIZE)
        sizes = list(_cut(layout, smallest, largest))
        if len(sizes) <= S3_MAX_PARTS:
            return sizes
        # Very many small files in between, of very many bytes: make those parts larger.
        smallest *= 2
    # An object of the largest size has room only for parts of 5 GiB.
    return equal(layout.size, S3_MAX_PART_SIZE)


def equal(size: int, part_size: int) -> list[int]:
    """The sizes of the parts for a store that requires all but the last to be equal."""
    whole, rest = divmod(size, part_size)
    return [part_size] * whole + [rest] * (rest > 0)


def _cut(layout: Layout, smallest: int, largest: int) -> Iterator[int]:
    done = 0
    for start, size in layout.data:
        # What comes before is assembled; if that is too little for a part, this file adds some
        # bytes.
        own = max(start, done + smallest)
        if start + size - own < smallest:
            continue
        yield from _evenly(own - done, (own - done) // smallest)
        yield from _evenly(start + size - own, -(-(start + size - own) // largest))
        done = start + size
    yield from _evenly(layout.size - done, max(1, (layout.size - done) // smallest))


def _evenly(size: int, count: int) -> Iterator[int]:
    """`count` parts whose sizes differ by a byte at most."""
    whole, longer = divmod(size, count)
    yield from (whole + 1 for _ in range(longer))
    yield from (whole for _ in range(count - longer))


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
