"""The embedded S3 endpoint is as strict as S3 about requests: signatures, bodies, HTTP and XML."""

import hashlib
import json
import re
import socket
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest

from tests.embedded.endpoint import (
    ACCESS_KEY,
    MiB,
    Multipart,
    b64,
    crc32,
    exchange,
    flip,
    hexmac,
    noise,
    presign,
    refusal,
    scope,
    sign,
)

# Signatures


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


def at_moment(monkeypatch, **offset):
    """Let boto3 sign as if it were so much later."""
    moment = datetime.now(UTC).replace(tzinfo=None) + timedelta(**offset)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: moment)


def test_a_presigned_url_holds_for_its_method_and_lifetime(endpoint, s3, bucket, monkeypatch):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    url = presign(s3, "get_object", bucket)
    assert endpoint.send("GET", url).body == b"1"
    assert endpoint.send("PUT", url, b"2").verdict == (403, "SignatureDoesNotMatch")
    at_moment(monkeypatch, seconds=-60)
    assert endpoint.send("GET", presign(s3, "get_object", bucket, expires=90)).body == b"1"
    over = presign(s3, "get_object", bucket, expires=59)
    assert endpoint.send("GET", over).verdict == (403, "AccessDenied")


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
        at_moment(monkeypatch, minutes=minutes)
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


def test_error_documents_name_what_happened(endpoint, s3, bucket):
    answer = endpoint.send("GET", presign(s3, "get_object", bucket, "a <b>"))
    assert answer.verdict == (404, "NoSuchKey")
    assert f"<Resource>/{bucket}/{quote('a <b>')}</Resource>".encode() in answer.body
    request_id = answer.headers["x-amz-request-id"]
    assert f"<RequestId>{request_id}</RequestId>".encode() in answer.body
    assert json.dumps(answer.headers["content-type"]) == '"application/xml"'
