"""The position of each byte of a zip, before any of it exists. Pure arithmetic, no I/O.

Entries are stored, not compressed: most of what people send is compressed already, and only then
can storage assemble a zip from its own objects. The size follows from names and sizes alone; CRC32s
are needed only for the headers.

The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections 4.3 to 4.5).
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import accumulate

# A field of all ones means: the true value is in the ZIP64 fields.
_MOST_16, _MOST_32 = 0xFFFF, 0xFFFFFFFF
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_END_64_LOCATOR = struct.Struct("<4sIQI")
_TIME = struct.Struct("<2HBi")
_TIME_ID, _ZIP64_ID = 0x5455, 0x0001
_NAMES_ARE_UTF8 = 0x0800
# Versions needed to unpack: 4.5 for ZIP64, 2.0 for folders and everything else here.
_PLAIN, _ZIP64 = 20, 45
_MADE_ON_UNIX = 3 << 8 | _ZIP64
_REGULAR_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Member:
    """One file in a zip: `crc32` (4 bytes, big-endian) may still be unknown."""

    name: str
    size: int
    modified_at: datetime
    crc32: bytes | None


@dataclass(frozen=True)
class Data:
    """`size` bytes of member number `index`, from its byte `start` on."""

    index: int
    start: int
    size: int


class Layout:
    """A zip of these members, in this order, as a sequence of headers and members' data."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._names = [member.name.encode() for member in members]
        self._starts = list(
            accumulate((self._room(index) for index in range(len(members))), initial=0)
        )
        self._central_start = self._starts[-1]
        self._central_size = sum(self._central_room(index) for index in range(len(members)))
        self._is_large = (
            len(members) >= _MOST_16
            or self._central_start >= _MOST_32
            or self._central_size >= _MOST_32
        )
        end = _END.size + (self._is_large and _END_64.size + _END_64_LOCATOR.size)
        self.size = self._central_start + self._central_size + end

    @property
    def data(self) -> Iterator[tuple[int, int]]:
        """Yields the offset and the size of each member's data."""
        for index, member in enumerate(self._members):
            yield self._starts[index] + self._header_size(index), member.size

    def pieces(self, start: int, size: int) -> Iterator[bytes | Data]:
        """Yields what the `size` bytes from `start` on consist of, in order.

        Raises ValueError where a header's CRC32 is unknown.
        """
        end = min(start + size, self.size)
        index = bisect_right(self._starts, start) - 1
        while start < min(end, self._central_start):
            within, data_start = start - self._starts[index], self._header_size(index)
            if within < data_start:
                header = self._header(index)[within : end - self._starts[index]]
                yield header
                start += len(header)
            data = min(end, self._starts[index + 1]) - start
            if data > 0:
                yield Data(index, start - self._starts[index] - data_start, data)
                start += data
            index += 1
        if start < end:
            yield self._ending[start - self._central_start : end - self._central_start]

    def _room(self, index: int) -> int:
        return self._header_size(index) + self._members[index].size

    def _header_size(self, index: int) -> int:
        member = self._members[index]
        zip64 = 20 if member.size >= _MOST_32 else 0
        return _LOCAL.size + len(self._names[index]) + zip64 + len(_time_field(member))

    def _header(self, index: int) -> bytes:
        member, name = self._members[index], self._names[index]
        is_large = member.size >= _MOST_32
        size = _MOST_32 if is_large else member.size
        extra = _zip64_field(member.size, member.size) if is_large else b""
        extra += _time_field(member)
        return (
            _LOCAL.pack(
                b"PK\3\4", _ZIP64 if is_large else _PLAIN, _NAMES_ARE_UTF8, 0,
                *_dos_time(member), _crc32_of(member), size, size, len(name), len(extra),
            )
            + name
            + extra
        )  # fmt: skip

    def _central_room(self, index: int) -> int:
        large = self._large_fields(index)
        zip64 = 4 + 8 * len(large) if large else 0
        name, time = len(self._names[index]), len(_time_field(self._members[index]))
        return _CENTRAL.size + name + zip64 + time

    def _large_fields(self, index: int) -> list[int]:
        """The values of an entry that do not fit 32 bits, in the order that ZIP64 requires."""
        size, start = self._members[index].size, self._starts[index]
        return [size, size] * (size >= _MOST_32) + [start] * (start >= _MOST_32)

    def _central(self, index: int) -> bytes:
        member, name, start = self._members[index], self._names[index], self._starts[index]
        large = self._large_fields(index)
        extra = (_zip64_field(*large) if large else b"") + _time_field(member)
        size = min(member.size, _MOST_32)
        return (
            _CENTRAL.pack(
                b"PK\1\2", _MADE_ON_UNIX, _ZIP64 if large else _PLAIN, _NAMES_ARE_UTF8, 0,
                *_dos_time(member), _crc32_of(member), size, size, len(name), len(extra),
                0, 0, 0, _REGULAR_FILE, min(start, _MOST_32),
            )
            + name
            + extra
        )  # fmt: skip

    @cached_property
    def _ending(self) -> bytes:
        """The central directory and what follows it."""
        count, size, start = len(self._members), self._central_size, self._central_start
        ending = [self._central(index) for index in range(count)]
        if self._is_large:
            end_64 = (b"PK\6\6", _END_64.size - 12, _MADE_ON_UNIX, _ZIP64, 0, 0)
            ending.append(_END_64.pack(*end_64, count, count, size, start))
            ending.append(_END_64_LOCATOR.pack(b"PK\6\7", 0, start + size, 1))
        count = min(count, _MOST_16)
        whole = (count, count, min(size, _MOST_32), min(start, _MOST_32))
        ending.append(_END.pack(b"PK\5\6", 0, 0, *whole, 0))
        return b"".join(ending)


def _crc32_of(member: Member) -> int:
    if member.crc32 is None:
        raise ValueError("the CRC32 of a member is not known yet")
    return int.from_bytes(member.crc32, "big")


def _zip64_field(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", _ZIP64_ID, 8 * len(values), *values)


def _time_field(member: Member) -> bytes:
    """The exact time, which all but the oldest unpackers read; its 32 bits end in January 2038."""
    seconds = int(member.modified_at.timestamp())
    if not -(2**31) <= seconds < 2**31:
        return b""
    return _TIME.pack(_TIME_ID, 5, 1, seconds)


def _dos_time(member: Member) -> tuple[int, int]:
    """Time and date in the MS-DOS format, from 1980 to 2107 and without a zone: here in UTC."""
    at = member.modified_at.astimezone(UTC)
    if at.year < 1980:
        return 0, 1 << 5 | 1
    if at.year > 2107:
        return 23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31
    return at.hour << 11 | at.minute << 5 | at.second // 2, (
        (at.year - 1980) << 9 | at.month << 5 | at.day
    )
