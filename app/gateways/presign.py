"""Presigned S3 URLs (SigV4 in the query string), POST forms and requests, made without the network.

Signing one part with boto3 costs ~290 us; here everything that does not change between the parts
of an upload is hashed once, which leaves the last blocks of one SHA-256 and one HMAC for each.
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import quote, urlsplit

CRC32_HEADER = "x-amz-checksum-crc32"
# The SHA-256 of an empty body.
_NOTHING = hashlib.sha256().hexdigest()
# Translation tables for RFC 2104's inner and outer padding: each byte of the key XOR 0x36 or 0x5C.
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


@dataclass(frozen=True)
class Credentials:
    """An access key; `token` is set only for a role's temporary credentials."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True)
class PostForm:
    """The URL to POST a form to, and the fields that must come before its `file`."""

    url: str
    fields: dict[str, str]


@dataclass(frozen=True)
class _Moment:
    """What all signatures of one second and one access key have in common."""

    at: datetime
    stamp: str
    credential: str
    # The string to sign, up to the hash of the canonical request.
    head: bytes
    signing_key: bytes
    token: str | None


class Presigner:
    """Signs for one bucket at one endpoint."""

    def __init__(
        self,
        endpoint_url: str,
        bucket: str,
        region: str,
        *,
        in_path: bool,
        credentials: Callable[[], Credentials],
        now: Callable[[], datetime],
    ) -> None:
        parts = urlsplit(endpoint_url)
        self.host = parts.netloc if in_path else f"{bucket}.{parts.netloc}"
        self.origin = f"{parts.scheme}://{self.host}"
        self._base = parts.path.rstrip("/") + (f"/{bucket}" if in_path else "")
        self._bucket = bucket
        self._region = region
        self._credentials = credentials
        self._now = now

    def url(
        self,
        method: str,
        key: str,
        *,
        expires_in: int,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return a URL for exactly this method, key, query and headers, valid `expires_in` seconds.

        Every one of the headers must be sent with exactly this value, or storage answers 403.
        """
        moment = self._moment()
        # SigV4 takes the spaces around a value for none, and several in it for one.
        given = {name.lower(): " ".join(value.split()) for name, value in (headers or {}).items()}
        signed = {"host": self.host} | given
        names = ";".join(sorted(signed))
        pairs = self._common(moment, expires_in, names) | dict(query or {})
        canonical_query = "&".join(
            f"{_escape(name)}={_escape(value)}" for name, value in sorted(pairs.items())
        )
        path = self._path(key)
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = f"{method}\n{path}\n{canonical_query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        signature = _signature(moment, request)
        return f"{self.origin}{path}?{canonical_query}&X-Amz-Signature={signature}"

    def part_urls(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, int]],
        *,
        expires_in: int,
        checksums: Sequence[str] | None = None,
    ) -> list[str]:
        """Return a URL for each (part number, size in bytes), the size signed as Content-Length.

        Storage itself refuses a body one byte longer or shorter and, with `checksums`, the base64
        CRC32 of each part, one with any bit changed.
        """
        names = "content-length;host" + (f";{CRC32_HEADER}" if checksums is not None else "")
        host = f"host:{self.host}\n"
        ends = [host] * len(parts)
        if checksums is not None:
            ends = [f"{host}{CRC32_HEADER}:{checksum}\n" for checksum in checksums]
        headers = [
            (number, f"content-length:{size}\n{end}")
            for (number, size), end in zip(parts, ends, strict=True)
        ]
        return self._part_urls(key, upload_id, names, headers, expires_in)

    def plain_part_urls(
        self, key: str, upload_id: str, numbers: Sequence[int], *, expires_in: int
    ) -> list[str]:
        """Return a URL for each part number, which leaves length and headers to the sender."""
        headers = [(number, f"host:{self.host}\n") for number in numbers]
        return self._part_urls(key, upload_id, "host", headers, expires_in)

    def _part_urls(
        self,
        key: str,
        upload_id: str,
        names: str,
        headers: Iterable[tuple[int, str]],
        expires_in: int,
    ) -> list[str]:
        """Return a URL for each (part number, canonical headers); `names` is SignedHeaders."""
        moment = self._moment()
        common = self._common(moment, expires_in, names)
        # Upper case sorts before lower case: partNumber and uploadId always come last.
        head = "&".join(f"{_escape(k)}={_escape(v)}" for k, v in sorted(common.items()))
        path = self._path(key)
        upload = f"&uploadId={_escape(upload_id)}"
        before, after = f"{self.origin}{path}?{head}&partNumber=", f"{upload}&X-Amz-Signature="
        end = f"\n{names}\nUNSIGNED-PAYLOAD"
        # Hash what all have in common once and copy the state: that leaves little more than the
        # last blocks for each. The HMAC is written out by RFC 2104 for the same reason:
        # hmac.digest() would hash the key and the head again for every URL.
        unchanging = hashlib.sha256(f"PUT\n{path}\n{head}&partNumber=".encode())
        padded = moment.signing_key.ljust(64, b"\0")
        inner = hashlib.sha256(padded.translate(_INNER) + moment.head)
        outer = hashlib.sha256(padded.translate(_OUTER))
        urls = []
        for number, lines in headers:
            request = unchanging.copy()
            request.update(f"{number}{upload}\n{lines}{end}".encode())
            signed = inner.copy()
            signed.update(request.hexdigest().encode())
            signature = outer.copy()
            signature.update(signed.digest())
            urls.append(f"{before}{number}{after}{signature.hexdigest()}")
        return urls

    def presigned_post(self, key: str, content_type: str, max_size: int, lifetime: int) -> PostForm:
        """Return a form for one object at this key and of this type, valid for `lifetime` seconds.

        Storage refuses any other field, more than `max_size` bytes, and the form once expired.
        Until then it can be sent repeatedly and overwrite the object: copy the bytes to keep them.
        """
        moment = self._moment()
        given = {"Content-Type": content_type, "success_action_status": "201"}
        signed = {
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": moment.credential,
            "x-amz-date": moment.stamp,
        }
        if moment.token:
            signed["x-amz-security-token"] = moment.token
        exact = {**given, "bucket": self._bucket, "key": key, **signed}
        policy = {
            "expiration": f"{moment.at + timedelta(seconds=lifetime):%Y-%m-%dT%H:%M:%SZ}",
            "conditions": [
                ["content-length-range", 0, max_size],
                *({name: value} for name, value in exact.items()),
            ],
        }
        encoded = base64.b64encode(json.dumps(policy).encode()).decode()
        signature = hmac.digest(moment.signing_key, encoded.encode(), "sha256").hex()
        return PostForm(
            f"{self.origin}{self._base or '/'}",
            {**given, "key": key, **signed, "policy": encoded, "x-amz-signature": signature},
        )

    def request(
        self, method: str, key: str, query: str, headers: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        """Return the target of a request without a body, and its headers with the signature.

        For our own requests: not every store accepts presigned URLs for more than GET and PUT.
        `query` must be canonical already: encoded and in order.
        """
        moment = self._moment()
        signed = {name.lower(): value for name, value in headers.items()} | {
            "host": self.host,
            "x-amz-content-sha256": _NOTHING,
            "x-amz-date": moment.stamp,
        }
        if moment.token:
            signed["x-amz-security-token"] = moment.token
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        path = self._path(key)
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{_NOTHING}"
        signature = _signature(moment, request)
        words = f"Credential={moment.credential}, SignedHeaders={names}, Signature={signature}"
        return f"{path}?{query}", signed | {"authorization": f"AWS4-HMAC-SHA256 {words}"}

    def plain_url(self, key: str) -> str:
        """Return the URL of an object, without a signature."""
        return f"{self.origin}{self._path(key)}"

    def _path(self, key: str) -> str:
        return f"{self._base}/{quote(key, safe='/-_.~')}"

    def _moment(self) -> _Moment:
        given = self._credentials()
        now = self._now()
        stamp = f"{now:%Y%m%dT%H%M%SZ}"
        scope = f"{now:%Y%m%d}/{self._region}/s3/aws4_request"
        return _Moment(
            at=now,
            stamp=stamp,
            credential=f"{given.access_key}/{scope}",
            head=f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n".encode(),
            signing_key=_signing_key(given.secret_key, f"{now:%Y%m%d}", self._region),
            token=given.token,
        )

    @staticmethod
    def _common(moment: _Moment, expires_in: int, signed_headers: str) -> dict[str, str]:
        pairs = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": moment.credential,
            "X-Amz-Date": moment.stamp,
            "X-Amz-Expires": str(expires_in),
            "X-Amz-SignedHeaders": signed_headers,
        }
        if moment.token:
            pairs["X-Amz-Security-Token"] = moment.token
        return pairs


def _escape(value: str) -> str:
    return quote(value, safe="-_.~")


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.digest(key, message.encode(), "sha256")


@lru_cache(maxsize=8)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    """Return the key for a day, cached: four HMACs that need not be repeated per signature."""
    key = _hmac(f"AWS4{secret_key}".encode(), day)
    for word in (region, "s3", "aws4_request"):
        key = _hmac(key, word)
    return key


def _signature(moment: _Moment, request: str) -> str:
    text = moment.head + hashlib.sha256(request.encode()).hexdigest().encode()
    return hmac.digest(moment.signing_key, text, "sha256").hex()
