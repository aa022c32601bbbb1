"""The embedded S3 endpoint, except that it discards the bytes: `python -m benchmarks.sink`.

Real storage is another machine's work. Here it would take CPU time from the browser, and the
benchmark would measure its hashing and writing; so this one reads, counts and discards. It speaks
S3 as before: signatures, sizes, parts and CORS are checked. Checksums are not verified.
"""

from typing import Any

from embedded import services
from embedded.process import Command
from embedded.s3 import blobs, checksums, payload
from embedded.s3.__main__ import main


class Sink(services.S3):
    """What `services.started(["sink"])` starts."""

    name = "sink"

    def command(self) -> Command:
        command = super().command()
        words = ["benchmarks.sink" if word == "embedded.s3" else word for word in command.words]
        return Command(words, env=command.env)


def _count(self: checksums.Digests, piece: memoryview) -> None:
    self.size += len(piece)


def _believe(declared: payload.Declared, digests: Any, trailers: dict[str, str]) -> None:
    checksum = declared.checksum or trailers.get(declared.trailer, "")
    if declared.algorithm == "crc32" and (raw := checksums.decode(checksum, 4)):
        digests._crc32 = int.from_bytes(raw, "big")


def forget_bytes() -> None:
    """From now on this process's endpoint stores sizes and names, but no bytes."""
    checksums.Digests.update = _count  # type: ignore[method-assign]
    payload._compare = _believe
    blobs.BlobWriter.write = lambda *_: None  # type: ignore[method-assign]


if __name__ == "__main__":
    forget_bytes()
    main()
