"""A zip's bytes, made of headers and members: other programs can read them."""

import io
import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.crc32 import combine
from app.zip_layout import Data, Layout, Member

THEN = datetime(2024, 2, 29, 13, 37, 42, tzinfo=UTC)
GIB = 2**30


def member(name: str, body: bytes, at: datetime = THEN) -> Member:
    return Member(name, len(body), at, zlib.crc32(body).to_bytes(4, "big"))


def whole(layout: Layout, bodies: list[bytes], step: int = 0) -> bytes:
    """The zip, assembled from ranges of `step` bytes."""
    made = io.BytesIO()
    for start in range(0, layout.size, step or layout.size):
        for piece in layout.pieces(start, step or layout.size):
            if isinstance(piece, Data):
                piece = bodies[piece.index][piece.start : piece.start + piece.size]
            made.write(piece)
    return made.getvalue()


def contents(made: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.testzip() is None
        return {info.filename: opened.read(info) for info in opened.infolist()}


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"),
    min_size=1,
    max_size=30,
)


# No deadline: a busy machine is not a failure.
@settings(deadline=None)
@given(
    st.dictionaries(names, st.binary(max_size=300), max_size=8),
    st.integers(min_value=1, max_value=97),
)
def test_any_ranges_of_a_zip_join_to_the_same_zip(files: dict[str, bytes], step: int) -> None:
    bodies = list(files.values())
    layout = Layout([member(name, body) for name, body in files.items()])
    made = whole(layout, bodies, step)
    assert len(made) == layout.size
    assert made == whole(layout, bodies)
    assert contents(made) == files


def test_the_size_is_known_before_any_crc32_and_headers_are_not() -> None:
    layout = Layout([Member("a", 3, THEN, None)])
    assert layout.size == len(whole(Layout([member("a", b"abc")]), [b"abc"]))
    assert list(layout.pieces(40, 3)) == [Data(0, 0, 3)]
    with pytest.raises(ValueError, match="not known"):
        list(layout.pieces(0, 1))


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (THEN, (2024, 2, 29, 13, 37, 42)),
        (datetime(1969, 7, 20, tzinfo=UTC), (1980, 1, 1, 0, 0, 0)),
        (datetime(2040, 1, 1, tzinfo=UTC), (2040, 1, 1, 0, 0, 0)),
        (datetime(9999, 12, 31, tzinfo=UTC), (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_f68_a_date_is_kept_as_far_as_the_format_can(at: datetime, shown: tuple[int, ...]) -> None:
    layout = Layout([member("a", b"abc", at)])
    with zipfile.ZipFile(io.BytesIO(whole(layout, [b"abc"]))) as opened:
        (info,) = opened.infolist()
    assert info.date_time == shown
    exact = [struct.unpack("<i", info.extra[5:9])[0]] if info.extra else []
    assert exact == ([int(at.timestamp())] if at.year < 2038 else [])


def unzip(path: Path) -> list[str]:
    return ["unzip", "-tq", str(path)]


def seven(path: Path) -> list[str]:
    return [shutil.which("7z") or "7zz", "t", str(path)]


def bsdtar(path: Path) -> list[str]:
    return ["bsdtar", "-tf", str(path)]


READERS = [unzip, seven, bsdtar]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_other_programs_read_it(read: Callable[[Path], list[str]], tmp_path: Path) -> None:
    files = {"a b.txt": b"hello", "Ordner/Ümläut 日本 🐝.bin": os.urandom(70_000), "empty": b""}
    layout = Layout([member(name, body) for name, body in files.items()])
    path = tmp_path / "a.zip"
    path.write_bytes(whole(layout, list(files.values())))
    done = subprocess.run(read(path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["bsdtar", "-xf", str(path), "-C", str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr
    for name, body in files.items():
        assert (tmp_path / name).read_bytes() == body
        assert (tmp_path / name).stat().st_mtime == THEN.timestamp()
        # Checked by mode, because root can read anything.
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("count", [65_534, 65_535, 66_000])
def test_more_files_than_fit_without_zip64(count: int, tmp_path: Path) -> None:
    layout = Layout([member(f"{number:05}", b"") for number in range(count)])
    path = tmp_path / "many.zip"
    path.write_bytes(whole(layout, [b""] * count))
    assert path.stat().st_size == layout.size
    with zipfile.ZipFile(path) as opened:
        assert len(opened.namelist()) == count
    for read in READERS:
        done = subprocess.run(read(path), capture_output=True, text=True)
        assert done.returncode == 0, (read.__name__, done.stdout[-500:] + done.stderr[-500:])


def test_more_than_4_gib_in_one_file_before_one_and_in_all(tmp_path: Path) -> None:
    """The file is sparse: nearly all of it is holes, which programs read as zeros."""
    size = 4 * GIB + 2**20
    zeros = combine([(zlib.crc32(bytes(2**20)).to_bytes(4, "big"), 2**20)] * (size >> 20))
    members = [Member("large", size, THEN, zeros), member("behind", b"hello")]
    layout, path = Layout(members), tmp_path / "large.zip"
    with path.open("wb") as made:
        for piece in layout.pieces(0, layout.size):
            if isinstance(piece, bytes):
                made.write(piece)
            elif piece.index == 1:
                made.write(b"hello")
            else:
                made.seek(piece.size, os.SEEK_CUR)
        assert made.tell() == layout.size > 4 * GIB
    with zipfile.ZipFile(path) as opened:
        assert [info.file_size for info in opened.infolist()] == [one.size for one in members]
        assert opened.read("behind") == b"hello"
    # unzip takes half a minute for this many zeros, 7z two seconds: so unzip only has to find the
    # file behind them.
    for command in (seven(path), [*unzip(path), "behind"], bsdtar(path)):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command[0], done.stdout[-500:] + done.stderr[-500:])


EDGE = 2**32 - 1


def headers(layout: Layout) -> list[bytes]:
    """All bytes except file data: the local headers, then the central directory and the end."""
    return [piece for piece in layout.pieces(0, layout.size) if isinstance(piece, bytes)]


def extra_of(header: bytes, at: int) -> set[int]:
    """The ids in a header's extra field; the lengths of name and extra field are at `at`."""
    name, extra = struct.unpack_from("<2H", header, at)
    start = {26: 30, 28: 46}[at] + name
    found, place = set(), start
    while place < start + extra:
        field, size = struct.unpack_from("<2H", header, place)
        found.add(field)
        place += 4 + size
    return found


@pytest.mark.parametrize("size", [EDGE - 1, EDGE, EDGE + 1])
def test_a_size_of_0xffffffff_or_more_is_given_in_zip64(size: int) -> None:
    """0xffffffff means "see zip64": so already the last size below 4 GiB needs zip64."""
    local, rest = headers(Layout([Member("a", size, THEN, b"1234")]))
    is_large = size >= EDGE
    assert struct.unpack_from("<2L", local, 18) == (min(size, EDGE),) * 2
    assert (1 in extra_of(local, 26)) == (1 in extra_of(rest, 28)) == is_large
    needed = 45 if is_large else 20
    assert (local[4], rest[6]) == (needed, needed)


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_a_count_of_0xffff_or_more_is_given_in_zip64(count: int) -> None:
    """Lenient programs would read a count of 65,535 without zip64; the format forbids it."""
    ending = headers(Layout([Member("a", 0, THEN, b"1234")] * count))[-1]
    assert struct.unpack_from("<2H", ending, len(ending) - 14) == (min(count, 65_535),) * 2
    assert (b"PK\6\6" in ending) == (b"PK\6\7" in ending) == (count >= 65_535)


@pytest.mark.parametrize("start", [EDGE - 1, EDGE, EDGE + 1])
def test_an_offset_of_0xffffffff_or_more_is_given_in_zip64(start: int) -> None:
    """The offset of a file, and of the central directory."""
    before = Layout([Member("a", 0, THEN, b"1234")])
    room = len(headers(before)[0])
    first = Member("a", start - room, THEN, b"1234")
    rest = headers(Layout([first, Member("b", 0, THEN, b"1234")]))[-1]
    second = rest.index(b"PK\1\2", 4)
    assert struct.unpack_from("<L", rest, second + 42) == (min(start, EDGE),)
    assert (1 in extra_of(rest[second:], 28)) == (start >= EDGE)
    ending = headers(Layout([first]))[-1]
    assert struct.unpack_from("<L", ending, len(ending) - 6) == (min(start, EDGE),)
    assert (b"PK\6\6" in ending) == (b"PK\6\7" in ending) == (start >= EDGE)
