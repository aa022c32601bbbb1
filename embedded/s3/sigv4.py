"""Signature Version 4: who signed a request, and does the signature cover what was sent.

Facts from "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API Reference. Any
region is accepted: it is part of the scope, and there is no second endpoint to confuse it with.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

from embedded.s3.errors import S3Error
from embedded.s3.wire import Headers, Request, decode

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
MAX_SKEW = timedelta(minutes=15)
MAX_EXPIRES = 7 * 24 * 3600
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^,\s]+)\s*,\s*SignedHeaders=([^,\s]+)\s*,"
    r"\s*Signature=([0-9a-f]{64})"
)
QUERY_FIELDS = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")


@dataclass(frozen=True)
class Credentials:
    """The one key pair that this endpoint accepts."""

    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Scope:
    """When a request was signed, the scope's name (`day/region/s3/aws4_request`), and its key."""

    signed_at: datetime
    name: str
    key: bytes

    @property
    def region(self) -> str:
        return self.name.split("/")[1]

    def sign(self, algorithm: str, *lines: str) -> str:
        """The signature of a string to sign whose last lines are `lines`."""
        text = "\n".join([algorithm, timestamp(self.signed_at), self.name, *lines])
        return sign_text(self.key, text)


@dataclass(frozen=True)
class Signature:
    """A verified request signature; `payload` is its x-amz-content-sha256."""

    scope: Scope
    value: str
    payload: str


def verify(request: Request, credentials: Credentials, now: datetime) -> Signature:
    """The verified signature of a request; S3Error as from S3, also for anonymous requests."""
    in_query = any(name.startswith("X-Amz-Algorithm") for name in request.argument_names)
    if in_query and "authorization" in request.headers:
        raise S3Error("InvalidArgument", "Only one auth mechanism allowed")
    if in_query:
        return _verify_query(request, credentials, now)
    if "authorization" in request.headers:
        return _verify_header(request, credentials, now)
    if request.arg("Signature"):
        raise _unsupported()
    raise S3Error("AccessDenied", "Access Denied")


def open_scope(credentials: Credentials, credential: str, date: str) -> Scope:
    """The scope of `AKID/day/region/s3/aws4_request`; S3Error for another key or a wrong scope."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or not parts[2]:
        raise S3Error("AuthorizationHeaderMalformed", "The credential scope is malformed")
    if not hmac.compare_digest(parts[0].encode(), credentials.access_key.encode()):
        raise S3Error(
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            AWSAccessKeyId=parts[0],
        )
    signed_at = parse_date(date)
    if parts[1] != date[:8]:
        raise S3Error("AuthorizationHeaderMalformed", "The credential's day is not the request's")
    key = _signing_key(credentials.secret_key, parts[1], parts[2])
    return Scope(signed_at, "/".join(parts[1:]), key)


def parse_date(text: str) -> datetime:
    """A time such as `20260131T235959Z`; raises AccessDenied if it cannot be parsed."""
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        message = "AWS authentication requires a valid Date or x-amz-date header"
        raise S3Error("AccessDenied", message) from error


def timestamp(moment: datetime) -> str:
    """A time as `20260131T235959Z`."""
    return moment.strftime("%Y%m%dT%H%M%SZ")


def sign_text(key: bytes, text: str) -> str:
    """The HMAC-SHA256 of a text, in hex."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def check(expected: str, given: str) -> None:
    """Raise SignatureDoesNotMatch unless both are equal, in constant time."""
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise S3Error(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )


def _verify_header(request: Request, credentials: Credentials, now: datetime) -> Signature:
    match = AUTHORIZATION.fullmatch(request.headers.get("authorization"))
    if not match:
        raise _unsupported()
    scope = open_scope(credentials, match[1], request.headers.get("x-amz-date"))
    if abs(now - scope.signed_at) > MAX_SKEW:
        raise S3Error(
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            RequestTime=timestamp(scope.signed_at),
            ServerTime=timestamp(now),
            MaxAllowedSkewMilliseconds=900000,
        )
    payload = request.headers.get("x-amz-content-sha256")
    if not payload:
        message = "Missing required header for this request: x-amz-content-sha256"
        raise S3Error("InvalidRequest", message)
    _verify_request(request, scope, match[2], payload, match[3])
    return Signature(scope, match[3], payload)


def _verify_query(request: Request, credentials: Credentials, now: datetime) -> Signature:
    given = _query_fields(request)
    scope = open_scope(credentials, given["Credential"], given["Date"])
    lifetime = int(given["Expires"])
    if scope.signed_at - now > MAX_SKEW:
        raise S3Error("AccessDenied", "Request is not yet valid", ServerTime=timestamp(now))
    if now > scope.signed_at + timedelta(seconds=lifetime):
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            **{"X-Amz-Expires": lifetime},
            Expires=timestamp(scope.signed_at + timedelta(seconds=lifetime)),
            ServerTime=timestamp(now),
        )
    payload = request.headers.get("x-amz-content-sha256", UNSIGNED)
    payload = request.arg("X-Amz-Content-Sha256", payload)
    _verify_request(request, scope, given["SignedHeaders"], payload, given["Signature"])
    return Signature(scope, given["Signature"], payload)


def _query_fields(request: Request) -> dict[str, str]:
    """The X-Amz-* arguments; S3Error unless each is sent once and well formed."""
    names = [name for name, _ in request.query]
    given = {}
    for field in QUERY_FIELDS:
        name = f"X-Amz-{field}"
        if names.count(name) != 1:
            raise _malformed_query(f"Query-string authentication requires {name} once")
        given[field] = request.arg(name)
    if given["Algorithm"] != ALGORITHM:
        raise _malformed_query(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    if not re.fullmatch(r"[0-9]{1,9}", given["Expires"]):
        raise _malformed_query("X-Amz-Expires should be a number that is not negative")
    if int(given["Expires"]) > MAX_EXPIRES:
        raise _malformed_query(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given "
            f"X-Amz-Expires must be less than {MAX_EXPIRES} seconds"
        )
    return given


def _verify_request(
    request: Request, scope: Scope, signed_headers: str, payload: str, signature: str
) -> None:
    names = signed_headers.split(";")
    _check_coverage(request.headers, names)
    canonical = "\n".join(
        [
            request.method,
            quote(decode(request.path), safe="/~"),
            _canonical_query(request.query),
            *(f"{name}:{_canonical_value(request.headers.get(name))}" for name in names),
            "",
            signed_headers,
            payload,
        ]
    )
    # Header values were decoded as Latin-1; the client signed the bytes.
    digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
    check(scope.sign(ALGORITHM, digest), signature)


def _check_coverage(headers: Headers, signed: list[str]) -> None:
    """Refuse unless host and every x-amz-* header are signed: none can be added to a signed URL."""
    if "host" not in signed:
        raise S3Error("AccessDenied", "The host header must be signed")
    loose = [name for name in headers if name.startswith("x-amz-") and name not in signed]
    if loose:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(loose),
        )


def _canonical_query(query: list[tuple[str, str]]) -> str:
    pairs = sorted(
        (quote(name, safe="~"), quote(value, safe="~"))
        for name, value in query
        if name != "X-Amz-Signature"
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def _canonical_value(value: str) -> str:
    # Not str.split(): bytes of UTF-8 letters, decoded as Latin-1, may count as white space.
    return re.sub("[ \t]+", " ", value)


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for text in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return key


def _malformed_query(message: str) -> S3Error:
    return S3Error("AuthorizationQueryParametersError", message)


def _unsupported() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. "
        "Please use AWS4-HMAC-SHA256.",
    )
