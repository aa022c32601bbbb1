"""The embedded S3 endpoint is as strict as S3 about multipart uploads: parts, checksums, copies."""

import base64
import hashlib
import threading
import time

import botocore.auth
import pytest
from botocore.exceptions import ClientError

from embedded.s3 import checksums
from tests.embedded.endpoint import (
    ACCESS_KEY,
    MIN_PART,
    SECRET_KEY,
    Multipart,
    b64,
    crc32,
    md5,
    noise,
    presign,
    refusal,
)
from tests.embedded.watched import until


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
    assert refusal(copy, 3, 0, len(pieces)) == "InvalidArgument"
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
