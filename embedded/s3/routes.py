"""Which action serves which request, and which requests are refused as not implemented."""

from collections.abc import Callable

from embedded.s3 import buckets, multipart, objects
from embedded.s3.call import Call
from embedded.s3.errors import S3Error
from embedded.s3.wire import Request, Response

Action = Callable[[Call], Response]

SERVICE: dict[tuple[str, str], Action] = {("GET", ""): buckets.list_buckets}

BUCKET: dict[tuple[str, str], Action] = {
    ("PUT", ""): buckets.create_bucket,
    ("HEAD", ""): buckets.head_bucket,
    ("DELETE", ""): buckets.delete_bucket,
    ("GET", ""): buckets.list_objects,
    ("GET", "list-type"): buckets.list_objects_v2,
    ("GET", "location"): buckets.get_location,
    ("GET", "versioning"): buckets.get_versioning,
    ("PUT", "cors"): buckets.put_cors,
    ("GET", "cors"): buckets.get_cors,
    ("DELETE", "cors"): buckets.delete_cors,
    ("PUT", "lifecycle"): buckets.put_lifecycle,
    ("GET", "lifecycle"): buckets.get_lifecycle,
    ("DELETE", "lifecycle"): buckets.delete_lifecycle,
    ("GET", "uploads"): multipart.list_uploads,
    ("POST", "delete"): buckets.delete_objects,
}

OBJECT: dict[tuple[str, str], Action] = {
    ("PUT", ""): objects.put_object,
    ("GET", ""): objects.get_object,
    ("HEAD", ""): objects.head_object,
    ("DELETE", ""): objects.delete_object,
    ("PUT", "copy"): objects.copy_object,
    ("POST", "uploads"): multipart.create_upload,
    ("PUT", "uploadId"): multipart.put_part,
    ("PUT", "uploadId copy"): multipart.copy_part,
    ("GET", "uploadId"): multipart.list_parts,
    ("POST", "uploadId"): multipart.complete_upload,
    ("DELETE", "uploadId"): multipart.abort_upload,
}

SUBRESOURCES = ("list-type", "location", "versioning", "cors", "lifecycle", "uploads", "delete")
ARGUMENTS = {
    *SUBRESOURCES,
    *("uploadId", "partNumber", "x-id"),
    *("prefix", "delimiter", "encoding-type", "max-keys", "marker", "start-after"),
    *("continuation-token", "fetch-owner", "max-buckets", "max-parts", "part-number-marker"),
    *("max-uploads", "key-marker", "upload-id-marker"),
    *objects.OVERRIDES,
}
"""Every supported argument; S3's others change what is requested, so they are refused.

Those that begin with x-amz- belong to the signature or stand for headers.
"""

REFUSED_HEADERS = (
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-tagging",
    "x-amz-object-lock-",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-website-redirect-location",
    "x-amz-grant-",
    "x-amz-write-offset-bytes",
)
HARMLESS = {
    "x-amz-acl": ("private", "bucket-owner-full-control"),
    "x-amz-storage-class": ("STANDARD",),
}


def find_action(request: Request) -> Action:
    """The action for a request; S3Error if there is none, or if an option is not implemented."""
    _refuse_unknown(request)
    table = OBJECT if request.key else BUCKET if request.bucket else SERVICE
    action = table.get((request.method, _subject(request)))
    if action is None:
        message = "The specified method is not allowed against this resource."
        raise S3Error("MethodNotAllowed", message, Method=request.method)
    return action


def _subject(request: Request) -> str:
    """What of the object or bucket is addressed: a subresource, an upload, a copy."""
    names = request.argument_names
    subject = next((name for name in SUBRESOURCES if name in names), "")
    if not request.key:
        return subject
    if "uploadId" in names:
        subject = "uploadId"
    elif "partNumber" in names:
        raise S3Error("NotImplemented", "Reading an object by part number is not implemented here")
    copies = request.method == "PUT" and "x-amz-copy-source" in request.headers
    return f"{subject} copy".strip() if copies else subject


def _refuse_unknown(request: Request) -> None:
    """Refuse options that are not implemented: ignoring them would give wrong answers."""
    for name in request.argument_names:
        if name not in ARGUMENTS and not name.lower().startswith("x-amz-"):
            raise S3Error("NotImplemented", f"The argument {name} is not implemented here")
    for name in request.headers:
        value = request.headers.get(name)
        if name.startswith(REFUSED_HEADERS) or value not in HARMLESS.get(name, (value,)):
            raise S3Error("NotImplemented", f"The header {name} is not implemented here")
