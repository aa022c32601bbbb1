"""Actions on buckets: create, delete, their rules, and listing their objects."""

import base64
import binascii
import json
import re

from embedded.s3 import cors, xml
from embedded.s3.call import OWNER, Call, Encoder, document, iso
from embedded.s3.errors import S3Error
from embedded.s3.listing import Bound, Page, marker_bound
from embedded.s3.payload import read_document, read_proven_document
from embedded.s3.store import Bucket
from embedded.s3.wire import Response

BUCKET_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
DELETE_LIMIT = 1000
LIFECYCLE_RULE_LIMIT = 1000
LIFECYCLE_ACTIONS = ("AbortIncompleteMultipartUpload", "Expiration")


def list_buckets(call: Call) -> Response:
    """All buckets, by name."""
    nodes = [
        ("Bucket", [("Name", bucket.name), ("CreationDate", iso(bucket.created_at))])
        for bucket in call.store.buckets()
    ]
    return document("ListAllMyBucketsResult", [OWNER, ("Buckets", nodes)])


def create_bucket(call: Call) -> Response:
    """Create a bucket; as in S3, creating it again succeeds in us-east-1 and nowhere else."""
    if not BUCKET_NAME.fullmatch(call.bucket):
        message = "The specified bucket is not valid."
        raise S3Error("InvalidBucketName", message, BucketName=call.bucket)
    region = "us-east-1"
    if call.request.body.length:
        body = read_document(call.request, call.signature)
        root = xml.read(body, "CreateBucketConfiguration")
        region = xml.text(root, "LocationConstraint", region)
    if not call.store.create_bucket(call.bucket, region) and region != "us-east-1":
        raise S3Error(
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            BucketName=call.bucket,
        )
    return Response(200, {"Location": f"/{call.bucket}"})


def head_bucket(call: Call) -> Response:
    """The bucket's region as a header, or NoSuchBucket."""
    return Response(200, {"x-amz-bucket-region": _bucket(call).region})


def delete_bucket(call: Call) -> Response:
    """Delete an empty bucket and its open uploads; BucketNotEmpty if it has objects."""
    call.store.delete_bucket(call.bucket)
    return Response(204)


def get_location(call: Call) -> Response:
    """The bucket's region; as in S3, the empty string for us-east-1."""
    region = _bucket(call).region
    body = xml.write("LocationConstraint", []) if region == "us-east-1" else _location(region)
    return Response(200, {"Content-Type": "application/xml"}, body)


def get_versioning(call: Call) -> Response:
    """An empty document, which means that versioning was never enabled."""
    return document("VersioningConfiguration", [])


def put_cors(call: Call) -> Response:
    """Store the CORS rules as sent; S3Error if S3 would refuse them."""
    text = _document_text(call)
    cors.read_rules(text)
    call.store.set_cors(call.bucket, text)
    return Response()


def get_cors(call: Call) -> Response:
    """The CORS rules as they were sent, or NoSuchCORSConfiguration."""
    missing = ("NoSuchCORSConfiguration", "The CORS configuration does not exist")
    return _kept_document(_bucket(call).cors, *missing)


def delete_cors(call: Call) -> Response:
    """Remove the CORS rules, if there are any."""
    call.store.set_cors(call.bucket, "")
    return Response(204)


def put_lifecycle(call: Call) -> Response:
    """Store the rules without carrying them out: the bucket's owner removes its objects itself."""
    text = _document_text(call)
    rules = xml.read(text.encode(), "LifecycleConfiguration").findall("Rule")
    if not 0 < len(rules) <= LIFECYCLE_RULE_LIMIT:
        raise S3Error("MalformedXML", "A lifecycle configuration has between 1 and 1000 rules")
    for rule in rules:
        acts = [name for name in LIFECYCLE_ACTIONS if rule.find(name) is not None]
        if xml.text(rule, "Status") not in ("Enabled", "Disabled") or not acts:
            raise S3Error("MalformedXML", "A lifecycle rule needs a Status and an action")
    call.store.set_lifecycle(call.bucket, text)
    return Response()


def get_lifecycle(call: Call) -> Response:
    """The lifecycle rules as they were sent, or NoSuchLifecycleConfiguration."""
    message = "The lifecycle configuration does not exist"
    return _kept_document(_bucket(call).lifecycle, "NoSuchLifecycleConfiguration", message)


def delete_lifecycle(call: Call) -> Response:
    """Remove the lifecycle rules, if there are any."""
    call.store.set_lifecycle(call.bucket, "")
    return Response(204)


def delete_objects(call: Call) -> Response:
    """Delete up to 1000 keys in one transaction; missing ones count as deleted."""
    body = read_proven_document(call.request, call.signature)
    root = xml.read(body, "Delete")
    objects = root.findall("Object")
    if any(child.tag != "Key" for element in objects for child in element):
        raise S3Error("NotImplemented", "Objects can only be deleted by their keys here")
    keys = [xml.text(element, "Key") for element in objects]
    if not 0 < len(keys) <= DELETE_LIMIT:
        raise S3Error("MalformedXML", "Between 1 and 1000 objects can be deleted at once")
    call.store.delete_objects(call.bucket, keys)
    quiet = xml.text(root, "Quiet", "false") == "true"
    return document("DeleteResult", [("Deleted", [("Key", key)]) for key in keys if not quiet])


def list_objects_v2(call: Call) -> Response:
    """One page of objects (ListObjectsV2), continued by a continuation token."""
    encode, token = call.encoder(), call.arg("continuation-token")
    if token:
        bound = _read_token(token)
    else:
        bound = marker_bound(call.arg("start-after"), call.arg("prefix"), call.arg("delimiter"))
    page, nodes = _page(call, bound, encode)
    nodes.append(("KeyCount", len(page)))
    if token:
        nodes.append(("ContinuationToken", token))
    if page.next_bound:
        nodes.append(("NextContinuationToken", _write_token(page.next_bound)))
    if call.arg("start-after"):
        nodes.append(("StartAfter", encode(call.arg("start-after"))))
    return document("ListBucketResult", nodes)


def list_objects(call: Call) -> Response:
    """One page of objects (the first ListObjects), continued by a marker."""
    encode, marker = call.encoder(), call.arg("marker")
    bound = marker_bound(marker, call.arg("prefix"), call.arg("delimiter"))
    page, nodes = _page(call, bound, encode)
    nodes.append(("Marker", encode(marker)))
    if page.next_bound:
        nodes.append(("NextMarker", encode(page.last[0])))
    return document("ListBucketResult", nodes)


def _page(call: Call, bound: Bound, encode: Encoder) -> tuple[Page, list[xml.Node]]:
    prefix, delimiter, limit = call.arg("prefix"), call.arg("delimiter"), call.limit("max-keys")
    page = call.store.list_objects(call.bucket, prefix, delimiter, bound, limit)
    nodes: list[xml.Node] = [
        ("Name", call.bucket),
        ("Prefix", encode(prefix)),
        ("MaxKeys", limit),
        ("IsTruncated", page.next_bound is not None),
        *([("Delimiter", encode(delimiter))] if delimiter else []),
        *encode.nodes,
    ]
    for row in page.rows:
        checksum = [("ChecksumAlgorithm", row["algorithm"].upper())] if row["algorithm"] else []
        nodes.append(
            (
                "Contents",
                [
                    ("Key", encode(row["key"])),
                    ("LastModified", iso(row["modified_at"])),
                    ("ETag", f'"{row["etag"]}"'),
                    *checksum,
                    ("Size", row["size"]),
                    ("StorageClass", "STANDARD"),
                ],
            )
        )
    nodes += [("CommonPrefixes", [("Prefix", encode(text))]) for text in page.prefixes]
    return page, nodes


def _write_token(bound: Bound) -> str:
    return base64.urlsafe_b64encode(json.dumps(bound).encode()).decode()


def _read_token(token: str) -> Bound:
    try:
        key, after_id = json.loads(base64.urlsafe_b64decode(token))
        return str(key), str(after_id)
    except (binascii.Error, ValueError, TypeError) as error:
        message = "The continuation token provided is incorrect"
        raise S3Error("InvalidArgument", message) from error


def _bucket(call: Call) -> Bucket:
    bucket = call.store.find_bucket(call.bucket)
    if bucket is None:
        raise no_such_bucket(call.bucket)
    return bucket


def no_such_bucket(name: str) -> S3Error:
    return S3Error("NoSuchBucket", "The specified bucket does not exist", BucketName=name)


def _document_text(call: Call) -> str:
    try:
        return read_proven_document(call.request, call.signature).decode()
    except UnicodeDecodeError as error:
        raise S3Error("MalformedXML", "The document is not UTF-8") from error


def _kept_document(text: str, code: str, message: str) -> Response:
    if not text:
        raise S3Error(code, message)
    return Response(200, {"Content-Type": "application/xml"}, text.encode())


def _location(region: str) -> bytes:
    """A LocationConstraint, the only document whose root has text instead of elements."""
    empty = xml.write("LocationConstraint", [])
    return empty.replace(b"></", f">{region}</".encode())
