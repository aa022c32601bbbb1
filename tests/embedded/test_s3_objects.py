"""The embedded S3 endpoint is as strict as S3; with a real process, boto3 and plain requests."""

import base64
import hashlib
import hmac
import json
import random
import re
import socket
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from itertools import count
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.exceptions import ClientError

from embedded.s3 import checksums, listing
from tests.embedded.endpoint import ACCESS_KEY, SECRET_KEY, Answer, Endpoint, MiB, exchange
from tests.embedded.watched import until

MIN_PART = 5 * MiB
NUMBERS = count(1)
ORIGIN = "https://beeline.example"
CORS = {
    "CORSRules": [
        {
            "AllowedOrigins": [ORIGIN],
            "AllowedMethods": ["PUT", "GET"],
            "AllowedHeaders": ["x-amz-*", "Content-Type"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 600,
        },
        {"AllowedOrigins": ["https://*.partner.example"], "AllowedMethods": ["GET"]},
        {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]},
    ]
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    endpoint = Endpoint(tmp_path_factory.mktemp("s3"))
    yield endpoint
    assert endpoint.end() == 0


@pytest.fixture(scope="module")
def s3(endpoint):
    client = endpoint.client()
    yield client
    client.close()


@pytest.fixture
def bucket(s3):
    name = f"bucket-{next(NUMBERS)}"
    s3.create_bucket(Bucket=name)
    return name


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def b64(raw):
    return base64.b64encode(raw).decode()


def crc32(data):
    return b64(zlib.crc32(data).to_bytes(4, "big"))


def md5(data):
    return hashlib.md5(data).hexdigest()


def refusal(call, *args, **kwargs):
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    return caught.value.response["Error"]["Code"]


def presign(s3, verb, bucket, key="k", expires=60, **params):
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


# Signatures


def flip(url):
    at = url.index("X-Amz-Signature=") + len("X-Amz-Signature=")
    return url[:at] + ("1" if url[at] == "0" else "0") + url[at + 1 :]


def moved(url, seconds):
    """The URL with its date moved by this many seconds, but the same signature."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return re.sub(r"X-Amz-Date=\w+", f"X-Amz-Date={moment:%Y%m%dT%H%M%SZ}", url)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda url: url, (200, "")),
        (flip, (403, "SignatureDoesNotMatch")),
        (lambda url: url.replace("/k?", "/other?"), (403, "SignatureDoesNotMatch")),
        (lambda url: url + "&x-amz-acl=private", (403, "SignatureDoesNotMatch")),
        (lambda url: url.replace("Expires=60", "Expires=61"), (403, "SignatureDoesNotMatch")),
        (lambda url: moved(url, -61), (403, "AccessDenied")),
        (lambda url: moved(url, 16 * 60), (403, "AccessDenied")),
        (
            lambda url: url.replace("Expires=60", "Expires=604801"),
            (400, "AuthorizationQueryParametersError"),
        ),
        (
            lambda url: url.replace("Expires=60", "Expires=-1"),
            (400, "AuthorizationQueryParametersError"),
        ),
        (
            lambda url: url.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
            (400, "AuthorizationQueryParametersError"),
        ),
        (
            lambda url: url.replace("aws4_request", "aws5_request"),
            (400, "AuthorizationHeaderMalformed"),
        ),
        (lambda url: url.replace(f"={ACCESS_KEY}", "=nobody"), (403, "InvalidAccessKeyId")),
        (lambda url: url.partition("?")[0], (403, "AccessDenied")),
        (
            lambda url: url.partition("?")[0] + "?AWSAccessKeyId=beeline&Signature=x&Expires=1",
            (400, "InvalidRequest"),
        ),
    ],
)
def test_a_presigned_url_holds_for_exactly_what_was_signed(endpoint, s3, bucket, change, verdict):
    url = change(presign(s3, "put_object", bucket))
    assert endpoint.send("PUT", url, b"x").verdict == verdict


def test_a_presigned_url_holds_for_its_method_and_lifetime(endpoint, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    url = presign(s3, "get_object", bucket)
    assert endpoint.send("GET", url).body == b"1"
    assert endpoint.send("PUT", url, b"2").verdict == (403, "SignatureDoesNotMatch")
    short = presign(s3, "get_object", bucket, expires=1)
    time.sleep(2)
    assert endpoint.send("GET", short).verdict == (403, "AccessDenied")


def test_signed_headers_must_come_as_signed_and_no_amz_header_unsigned(endpoint, s3, bucket):
    url = presign(s3, "put_object", bucket, ContentLength=5, Metadata={"a": "b"}, IfNoneMatch="*")
    right = {"x-amz-meta-a": "b", "If-None-Match": "*"}

    def put(body, **headers):
        return endpoint.send("PUT", url, body, {**right, **headers}).verdict

    assert put(b"12345x") == (403, "SignatureDoesNotMatch")
    assert put(b"1234") == (403, "SignatureDoesNotMatch")
    assert put(b"12345", **{"x-amz-meta-a": "c"}) == (403, "SignatureDoesNotMatch")
    assert put(b"12345", **{"x-amz-meta-evil": "1"}) == (403, "AccessDenied")
    assert endpoint.send("PUT", url, b"12345").verdict == (403, "SignatureDoesNotMatch")
    assert put(b"12345") == (200, "")
    assert put(b"12345") == (412, "PreconditionFailed")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"key": "nobody"}, "InvalidAccessKeyId"),
        ({"signature_version": "s3"}, "InvalidRequest"),
    ],
)
def test_signed_requests_need_the_right_keys(endpoint, bucket, options, code):
    client = endpoint.client(**options)
    assert refusal(client.put_object, Bucket=bucket, Key="k", Body=b"") == code
    client.close()


def test_a_clock_that_is_off_by_more_than_15_minutes_is_refused(endpoint, s3, bucket, monkeypatch):
    for minutes in (-16, 16):
        moment = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, at=moment: at)
        assert refusal(s3.list_objects_v2, Bucket=bucket) == "RequestTimeTooSkewed"


def test_the_bucket_may_be_in_the_host_name(endpoint, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b/ü", Body=b"hello")
    virtual = endpoint.client(s3={"addressing_style": "virtual"})
    url = presign(virtual, "get_object", bucket, "a b/ü").replace("127.0.0.1", "localhost")
    virtual.close()
    assert endpoint.send("GET", url).verdict == (403, "SignatureDoesNotMatch")  # other host
    headers = {"Host": f"{bucket}.localhost:{endpoint.port}"}
    signed = sign(endpoint, "GET", "/a%20b/%C3%BC", headers)
    assert endpoint.send("GET", "/a%20b/%C3%BC", headers=signed).body == b"hello"


# Bodies


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


def put_chunks(endpoint, path, chunks, *, trailer="", spoil=lambda body: body):
    """PUT with signed chunks, and a signed trailer if one is given."""
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    size = str(sum(len(chunk) for chunk in chunks))
    headers = {"x-amz-decoded-content-length": size, "content-encoding": "aws-chunked,gzip"}
    if trailer:
        headers["x-amz-trailer"] = trailer.partition(":")[0]
    signed = sign(endpoint, "PUT", path, headers, payload)
    previous, date = signed["authorization"].rpartition("=")[2], signed["x-amz-date"]
    empty, body = hashlib.sha256().hexdigest(), b""
    for chunk in [*chunks, b""]:
        digest = hashlib.sha256(chunk).hexdigest()
        lines = (date, scope(), previous, empty, digest)
        previous = hexmac("AWS4-HMAC-SHA256-PAYLOAD", *lines)
        body += b"%x;chunk-signature=%s\r\n" % (len(chunk), previous.encode())
        body += chunk + b"\r\n" if chunk else b""
    if trailer:
        digest = hashlib.sha256(f"{trailer}\n".encode()).hexdigest()
        signature = hexmac("AWS4-HMAC-SHA256-TRAILER", date, scope(), previous, digest)
        body += f"{trailer}\r\nx-amz-trailer-signature:{signature}\r\n".encode()
    return endpoint.send("PUT", path, spoil(body + b"\r\n"), signed)


def test_signed_chunks_are_decoded_and_each_is_verified(endpoint, s3, bucket):
    chunks = [noise(70_000), noise(300_000, 2), b"end"]
    good = f"x-amz-checksum-crc32:{crc32(b''.join(chunks))}"
    path = f"/{bucket}/k"
    assert put_chunks(endpoint, path, chunks).verdict == (200, "")
    assert put_chunks(endpoint, path, chunks, trailer=good).verdict == (200, "")
    stored = s3.get_object(Bucket=bucket, Key="k")
    assert stored["Body"].read() == b"".join(chunks)
    assert stored["ContentEncoding"] == "gzip"
    for spoil, verdict in [
        (lambda body: body.replace(b"\r\nend", b"\r\nEND"), (403, "SignatureDoesNotMatch")),
        (lambda body: body.replace(b"signature:", b"signature:0"), (403, "SignatureDoesNotMatch")),
        (lambda body: body[: body.index(b"\r\n3;") + 2], (400, "InvalidRequest")),
        (lambda body: body.replace(b"\r\n3;", b"\r\n4;"), (400, "IncompleteBody")),
        (lambda body: body + b"more", (400, "InvalidRequest")),
    ]:
        answer = put_chunks(endpoint, path, chunks, trailer=good, spoil=spoil)
        assert answer.verdict == verdict
    wrong = f"x-amz-checksum-crc32:{crc32(b'other')}"
    assert put_chunks(endpoint, path, chunks, trailer=wrong).verdict == (400, "BadDigest")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 370_003


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"Content-MD5": b64(hashlib.md5(b"data").digest())}, (200, "")),
        ({"Content-MD5": b64(hashlib.md5(b"Data").digest())}, (400, "BadDigest")),
        ({"Content-MD5": "nonsense"}, (400, "InvalidDigest")),
        ({"x-amz-checksum-crc32": crc32(b"data")}, (200, "")),
        ({"x-amz-checksum-crc32": crc32(b"Data")}, (400, "BadDigest")),
        ({"x-amz-checksum-sha1": b64(hashlib.sha1(b"data").digest())}, (200, "")),
        ({"x-amz-checksum-sha1": b64(hashlib.sha1(b"Data").digest())}, (400, "BadDigest")),
        ({"x-amz-checksum-sha256": b64(hashlib.sha256(b"data").digest())}, (200, "")),
        ({"x-amz-checksum-sha256": crc32(b"data")}, (400, "InvalidRequest")),
        ({"x-amz-checksum-crc32c": "AAAAAA=="}, (501, "NotImplemented")),
        (
            {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "AAAA"},
            (400, "InvalidRequest"),
        ),
        ({"x-amz-server-side-encryption": "aws:kms"}, (501, "NotImplemented")),
        ({"x-amz-meta-long": "x" * 2049}, (400, "MetadataTooLarge")),
    ],
)
def test_digests_are_compared_with_what_came(endpoint, bucket, headers, verdict):
    path = f"/{bucket}/k"
    signed = sign(endpoint, "PUT", path, headers)
    assert endpoint.send("PUT", path, b"data", signed).verdict == verdict


def test_the_signed_payload_hash_is_verified(endpoint, bucket):
    path, digest = f"/{bucket}/k", hashlib.sha256(b"data").hexdigest()
    signed = sign(endpoint, "PUT", path, {}, digest)
    answer = endpoint.send("PUT", path, b"Data", signed)
    assert answer.verdict == (400, "XAmzContentSHA256Mismatch")
    assert endpoint.send("PUT", path, b"data", signed).verdict == (200, "")


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(endpoint, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    for key, first in [("k", b"HTTP/1.1 412 "), ("new", b"HTTP/1.1 100 ")]:
        url = urlsplit(presign(s3, "put_object", bucket, key, IfNoneMatch="*"))
        head = (
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nIf-None-Match: *\r\n"
            "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as connection:
            connection.sendall(head.encode())
            assert connection.recv(13) == first
            if first.endswith(b"100 "):
                connection.sendall(b"12345")
                answer = b""
                while b"HTTP/1.1 200 " not in answer:
                    answer += connection.recv(1000)


def test_a_refused_body_is_drained_and_the_connection_stays_usable(endpoint, s3, bucket):
    connection = endpoint.connect()
    denied = exchange(connection, "PUT", flip(presign(s3, "put_object", bucket)), bytes(9 * MiB))
    assert denied.verdict == (403, "SignatureDoesNotMatch")
    port = connection.sock.getsockname()[1]
    stored = exchange(connection, "PUT", presign(s3, "put_object", bucket), b"x")
    assert stored.status == 200
    assert connection.sock.getsockname()[1] == port
    connection.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://other/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\rc: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", 400),
        (b"GET /" + b"b" * 20_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"PUT /b/k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET /%FF HTTP/1.1\r\n\r\n", 400),
        (b"GET //k HTTP/1.1\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\n\r\n", 403),
    ],
)
def test_malformed_http_is_refused(endpoint, head, status):
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 %d" % status


# Objects


def test_an_object_comes_back_with_all_that_was_said_of_it(s3, bucket):
    said = {
        "ContentType": "video/mp4",
        "CacheControl": "no-store",
        "ContentDisposition": 'attachment; filename="a.mp4"',
        "ContentLanguage": "de",
        "Metadata": {"beeline": "token"},
    }
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"film", **said)["ETag"]
    for answer in (
        s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED"),
        s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED"),
    ):
        assert {name: answer[name] for name in said} == said
        assert (answer["ContentLength"], answer["ETag"]) == (4, etag)
        assert (answer["ChecksumCRC32"], answer["ChecksumType"]) == (crc32(b"film"), "FULL_OBJECT")
    assert etag == f'"{md5(b"film")}"'


def test_an_empty_object_is_an_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    assert s3.get_object(Bucket=bucket, Key="empty")["Body"].read() == b""
    assert refusal(s3.get_object, Bucket=bucket, Key="empty", Range="bytes=0-") == "InvalidRange"


@pytest.fixture(scope="module")
def pieces(s3):
    """An object of three parts, in its own bucket; returns its bytes."""
    s3.create_bucket(Bucket="pieces")
    data = [noise(MIN_PART, 1), noise(MIN_PART, 2), noise(1000, 3)]
    upload = Multipart(s3, "pieces", "k", ContentType="text/plain")
    upload.complete(*((n, upload.put(n, part)) for n, part in enumerate(data, 1)))
    return b"".join(data)


SIZE = 2 * MIN_PART + 1000


@pytest.mark.parametrize(
    ("value", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        (f"bytes={MIN_PART - 3}-{MIN_PART + 2}", MIN_PART - 3, MIN_PART + 3),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        (f"bytes={MIN_PART - 1}-", MIN_PART - 1, SIZE),
        ("bytes=-1001", SIZE - 1001, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    ],
)
def test_ranges_are_cut_from_the_parts(endpoint, s3, pieces, value, first, end):
    url = presign(s3, "get_object", "pieces")
    answer = endpoint.send("GET", url, headers={"Range": value})
    assert answer.status == 206
    assert answer.body == pieces[first:end]
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - first)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"bytes={SIZE}-", 416),
        ("bytes=-0", 416),
        ("bytes=5-3", 200),
        ("bytes=a-b", 200),
        ("bytes=0-1,5-6", 200),
        ("lines=0-1", 200),
    ],
)
def test_unsatisfiable_and_malformed_ranges(endpoint, s3, pieces, value, status):
    url = presign(s3, "head_object", "pieces")
    assert endpoint.send("HEAD", url, headers={"Range": value}).status == status


def test_reads_can_be_conditional(endpoint, s3, pieces):
    url, head = presign(s3, "get_object", "pieces"), s3.head_object(Bucket="pieces", Key="k")
    etag, modified = head["ETag"], head["LastModified"]
    then = modified.strftime("%a, %d %b %Y %H:%M:%S GMT")
    before = (modified - timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for headers, status in [
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": '"other"'}, 206),
        ({"If-Match": etag}, 206),
        ({"If-Match": '"other"'}, 412),
        ({"If-Modified-Since": then}, 304),
        ({"If-Modified-Since": before}, 206),
        ({"If-Unmodified-Since": before}, 412),
        ({"If-Match": etag, "If-Unmodified-Since": before}, 206),
        ({"If-None-Match": '"other"', "If-Modified-Since": then}, 206),
        ({"If-Range": etag}, 206),
        ({"If-Range": '"other"'}, 200),
    ]:
        answer = endpoint.send("GET", url, headers={"Range": "bytes=0-9", **headers})
        assert (headers, answer.status) == (headers, status)


def test_writes_can_be_conditional(s3, bucket):
    def put(**when):
        return s3.put_object(Bucket=bucket, Key="k", Body=b"1", **when)

    assert refusal(put, IfMatch='"x"') == "NoSuchKey"
    etag = put(IfNoneMatch="*")["ETag"]
    assert refusal(put, IfNoneMatch="*") == "PreconditionFailed"
    assert refusal(put, IfMatch='"x"') == "PreconditionFailed"
    assert refusal(put, IfNoneMatch=etag) == "NotImplemented"
    put(IfMatch=etag)


def test_only_one_of_many_conditional_writes_wins(endpoint, s3, bucket):
    url, statuses = presign(s3, "put_object", bucket, IfNoneMatch="*"), []

    def put(number):
        answer = endpoint.send("PUT", url, b"%d" % number * 100_000, {"If-None-Match": "*"})
        statuses.append(answer.status)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 11


def test_a_signed_get_can_name_its_headers_but_nothing_a_header_cannot_carry(endpoint, s3, pieces):
    def get(disposition):
        url = presign(s3, "get_object", "pieces", ResponseContentDisposition=disposition)
        return endpoint.send("GET", url, headers={"Range": "bytes=0-0"})

    good = "attachment; filename=\"a.bin\"; filename*=UTF-8''%E2%98%95.bin"
    assert get(good).headers["content-disposition"] == good
    for bad in ("attachment; filename=☕", "a\r\nSet-Cookie: b=c", "a\nb", "a\0b", "a\x7fb"):
        answer = get(bad)
        assert answer.verdict == (400, "InvalidArgument")
        assert "set-cookie" not in answer.headers


def test_keys_are_only_names(endpoint, s3, bucket):
    keys = ["../../../etc/x", "a/./b//", "/k", "%2e%2E/", "x\x01\x02", "q?a=b&c#d+e f", "😀\uffff"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert endpoint.send("GET", presign(s3, "get_object", bucket, key)).body == key.encode()
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in listed] == sorted(keys, key=str.encode)
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in endpoint.blobs())
    assert {path.name for path in endpoint.folder.iterdir()} <= {
        *("blobs", "lock", "index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm")
    }
    assert refusal(s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"") == "KeyTooLongError"


def test_an_option_that_would_be_ignored_is_refused(endpoint, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    assert refusal(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=tags) == "NotImplemented"
    assert refusal(s3.get_object, Bucket=bucket, Key="k", VersionId="1") == "NotImplemented"
    assert refusal(s3.get_bucket_policy, Bucket=bucket) == "NotImplemented"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_a_copy_shares_the_bytes_and_outlives_the_original(endpoint, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"shared", Metadata={"a": "1"})
    source, before = {"Bucket": bucket, "Key": "a"}, endpoint.blobs()
    s3.copy_object(Bucket=bucket, Key="b/ü", CopySource={"Bucket": bucket, "Key": "a"})
    s3.copy_object(
        Bucket=bucket, Key="a", CopySource=source, MetadataDirective="REPLACE", Metadata={"a": "2"}
    )
    assert endpoint.blobs() == before
    assert s3.head_object(Bucket=bucket, Key="a")["Metadata"] == {"a": "2"}
    s3.delete_object(Bucket=bucket, Key="a")
    copy = s3.get_object(Bucket=bucket, Key="b/ü")
    assert (copy["Body"].read(), copy["Metadata"]) == (b"shared", {"a": "1"})
    missing = {"Bucket": bucket, "Key": "a"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="c", CopySource=missing) == "NoSuchKey"


# Lists and deletes


def test_lists_have_pages_prefixes_and_groups(s3, bucket):
    keys = ["a", "b/1", "b/2", "b/é/3", "c d", "c/1", "ü"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")

    def pages(verb, size, **params):
        found = []
        for page in s3.get_paginator(verb).paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}, **params
        ):
            entries = [item["Key"] for item in page.get("Contents", [])]
            entries += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
            assert len(entries) <= size
            found += entries
        return found

    for verb in ("list_objects_v2", "list_objects"):
        for size in (1, 2, 3, 100):
            assert pages(verb, size) == keys
            assert pages(verb, size, Prefix="b/") == keys[1:4]
            assert sorted(pages(verb, size, Delimiter="/")) == sorted(["a", "b/", "c d", "c/", "ü"])
            assert pages(verb, size, Delimiter="/", Prefix="b/") == ["b/1", "b/2", "b/é/"]
    after = s3.list_objects_v2(Bucket=bucket, StartAfter="b/2")
    assert [item["Key"] for item in after["Contents"]] == keys[3:]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0


def test_uploads_are_listed_in_pages(s3, bucket):
    made = [(key, Multipart(s3, bucket, key).id) for key in ("a", "a", "b/1", "b/2", "c")]
    found, markers = [], {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **markers)
        found += [(upload["Key"], upload["UploadId"]) for upload in page["Uploads"]]
        if not page["IsTruncated"]:
            break
        markers = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }
    assert found == made
    grouped = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert grouped["CommonPrefixes"] == [{"Prefix": "b/"}]


def test_many_objects_are_deleted_at_once(endpoint, s3, bucket):
    for key in ("a", "b/é"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert refusal(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    wanted = [{"Key": key} for key in ("a", "b/é", "never")]
    assert len(s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})["Deleted"]) == 3
    too_many = {"Objects": [{"Key": str(number)} for number in range(1001)]}
    assert refusal(s3.delete_objects, Bucket=bucket, Delete=too_many) == "MalformedXML"
    s3.delete_bucket(Bucket=bucket)
    assert refusal(s3.list_objects_v2, Bucket=bucket) == "NoSuchBucket"


def test_the_first_text_after_a_prefix():
    for prefix in ("a", "a/", "\ud7ff", "a\U0010ffff", "é"):
        after = listing.successor(prefix).encode()
        assert after > (prefix + "\U0010ffff" * 3).encode()
    assert listing.successor("\U0010ffff") == ""


# Multipart


def test_parts_in_any_order_replaced_sparse_and_left_out(endpoint, s3, bucket):
    upload = Multipart(s3, bucket)
    first, old, new = noise(MIN_PART, 1), noise(MIN_PART, 2), noise(MIN_PART, 3)
    upload.put(7, b"last")
    upload.put(9, b"left out")
    upload.put(3, old)
    before = endpoint.blobs()
    upload.put(1, first)
    upload.put(3, new)
    parts = upload.held()
    assert [number for number, _ in parts] == [1, 3, 7, 9]
    done = upload.complete(*parts[:3])
    etags = b"".join(bytes.fromhex(etag.strip('"')) for _, etag in parts[:3])
    assert done["ETag"] == f'"{md5(etags)}-3"'
    assert upload.complete(*parts[:3])["ETag"] == done["ETag"]
    assert refusal(upload.complete, *parts[:2]) == "NoSuchUpload"
    assert refusal(upload.put, 1, b"late") == "NoSuchUpload"
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == first + new + b"last"
    until(lambda: len(before - endpoint.blobs()) == 2, "the unused parts' files are gone")


def test_an_upload_that_cannot_be_completed_stays_open(s3, bucket):
    upload = Multipart(s3, bucket)
    small, large = upload.put(1, b"small"), upload.put(2, noise(MIN_PART))
    for parts, options, code in [
        ([(1, small), (2, large)], {}, "EntityTooSmall"),
        ([(2, large), (1, small)], {}, "InvalidPartOrder"),
        ([(2, large), (2, large)], {}, "InvalidPartOrder"),
        ([(2, small)], {}, "InvalidPart"),
        ([(2, large), (3, small)], {}, "InvalidPart"),
        ([], {}, "MalformedXML"),
        ([(2, large)], {"MpuObjectSize": 17}, "InvalidRequest"),
        ([(2, large)], {"ChecksumSHA1": "AAAA"}, "InvalidRequest"),
    ]:
        assert refusal(upload.complete, *parts, **options) == code
    s3.put_object(Bucket=bucket, Key="big", Body=b"older")
    assert refusal(upload.complete, (2, large), IfNoneMatch="*") == "PreconditionFailed"
    upload.complete((2, large), MpuObjectSize=MIN_PART)
    assert s3.head_object(Bucket=bucket, Key="big")["ContentLength"] == MIN_PART


def test_an_aborted_upload_leaves_nothing(endpoint, s3, bucket):
    before, upload = endpoint.blobs(), Multipart(s3, bucket)
    upload.put(1, b"x")
    late = presign(s3, "upload_part", bucket, "big", UploadId=upload.id, PartNumber=2)
    s3.abort_multipart_upload(**upload.where, UploadId=upload.id)
    assert endpoint.send("PUT", late, b"y").verdict == (404, "NoSuchUpload")
    assert refusal(upload.held) == "NoSuchUpload"
    until(lambda: endpoint.blobs() <= before, "the part's file is gone")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", ""])
def test_part_numbers_have_bounds(endpoint, s3, bucket, number):
    upload = Multipart(s3, bucket)
    url = presign(s3, "upload_part", bucket, "big", UploadId=upload.id, PartNumber=1)
    path = f"/{bucket}/big?partNumber={number}&uploadId={upload.id}"
    signed = botocore.awsrequest.AWSRequest("PUT", endpoint.url + path)
    credentials = botocore.credentials.Credentials(ACCESS_KEY, SECRET_KEY)
    botocore.auth.S3SigV4QueryAuth(credentials, "s3", "us-east-1").add_auth(signed)
    assert endpoint.send("PUT", signed.url, b"x").verdict == (400, "InvalidArgument")
    assert endpoint.send("PUT", url, b"x").status == 200


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_the_checksum_of_parts_is_the_checksum_of_their_checksums(s3, bucket, algorithm):
    upload = Multipart(s3, bucket, ChecksumAlgorithm=algorithm)
    data = [noise(MIN_PART), b"end"]
    kind = {"ChecksumAlgorithm": algorithm}
    parts = [(n, upload.put(n, part, **kind)) for n, part in enumerate(data, 1)]
    if algorithm == "CRC32":
        raw = b"".join(base64.b64decode(crc32(part)) for part in data)
        expected = f"{crc32(raw)}-2"
    else:
        name = algorithm.lower()
        raw = b"".join(hashlib.new(name, part).digest() for part in data)
        expected = f"{b64(hashlib.new(name, raw).digest())}-2"
    field = f"Checksum{algorithm}"
    other = "SHA256" if algorithm == "SHA1" else "SHA1"
    assert refusal(upload.put, 3, b"x", ChecksumAlgorithm=other) == "InvalidRequest"
    done = upload.complete(*parts, **{field: expected})
    assert (done[field], done["ChecksumType"]) == (expected, "COMPOSITE")
    head = s3.head_object(Bucket=bucket, Key="big", ChecksumMode="ENABLED")
    assert head[field] == expected


def test_the_crc32_of_the_whole_is_combined_from_the_parts(s3, bucket):
    upload = Multipart(s3, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    data = [noise(MIN_PART, 1), noise(MIN_PART + 1, 2), b"end"]
    parts = [(n, upload.put(n, part)) for n, part in enumerate(data, 1)]
    wrong = {"ChecksumCRC32": crc32(b"".join(data[:2])), "ChecksumType": "FULL_OBJECT"}
    assert refusal(upload.complete, *parts, **wrong) == "BadDigest"
    assert refusal(upload.complete, *parts, ChecksumType="COMPOSITE") == "InvalidRequest"
    right = {"ChecksumCRC32": crc32(b"".join(data)), "ChecksumType": "FULL_OBJECT"}
    assert upload.complete(*parts, **right)["ChecksumCRC32"] == right["ChecksumCRC32"]
    # boto3 verifies the checksum against the bytes it reads.
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == b"".join(data)


def test_crc32_combines_for_any_sizes():
    pieces = [noise(size, size) for size in (0, 1, 7, 8, 255, 65_537, 3)]
    combined = checksums.whole_crc32([(crc32(piece), len(piece)) for piece in pieces])
    assert combined == crc32(b"".join(pieces))


def test_a_part_can_be_copied_from_an_object(endpoint, s3, bucket, pieces):
    upload, source = Multipart(s3, bucket), {"Bucket": "pieces", "Key": "k"}

    def copy(number, first, last):
        return s3.upload_part_copy(
            **upload.where,
            UploadId=upload.id,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={first}-{last}",
        )["CopyPartResult"]["ETag"]

    before = endpoint.blobs()
    whole = copy(1, MIN_PART, 2 * MIN_PART - 1)
    assert endpoint.blobs() == before
    across = copy(2, 1000, MIN_PART + 1000)
    assert len(endpoint.blobs() - before) == 1
    expected = pieces[MIN_PART : 2 * MIN_PART] + pieces[1000 : MIN_PART + 1001]
    assert refusal(copy, 3, 0, SIZE) == "InvalidArgument"
    upload.complete((1, whole), (2, across))
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == expected


def test_a_part_copied_from_an_object_outlives_it(endpoint, s3, bucket):
    """The part shares the object's blob; after the deletion only the part refers to it."""
    source, upload = Multipart(s3, bucket, "source"), Multipart(s3, bucket)
    data = noise(MIN_PART, 5)
    source.complete((1, source.put(1, data)), (2, source.put(2, b"end")))
    before = endpoint.blobs()
    part = s3.upload_part_copy(
        **upload.where,
        UploadId=upload.id,
        PartNumber=1,
        CopySource={"Bucket": bucket, "Key": "source"},
        CopySourceRange=f"bytes=0-{MIN_PART - 1}",
    )["CopyPartResult"]["ETag"]
    assert endpoint.blobs() == before
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "source"}]})
    upload.complete((1, part))
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == data


def test_a_part_sent_again_while_the_upload_completes_is_in_or_out(s3, bucket):
    """Whichever wins, the object consists of the parts that were listed."""

    def code(call, *args):
        try:
            call(*args)
        except ClientError as error:
            return error.response["Error"]["Code"]
        return ""

    first, again = noise(MIN_PART, 1), noise(MIN_PART, 2)
    for attempt in range(4):
        upload = Multipart(s3, bucket, f"race-{attempt}")
        parts = [(1, upload.put(1, first)), (2, upload.put(2, b"end"))]

        resent = []

        def resend(upload=upload, resent=resent):
            resent += [code(upload.put, 1, data) for data in (again, first, again)]

        sender = threading.Thread(target=resend)
        sender.start()
        time.sleep(0.01 * attempt)
        outcome = code(upload.complete, *parts)
        sender.join()
        assert set(resent) <= {"", "NoSuchUpload"}
        assert outcome in ("", "InvalidPart")
        if not outcome:
            stored = s3.get_object(Bucket=bucket, Key=f"race-{attempt}")["Body"].read()
            assert stored == first + b"end"


def test_a_download_goes_on_while_its_object_is_deleted(endpoint, s3, bucket):
    data, before = noise(24 * MiB), endpoint.blobs()
    upload = Multipart(s3, bucket)
    third = len(data) // 3
    upload.complete(*((n, upload.put(n, data[(n - 1) * third : n * third])) for n in (1, 2, 3)))
    body = s3.get_object(Bucket=bucket, Key="big")["Body"]
    received = body.read(1000)
    s3.delete_object(Bucket=bucket, Key="big")
    assert refusal(s3.head_object, Bucket=bucket, Key="big") == "404"
    assert received + body.read() == data
    until(lambda: endpoint.blobs() <= before, "the files are gone after the last reader")


def test_reads_and_writes_do_not_wait_for_each_other(s3, endpoint, bucket):
    errors = []

    def work(number):
        try:
            for turn in range(5):
                data = noise(200_000, number * 10 + turn)
                s3.put_object(Bucket=bucket, Key=f"{number}", Body=data)
                assert s3.get_object(Bucket=bucket, Key=f"{number}")["Body"].read() == data
                s3.list_objects_v2(Bucket=bucket)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# Bucket rules


def preflight(endpoint, bucket, origin=ORIGIN, method="PUT", headers="content-type"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return endpoint.send("OPTIONS", f"/{bucket}/k", headers=asked)


def test_without_rules_no_page_may_do_anything(endpoint, s3, bucket):
    assert preflight(endpoint, bucket).verdict == (403, "AccessForbidden")
    assert preflight(endpoint, "no-such-bucket").verdict == (403, "AccessForbidden")
    answer = endpoint.send("PUT", presign(s3, "put_object", bucket), b"", {"Origin": ORIGIN})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert refusal(s3.get_bucket_cors, Bucket=bucket) == "NoSuchCORSConfiguration"


def test_rules_decide_by_origin_method_and_headers(endpoint, s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == CORS["CORSRules"]
    allowed = preflight(endpoint, bucket, headers="X-Amz-Meta-A, content-type")
    assert allowed.status == 200
    expected = {
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-methods": "PUT, GET",
        "access-control-allow-headers": "x-amz-meta-a, content-type",
        "access-control-expose-headers": "ETag",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }
    assert {name: allowed.headers.get(name) for name in expected} == expected
    for wrong in [
        {"origin": "https://evil.example"},
        {"origin": ORIGIN + ".evil.example"},
        {"method": "DELETE"},
        {"headers": "authorization"},
        {"origin": "https://.evil.partner.example.org", "method": "GET"},
    ]:
        assert preflight(endpoint, bucket, **wrong).verdict == (403, "AccessForbidden")
    partner = {"origin": "https://a.b.partner.example", "method": "GET", "headers": ""}
    assert preflight(endpoint, bucket, **partner).status == 200
    anyone = preflight(endpoint, bucket, "null", "HEAD", "")
    assert anyone.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in anyone.headers
    for wrong in ({"method": "PATCH"}, {"method": ""}, {"origin": ""}):
        assert preflight(endpoint, bucket, **wrong).verdict == (400, "BadRequest")


def test_pages_can_read_answers_and_errors(endpoint, s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    missing, good = presign(s3, "get_object", bucket, "no"), presign(s3, "put_object", bucket)
    for answer in (
        endpoint.send("PUT", good, b"x", {"Origin": ORIGIN}),
        endpoint.send("PUT", flip(good), b"x", {"Origin": ORIGIN}),
        endpoint.send("GET", missing, headers={"Origin": ORIGIN}),
    ):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-expose-headers"] == "ETag"
    stranger = endpoint.send("PUT", good, b"x", {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers
    s3.delete_bucket_cors(Bucket=bucket)
    assert preflight(endpoint, bucket).status == 403


@pytest.mark.parametrize(
    "rule",
    [
        {"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]},
        {"AllowedOrigins": ["a*b*"], "AllowedMethods": ["GET"]},
        {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ExposeHeaders": ["x\r\ny"]},
        {"AllowedOrigins": [], "AllowedMethods": ["GET"]},
    ],
)
def test_rules_that_make_no_sense_are_refused(s3, bucket, rule):
    rules = {"CORSRules": [rule]}
    code = refusal(s3.put_bucket_cors, Bucket=bucket, CORSConfiguration=rules)
    assert code in ("InvalidRequest", "MalformedXML")


def test_lifecycle_rules_are_kept(s3, bucket):
    assert (
        refusal(s3.get_bucket_lifecycle_configuration, Bucket=bucket)
        == "NoSuchLifecycleConfiguration"
    )
    rule = {
        "ID": "stale",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 9},
    }
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == [rule]
    s3.delete_bucket_lifecycle(Bucket=bucket)


def test_buckets(s3, bucket, endpoint):
    region = {"LocationConstraint": "eu-central-7"}
    s3.create_bucket(Bucket="elsewhere", CreateBucketConfiguration=region)
    again = refusal(s3.create_bucket, Bucket="elsewhere", CreateBucketConfiguration=region)
    assert again == "BucketAlreadyOwnedByYou"
    assert s3.get_bucket_location(Bucket="elsewhere")["LocationConstraint"] == "eu-central-7"
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    assert {"elsewhere", bucket} <= {item["Name"] for item in s3.list_buckets()["Buckets"]}
    assert refusal(s3.head_bucket, Bucket="missing") == "404"
    signed = sign(endpoint, "PUT", "/Bad_Name", {})
    assert endpoint.send("PUT", "/Bad_Name", b"", signed).code == "InvalidBucketName"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<Delete>",
        b"<Other/>",
        b'<!DOCTYPE d [<!ENTITY a "b">]><Delete><Object><Key>&a;</Key></Object></Delete>',
        "<Delete/>".encode("utf-16"),
        b"\xff<Delete/>",
    ],
)
def test_documents_are_plain_xml(endpoint, s3, bucket, document):
    upload = Multipart(s3, bucket)
    url = presign(s3, "complete_multipart_upload", bucket, "big", UploadId=upload.id)
    assert endpoint.send("POST", url, document).verdict == (400, "MalformedXML")


# Forms


def post_form(endpoint, form, data, fields=None) -> Answer:
    body = b""
    for name, value in {**form["fields"], **(fields or {})}.items():
        head = f'--x7\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        body += head.encode()
    body += b'--x7\r\nContent-Disposition: form-data; name="file"; filename="a b.txt"\r\n\r\n'
    body += data + b"\r\n--x7--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x7"}
    return endpoint.send("POST", form["url"], body, headers)


def test_a_form_stores_what_its_policy_allows(endpoint, s3, bucket):
    def form(key="up/${filename}", expires=60, size=(1, MiB), **fields):
        conditions = [["content-length-range", *size], *({name: fields[name]} for name in fields)]
        return s3.generate_presigned_post(bucket, key, fields, conditions, expires)

    data = noise(600_000) + b"\r\n--x6\r\n--x\r\n"
    assert post_form(endpoint, form(), data).status == 204
    assert s3.get_object(Bucket=bucket, Key="up/a b.txt")["Body"].read() == data
    created = post_form(endpoint, form("k", success_action_status="201"), b"x")
    assert (created.status, b"<Key>k</Key>" in created.body) == (201, True)
    to = {"success_action_redirect": "https://beeline.example/done"}
    assert (
        post_form(endpoint, form("k", **to), b"x")
        .headers["location"]
        .startswith(f"https://beeline.example/done?bucket={bucket}&key=k&etag=")
    )
    before = endpoint.blobs()
    for answer, verdict in [
        (post_form(endpoint, form(size=(1, 10)), bytes(MiB)), (400, "EntityTooLarge")),
        (post_form(endpoint, form(size=(5, 10)), b"1234"), (400, "EntityTooSmall")),
        (post_form(endpoint, form("k"), b"1", {"key": "other"}), (403, "AccessDenied")),
        (post_form(endpoint, form("k"), b"1", {"x-amz-meta-a": "b"}), (403, "AccessDenied")),
        (
            post_form(endpoint, form("k"), b"1", {"x-amz-signature": "0" * 64}),
            (403, "SignatureDoesNotMatch"),
        ),
        (post_form(endpoint, form("k", expires=-1), b"1"), (403, "AccessDenied")),
        (
            post_form(endpoint, form("k", **{"Content-Type": "a\nb"}), b"1"),
            (400, "InvalidArgument"),
        ),
        (post_form(endpoint, form("k", **{"x-amz-meta-a": "☕"}), b"1"), (400, "InvalidArgument")),
        (post_form(endpoint, form("k" * 30_000), b"1"), (400, "MaxPostPreDataLengthExceeded")),
    ]:
        assert answer.verdict == verdict
    assert endpoint.blobs() <= before


def own_form(s3, bucket, conditions, fields=(), *, expires_in=60):
    """A form with only these conditions, signed as boto3 does."""
    form = s3.generate_presigned_post(bucket, "k")
    fields = {**form["fields"], **dict(fields)}
    until = datetime.now(UTC) + timedelta(seconds=expires_in)
    policy = {"expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}", "conditions": conditions}
    for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date"):
        policy["conditions"] = [*policy["conditions"], {name: fields[name]}]
    fields["policy"] = base64.b64encode(json.dumps(policy).encode()).decode()
    _, day, region, *_ = fields["x-amz-credential"].split("/")
    key = f"AWS4{SECRET_KEY}".encode()
    for word in (day, region, "s3", "aws4_request", fields["policy"]):
        key = hmac.digest(key, word.encode(), "sha256")
    return {"url": form["url"], "fields": {**fields, "x-amz-signature": key.hex()}}


@pytest.mark.parametrize(
    ("conditions", "fields", "verdict"),
    [
        ([{"key": "k"}], {}, 204),
        ([["eq", "$key", "k"]], {}, 204),
        ([["starts-with", "$key", ""]], {"key": "anything"}, 204),
        ([["starts-with", "$key", "up/"]], {"key": "up/a"}, 204),
        ([["starts-with", "$key", "up/"]], {"key": "us/a"}, (403, "AccessDenied")),
        ([["eq", "$key", "k"]], {"key": "kk"}, (403, "AccessDenied")),
        (
            [{"key": "k"}, ["starts-with", "$Content-Type", "image/"]],
            {"Content-Type": "image/png"},
            204,
        ),
        (
            [{"key": "k"}, ["starts-with", "$Content-Type", "image/"]],
            {"Content-Type": "text/html"},
            (403, "AccessDenied"),
        ),
        # A condition on a missing field is not met.
        ([{"key": "k"}, {"Content-Type": "image/png"}], {}, (403, "AccessDenied")),
        ([{"key": "k"}, {"bucket": "another"}], {}, (403, "AccessDenied")),
        ([["starts-with", "$bucket", ""], {"key": "k"}], {}, 204),
        # No condition allows this field.
        ([], {}, (403, "AccessDenied")),
        ([{"key": "k"}], {"Content-Type": "a/b"}, (403, "AccessDenied")),
        ([{"key": "k"}], {"x-ignore-me": "a"}, 204),
        ([{"key": "k"}, ["content-length-range", 4, 4]], {}, 204),
        ([{"key": "k"}, ["content-length-range", 0, 3]], {}, (400, "EntityTooLarge")),
        ([{"key": "k"}, ["content-length-range", 5, 9]], {}, (400, "EntityTooSmall")),
        # Of two ranges the narrower one applies.
        (
            [{"key": "k"}, ["content-length-range", 0, 9], ["content-length-range", 0, 3]],
            {},
            (400, "EntityTooLarge"),
        ),
        ([{"key": "k"}, {"success_action_status": "200"}], {"success_action_status": "200"}, 200),
        ([{"key": "k"}, {"success_action_status": "201"}], {"success_action_status": "201"}, 201),
        ([{"key": "k"}, {"success_action_status": "500"}], {"success_action_status": "500"}, 204),
        ([{"key": "k"}], {"success_action_status": "201"}, (403, "AccessDenied")),
        ([["matches", "$key", "k"]], {}, (400, "InvalidPolicyDocument")),
        ([["eq", "key", "k"]], {}, (400, "InvalidPolicyDocument")),
        ([["content-length-range", -1, 3]], {}, (400, "InvalidPolicyDocument")),
        ([{"key": "k", "bucket": "b"}], {}, (400, "InvalidPolicyDocument")),
        (["key"], {}, (400, "InvalidPolicyDocument")),
    ],
)
def test_a_form_is_held_to_each_condition(endpoint, s3, bucket, conditions, fields, verdict):
    answer = post_form(endpoint, own_form(s3, bucket, conditions, fields), b"1234")
    assert (answer.status if isinstance(verdict, int) else answer.verdict) == verdict
    if verdict == (403, "AccessDenied"):
        assert b"Invalid according to Policy: " in answer.body


def test_a_changed_or_expired_form_is_refused(endpoint, s3, bucket):
    def verdict(expires_in=60, **changed):
        form = own_form(s3, bucket, [{"key": "k"}], expires_in=expires_in)
        return post_form(endpoint, form, b"1", changed)

    wider = base64.b64encode(b'{"expiration": "2099-01-01T00:00:00Z", "conditions": []}').decode()
    over = verdict(expires_in=-1)
    assert over.verdict == (403, "AccessDenied")
    assert b"Invalid according to Policy: Policy expired." in over.body
    for changed, expected in [
        ({"policy": wider}, (403, "SignatureDoesNotMatch")),
        ({"policy": ""}, (403, "AccessDenied")),
        ({"x-amz-signature": ""}, (403, "SignatureDoesNotMatch")),
        ({"x-amz-algorithm": "AWS"}, (400, "InvalidArgument")),
        ({"x-amz-credential": "x"}, (400, "AuthorizationHeaderMalformed")),
        (
            {"x-amz-credential": "AK/20260101/us-east-1/s3/aws4_request"},
            (403, "InvalidAccessKeyId"),
        ),
    ]:
        assert verdict(**changed).verdict == expected, changed


def test_a_malformed_form_is_refused(endpoint, bucket):
    for headers, body in [
        ({"Content-Type": "multipart/form-data"}, b""),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b""),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n"),
    ]:
        answer = endpoint.send("POST", f"/{bucket}", body, headers)
        assert answer.verdict == (400, "MalformedPOSTRequest")


def test_error_documents_name_what_happened(endpoint, s3, bucket):
    answer = endpoint.send("GET", presign(s3, "get_object", bucket, "a <b>"))
    assert answer.verdict == (404, "NoSuchKey")
    assert f"<Resource>/{bucket}/{quote('a <b>')}</Resource>".encode() in answer.body
    request_id = answer.headers["x-amz-request-id"]
    assert f"<RequestId>{request_id}</RequestId>".encode() in answer.body
    assert json.dumps(answer.headers["content-type"]) == '"application/xml"'
