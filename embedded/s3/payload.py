"""The request's body: decoded, digested and checked while it streams, never held in memory.

Facts from "Signature Calculations for the Authorization Header: Transferring Payload in Multiple
Chunks" and "Checking object integrity" in the Amazon S3 documentation.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from embedded.s3 import checksums
from embedded.s3.checksums import Digests
from embedded.s3.errors import S3Error
from embedded.s3.sigv4 import UNSIGNED, Signature, check
from embedded.s3.wire import PIECE, Body, Request

SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_CHUNKS_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHUNKED = (SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER, UNSIGNED_CHUNKS_TRAILER)
CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?\r\n")
TRAILER_LINE = re.compile(rb"([A-Za-z0-9-]{1,128}):[ ]*([\x20-\x7e]{0,512})\r?\n")
EMPTY_HASH = hashlib.sha256().hexdigest()
CHECKSUM = "x-amz-checksum-"
DOCUMENT_LIMIT = 4 * 1024 * 1024
MAX_PUT = 5 * 1024**3


class Payload(Protocol):
    """A body of `size` decoded bytes; `trailers` are complete after the last piece."""

    size: int
    trailers: dict[str, str]

    def pieces(self) -> Iterator[memoryview]: ...


@dataclass(frozen=True)
class Declared:
    """The digests that the client declared, to be compared with what was received."""

    sha256_hex: str = ""
    md5: bytes = b""
    algorithm: str = ""
    checksum: str = ""
    trailer: str = ""


class Plain:
    """A body that is the payload itself, not aws-chunked."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.size = body.length
        self.trailers: dict[str, str] = {}

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in views of one reused buffer."""
        view = memoryview(bytearray(min(PIECE, self.size)))
        while self._body.left:
            yield view[: self._body.readinto(view)]


class Chunked:
    """An aws-chunked body; the signatures of its chunks and trailer are checked, if it has any."""

    def __init__(self, body: Body, size: int, signature: Signature) -> None:
        self._body = body
        self._scope = signature.scope
        self._signed = signature.payload != UNSIGNED_CHUNKS_TRAILER
        self._has_trailer = signature.payload != SIGNED_CHUNKS
        self._previous = signature.value
        self.size = size
        self.trailers: dict[str, str] = {}

    def pieces(self) -> Iterator[memoryview]:
        """Yield the decoded bytes; S3Error after a chunk whose signature or length is wrong."""
        view = memoryview(bytearray(min(PIECE, self.size)))
        received = 0
        while True:
            size, signature = self._chunk_head()
            received += size
            if received > self.size or (not size and received < self.size):
                raise _incomplete()
            yield from self._chunk(view, size, signature)
            if not size:
                break
        self._end()

    def _chunk_head(self) -> tuple[int, str]:
        match = CHUNK_LINE.fullmatch(self._body.readline(256))
        if not match or (self._signed and not match[2]):
            raise S3Error("InvalidRequest", "A chunk's header is malformed")
        return int(match[1], 16), (match[2] or b"").decode()

    def _chunk(self, view: memoryview, size: int, signature: str) -> Iterator[memoryview]:
        digest, left = hashlib.sha256(), size
        while left:
            piece = view[: self._body.readinto(view[:left])]
            if not piece:
                raise _incomplete()
            left -= len(piece)
            if self._signed:
                digest.update(piece)
            yield piece
        if size and self._body.readline(2) != b"\r\n":
            raise S3Error("InvalidRequest", "A chunk does not end where it says")
        if self._signed:
            self._check("AWS4-HMAC-SHA256-PAYLOAD", signature, EMPTY_HASH, digest.hexdigest())

    def _end(self) -> None:
        """Read the trailers and the last empty line, and check the trailers' signature."""
        signed_text = ""
        while (line := self._body.readline(1024)) not in (b"\r\n", b""):
            match = TRAILER_LINE.fullmatch(line) if self._has_trailer else None
            if not match:
                raise _malformed_trailer()
            name, value = match[1].decode().lower(), match[2].decode().strip()
            self.trailers[name] = value
            if name != "x-amz-trailer-signature":
                signed_text += f"{name}:{value}\n"
        if self._body.left:
            raise S3Error("InvalidRequest", "There is data after the last chunk")
        if self._signed and self._has_trailer:
            digest = hashlib.sha256(signed_text.encode()).hexdigest()
            signature = self.trailers.get("x-amz-trailer-signature", "")
            self._check("AWS4-HMAC-SHA256-TRAILER", signature, digest)

    def _check(self, algorithm: str, signature: str, *hashes: str) -> None:
        check(self._scope.sign(algorithm, self._previous, *hashes), signature)
        self._previous = signature


def open_payload(request: Request, signature: Signature) -> Payload:
    """The payload, not yet read, plain or aws-chunked as x-amz-content-sha256 says."""
    if "content-length" not in request.headers:
        message = "You must provide the Content-Length HTTP header."
        raise S3Error("MissingContentLength", message)
    if signature.payload in CHUNKED:
        length = request.headers.get("x-amz-decoded-content-length")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            message = "You must provide the x-amz-decoded-content-length HTTP header."
            raise S3Error("MissingContentLength", message)
        return Chunked(request.body, int(length), signature)
    if signature.payload.startswith("STREAMING-"):
        raise S3Error("NotImplemented", f"{signature.payload} is not implemented here")
    return Plain(request.body)


def read_declared(request: Request, signature: Signature) -> Declared:
    """The digests in the headers; S3Error if one is malformed or there are several checksums."""
    sent = [name for name in request.headers if _names_checksum(name)]
    trailer = request.headers.get("x-amz-trailer").strip().lower()
    if len(sent) + bool(trailer) > 1:
        raise S3Error(
            "InvalidRequest",
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )
    if trailer and (signature.payload not in CHUNKED or not trailer.startswith(CHECKSUM)):
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer is not supported")
    name = sent[0] if sent else trailer
    algorithm = checksums.known(name.removeprefix(CHECKSUM)) if name else ""
    checksum = request.headers.get(sent[0]) if sent else ""
    if sent and not _well_formed(algorithm, checksum):
        raise S3Error("InvalidRequest", f"Value for {sent[0]} header is invalid.")
    _check_announced(request, algorithm)
    return Declared(_payload_hash(signature), _content_md5(request), algorithm, checksum, trailer)


def receive(
    payload: Payload, declared: Declared, sink: Callable[[memoryview], object], wanted: str = ""
) -> Digests:
    """Stream the payload into `sink`; S3Error, such as BadDigest, if it is not as declared.

    `wanted` is one more algorithm to compute, or empty.
    """
    if payload.size > MAX_PUT:
        raise S3Error(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
            ProposedSize=payload.size,
            MaxSizeAllowed=MAX_PUT,
        )
    names = {declared.algorithm, wanted, "sha256" if declared.sha256_hex else ""}
    digests = Digests(names - {""})
    for piece in payload.pieces():
        digests.update(piece)
        sink(piece)
    _compare(declared, digests, payload.trailers)
    return digests


def read_document(request: Request, signature: Signature) -> bytes:
    """A small body as bytes; checksum headers are ignored, as they may not be about the body."""
    declared = Declared(_payload_hash(signature), _content_md5(request))
    return _collect(open_payload(request, signature), declared)


def read_proven_document(request: Request, signature: Signature) -> bytes:
    """A small body as bytes; S3Error unless it comes with Content-MD5 or a checksum."""
    declared = read_declared(request, signature)
    if not declared.md5 and not declared.algorithm:
        message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
        raise S3Error("InvalidRequest", message)
    return _collect(open_payload(request, signature), declared)


def _collect(payload: Payload, declared: Declared) -> bytes:
    if payload.size > DOCUMENT_LIMIT:
        raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
    document = bytearray()
    receive(payload, declared, document.extend)
    return bytes(document)


def _compare(declared: Declared, digests: Digests, trailers: dict[str, str]) -> None:
    if declared.sha256_hex and digests.raw("sha256").hex() != declared.sha256_hex:
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            ClientComputedContentSHA256=declared.sha256_hex,
            S3ComputedContentSHA256=digests.raw("sha256").hex(),
        )
    if declared.md5 and not hmac.compare_digest(declared.md5, digests.raw("md5")):
        message = "The Content-MD5 you specified did not match what we received."
        raise S3Error("BadDigest", message)
    if not declared.algorithm:
        return
    checksum = declared.checksum
    if declared.trailer:
        checksum = trailers.get(declared.trailer, "")
        if not _well_formed(declared.algorithm, checksum):
            raise _malformed_trailer()
    if checksum != checksums.encode(digests.raw(declared.algorithm)):
        raise S3Error(
            "BadDigest",
            f"The {declared.algorithm.upper()} you specified did not match what we calculated.",
        )


def _names_checksum(header: str) -> bool:
    return header.startswith(CHECKSUM) and header not in (
        "x-amz-checksum-algorithm",
        "x-amz-checksum-mode",
        "x-amz-checksum-type",
    )


def _well_formed(algorithm: str, checksum: str) -> bool:
    return checksums.decode(checksum, checksums.DIGEST_SIZE[algorithm]) is not None


def _check_announced(request: Request, algorithm: str) -> None:
    """Refuse an x-amz-sdk-checksum-algorithm that does not agree with the checksum sent."""
    announced = request.headers.get("x-amz-sdk-checksum-algorithm")
    if announced and checksums.known(announced) != algorithm:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding "
            "x-amz-checksum-* or x-amz-trailer headers were found.",
        )


def _content_md5(request: Request) -> bytes:
    value = request.headers.get("content-md5")
    raw = checksums.decode(value, 16) if value else b""
    if raw is None:
        raise S3Error("InvalidDigest", "The Content-MD5 you specified is not valid.")
    return raw


def _payload_hash(signature: Signature) -> str:
    if signature.payload == UNSIGNED or signature.payload in CHUNKED:
        return ""
    if not re.fullmatch(r"[0-9a-f]{64}", signature.payload):
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-* or a valid sha256 value.",
        )
    return signature.payload


def _incomplete() -> S3Error:
    message = "The decoded body is not as long as x-amz-decoded-content-length says"
    return S3Error("IncompleteBody", message)


def _malformed_trailer() -> S3Error:
    return S3Error(
        "MalformedTrailerError",
        "The request contained trailing data that was not well-formed "
        "or did not conform to our published schema.",
    )
