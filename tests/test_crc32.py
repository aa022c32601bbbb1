"""The CRC32 of a whole, combined from those of its pieces, compared with zlib's."""

import random
import zlib

import pytest

from app.crc32 import combine


def of(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("seed", range(200))
def test_pieces_cut_anywhere_come_to_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    body = rng.randbytes(rng.choice([0, 1, 2, 100, 10_000, 100_000]))
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.randrange(30)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert b"".join(pieces) == body
    assert combine((of(piece), len(piece)) for piece in pieces) == of(body)


def test_parts_of_one_size_and_a_shorter_last() -> None:
    body = random.Random(1).randbytes(3_000_017)
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    assert combine((of(part), len(part)) for part in parts) == of(body)
    shuffled = [parts[1], parts[0], *parts[2:]]
    assert combine((of(part), len(part)) for part in shuffled) != of(body)


def test_nothing_and_empty_pieces() -> None:
    assert combine([]) == of(b"")
    assert combine([(of(b""), 0)] * 3) == of(b"")
    assert combine([(of(b"a"), 1), (of(b""), 0), (of(b"b"), 1)]) == of(b"ab")


def test_pieces_too_large_to_be_in_memory() -> None:
    """Zeros by doubling: 30 combinations take the CRC32 of 2 ** 10 zeros to that of 2 ** 40."""
    zeros, size = of(bytes(1024)), 1024
    for _ in range(30):
        zeros, size = combine([(zeros, size), (zeros, size)]), 2 * size
    direct = combine([(of(bytes(1024)), 1024)] * 4 + [(zeros, size)])
    assert direct == combine([(zeros, size), (of(bytes(4096)), 4096)])
