"""Planning an upload before it is sent: its key and token, its parts, and their checksums.

Nothing here is added to the session, and only agree_on_checksums() uses the network.
"""

import secrets
import uuid
from datetime import timedelta
from typing import Protocol

from app import clock
from app.config import MIB, S3_MAX_PART_SIZE, S3_MIN_PART_SIZE, settings
from app.db import release
from app.extensions import storage
from app.gateways.s3_answers import Checksums
from app.models import Checksum, Method, Upload, UploadState

SMALLEST_PART_SIZE = 8 * MIB
# Each part costs a lane two round trips in which nothing is sent, so large files have large parts;
# but the parts in flight, which may have to be sent again, must stay a small share of the file.
LARGE_PART_SIZE = 32 * MIB
PARTS_AT_LEAST = 64
# A margin below S3's limit of 10,000.
MOST_PARTS = 9_900
# The part size of an upload whose parts may have any size: as much as S3 accepts.
ANY_PART_SIZE = S3_MAX_PART_SIZE
# A worker that puts our own bytes there has finished, or was given up, within this time.
OUR_OWN_WITHIN = timedelta(minutes=10)


class Begun(Protocol):
    """What signing a URL needs to know about an upload; a row of these columns will do."""

    key: str
    s3_upload_id: str | None


class Plan(Begun, Protocol):
    """An upload's plan, and whether it still takes parts; a row of these columns will do."""

    token: str
    method: Method
    state: UploadState
    size: int
    part_size: int
    checksum_algorithm: Checksum | None


def part_size_for(size: int) -> int:
    """Bytes of every part but the last: 8 MiB, up to 32 MiB while there are `PARTS_AT_LEAST`.

    Larger where more than `MOST_PARTS` would be needed. Whole MiB, at most S3's 5 GiB; then the
    largest objects take up to 10,000 parts.
    """
    wished = min(size // PARTS_AT_LEAST, LARGE_PART_SIZE)
    needed = max(wished, -(-size // MOST_PARTS))
    return min(max(SMALLEST_PART_SIZE, _whole_mib(needed)), S3_MAX_PART_SIZE)


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB


def new_key() -> str:
    """A key for a new object; it cannot be guessed and is never used again."""
    return f"{settings.s3_prefix}{secrets.token_hex(20)}"


def agree_on_checksums(*, is_wanted: bool) -> Checksum | None:
    """The checksum to verify parts by: None unless it is wanted and storage can do it.

    Asks storage if this process has not asked yet, so call it outside transaction(). Never raises
    if storage does not answer: the upload then goes without.
    """
    if not is_wanted:
        return None
    if storage.checksums is Checksums.UNKNOWN:
        release()
    return Checksum.CRC32 if storage.ask_checksums() is Checksums.YES else None


def plan(
    size: int, checksum_algorithm: Checksum | None = None, part_size: int | None = None
) -> Upload:
    """A new upload for `size` bytes, not added to the session: method, part size, key, token.

    With a `part_size` it is a multipart upload of such parts, however small: for clients whose URLs
    sign no headers, since only a multipart upload's URLs are dead once it is complete.
    """
    # A multipart upload without parts cannot be completed, so an empty file has one empty part.
    is_single = part_size is None and size <= part_size_for(size) and settings.s3_conditional_writes
    part_size = part_size or part_size_for(size)
    return Upload(
        id=uuid.uuid4(),
        key=new_key(),
        token=secrets.token_hex(16),
        method=Method.SINGLE if is_single else Method.MULTIPART,
        size=size,
        part_size=part_size,
        checksum_algorithm=checksum_algorithm,
        state=UploadState.OPEN,
    )


def plan_whole(size: int) -> Upload:
    """A new upload for an object that we compose ourselves, in parts of any sizes.

    If storage wants equal parts, they are as small as S3 allows: the smaller they are, the fewer
    bytes have to pass through our process.
    """
    part_size = equal_part_size_for(size) if storage.wants_equal_parts else ANY_PART_SIZE
    return Upload(
        id=uuid.uuid4(),
        key=new_key(),
        token=secrets.token_hex(16),
        method=Method.MULTIPART,
        size=size,
        part_size=part_size,
        state=UploadState.OPEN,
    )


def equal_part_size_for(size: int) -> int:
    """Bytes of every part but the last of a composed object, if storage wants equal parts."""
    return min(max(S3_MIN_PART_SIZE, _whole_mib(-(-size // MOST_PARTS))), S3_MAX_PART_SIZE)


def plan_ours(size: int) -> Upload:
    """A new upload for a few bytes that one of our workers puts into the bucket itself.

    Not added to the session. If it is abandoned while they are on their way, they are removed again
    once the worker must have given up.
    """
    upload = plan(size)
    upload.method = Method.SINGLE
    upload.urls_until = clock.now() + OUR_OWN_WITHIN
    return upload


def plan_at(key: str, method: Method, size: int = 0) -> Upload:
    """A new upload at a key of the caller's choice, not added to the session.

    Its sender chooses the length and the parts; `size` is right once it is complete. The key must
    never have been used before.
    """
    return Upload(
        id=uuid.uuid4(),
        key=f"{settings.s3_prefix}{key}",
        token=secrets.token_hex(16),
        method=method,
        size=size,
        part_size=S3_MAX_PART_SIZE,
        state=UploadState.OPEN,
    )


def plan_again(upload: Upload) -> Upload:
    """A new upload for the same file, whose bytes have to be sent once more.

    Without checksums if they have been switched off since. Parts keep their size: their sender may
    have been given it only once.
    """
    is_off = storage.checksums is Checksums.OFF
    part_size = upload.part_size if upload.method is Method.MULTIPART else None
    return plan(upload.size, None if is_off else upload.checksum_algorithm, part_size)


def part_count(upload: Plan) -> int:
    """How many parts the upload has: at least one, which is empty for an empty file."""
    return max(1, -(-upload.size // upload.part_size))


def part_size_of(upload: Plan, number: int) -> int:
    """Bytes of part `number` (1-based): `part_size`, or what is left for the last."""
    return min(upload.part_size, upload.size - (number - 1) * upload.part_size)
