"""One object put together from ranges of others, inside the bucket; no database here.

A part that is one range of one object is copied by storage itself. Any other is put together in
this process: its ranges are read many at a time, a bounded stretch ahead of where they belong.
"""

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import islice

from app.config import MIB
from app.extensions import storage
from app.gateways.storage import CannotCopy, Source
from app.zip_layout import Data, Layout

# Requests to storage that are under way at once: ranges to read, and parts of either kind.
READS_AT_ONCE = 32
PARTS_AT_ONCE = 16
# Parts that are put together here at once, and how far ahead of its place each may read.
ASSEMBLED_AT_ONCE = 3
READ_AHEAD = 8 * MIB
LARGEST_READ = 4 * MIB
# Of a part that is larger, what has come waits on the disk.
IN_MEMORY = 16 * MIB
# Between two of these nothing is under way, so that stopping need not wait for long.
BATCH = 64


class Stopped(Exception):
    """Whoever wanted it does not, or not now."""


class Composer:
    """Makes the parts of one multipart upload as `layout` says, from the members' `sources`.

    `is_over` is asked often, from several threads; when it says so, Stopped is raised. Use it in
    a `with`: leaving it ends every thread.
    """

    def __init__(
        self, layout: Layout, sources: Sequence[Source], is_over: Callable[[], bool]
    ) -> None:
        self._layout = layout
        self._sources = sources
        self._is_over = is_over
        self._can_copy = True
        self._assembling = threading.BoundedSemaphore(ASSEMBLED_AT_ONCE)

    def __enter__(self) -> "Composer":
        with ExitStack() as pools:
            self._readers = pools.enter_context(ThreadPoolExecutor(READS_AT_ONCE))
            self._makers = pools.enter_context(ThreadPoolExecutor(PARTS_AT_ONCE))
            self._pools = pools.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        # What waits is dropped; what storage was asked is waited for.
        self._makers.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self._pools.close()

    def make_parts(
        self, key: str, s3_upload_id: str, numbers: Iterable[int], part_size: int
    ) -> Iterator[int]:
        """Make these parts, many at a time; yields the size of each once storage has it.

        Repeatable. Raises SourceLost, NoSuchUpload, Stopped, and errors.Unavailable.
        """

        def make(number: int) -> int:
            start = (number - 1) * part_size
            size = min(part_size, self._layout.size - start)
            self._make_part((key, s3_upload_id, number), start, size)
            return size

        waiting = iter(numbers)
        while batch := list(islice(waiting, BATCH)):
            self._go_on()
            running = [self._makers.submit(make, number) for number in batch]
            for future in as_completed(running):
                yield future.result()

    def _make_part(self, part: tuple[str, str, int], start: int, size: int) -> None:
        pieces = list(self._layout.pieces(start, size))
        if self._can_copy and len(pieces) == 1 and isinstance(pieces[0], Data):
            piece = pieces[0]
            try:
                storage.copy_part(*part, self._sources[piece.index], piece.start, piece.size)
                return
            except CannotCopy:
                # Then all of it goes through our hands; it is the same zip.
                self._can_copy = False
        with self._assembling, tempfile.SpooledTemporaryFile(IN_MEMORY) as body:
            for chunk in self._filled(pieces):
                body.write(chunk)
            body.seek(0)
            storage.put_part(*part, body)

    def read(self, pieces: Iterable[Data]) -> Iterator[tuple[Data, bytes]]:
        """These pieces in order, in reads of at most LARGEST_READ, with their bytes.

        Raises SourceLost, Stopped, and errors.Unavailable.
        """
        reads = list(_in_reads(pieces))
        yield from zip(reads, self._filled(reads), strict=True)  # type: ignore[misc]

    def _filled(self, pieces: Iterable[bytes | Data]) -> Iterator[bytes]:
        """The bytes of all pieces, in order, while those to come are being read."""
        ahead: deque[Future[bytes]] = deque()
        ahead_size = 0
        sizes: deque[int] = deque()
        for piece in _in_reads(pieces):
            self._go_on()
            ahead.append(self._begin_read(piece))
            sizes.append(piece.size if isinstance(piece, Data) else len(piece))
            ahead_size += sizes[-1]
            while len(ahead) >= READS_AT_ONCE or ahead_size > READ_AHEAD:
                ahead_size -= sizes.popleft()
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _begin_read(self, piece: bytes | Data) -> "Future[bytes]":
        if isinstance(piece, Data):
            return self._readers.submit(
                storage.read, self._sources[piece.index], piece.start, piece.size
            )
        known: Future[bytes] = Future()
        known.set_result(piece)
        return known

    def _go_on(self) -> None:
        if self._is_over():
            raise Stopped


def _in_reads(pieces: Iterable[bytes | Data]) -> Iterator[bytes | Data]:
    """The same bytes, in pieces that may be held in memory."""
    for piece in pieces:
        if not isinstance(piece, Data):
            yield piece
            continue
        # Nothing at all is one read of nothing: whoever reads a whole object learns of its end.
        for start in range(0, max(1, piece.size), LARGEST_READ):
            yield Data(piece.index, piece.start + start, min(LARGEST_READ, piece.size - start))
