"""Into which parts a zip is cut, so that storage copies most of it. Pure arithmetic, no I/O.

The same layout is always cut alike, so whoever goes on with a zip finds its parts where the last
one left them.
"""

from collections.abc import Iterator

from app.config import MIB, S3_MAX_PART_SIZE, S3_MAX_PARTS, S3_MIN_PART_SIZE
from app.zip_layout import Layout

# Large enough that 10 GiB take few requests, small enough that a copy is soon done and seen.
COPIED_SIZE = 64 * MIB
# Half of the parts that S3 takes; so as many are left for what is between two files.
MOST_COPIED = S3_MAX_PARTS // 2


def cut(layout: Layout) -> list[int]:
    """The sizes of its parts, in order: each at least 5 MiB, but for the last.

    A file's bytes are parts of their own wherever they come to enough; what is between two such
    files is one part, filled up from the second's beginning where it alone would be too small.
    """
    smallest, copied = S3_MIN_PART_SIZE, max(COPIED_SIZE, _whole_mib(layout.size // MOST_COPIED))
    while 2 * smallest <= S3_MAX_PART_SIZE:
        largest = min(max(copied, 2 * smallest), S3_MAX_PART_SIZE)
        sizes = list(_cut(layout, smallest, largest))
        if len(sizes) <= S3_MAX_PARTS:
            return sizes
        # Very many files in between, of very many bytes: then those parts have to be larger.
        smallest *= 2
    # The largest object of all has no room for any part that is not of 5 GiB.
    return equal(layout.size, S3_MAX_PART_SIZE)


def equal(size: int, part_size: int) -> list[int]:
    """The same for a store that wants all parts but the last to be of one size."""
    whole, rest = divmod(size, part_size)
    return [part_size] * whole + [rest] * (rest > 0)


def _cut(layout: Layout, smallest: int, largest: int) -> Iterator[int]:
    done = 0
    for start, size in layout.data:
        # What is before it is assembled; should that be too little, it gives some of its own.
        own = max(start, done + smallest)
        if start + size - own < smallest:
            continue
        yield from _evenly(own - done, (own - done) // smallest)
        yield from _evenly(start + size - own, -(-(start + size - own) // largest))
        done = start + size
    yield from _evenly(layout.size - done, max(1, (layout.size - done) // smallest))


def _evenly(size: int, count: int) -> Iterator[int]:
    """So many parts that differ by a byte at most."""
    whole, longer = divmod(size, count)
    yield from (whole + 1 for _ in range(longer))
    yield from (whole for _ in range(count - longer))


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
