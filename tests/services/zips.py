"""Files to be zipped, the zip as its recipient has it, and what storage was asked for meanwhile."""

import io
import zipfile
from typing import Any

import pytest

from app.config import MIB
from app.extensions import storage
from app.gateways.s3_answers import Source
from app.models import Archive
from app.services import archives, downloads
from tests.factories import Sent, http

PART = 5 * MIB
SMALL = {"a.txt": b"hello", "dir/empty": b"", "dir/ü 🐝.bin": b"bee" * 1000}


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes that differ from their neighbours, so that a shifted range is seen."""
    block = b"".join((salt + at).to_bytes(4, "big") for at in range(4096))
    return (block * (size // len(block) + 1))[:size]


def large() -> dict[str, bytes]:
    """Files whose ends fall before, on and behind the ends of parts."""
    return {
        "one.bin": pattern(2 * PART + 17),
        "tiny": b"t",
        "two.bin": pattern(3 * PART, 1),
        "three.bin": pattern(PART - 100, 2),
    }


def opened(sent: Sent) -> zipfile.ZipFile:
    """The zip as a recipient gets it: by a signed address, over HTTP."""
    found = downloads.zip_url(sent.slug, None)
    assert found is not None
    answer = http.request("GET", found.url)
    assert answer.status == 200
    return zipfile.ZipFile(io.BytesIO(answer.data))


def contents(sent: Sent) -> dict[str, bytes]:
    with opened(sent) as made:
        assert made.testzip() is None
        return {info.filename: made.read(info) for info in made.infolist()}


def archive(sent: Sent) -> Archive:
    found = archives.find(sent.id)
    assert found is not None
    return found


class Calls:
    """What storage was asked for, by the gateway's own words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copied: list[tuple[int, int]] = []
        self.put: list[int] = []
        self.read_size = 0
        copy_part, put_part, read_into = storage.copy_part, storage.put_part, storage.read_into

        def copying(key: str, s3_id: str, number: int, source: Source, start: int, size: int):
            self.copied.append((number, size))
            return copy_part(key, s3_id, number, source, start, size)

        def putting(key: str, s3_id: str, number: int, body: Any):
            self.put.append(number)
            return put_part(key, s3_id, number, body)

        def reading(place: memoryview, source: Source, start: int) -> None:
            self.read_size += len(place)
            read_into(place, source, start)

        monkeypatch.setattr(storage, "copy_part", copying)
        monkeypatch.setattr(storage, "put_part", putting)
        monkeypatch.setattr(storage, "read_into", reading)
