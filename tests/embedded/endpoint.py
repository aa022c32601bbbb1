"""The S3 endpoint as a separate process, and helpers to talk to it."""

import base64
import hashlib
import hmac
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import urllib.parse
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parent.parent.parent
ACCESS_KEY, SECRET_KEY = "beeline", "a secret/with+odd=characters"
MiB = 1024 * 1024
MIN_PART = 5 * MiB


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found[1].decode() if found else ""

    @property
    def verdict(self) -> tuple[int, str]:
        return self.status, self.code


class Endpoint:
    """Runs `python -m embedded.s3` on a folder and a free port."""

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        words = [sys.executable, "-m", "embedded.s3", "--port", "0", "--data", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(
            [*words, *([] if sync else ["--no-sync"])],
            cwd=ROOT,
            env={
                **os.environ,
                "S3_ACCESS_KEY_ID": ACCESS_KEY,
                "S3_SECRET_ACCESS_KEY": SECRET_KEY,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else ""
        self.port = int(self.url.rpartition(":")[2] or 0)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(timeout=10)
        self.process.stdout.close()
        return status

    def client(self, *, secret: str = SECRET_KEY, key: str = ACCESS_KEY, **options: Any) -> Any:
        options.setdefault("signature_version", "s3v4")
        options.setdefault("s3", {"addressing_style": "path"})
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="eu-central-7",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1}, **options),
        )

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def send(
        self, method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a plain request, as a browser would: nothing is signed or added."""
        connection = self.connect()
        try:
            return exchange(connection, method, url, body, headers)
        finally:
            connection.close()

    def blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "blobs").glob("??/*")}

    def memory(self) -> int:
        """The process's peak memory (VmHWM), in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Make one request on a connection, which stays open for more."""
    parts = urllib.parse.urlsplit(url)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    given = {"Host": parts.netloc, **(headers or {})} if parts.netloc else headers or {}
    connection.request(method, target, body if method in ("PUT", "POST") else None, given)
    response = connection.getresponse()
    content = response.read()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, content)


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def b64(raw):
    return base64.b64encode(raw).decode()


def crc32(data):
    return b64(zlib.crc32(data).to_bytes(4, "big"))


def md5(data):
    return hashlib.md5(data).hexdigest()


def refusal(call, *args, **kwargs):
    """The error code with which this call of boto3's client is refused."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    return caught.value.response["Error"]["Code"]


def presign(s3, verb, bucket, key="k", expires=60, **params):
    """A presigned URL for a call of boto3's client, for so many seconds."""
    params = {"Bucket": bucket, "Key": key, **params}
    return s3.generate_presigned_url(verb, Params=params, ExpiresIn=expires)


class Multipart:
    """A multipart upload that a test fills and completes."""

    def __init__(self, s3, bucket, key="big", **options):
        self.s3, self.where = s3, {"Bucket": bucket, "Key": key}
        self.id = s3.create_multipart_upload(**self.where, **options)["UploadId"]

    def put(self, number, data, **options):
        return self.s3.upload_part(
            **self.where, UploadId=self.id, PartNumber=number, Body=data, **options
        )["ETag"]

    def complete(self, *parts, **options):
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        return self.s3.complete_multipart_upload(
            **self.where, UploadId=self.id, MultipartUpload={"Parts": listed}, **options
        )

    def held(self):
        parts = self.s3.list_parts(**self.where, UploadId=self.id).get("Parts", [])
        return [(part["PartNumber"], part["ETag"]) for part in parts]


def flip(url):
    """The presigned URL with one digit of its signature changed."""
    at = url.index("X-Amz-Signature=") + len("X-Amz-Signature=")
    return url[:at] + ("1" if url[at] == "0" else "0") + url[at + 1 :]


def scope():
    return f"{datetime.now(UTC):%Y%m%d}/x-1/s3/aws4_request"


def signing_key():
    key = f"AWS4{SECRET_KEY}".encode()
    for text in scope().split("/"):
        key = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return key


def hexmac(*lines):
    return hmac.new(signing_key(), "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def sign(endpoint, method, path, headers, payload="UNSIGNED-PAYLOAD"):
    """The headers of a signed request, made without botocore."""
    date = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    signed = {
        "host": f"127.0.0.1:{endpoint.port}",
        "x-amz-date": date,
        "x-amz-content-sha256": payload,
        **{name.lower(): value for name, value in headers.items()},
    }
    names = ";".join(sorted(signed))
    lines = [method, path, "", *(f"{name}:{signed[name]}" for name in sorted(signed))]
    canonical = "\n".join([*lines, "", names, payload])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = hexmac("AWS4-HMAC-SHA256", date, scope(), digest)
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope()}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return signed
