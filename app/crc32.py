"""CRC32 of a whole from the CRC32s of its pieces, without its bytes. Pure arithmetic, no I/O.

A CRC is a polynomial over GF(2) modulo a fixed one: appending n bytes multiplies what came before
by x^(8n), and the pieces are then XORed. zlib's crc32_combine does the same.
"""

from collections.abc import Iterable
from functools import lru_cache

POLYNOMIAL = 0xEDB88320
SIZE = 4


def combine(pieces: Iterable[tuple[bytes, int]]) -> bytes:
    """CRC32 of the concatenated pieces, given the CRC32 (4 bytes, big-endian) and size of each."""
    whole = 0
    for crc32, size in pieces:
        whole = _times(_appending(size), whole) ^ int.from_bytes(crc32, "big")
    return whole.to_bytes(SIZE, "big")


# All parts of a file but the last have one size, so two entries serve any number of parts.
@lru_cache(maxsize=256)
def _appending(size: int) -> int:
    """x^(8 * size), by squaring: a step for each bit of the size, not for each byte."""
    power, square = 1 << 31, 1 << 23  # x^0 and x^8; bit 31 is x^0, as CRC32 has it
    while size:
        if size & 1:
            power = _times(square, power)
        square = _times(square, square)
        size >>= 1
    return power


def _times(a: int, b: int) -> int:
    """a * b modulo the CRC's polynomial."""
    product = 0
    while a:
        if a & 0x80000000:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ POLYNOMIAL if b & 1 else b >> 1
    return product
