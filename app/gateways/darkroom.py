"""Renders pictures of untrusted files in a sandboxed child process: the parent's side.

The libraries that decode images, PDFs and videos are large and written in C, and the files they
are given here may be crafted to exploit them. So they run in a child (darkroom_child.py) that is
started for one file. It gets no environment, no credentials, no file and no URL: it asks for pieces
of its one file over a socket and answers with two small pictures. Whatever happens to it (it
crashes, hangs, wants too much memory or too many bytes), the result here is simply no picture.
"""

import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.config import KIB, MIB

log = logging.getLogger(__name__)

Read = Callable[[int, int], bytes]

CHILD = Path(__file__).with_name("darkroom_child.py")
# Bytes that may be read of one file; each read counts as at least LEAST_PIECE.
BUDGETS = {"image": 32 * MIB, "pdf": 50 * MIB, "video": 32 * MIB}
LEAST_PIECE = 64 * KIB
MOST_PIECE = 4 * MIB
# Limits for the time spent in the child, and for the whole including reads from storage.
WORK_SECONDS = 20.0
WHOLE_SECONDS = 90.0
# While waiting for the child, check this often whether this worker must stop.
LOOK_SECONDS = 0.5
MOST_ANSWER = 1 * KIB
MOST_PICTURE = 4 * MIB
MOST_PIXELS_A_SIDE = 1600


class Interrupted(Exception):
    """This worker was asked to stop; the file is not to blame."""


class _Refused(Exception):
    """There will be no picture of this file; carries the reason."""


@dataclass(frozen=True)
class Developed:
    """Two pictures of one file, and the size of the large one in pixels.

    The large one is a WebP; the small one is a WebP or, on request, a JPEG.
    """

    thumbnail: bytes
    picture: bytes
    width: int
    height: int


def develop(
    sight: str,
    size: int,
    read: Read,
    *,
    memory_in_mib: int,
    is_over: Callable[[], bool],
    small_as: str = "webp",
) -> Developed | None:
    """Render the pictures of a file of `size` bytes; `read(start, size)` returns a piece of it.

    `small_as` is "webp" or "jpeg". Returns None if no picture can be made, for whatever reason.
    Raises Interrupted, and what `read` raises. Repeatable.
    """
    ours, theirs = socket.socketpair()
    with ours:
        child = _start(theirs, sight, size, memory_in_mib, small_as)
        try:
            return _Conversation(ours, read, BUDGETS[sight], is_over, small_as).hold()
        except _Refused as error:
            log.info("there is no picture of a file (%s): %s", sight, error)
            return None
        finally:
            _end(child)


def _start(
    theirs: socket.socket, sight: str, size: int, memory_in_mib: int, small_as: str
) -> "subprocess.Popen[bytes]":
    # Python itself may need this to find its shared libraries; pass nothing else on.
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    number = theirs.fileno()
    words = [str(number), sight, str(size), str(memory_in_mib * MIB), small_as]
    with theirs:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", str(CHILD), *words],
            env=kept,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[number],
            start_new_session=True,
        )


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child and any processes it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Conversation:
    """The protocol on the socket, described in darkroom_child.py, from the parent's side."""

    def __init__(
        self,
        line: socket.socket,
        read: Read,
        budget: int,
        is_over: Callable[[], bool],
        small_as: str,
    ) -> None:
        self._line, self._read, self._budget, self._is_over = line, read, budget, is_over
        self._is_small = _MARKS[small_as]
        self._work_left = WORK_SECONDS
        self._ends = time.monotonic() + WHOLE_SECONDS

    def hold(self) -> Developed:
        """Serve reads until the pictures arrive; raises _Refused, Interrupted."""
        while True:
            kind = self._hear(1)
            if kind == b"R":
                self._give(*struct.unpack(">QI", self._hear(12)))
            elif kind == b"M":
                return self._take()
            else:
                raise _Refused(
                    self._hear(_length(self._hear(4), MOST_ANSWER)).decode(errors="replace")
                )

    def _give(self, start: int, size: int) -> None:
        if self._is_over():
            raise Interrupted
        if size > MOST_PIECE:
            raise _Refused("it asks for too much at once")
        self._budget -= max(size, LEAST_PIECE)
        if self._budget < 0:
            raise _Refused("it needs too much of the file")
        if time.monotonic() > self._ends:
            raise _Refused("its bytes took too long to come")
        piece = self._read(start, size)
        self._line.settimeout(self._work_left)
        try:
            self._line.sendall(struct.pack(">I", len(piece)) + piece)
        except OSError as error:
            raise _Refused("it does not listen") from error

    def _take(self) -> Developed:
        """Receive the pictures; raises _Refused unless size and format are plausible."""
        said = self._hear(_length(self._hear(4), MOST_ANSWER))
        thumbnail = self._hear(_length(self._hear(4), MOST_PICTURE))
        picture = self._hear(_length(self._hear(4), MOST_PICTURE))
        try:
            width, height = (int(json.loads(said)[name]) for name in ("width", "height"))
        except (ValueError, KeyError, TypeError) as error:
            raise _Refused("it answers in riddles") from error
        is_right_size = 0 < width <= MOST_PIXELS_A_SIDE and 0 < height <= MOST_PIXELS_A_SIDE
        if not is_right_size or not (self._is_small(thumbnail) and _is_webp(picture)):
            raise _Refused("what it made is no picture")
        return Developed(thumbnail, picture, width, height)

    def _hear(self, size: int) -> bytes:
        """Receive exactly `size` bytes; the time spent here counts against the child's limit."""
        heard = bytearray()
        while len(heard) < size:
            began = time.monotonic()
            self._line.settimeout(min(LOOK_SECONDS, self._work_left))
            try:
                piece = self._line.recv(min(size - len(heard), 64 * KIB))
                if not piece:
                    raise _Refused("it ended without a word")
                heard += piece
            except TimeoutError:
                if self._is_over():
                    raise Interrupted from None
            except OSError as error:
                raise _Refused("it broke off") from error
            self._work_left -= time.monotonic() - began
            if self._work_left <= 0:
                raise _Refused("it took too long")
        return bytes(heard)


def _length(raw: bytes, most: int) -> int:
    (length,) = struct.unpack(">I", raw)
    if length > most:
        raise _Refused("it says too much")
    return int(length)


def _is_webp(picture: bytes) -> bool:
    return picture[:4] == b"RIFF" and picture[8:12] == b"WEBP"


def _is_jpeg(picture: bytes) -> bool:
    return picture[:3] == b"\xff\xd8\xff"


_MARKS = {"webp": _is_webp, "jpeg": _is_jpeg}
