"""Types for what storage holds and answers, and the mapping of its errors to our exceptions."""

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
from app.gateways.http_pool import BROKEN, Answer

log = logging.getLogger(__name__)

# Every object of ours has a type that browsers do not display, and its token in its metadata.
OBJECT_TYPE = "application/octet-stream"
TOKEN_FIELD = "beeline"  # noqa: S105  the name of a metadata field, not a secret
TOKEN_HEADER = f"x-amz-meta-{TOKEN_FIELD}"
NOT_THERE = {
    "404",
    "NoSuchKey",
    "NotFound",
    "NoSuchCORSConfiguration",
    "NoSuchLifecycleConfiguration",
}
# Storage answers, and will not serve us until an operator has intervened.
_REFUSED = {
    "403",
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "NoSuchBucket",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
# Other codes that may come with a 400 and are not about the request itself.
_NOT_ABOUT_IT = {"AuthorizationHeaderMalformed", "InvalidToken", "RequestTimeout", "SlowDown"}
# The bytes of a part or of the whole do not match their checksum.
_DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch"}
# Codes of transient errors that may come with a 400.
_PASSING = {"RequestTimeout", "SlowDown"}
_CODE = re.compile(rb"<(?:\w+:)?Code>([A-Za-z]{1,64})</")


class NoSuchUpload(Exception):
    """The multipart upload is unknown: completed, aborted, or never begun."""


class Damaged(Exception):
    """The bytes do not match the checksum given for the part or the whole object."""


class SourceLost(Exception):
    """The object to read or copy is gone, or has been replaced by another."""


class NotOffered(Unavailable):
    """This storage does not implement the operation: some have no UploadPartCopy."""

    title = "Our storage cannot do this. Its operator has to look at it."


class PartsRefused(Unavailable):
    """Storage refuses to complete these parts; some stores want all but the last of equal size."""


class Checksums(enum.StrEnum):
    """Whether storage verifies the CRC32 of each part on arrival and of the whole at the end."""

    YES = "CRC32"
    NO = "not supported by this storage"
    OFF = "off"
    UNKNOWN = "not asked yet"


class NotThere(Exception):
    """There is no object at the key, or the bucket has no CORS rules or no lifecycle rules."""


class Away(Outage):
    """Storage does not answer, or only with a transient error."""

    title = "Storage is not answering right now."


class StorageRefused(Unavailable):
    """Storage refuses our access key, our clock or our bucket; only an operator can fix that."""

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

    `crc32` is that of all its bytes, where storage knows it. `is_packed` means that it has a
    Content-Encoding: clients decode it, and get other bytes than are stored.
    """

    size: int
    etag: str
    token: str | None
    crc32: bytes | None = None
    is_packed: bool = False


@dataclass(frozen=True)
class Source:
    """An object to read or copy, and the ETag that it must still have."""

    key: str
    etag: str


@dataclass(frozen=True)
class OpenUpload:
    """A multipart upload in progress, as storage lists it."""

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
    """Encode a checksum as S3 writes it, in base64."""
    return binascii.b2a_base64(crc32, newline=False).decode()


def crc32_in(answer: Mapping[str, Any]) -> bytes | None:
    """Decode the CRC32 in an answer; None if absent or not exactly four bytes ("AAAAAA==-3")."""
    try:
        raw = base64.b64decode(answer.get("ChecksumCRC32", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == CRC32_SIZE else None


def token_in(answer: Mapping[str, Any]) -> str | None:
    """The token in an object's metadata, if there is one, in whatever case its header came.

    S3 writes names of metadata in lower case, but they are HTTP headers: Go's HTTP library, in
    stores such as rclone and in reverse proxies, capitalises them.
    """
    fields = {name.lower(): value for name, value in answer["Metadata"].items()}
    return fields.get(TOKEN_FIELD)


def packed_in(answer: Mapping[str, Any]) -> bool:
    """Whether an object has a Content-Encoding other than aws-chunked, a mere transfer encoding."""
    named = answer.get("ContentEncoding", "").lower().replace(" ", "").split(",")
    return bool(set(named) - {"", "aws-chunked"})


def means_unknown_to_it(error: ClientError) -> bool:
    """Whether storage rejects checksums as such, rather than our credentials or a busy moment."""
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status in (400, 501) and code not in _REFUSED | _NOT_ABOUT_IT


def translated(error: ClientError) -> Exception:
    """Return our exception for a boto3 error, by its code and status."""
    code = error.response["Error"]["Code"]
    return _meaning(code, error.response["ResponseMetadata"]["HTTPStatusCode"], str(error))


def failure_of(answer: Answer) -> Exception:
    """Return our exception for an error response to a request that was sent without boto3.

    A failed connection and codes in _PASSING are Away; otherwise the same as translated().
    """
    code = code_in(answer.text)
    if answer.status == BROKEN or code in _PASSING:
        return Away()
    return _meaning(code or str(answer.status), answer.status, "")


def code_in(body: bytes) -> str | None:
    """The code in the body of an error response; None if there is none."""
    found = _CODE.search(body)
    return found[1].decode() if found else None


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
