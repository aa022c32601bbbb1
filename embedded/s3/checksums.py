"""Digests of what is received, and the arithmetic of S3's multipart checksums.

CRC32C and CRC64NVME are not offered: without a C library they would run at about 10 MB/s.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache

from embedded.s3.errors import S3Error

ALGORITHMS = ("crc32", "sha1", "sha256")
DIGEST_SIZE = {"crc32": 4, "sha1": 20, "sha256": 32}
POLYNOMIAL = 0xEDB88320


class Digests:
    """MD5 and CRC32 of a stream, and whichever further algorithms are wanted."""

    def __init__(self, wanted: set[str]) -> None:
        self.size = 0
        self._crc32 = 0
        self._hashes = {"md5": hashlib.md5(usedforsecurity=False)}
        for name in wanted - {"crc32", "md5"}:
            self._hashes[name] = hashlib.new(name, usedforsecurity=False)

    def update(self, piece: memoryview) -> None:
        """Add the next bytes of the stream."""
        self.size += len(piece)
        self._crc32 = zlib.crc32(piece, self._crc32)
        for digest in self._hashes.values():
            digest.update(piece)

    def raw(self, name: str) -> bytes:
        """The digest as bytes; KeyError for an algorithm that was not wanted."""
        if name == "crc32":
            return self._crc32.to_bytes(4, "big")
        return self._hashes[name].digest()

    def has(self, name: str) -> bool:
        """Whether this digest is computed."""
        return name == "crc32" or name in self._hashes


def encode(raw: bytes) -> str:
    """A digest in base64, as S3's headers write it."""
    return base64.b64encode(raw).decode()


def decode(value: str, size: int) -> bytes | None:
    """The bytes of a base64 digest of `size` bytes, None if it is not one."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size else None


def known(name: str) -> str:
    """The algorithm's name in lower case; S3Error for one that is not offered here."""
    if name.lower() in ("crc32c", "crc64nvme"):
        raise S3Error("NotImplemented", f"The checksum algorithm {name} is not implemented here")
    if name.lower() not in ALGORITHMS:
        raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")
    return name.lower()


def composite(algorithm: str, parts: Sequence[str]) -> str:
    """The COMPOSITE checksum: the checksum of the parts' checksums, and their number."""
    joined = b"".join(base64.b64decode(part) for part in parts)
    if algorithm == "crc32":
        raw = zlib.crc32(joined).to_bytes(4, "big")
    else:
        raw = hashlib.new(algorithm, joined, usedforsecurity=False).digest()
    return f"{encode(raw)}-{len(parts)}"


def whole_crc32(parts: Sequence[tuple[str, int]]) -> str:
    """The CRC32 of the whole from (CRC32, size) of its parts, as by zlib's crc32_combine."""
    total = 0
    for checksum, size in parts:
        crc = int.from_bytes(base64.b64decode(checksum), "big")
        total = _multiply(_shift(size), total) ^ crc
    return encode(total.to_bytes(4, "big"))


@lru_cache(maxsize=64)
def _shift(size: int) -> int:
    """x**(8 * size) modulo the CRC's polynomial: appending `size` bytes multiplies by it."""
    result, square = 1 << 31, 1 << 23  # x**0 and x**8, in the CRC's reflected notation
    while size:
        if size & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        size >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """a(x) * b(x) modulo the CRC's polynomial, reflected."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ POLYNOMIAL if b & 1 else b >> 1
    return product
