"""The embedded S3 endpoint is as strict as S3 about objects: reads, writes, copies, lists, buckets."""

import re
import threading
from datetime import timedelta

import pytest

from embedded.s3 import listing
from tests.embedded.endpoint import (
    MIN_PART,
    MiB,
    Multipart,
    crc32,
    md5,
    noise,
    presign,
    refusal,
    sign,
)
from tests.embedded.watched import until

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


# Buckets


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
