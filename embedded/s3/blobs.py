"""The files: one per part, randomly named, written once, never changed, removed when unused."""

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from embedded.s3.checksums import Digests, encode
from embedded.s3.wire import PIECE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blob:
    """A file on disk and its digests: MD5 in hex, checksums in base64, SHA only if asked for."""

    name: str
    size: int
    md5: str
    crc32: str
    sha1: str | None
    sha256: str | None


@dataclass(frozen=True)
class Span:
    """`size` bytes of a blob, from `offset`."""

    name: str
    offset: int
    size: int


class Blobs:
    """A folder of blobs.

    A blob may be discarded while it is being read: its file stays until its last reader unpins it.
    Hold `lock` from looking a blob up to pinning it, so that no removal comes in between. A thread
    of its own unlinks, because freeing the blocks of a large object takes seconds that no request
    should wait for; what it has not done at a stop, the next start does.
    """

    def __init__(self, folder: Path, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self.lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._closed = False
        for number in range(256):
            (folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        if sync:
            sync_folder(folder)
        # Of sets: a thousand names put one by one would wake the other thread a thousand times.
        self._unused: SimpleQueue[set[str]] = SimpleQueue()
        self._remover = threading.Thread(target=self._remove, daemon=True)
        self._remover.start()

    def close(self) -> None:
        """Stop removing, without waiting for what is queued."""
        self._closed = True
        self._unused.put(set())
        self._remover.join()

    def path(self, name: str) -> Path:
        """The path of a blob's file."""
        return self._folder / name[:2] / name

    def writer(self) -> "BlobWriter":
        """A writer for a new, randomly named blob."""
        return BlobWriter(self.path(secrets.token_hex(16)), self._sync)

    def pin(self, names: Iterable[str]) -> None:
        """Keep the blobs' files until unpin(); the caller must hold `lock`."""
        self._pins.update(names)

    def unpin(self, names: list[str]) -> None:
        """Undo one pin(); blobs that were discarded and have no more pins are removed."""
        with self.lock:
            self._pins.subtract(names)
            for name in [name for name in names if not self._pins[name]]:
                self._pins.pop(name, None)
            free = self._doomed - self._pins.keys()
            self._doomed -= free
        if free:
            self._unused.put(free)

    def discard(self, names: set[str]) -> None:
        """Remove unreferenced blobs in the background, pinned ones after their last reader."""
        with self.lock:
            pinned = names & self._pins.keys()
            self._doomed |= pinned
        if free := names - pinned:
            self._unused.put(free)

    def sweep(self, known: set[str]) -> tuple[int, int]:
        """Remove unknown files; returns how many, and how many of the known ones are missing."""
        found = {entry.name for entry in self._folder.glob("??/*")}
        for name in found - known:
            self._unlink(name)
        return len(found - known), len(known - found)

    def _remove(self) -> None:
        while names := self._unused.get():
            for name in names:
                if self._closed:
                    return
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        # Called for thousands of names: making a Path would take twice as long as the rest.
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/{name[:2]}/{name}")
        except OSError:  # Nothing refers to it; the next start tries again.
            log.exception("cannot remove blob %s", name)


class BlobWriter:
    """A new blob; leaving the `with` block removes its file unless `kept` was set."""

    def __init__(self, path: Path, sync: bool) -> None:
        self._path = path
        self._sync = sync
        self._file = path.open("xb", buffering=0)
        self.kept = False

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self.kept:
            self._path.unlink(missing_ok=True)

    def write(self, piece: memoryview) -> None:
        """Write all of the piece: the file is unbuffered, and a write may be short."""
        while piece:
            piece = piece[self._file.write(piece) :]

    def seal(self, digests: Digests) -> Blob:
        """Sync the bytes and the file's name to disk, and return the blob with its digests."""
        if self._sync:
            os.fsync(self._file.fileno())
            sync_folder(self._path.parent)
        crc32 = encode(digests.raw("crc32"))
        sha1, sha256 = (
            encode(digests.raw(name)) if digests.has(name) else None for name in ("sha1", "sha256")
        )
        return Blob(self._path.name, digests.size, digests.raw("md5").hex(), crc32, sha1, sha256)


class BlobStream:
    """Pinned spans to be sent or read in order; must be closed in any case, to unpin them."""

    def __init__(self, blobs: Blobs, spans: list[Span]) -> None:
        self._blobs = blobs
        self._spans = spans

    def send(self, connection: socket.socket) -> None:
        """Send the bytes from the page cache to the socket; OSError if a file is too short."""
        for span in self._spans:
            with self._blobs.path(span.name).open("rb") as file:
                if connection.sendfile(file, span.offset, span.size) != span.size:
                    raise OSError(f"blob {span.name} is shorter than the index says")

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in views of one reused buffer; OSError if a file is too short."""
        view = memoryview(bytearray(PIECE))
        for span in self._spans:
            with self._blobs.path(span.name).open("rb", buffering=0) as file:
                file.seek(span.offset)
                left = span.size
                while left:
                    count = file.readinto(view[:left])
                    if not count:
                        raise OSError(f"blob {span.name} is shorter than the index says")
                    left -= count
                    yield view[:count]

    def close(self) -> None:
        """Unpin the spans; closing again does nothing."""
        self._blobs.unpin([span.name for span in self._spans])
        self._spans = []


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
