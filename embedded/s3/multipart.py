"""Actions on multipart uploads.

Facts from CreateMultipartUpload, UploadPart, UploadPartCopy, CompleteMultipartUpload, ListParts
and ListMultipartUploads in the Amazon S3 API Reference.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote
from xml.etree.ElementTree import Element

from embedded.s3 import checksums, xml
from embedded.s3.call import OWNER, Call, document, iso
from embedded.s3.checksums import Digests
from embedded.s3.errors import S3Error
from embedded.s3.listing import LAST_ID, marker_bound
from embedded.s3.objects import (
    check_copy_source,
    checksum_headers,
    checksum_nodes,
    copy_source,
    kept_headers,
    precondition,
)
from embedded.s3.payload import open_payload, read_declared, read_document, receive
from embedded.s3.store import Draft, Object, Part, Upload, no_such_key
from embedded.s3.wire import Response

MAX_PART_NUMBER = 10_000
MIN_PART_SIZE = 5 * 1024 * 1024
COPY_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")


@dataclass(frozen=True)
class Listed:
    """A part as the client lists it when completing the upload."""

    number: int
    etag: str
    checksums: dict[str, str]


@dataclass(frozen=True)
class Claims:
    """What the headers of CompleteMultipartUpload say about the whole object."""

    size: str
    checksum_type: str
    checksums: dict[str, str]


def create_upload(call: Call) -> Response:
    """Start a multipart upload and return its id, and its checksum algorithm and type."""
    algorithm, kind = _checksum_choice(call)
    headers = kept_headers(call.request.headers)
    upload_id = call.store.create_upload(call.bucket, call.key, headers, algorithm, kind)
    nodes = [("Bucket", call.bucket), ("Key", call.key), ("UploadId", upload_id)]
    response = document("InitiateMultipartUploadResult", nodes)
    if algorithm:
        response.headers["x-amz-checksum-algorithm"] = algorithm.upper()
        response.headers["x-amz-checksum-type"] = kind
    return response


def put_part(call: Call) -> Response:
    """Store the request's body as a part, replacing an earlier one of the same number."""
    number, upload = _part_number(call), _upload(call)
    payload = open_payload(call.request, call.signature)
    declared = read_declared(call.request, call.signature)
    if upload.algorithm and declared.algorithm not in ("", upload.algorithm):
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.algorithm}, "
            f"actual checksum Type: {declared.algorithm}",
        )
    with call.store.new_blob() as writer:
        blob = writer.seal(receive(payload, declared, writer.write, upload.algorithm))
        part = call.store.put_part(upload, number, writer, blob)
    headers = {"ETag": f'"{part.blob.md5}"'}
    algorithm = declared.algorithm or upload.algorithm
    if algorithm:
        headers[f"x-amz-checksum-{algorithm}"] = getattr(part.blob, algorithm)
    return Response(200, headers)


def copy_part(call: Call) -> Response:
    """Make a part of a range of an object: by reference if one blob is exactly that, or a copy."""
    number, upload, source = _part_number(call), _upload(call), copy_source(call)
    found, wanted, stream = call.store.open_object(*source, lambda found: _copied(call, found))
    try:
        part = call.store.refer_part(upload, number, source, found.etag, wanted)
        if part is None:
            digests = Digests({upload.algorithm} - {""})
            with call.store.new_blob() as writer:
                for piece in stream.pieces():
                    digests.update(piece)
                    writer.write(piece)
                part = call.store.put_part(upload, number, writer, writer.seal(digests))
    finally:
        stream.close()
    nodes = [("ETag", f'"{part.blob.md5}"'), ("LastModified", iso(part.modified_at))]
    return document("CopyPartResult", nodes + _part_checksum(upload, part))


def complete_upload(call: Call) -> Response:
    """Make the object of the listed parts; repeating the request gives the same answer."""
    upload_id = call.arg("uploadId")
    # The checksum in this request's headers is the object's, not the body's.
    listed = _read_listed(read_document(call.request, call.signature))
    claims = _claims(call)
    try:
        stored: Object | None = call.store.complete_upload(
            call.bucket,
            call.key,
            upload_id,
            lambda upload, held: assemble(upload, held, listed, claims),
            precondition(call),
        )
    except S3Error as error:
        stored = call.store.find_object(call.bucket, call.key)
        if error.code != "NoSuchUpload" or not _made_by(stored, upload_id, listed):
            raise
    return _completed(call, stored)


def assemble(
    upload: Upload, held: dict[int, Part], listed: list[Listed], claims: Claims
) -> tuple[Draft, list[Part]]:
    """The object that the listed parts make, and those parts.

    S3Error if a part is missing, differs from the list, is out of order or too small, or if the
    whole is not what the client claims.
    """
    numbers = [item.number for item in listed]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise S3Error(
            "InvalidPartOrder",
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
            UploadId=upload.id,
        )
    parts = [_held_part(upload, held, item) for item in listed]
    for part in parts[:-1]:
        if part.blob.size < MIN_PART_SIZE:
            raise _too_small(part)
    size = sum(part.blob.size for part in parts)
    if claims.size and claims.size != str(size):
        raise S3Error(
            "InvalidRequest",
            f"The provided 'x-amz-mp-object-size' header value {claims.size} "
            f"does not match what was computed: {size}",
        )
    checksum = _whole_checksum(upload, parts)
    _check_claims(upload, claims, checksum)
    etag = etag_of_parts([part.blob.md5 for part in parts])
    draft = Draft(etag, upload.headers, upload.algorithm, upload.checksum_type, checksum, upload.id)
    return draft, parts


def etag_of_parts(etags: list[str]) -> str:
    """A multipart ETag: the MD5 of the parts' MD5s, and their number."""
    joined = b"".join(bytes.fromhex(etag) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def abort_upload(call: Call) -> Response:
    """Remove an open upload and its parts, or NoSuchUpload."""
    call.store.abort_upload(call.bucket, call.key, call.arg("uploadId"))
    return Response(204)


def list_parts(call: Call) -> Response:
    """One page of the upload's parts, by number."""
    upload, limit = _upload(call), call.limit("max-parts")
    marker = call.whole("part-number-marker", 0)
    parts = call.store.list_parts(upload, marker, limit + 1)
    shown, truncated = parts[:limit], len(parts) > limit > 0
    nodes: list[xml.Node] = [
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("UploadId", upload.id),
        OWNER,
        ("StorageClass", "STANDARD"),
        ("PartNumberMarker", marker),
        ("NextPartNumberMarker", shown[-1].number if shown else marker),
        ("MaxParts", limit),
        ("IsTruncated", truncated),
        *_checksum_kind(upload.algorithm, upload.checksum_type),
    ]
    return document("ListPartsResult", nodes + [_part_node(upload, part) for part in shown])


def list_uploads(call: Call) -> Response:
    """One page of the bucket's open uploads, by key and id."""
    encode, limit = call.encoder(), call.limit("max-uploads")
    prefix, delimiter = call.arg("prefix"), call.arg("delimiter")
    marker, id_marker = call.arg("key-marker"), call.arg("upload-id-marker")
    bound = marker_bound(marker, prefix, delimiter)
    if marker and id_marker and bound == (marker, LAST_ID):
        bound = (marker, id_marker)
    page = call.store.list_uploads(call.bucket, prefix, delimiter, bound, limit)
    nodes: list[xml.Node] = [
        ("Bucket", call.bucket),
        ("KeyMarker", encode(marker)),
        ("UploadIdMarker", id_marker),
        ("Prefix", encode(prefix)),
        ("MaxUploads", limit),
        ("IsTruncated", page.next_bound is not None),
        *([("Delimiter", encode(delimiter))] if delimiter else []),
        *encode.nodes,
    ]
    if page.next_bound:
        key, last_id = page.last
        nodes += [("NextKeyMarker", encode(key)), ("NextUploadIdMarker", last_id)]
    for row in page.rows:
        fields = [
            ("Key", encode(row["key"])),
            ("UploadId", row["id"]),
            OWNER,
            ("StorageClass", "STANDARD"),
            ("Initiated", iso(row["initiated_at"])),
            *_checksum_kind(row["algorithm"], row["checksum_type"]),
        ]
        nodes.append(("Upload", fields))
    nodes += [("CommonPrefixes", [("Prefix", encode(text))]) for text in page.prefixes]
    return document("ListMultipartUploadsResult", nodes)


def _upload(call: Call) -> Upload:
    return call.store.find_upload(call.bucket, call.key, call.arg("uploadId"))


def _part_number(call: Call) -> int:
    number = call.arg("partNumber")
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 1 <= int(number) <= MAX_PART_NUMBER:
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {MAX_PART_NUMBER}, inclusive",
            ArgumentName="partNumber",
            ArgumentValue=number,
        )
    return int(number)


def _checksum_choice(call: Call) -> tuple[str, str]:
    """Algorithm and type for an upload; as in S3, only a CRC can be FULL_OBJECT."""
    name = call.header("x-amz-checksum-algorithm")
    algorithm = checksums.known(name) if name else ""
    kind = call.header("x-amz-checksum-type").upper()
    if not algorithm:
        if kind:
            message = "The x-amz-checksum-type header needs x-amz-checksum-algorithm."
            raise S3Error("InvalidRequest", message)
        return "", ""
    if kind not in ("", "COMPOSITE", "FULL_OBJECT"):
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if kind == "FULL_OBJECT" and algorithm != "crc32":
        raise S3Error(
            "InvalidRequest",
            "The FULL_OBJECT checksum type cannot be used with the "
            f"{algorithm} checksum algorithm.",
        )
    return algorithm, kind or "COMPOSITE"


def _copied(call: Call, found: Object) -> range:
    """The range in x-amz-copy-source-range, or the whole object if it is not sent."""
    value = call.header("x-amz-copy-source-range")
    wanted = range(found.size)
    if value:
        match = COPY_RANGE.fullmatch(value)
        if not match:
            message = "The x-amz-copy-source-range value must be of the form bytes=first-last"
            raise S3Error("InvalidArgument", message)
        wanted = range(int(match[1]), int(match[2]) + 1)
        if not wanted or wanted.stop > found.size:
            message = f"Range specified is not valid for source object of size: {found.size}"
            raise S3Error("InvalidArgument", message)
    check_copy_source(call, found, len(wanted))
    return wanted


def _read_listed(body: bytes) -> list[Listed]:
    root = xml.read(body, "CompleteMultipartUpload")
    listed = [_listed(element) for element in root.findall("Part")]
    if not 0 < len(listed) <= MAX_PART_NUMBER:
        raise S3Error("MalformedXML", "Between 1 and 10,000 parts must be listed")
    return listed


def _listed(element: Element) -> Listed:
    given = {name: element.findtext(f"Checksum{name.upper()}") for name in checksums.ALGORITHMS}
    return Listed(
        number=xml.whole(element, "PartNumber"),
        etag=xml.text(element, "ETag").strip().strip('"').lower(),
        checksums={name: value.strip() for name, value in given.items() if value},
    )


def _held_part(upload: Upload, held: dict[int, Part], item: Listed) -> Part:
    part = held.get(item.number)
    if (
        part is None
        or part.blob.md5 != item.etag
        or any(getattr(part.blob, name) != value for name, value in item.checksums.items())
    ):
        raise S3Error(
            "InvalidPart",
            "One or more of the specified parts could not be found. The part may not have been "
            "uploaded, or the specified entity tag may not match the part's entity tag.",
            UploadId=upload.id,
            PartNumber=item.number,
            ETag=item.etag,
        )
    return part


def _too_small(part: Part) -> S3Error:
    return S3Error(
        "EntityTooSmall",
        "Your proposed upload is smaller than the minimum allowed size",
        ProposedSize=part.blob.size,
        MinSizeAllowed=MIN_PART_SIZE,
        PartNumber=part.number,
        ETag=part.blob.md5,
    )


def _whole_checksum(upload: Upload, parts: list[Part]) -> str:
    if not upload.algorithm:
        return ""
    if upload.checksum_type == "FULL_OBJECT":
        return checksums.whole_crc32([(part.blob.crc32, part.blob.size) for part in parts])
    return checksums.composite(
        upload.algorithm, [getattr(part.blob, upload.algorithm) for part in parts]
    )


def _claims(call: Call) -> Claims:
    given = {name: call.header(f"x-amz-checksum-{name}") for name in checksums.ALGORITHMS}
    return Claims(
        size=call.header("x-amz-mp-object-size"),
        checksum_type=call.header("x-amz-checksum-type").upper(),
        checksums={name: value for name, value in given.items() if value},
    )


def _check_claims(upload: Upload, claims: Claims, checksum: str) -> None:
    if claims.checksum_type and claims.checksum_type != upload.checksum_type:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {upload.checksum_type or 'null'} checksum mode. "
            "The complete request must use the same checksum mode.",
        )
    for algorithm, value in claims.checksums.items():
        if algorithm != upload.algorithm:
            raise S3Error(
                "InvalidRequest",
                f"The upload was created using the {upload.algorithm or 'null'} checksum "
                f"algorithm, the complete request names {algorithm}.",
            )
        if value not in (checksum, checksum.partition("-")[0]):
            raise S3Error(
                "BadDigest",
                f"The {algorithm} you specified did not match the calculated checksum.",
            )


def _made_by(stored: Object | None, upload_id: str, listed: list[Listed]) -> bool:
    """Whether the object was made by this very upload from this list of parts."""
    if stored is None or stored.upload_id != upload_id:
        return False
    etags = [item.etag for item in listed]
    if not all(re.fullmatch(r"[0-9a-f]{32}", etag) for etag in etags):
        return False
    return stored.etag == etag_of_parts(etags)


def _completed(call: Call, stored: Object | None) -> Response:
    if stored is None:
        raise no_such_key()
    nodes: list[xml.Node] = [
        ("Location", f"http://{call.header('host')}/{call.bucket}/{quote(call.key)}"),
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("ETag", f'"{stored.etag}"'),
        *checksum_nodes(stored.algorithm, stored.checksum),
    ]
    if stored.algorithm:
        nodes.append(("ChecksumType", stored.checksum_type))
    response = document("CompleteMultipartUploadResult", nodes)
    response.headers.update(checksum_headers(stored))
    return response


def _part_node(upload: Upload, part: Part) -> xml.Node:
    fields: list[xml.Node] = [
        ("PartNumber", part.number),
        ("LastModified", iso(part.modified_at)),
        ("ETag", f'"{part.blob.md5}"'),
        ("Size", part.blob.size),
        *_part_checksum(upload, part),
    ]
    return ("Part", fields)


def _part_checksum(upload: Upload, part: Part) -> list[tuple[str, str]]:
    if not upload.algorithm:
        return []
    return checksum_nodes(upload.algorithm, getattr(part.blob, upload.algorithm))


def _checksum_kind(algorithm: str, kind: str) -> list[tuple[str, str]]:
    if not algorithm:
        return []
    return [("ChecksumAlgorithm", algorithm.upper()), ("ChecksumType", kind)]
