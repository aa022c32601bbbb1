"""Uploads by an HTML form, restricted by a signed policy.

Facts from "Browser-Based Uploads Using POST (AWS Signature Version 4)" in the Amazon S3 API
Reference: every field must be named by a condition of the policy, and what follows the file is
ignored.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from embedded.s3.call import document
from embedded.s3.errors import S3Error
from embedded.s3.objects import kept_headers, put_draft
from embedded.s3.payload import MAX_PUT, Declared, receive
from embedded.s3.sigv4 import ALGORITHM, Credentials, check, open_scope, sign_text
from embedded.s3.store import Precondition, Store
from embedded.s3.wire import PIECE, Body, Headers, Request, Response, check_header_value

FIELDS_LIMIT = 20 * 1024
UNCHECKED = ("x-amz-signature", "policy", "file", "bucket")
BOUNDARY = re.compile(r'multipart/form-data;.*?boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70})"?')
NAME = re.compile(r'(?i:content-disposition):\s*form-data;.*?\bname="([^"]*)"')
FILE_NAME = re.compile(r'\bfilename="([^"]*)"')


@dataclass(frozen=True)
class Policy:
    """The file size that a verified policy allows, in bytes; the fields are already checked."""

    min_size: int
    max_size: int


class FormFile:
    """The file's bytes: everything up to the boundary, with the policy's limits enforced."""

    def __init__(self, body: Body, boundary: bytes, policy: Policy) -> None:
        self._body = body
        self._end = b"\r\n" + boundary
        self._policy = policy
        self.size = min(body.left, MAX_PUT)
        self.trailers: dict[str, str] = {}

    def pieces(self) -> Iterator[memoryview]:
        """Yield the file's bytes; EntityTooLarge or EntityTooSmall outside the policy's limits."""
        size = 0
        for piece in self._split():
            size += len(piece)
            if size > self._policy.max_size:
                raise _size_error("EntityTooLarge", "exceeds the maximum", size)
            yield memoryview(piece)
        if size < self._policy.min_size:
            raise _size_error("EntityTooSmall", "is smaller than the minimum", size)

    def _split(self) -> Iterator[bytes]:
        view, pending = memoryview(bytearray(PIECE)), bytearray()
        while (end := pending.find(self._end)) < 0:
            # The boundary may begin in the last bytes, so these are held back.
            ready = max(len(pending) - len(self._end) + 1, 0)
            yield bytes(pending[:ready])
            del pending[:ready]
            count = self._body.readinto(view)
            if not count:
                raise _malformed()
            pending += view[:count]
        yield bytes(pending[:end])
        self._body.drain()


def is_form(request: Request) -> bool:
    """Whether the request is an upload by form: a POST of multipart/form-data."""
    content_type = request.headers.get("content-type").lower()
    return request.method == "POST" and content_type.startswith("multipart/form-data")


def post_object(
    request: Request, store: Store, credentials: Credentials, now: datetime
) -> Response:
    """Store the form's file under the form's key; S3Error unless a policy we signed allows it."""
    match = BOUNDARY.fullmatch(request.headers.get("content-type"))
    if not match:
        raise _malformed()
    boundary = b"--" + match[1].encode()
    fields = _read_fields(request.body, boundary)
    policy = _verify(fields, request.bucket, credentials, now)
    headers = _headers(fields)
    key = fields.get("key", "")
    if not key or len(key.encode()) > 1024:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.")
    file = FormFile(request.body, boundary, policy)
    with store.new_blob() as writer:
        blob = writer.seal(receive(file, Declared(), writer.write))
        draft = put_draft(blob, kept_headers(headers), Declared())
        store.put_object(request.bucket, key, draft, writer, blob, Precondition())
    return _answer(fields, request, key, blob.md5)


def _read_fields(body: Body, boundary: bytes) -> dict[str, str]:
    """The fields before the file by lower-case name; leaves the body at the file."""
    fields: dict[str, str] = {}
    budget = FIELDS_LIMIT
    _expect_boundary(body, boundary)
    while True:
        head = _read_part_head(body)
        budget -= len(head)
        match = NAME.search(head)
        if not match:
            raise _malformed()
        name = match[1].lower()
        if name == "file":
            return _with_file_name(fields, head)
        value = _read_value(body, boundary, budget)
        budget -= len(value)
        fields[name] = _text(value)


def _expect_boundary(body: Body, boundary: bytes) -> None:
    if body.readline(1024).rstrip() != boundary:
        raise _malformed()


def _read_part_head(body: Body) -> str:
    head = b""
    while (line := body.readline(4096)).strip():
        head += line
        if len(head) > FIELDS_LIMIT:
            raise _too_many_fields()
    return _text(head)


def _read_value(body: Body, boundary: bytes, budget: int) -> bytes:
    value = b""
    while not (line := body.readline(4096)).startswith(boundary):
        value += line
        if len(value) > budget:
            raise _too_many_fields()
        if not line:
            raise _malformed()
    if line.rstrip() != boundary:
        raise S3Error(
            "InvalidArgument",
            "POST requires exactly one file upload per request.",
            ArgumentName="file",
        )
    return value.removesuffix(b"\r\n")


def _with_file_name(fields: dict[str, str], head: str) -> dict[str, str]:
    """Replace `${filename}` in the key by the name that the browser gave the file."""
    match = FILE_NAME.search(head)
    if "key" in fields:
        fields["key"] = fields["key"].replace("${filename}", match[1] if match else "")
    return fields


def _verify(fields: dict[str, str], bucket: str, credentials: Credentials, now: datetime) -> Policy:
    encoded = fields.get("policy", "")
    if not encoded:
        raise S3Error("AccessDenied", "Access Denied")
    if fields.get("x-amz-algorithm") != ALGORITHM:
        raise S3Error("InvalidArgument", f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    credential, date = fields.get("x-amz-credential", ""), fields.get("x-amz-date", "")
    scope = open_scope(credentials, credential, date)
    check(sign_text(scope.key, encoded), fields.get("x-amz-signature", ""))
    policy = _read_policy(encoded)
    if now >= policy["expiration"]:
        raise _refused("Policy expired.")
    return _check_conditions(policy["conditions"], {**fields, "bucket": bucket})


def _read_policy(encoded: str) -> dict[str, Any]:
    """The policy's document, with `expiration` as a datetime and `conditions` as a list."""
    try:
        policy = json.loads(base64.b64decode(encoded, validate=True))
        expiration = datetime.fromisoformat(policy["expiration"])
        if not isinstance(policy["conditions"], list):
            raise TypeError
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid JSON.") from error
    if expiration.tzinfo is None:
        expiration = expiration.replace(tzinfo=UTC)
    return {"expiration": expiration, "conditions": policy["conditions"]}


def _check_conditions(conditions: list[Any], fields: dict[str, str]) -> Policy:
    covered: set[str] = set()
    min_size, max_size = 0, MAX_PUT
    for condition in conditions:
        operator, subject, operand = _parse_condition(condition)
        if operator == "content-length-range":
            min_size, max_size = max(min_size, int(subject)), min(max_size, int(operand))
            continue
        value = fields.get(subject, "")
        covered.add(subject)
        held = value.startswith(operand) if operator == "starts-with" else value == operand
        if not held:
            raise _refused(f"Policy Condition failed: {json.dumps(condition)}")
    extra = [
        name
        for name in fields
        if name not in covered and name not in UNCHECKED and not name.startswith("x-ignore-")
    ]
    if extra:
        raise _refused(f"Extra input fields: {', '.join(extra)}")
    return Policy(min_size, max_size)


def _parse_condition(condition: Any) -> tuple[str, str, str]:
    """The operator, the field in lower case and the operand; for a size range, its two ends."""
    if isinstance(condition, dict) and len(condition) == 1:
        name, value = next(iter(condition.items()))
        return "eq", name.lower(), str(value)
    if isinstance(condition, list) and len(condition) == 3:
        operator, subject, operand = (str(item) for item in condition)
        if operator == "content-length-range" and subject.isdecimal() and operand.isdecimal():
            return operator, subject, operand
        if operator in ("eq", "starts-with") and subject.startswith("$"):
            return operator, subject[1:].lower(), operand
    raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid condition.")


def _headers(fields: dict[str, str]) -> Headers:
    """The fields as headers; S3Error for a value that a header cannot carry."""
    headers = Headers()
    for name, value in fields.items():
        if name.startswith(("x-amz-checksum-", "x-amz-server-side-", "x-amz-tagging", "tagging")):
            raise S3Error("NotImplemented", f"The form field {name} is not implemented here")
        if name == "key" or name == "policy":
            continue
        if not check_header_value(value) or not check_header_value(name):
            message = "Header value cannot be represented using ISO-8859-1."
            raise S3Error("InvalidArgument", message, ArgumentName=name)
        headers.add(name, value)
    return headers


def _answer(fields: dict[str, str], request: Request, key: str, md5: str) -> Response:
    etag = f'"{md5}"'
    location = f"http://{request.headers.get('host')}/{request.bucket}/{quote(key)}"
    headers = {"ETag": etag, "Location": location}
    redirect = fields.get("success_action_redirect", "")
    if re.fullmatch(r"https?://[\x21-\x7e]+", redirect):
        query = f"bucket={quote(request.bucket)}&key={quote(key, safe='')}&etag={quote(etag)}"
        target = f"{redirect}{'&' if '?' in redirect else '?'}{query}"
        return Response(303, {**headers, "Location": target})
    if fields.get("success_action_status") == "201":
        nodes = [
            ("Location", location),
            ("Bucket", request.bucket),
            ("Key", key),
            ("ETag", etag),
        ]
        response = document("PostResponse", nodes, 201)
        response.headers.update(headers)
        return response
    return Response(200 if fields.get("success_action_status") == "200" else 204, headers)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _malformed() from error


def _malformed() -> S3Error:
    return S3Error(
        "MalformedPOSTRequest",
        "The body of your POST request is not well-formed multipart/form-data.",
    )


def _too_many_fields() -> S3Error:
    message = "Your POST request fields preceding the upload file were too large."
    return S3Error("MaxPostPreDataLengthExceeded", message, MaxPostPreDataLengthBytes=FIELDS_LIMIT)


def _refused(reason: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {reason}")


def _size_error(code: str, relation: str, size: int) -> S3Error:
    message = f"Your proposed upload {relation} allowed size"
    return S3Error(code, message, ProposedSize=size)
