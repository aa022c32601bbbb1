"""Composing one object from ranges of others, inside the bucket, without the database.

A part that is one range of one object is copied by storage itself. Any other is put together in
this process: in a buffer into which all of its ranges are read, many in parallel, each into its
place. The buffers are few and reused, so memory is bounded by their size.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate, chain, islice
from queue import LifoQueue
from typing import IO

from app.config import MIB
from app.extensions import storage
from app.gateways.s3_answers import NotOffered, Source
from app.zip_layout import Data, Layout

# Concurrent requests to storage: ranges to read, and parts of either kind.
READS_AT_ONCE = 48
PARTS_AT_ONCE = 16
# Parts put together here concurrently: while one is sent the next is read.
ASSEMBLED_AT_ONCE = 3
# How many bytes read() may read ahead.
READ_AHEAD = 8 * MIB
LARGEST_READ = 4 * MIB
# A larger part is put together piece by piece in a buffer of this size, and kept in a temporary
# file.
IN_MEMORY = 10 * MIB
# Parts in one batch. All of them end before the next begins, so that stopping is quick.
BATCH = 64

Read = tuple[Source, int, memoryview]
Ahead = tuple[Data, bytearray, Future[None]]


class Stopped(Exception):
    """Raised when `is_over` says that the work has to stop, for now or for good."""


class Composer:
    """Makes the parts of one multipart upload as `layout` says, from the members' `sources`.

    `is_over` is called often, from several threads; when it returns True, Stopped is raised. Use it
    in a `with`: leaving it ends every thread.
    """

    def __init__(
        self, layout: Layout, sources: Sequence[Source], is_over: Callable[[], bool]
    ) -> None:
        self._layout = layout
        self._sources = sources
        self._is_over = is_over
        self._can_copy = True
        # The last one used is taken first, so those that are not needed are never allocated.
        self._buffers: LifoQueue[bytearray] = LifoQueue()
        for _ in range(ASSEMBLED_AT_ONCE):
            self._buffers.put(bytearray())

    def __enter__(self) -> "Composer":
        with ExitStack() as pools:
            self._readers = pools.enter_context(ThreadPoolExecutor(READS_AT_ONCE))
            self._makers = pools.enter_context(ThreadPoolExecutor(PARTS_AT_ONCE))
            self._pools = pools.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        # What waits is cancelled; requests that are under way are waited for.
        self._makers.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self._pools.close()

    def make_parts(
        self, key: str, s3_upload_id: str, sizes: Sequence[int], held: Collection[int] = ()
    ) -> Iterator[int]:
        """Make the parts of these sizes except for the numbers in `held`, many in parallel.

        Yields the size of each once storage has it. Repeatable. Raises SourceLost, NoSuchUpload,
        Stopped, and errors.Unavailable.
        """
        starts = list(accumulate(sizes, initial=0))

        def make(number: int) -> int:
            size = sizes[number - 1]
            self._make_part((key, s3_upload_id, number), starts[number - 1], size)
            return size

        missing = (number for number in range(1, len(sizes) + 1) if number not in held)
        while batch := list(islice(missing, BATCH)):
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
            except NotOffered:
                # Then all bytes go through this process; the result is the same.
                self._can_copy = False
        with self._buffer(min(size, IN_MEMORY)) as buffer:
            if size <= len(buffer):
                self._fill(buffer, pieces)
                storage.put_part(*part, buffer)
                return
            with tempfile.TemporaryFile() as file:
                self._write(file, start, size, buffer)
                storage.put_part(*part, file)

    @contextmanager
    def _buffer(self, size: int) -> Iterator[memoryview]:
        """One of the few buffers, for the duration of the block; waits until one is free."""
        buffer = self._buffers.get()
        try:
            if len(buffer) < size:
                buffer = bytearray(size)
            yield memoryview(buffer)[:size]
        finally:
            self._buffers.put(buffer)

    def _write(self, file: IO[bytes], start: int, size: int, buffer: memoryview) -> None:
        """Put a part that is too large for a buffer into the file, one buffer after the other."""
        for at in range(start, start + size, len(buffer)):
            stretch = buffer[: start + size - at]
            self._fill(stretch, self._layout.pieces(at, len(stretch)))
            file.write(stretch)

    def _fill(self, buffer: memoryview, pieces: Iterable[bytes | Data]) -> None:
        """Put all pieces into their places in the buffer; those that are read, many in parallel."""
        reads: deque[Read] = deque()
        at = 0
        for piece in pieces:
            if isinstance(piece, Data):
                for one in _in_reads(piece):
                    place = buffer[at : at + one.size]
                    reads.append((self._sources[one.index], one.start, place))
                    at += one.size
            else:
                buffer[at : at + len(piece)] = piece
                at += len(piece)
        # A few tasks that each take read after read; a future per read would double the cost.
        running = [
            self._readers.submit(self._take, reads) for _ in range(min(len(reads), READS_AT_ONCE))
        ]
        # All of them, even after a failure: the buffer is reused, so no thread may still write.
        wait(running)
        for reader in running:
            reader.result()

    def _take(self, reads: deque[Read]) -> None:
        try:
            for source, start, place in _drained(reads):
                self._go_on()
                storage.read_into(place, source, start)
        except BaseException:
            reads.clear()
            raise

    def read(self, pieces: Iterable[Data]) -> Iterator[tuple[Data, bytearray]]:
        """Yield these pieces in order, in reads of at most LARGEST_READ, with their bytes.

        Raises SourceLost, Stopped, and errors.Unavailable.
        """
        ahead: deque[Ahead] = deque()
        ahead_size = 0
        for piece in chain.from_iterable(map(_in_reads, pieces)):
            self._go_on()
            place = bytearray(piece.size)
            source = self._sources[piece.index]
            reading = self._readers.submit(
                storage.read_into, memoryview(place), source, piece.start
            )
            ahead.append((piece, place, reading))
            ahead_size += piece.size
            while len(ahead) >= READS_AT_ONCE or ahead_size > READ_AHEAD:
                ahead_size -= ahead[0][0].size
                yield _come(ahead)
        while ahead:
            yield _come(ahead)

    def _go_on(self) -> None:
        if self._is_over():
            raise Stopped


def _in_reads(piece: Data) -> Iterator[Data]:
    """The same bytes, in pieces of at most LARGEST_READ."""
    # An empty piece is one empty read: a reader of whole objects sees that it ends.
    for start in range(0, max(1, piece.size), LARGEST_READ):
        yield Data(piece.index, piece.start + start, min(LARGEST_READ, piece.size - start))


def _drained(reads: deque[Read]) -> Iterator[Read]:
    """Yield each read once, to whichever thread comes first."""
    with suppress(IndexError):
        while True:
            yield reads.popleft()


def _come(ahead: deque[Ahead]) -> tuple[Data, bytearray]:
    """The first piece and its bytes, once they have been read."""
    piece, place, reading = ahead.popleft()
    reading.result()
    return piece, place
