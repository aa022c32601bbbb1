"""Into which parts a zip is cut, so that storage copies most of it. Pure arithmetic, no I/O.

The same layout is always cut alike, so whoever goes on with a zip finds its parts where the last
one left them.
"""

from collections.abc import Iterator

from app.config import MIB, S3_MIN_PART_SIZE
from app.zip_layout import Layout

# Large enough that 10 GiB take few requests, small enough that a copy is soon done and seen.
COPIED_SIZE = 64 * MIB
# Below S3's 10,000, as of every other plan.
MOST_PARTS = 9_900


def cut(layout: Layout) -> list[int]:
    """The sizes of its parts, in order: each at least 5 MiB, but for the last.

    A file's bytes are parts of their own wherever they come to enough; what is between two such
    files is one part, filled up from the second's beginning where it alone would be too small.
    """
    smallest, copied = S3_MIN_PART_SIZE, max(COPIED_SIZE, _whole_mib(2 * layout.size // MOST_PARTS))
    # Very many files in between make very many parts: then those have to be larger.
    while len(sizes := list(_cut(layout, smallest, max(copied, 2 * smallest)))) > MOST_PARTS:
        smallest *= 2
    return sizes


def equal(size: int, part_size: int) -> list[int]:
    """The same for a store that wants all parts but the last to be of one size."""
    whole, rest = divmod(size, part_size)
    return [part_size] * whole + [rest] * (rest > 0)


def _cut(layout: Layout, smallest: int, copied: int) -> Iterator[int]:
    done = 0
    for start, size in layout.data:
        # What is before it is assembled; should that be too little, it gives some of its own.
        own = max(start, done + smallest)
        if start + size - own < smallest:
            continue
        yield from _evenly(own - done, (own - done) // smallest)
        yield from _evenly(start + size - own, -(-(start + size - own) // copied))
        done = start + size
    yield from _evenly(layout.size - done, max(1, (layout.size - done) // smallest))


def _evenly(size: int, count: int) -> Iterator[int]:
    """So many parts that differ by a byte at most."""
    whole, longer = divmod(size, count)
    yield from (whole + 1 for _ in range(longer))
    yield from (whole for _ in range(count - longer))


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
