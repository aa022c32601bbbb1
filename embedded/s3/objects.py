"""Actions on objects: put, get, head, delete, copy."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime

from embedded.s3 import checksums
from embedded.s3.blobs import Blob
from embedded.s3.call import Call, document, iso
from embedded.s3.errors import NotModified, S3Error
from embedded.s3.payload import MAX_PUT, Declared, open_payload, read_declared, receive
from embedded.s3.store import (
    Draft,
    Object,
    Precondition,
    failed_precondition,
    no_such_key,
)
from embedded.s3.wire import Headers, Response, check_header_value, decode

KEPT_HEADERS = {
    "content-type": "Content-Type",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "expires": "Expires",
}
OVERRIDES = {f"response-{name}": header for name, header in KEPT_HEADERS.items()}
METADATA = "x-amz-meta-"
METADATA_LIMIT = 2048
BYTE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def put_object(call: Call) -> Response:
    """Store the request's body as the object, replacing one of the same key."""
    headers, when = kept_headers(call.request.headers), precondition(call)
    payload = open_payload(call.request, call.signature)
    declared = read_declared(call.request, call.signature)
    # Checked again in the transaction; checking first saves sending a body in vain.
    when.check(call.store.find_object(call.bucket, call.key))
    with call.store.new_blob() as writer:
        blob = writer.seal(receive(payload, declared, writer.write))
        draft = put_draft(blob, headers, declared)
        stored = call.store.put_object(call.bucket, call.key, draft, writer, blob, when)
    return Response(200, {"ETag": f'"{stored.etag}"', **checksum_headers(stored)})


def put_draft(blob: Blob, headers: dict[str, str], declared: Declared) -> Draft:
    """The draft of an object made of one blob, with the checksum that the client sent along."""
    if not declared.algorithm:
        return Draft(blob.md5, headers)
    checksum = getattr(blob, declared.algorithm)
    return Draft(blob.md5, headers, declared.algorithm, "FULL_OBJECT", checksum)


def get_object(call: Call) -> Response:
    """The object or a range of it, streamed from its blobs."""
    overrides = _overrides(call)
    found, wanted, stream = call.store.open_object(
        call.bucket, call.key, lambda found: _wanted(call, found)
    )
    response = _describe(call, found, wanted)
    response.headers.update(overrides)
    response.body = stream
    return response


def head_object(call: Call) -> Response:
    """The status and headers of get_object()."""
    overrides = _overrides(call)
    found = call.store.find_object(call.bucket, call.key)
    if found is None:
        raise no_such_key()
    response = _describe(call, found, _wanted(call, found))
    response.headers.update(overrides)
    return response


def delete_object(call: Call) -> Response:
    """Delete the object; succeeds without one, unless If-Match was sent."""
    call.store.delete_object(call.bucket, call.key, precondition(call))
    return Response(204)


def copy_object(call: Call) -> Response:
    """Copy by reference to the source's blobs. The ETag is kept, where S3 may compute a new one."""
    source = copy_source(call)
    directive = call.header("x-amz-metadata-directive") or "COPY"
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", "Unknown metadata directive.")
    if directive == "COPY" and source == (call.bucket, call.key):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself "
            "without changing the object's metadata.",
        )
    replaced = kept_headers(call.request.headers) if directive == "REPLACE" else None

    def draft(found: Object) -> Draft:
        check_copy_source(call, found, found.size)
        headers = found.headers if replaced is None else replaced
        # To S3 a copy is one piece, so it cannot have a checksum of parts.
        if found.checksum_type == "COMPOSITE":
            return Draft(found.etag, headers)
        return Draft(found.etag, headers, found.algorithm, found.checksum_type, found.checksum)

    stored = call.store.copy_object(source, call.bucket, call.key, draft, precondition(call))
    nodes = [("ETag", f'"{stored.etag}"'), ("LastModified", iso(stored.modified_at))]
    return document("CopyObjectResult", nodes)


def copy_source(call: Call) -> tuple[str, str]:
    """The bucket and key in x-amz-copy-source; S3Error if it is malformed or names a version."""
    text, _, version = call.header("x-amz-copy-source").partition("?")
    bucket, _, key = decode(text).removeprefix("/").partition("/")
    if version:
        raise S3Error("NotImplemented", "There are no versions here")
    if not bucket or not key:
        message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey"
        raise S3Error("InvalidArgument", message, ArgumentName="x-amz-copy-source")
    return bucket, key


def check_copy_source(call: Call, found: Object, size: int) -> None:
    """Refuse a source whose preconditions fail, or of which `size` bytes are too many to copy."""
    failed = failed_condition(found, lambda name: call.header(f"x-amz-copy-source-{name}"))
    if failed:
        raise failed_precondition(f"x-amz-copy-source-{failed}")
    if size > MAX_PUT:
        raise S3Error(
            "InvalidRequest",
            "The specified copy source is larger than the maximum allowable size for a copy "
            f"source: {MAX_PUT}",
        )


def kept_headers(headers: Headers) -> dict[str, str]:
    """The headers stored with an object and sent with it: content headers and metadata."""
    kept = {name: headers.get(key) for key, name in KEPT_HEADERS.items() if headers.get(key)}
    encoding = [part.strip() for part in kept.pop("Content-Encoding", "").split(",")]
    encoding = [part for part in encoding if part and part != "aws-chunked"]
    if encoding:
        kept["Content-Encoding"] = ",".join(encoding)
    metadata = {name: headers.get(name) for name in headers if name.startswith(METADATA)}
    size = sum(len(name) - len(METADATA) + len(value) for name, value in metadata.items())
    if size > METADATA_LIMIT:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise S3Error("MetadataTooLarge", message, Size=size, MaxSizeAllowed=METADATA_LIMIT)
    return kept | metadata


def precondition(call: Call) -> Precondition:
    """If-Match and If-None-Match of a write; as in S3, the latter can only be `*`."""
    if call.header("if-none-match") not in ("", "*"):
        message = "A header you provided implies functionality that is not implemented"
        raise S3Error("NotImplemented", message, Header="If-None-Match")
    return Precondition(call.header("if-match"), call.header("if-none-match"))


def checksum_headers(stored: Object) -> dict[str, str]:
    """The object's checksum and its type as headers, if it has one."""
    if not stored.algorithm:
        return {}
    name = f"x-amz-checksum-{stored.algorithm}"
    return {name: stored.checksum, "x-amz-checksum-type": stored.checksum_type}


def failed_condition(found: Object, header: Callable[[str], str]) -> str:
    """The first conditional header that fails, in RFC 9110's order; empty if none does."""
    modified = datetime.fromtimestamp(found.modified_at // 1000, UTC)
    if header("if-match"):
        if not _lists(header("if-match"), found.etag):
            return "if-match"
    elif (since := _date(header("if-unmodified-since"))) and modified > since:
        return "if-unmodified-since"
    if header("if-none-match"):
        if _lists(header("if-none-match"), found.etag):
            return "if-none-match"
    elif (since := _date(header("if-modified-since"))) and modified <= since:
        return "if-modified-since"
    return ""


def byte_range(value: str, size: int) -> range | None:
    """The bytes of a Range header, or None to send the whole; InvalidRange if there are none."""
    match = BYTE_RANGE.fullmatch(value.strip())
    if not match or match[1] + match[2] == "":
        return None
    if match[1] == "":
        wanted = range(max(size - int(match[2]), 0), size)
    else:
        if match[2] and int(match[2]) < int(match[1]):
            return None
        wanted = range(int(match[1]), min(int(match[2] or size) + 1, size))
    if not wanted:
        message = "The requested range is not satisfiable"
        raise S3Error("InvalidRange", message, RangeRequested=value, ActualObjectSize=size)
    return wanted


def _wanted(call: Call, found: Object) -> range:
    """The range to send; NotModified or PreconditionFailed if a conditional header fails."""
    failed = failed_condition(found, call.header)
    if failed in ("if-none-match", "if-modified-since"):
        raise NotModified(_object_headers(found))
    if failed:
        raise failed_precondition(failed)
    wanted = byte_range(call.header("range"), found.size) if _range_applies(call, found) else None
    return range(found.size) if wanted is None else wanted


def _range_applies(call: Call, found: Object) -> bool:
    value = call.header("if-range")
    return value in ("", f'"{found.etag}"', _http_date(found))


def _describe(call: Call, found: Object, wanted: range) -> Response:
    """Status and headers of a read; the caller adds the body."""
    headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes"}
    headers |= _object_headers(found)
    response = Response(200, headers, length=len(wanted))
    if _range_asked(call, found):
        response.status = 206
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{found.size}"
    elif call.header("x-amz-checksum-mode").upper() == "ENABLED":
        headers.update(checksum_headers(found))
    return response


def _range_asked(call: Call, found: Object) -> bool:
    """Whether a valid Range was sent: that is 206 even if it covers the whole object."""
    return _range_applies(call, found) and byte_range(call.header("range"), found.size) is not None


def _object_headers(found: Object) -> dict[str, str]:
    identity = {"ETag": f'"{found.etag}"', "Last-Modified": _http_date(found)}
    return identity | found.headers


def _overrides(call: Call) -> dict[str, str]:
    """Headers from response-content-type and the like; S3Error if a header cannot carry one."""
    overrides = {}
    for name, header in OVERRIDES.items():
        value = call.arg(name)
        if not check_header_value(value):
            message = "Header value cannot be represented using ISO-8859-1."
            raise S3Error("InvalidArgument", message, ArgumentName=name)
        if value:
            overrides[header] = value
    return overrides


def _http_date(found: Object) -> str:
    return formatdate(found.modified_at // 1000, usegmt=True)


def _date(value: str) -> datetime | None:
    """A date in a header; None if it cannot be parsed."""
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lists(value: str, etag: str) -> bool:
    given = [item.strip().removeprefix("W/").strip('"') for item in value.split(",")]
    return "*" in given or etag in given


def checksum_nodes(algorithm: str, checksum: str | None) -> list[tuple[str, str]]:
    """An element such as ChecksumCRC32, if there is a checksum."""
    if not algorithm or checksum is None or algorithm not in checksums.ALGORITHMS:
        return []
    return [(f"Checksum{algorithm.upper()}", checksum)]
