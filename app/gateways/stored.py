"""What storage holds and what it answers, in our words."""

import base64
import binascii
import enum
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from app.crc32 import SIZE as CRC32_SIZE
from app.errors import Outage, Unavailable
from app.gateways.lines import BROKEN, Answer

log = logging.getLogger(__name__)

# How every object of ours is stored: as nothing that a browser would show, with its token in a
# field of its metadata.
OBJECT_TYPE = "application/octet-stream"
TOKEN_FIELD = "beeline"  # noqa: S105  the name of a metadata field, not a secret
TOKEN_HEADER = f"x-amz-meta-{TOKEN_FIELD}"
NOT_THERE = {"404", "NoSuchKey", "NotFound", "NoSuchCORSConfiguration"}
# Storage answers, and will not serve us until an operator has done something.
_REFUSED = {
    "403",
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "NoSuchBucket",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
# Of those, what an answer of 400 may say that is about us or the moment, not about what was asked.
_NOT_ABOUT_IT = {"AuthorizationHeaderMalformed", "InvalidToken", "RequestTimeout", "SlowDown"}
# What says that the bytes are not those announced, on a part or on the whole.
_DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch"}
# What an answer of 400 may say that will pass.
_PASSING = {b"RequestTimeout", b"SlowDown"}
_CODE = re.compile(rb"<(?:\w+:)?Code>([A-Za-z]{1,64})</")


class NoSuchUpload(Exception):
    """The multipart upload is unknown: completed, aborted, or never begun."""


class Damaged(Exception):
    """The parts do not come to the checksum that the whole must have."""


class SourceLost(Exception):
    """What was to be read or copied is not there any more, or is another object by now."""


class NotOffered(Unavailable):
    """This storage does not know what it was asked: some have no UploadPartCopy."""

    title = "Our storage cannot do this. Its operator has to look at it."


class PartsRefused(Unavailable):
    """Storage makes no object of these parts; some want all but the last to be of one size."""


class Checksums(enum.StrEnum):
    """Whether storage verifies CRC32, of each part on arrival and of the whole at the end."""

    YES = "CRC32"
    NO = "not supported by this storage"
    OFF = "off"
    UNKNOWN = "not asked yet"


class NotThere(Exception):
    """There is nothing at the key."""


class Away(Outage):
    """Storage does not answer, or only that it cannot now."""

    title = "Storage is not answering right now."


class StorageRefused(Unavailable):
    """Storage refuses our key, our clock or our bucket; only an operator can mend that."""

    title = "Storage refuses us. Its operator has to look at the settings."


@dataclass(frozen=True)
class Part:
    """A part as storage holds it."""

    number: int
    size: int
    etag: str
    crc32: bytes | None = None


@dataclass(frozen=True)
class Stored:
    """A finished object as storage describes it; `token` is the upload that made it.

    `crc32` is that of all its bytes, where storage knows it. What `is_packed` is unpacked by
    whoever fetches it, and comes to other bytes than lie there.
    """

    size: int
    etag: str
    token: str | None
    crc32: bytes | None = None
    is_packed: bool = False


@dataclass(frozen=True)
class Source:
    """A finished object to read from, and the ETag that it must still have."""

    key: str
    etag: str


@dataclass(frozen=True)
class OpenUpload:
    """A multipart upload that storage holds open."""

    key: str
    s3_upload_id: str
    initiated: datetime


@dataclass(frozen=True)
class Listed:
    """An object as a listing of the bucket shows it."""

    key: str
    size: int
    modified_at: datetime


def encoded(crc32: bytes) -> str:
    """The checksum as S3 writes it: in base64."""
    return binascii.b2a_base64(crc32, newline=False).decode()


def crc32_in(answer: Mapping[str, Any]) -> bytes | None:
    """The checksum in S3's words, None for anything that is not just four bytes ("AAAAAA==-3")."""
    try:
        raw = base64.b64decode(answer.get("ChecksumCRC32", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == CRC32_SIZE else None


def packed_in(answer: Mapping[str, Any]) -> bool:
    """Whether it has a Content-Encoding other than the one that only says how its body came."""
    named = answer.get("ContentEncoding", "").lower().replace(" ", "").split(",")
    return bool(set(named) - {"", "aws-chunked"})


def means_unknown_to_it(error: ClientError) -> bool:
    """Whether storage refuses the checksum itself, and not us or the moment."""
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status in (400, 501) and code not in _REFUSED | _NOT_ABOUT_IT


def translated(error: ClientError) -> Exception:
    """Our exception for an error of boto3's, by its code and its status."""
    code = error.response["Error"]["Code"]
    return _meaning(code, error.response["ResponseMetadata"]["HTTPStatusCode"], str(error))


def failure_of(answer: Answer) -> Exception:
    """As translated(), for an error answer to a request that was sent without boto3."""
    code = _CODE.search(answer.text)
    if answer.status == BROKEN or (code and code[1] in _PASSING):
        return Away()
    return _meaning(code[1].decode() if code else str(answer.status), answer.status, "")


def _meaning(code: str, status: int, words: str) -> Exception:
    if code == "NoSuchUpload":
        return NoSuchUpload(words)
    if code in _DAMAGED:
        return Damaged(words)
    if code in NOT_THERE:
        return NotThere()
    if code == "PreconditionFailed":
        return SourceLost(words)
    if code == "InvalidPart":
        return PartsRefused(f"Storage said {code}.")
    if code == "NotImplemented":
        return NotOffered(f"Storage said {code}.")
    if code in _REFUSED:
        log.error("storage refuses us: %s", code)
        return StorageRefused()
    return Away() if status >= 500 or status == 429 else Unavailable(f"Storage said {code}.")
