"""The storage gateway: what it asks of S3 to the letter, and how failures are told."""

import base64
import hashlib
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import ANY, Stubber
from flask import Flask
from moto import mock_aws

from app import config
from app.errors import Unavailable
from app.extensions import storage
from app.gateways.clients import LONG, QUICK
from app.gateways.s3_answers import (
    Away,
    Checksums,
    Damaged,
    Listed,
    NoSuchUpload,
    Part,
    Source,
    StorageRefused,
    Stored,
)
from app.gateways.storage import REST_SECONDS, Storage
from tests.factories import crc32_of, http, put
from tests.test_config import GOOD

BUCKET = {"Bucket": "b"}
PART = {"PartNumber": 1, "Size": 5, "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.fixture
def stubbed() -> Any:
    """A gateway whose client answers what the test lists, and complains about anything else."""
    gateway = Storage()
    gateway.bind(
        config.load(
            {
                "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
                "BASE_URL": "https://send.example",
                "DATABASE_URL": "postgres://x",
                "REDIS_URL": "redis://x",
                "S3_BUCKET": "b",
                "S3_ENDPOINT_URL": "http://127.0.0.1:1",
                "S3_ACCESS_KEY_ID": "k",
                "S3_SECRET_ACCESS_KEY": "s",
            }
        )
    )
    # Complete and what goes by the thousand have clients of their own.
    gateway._clients.patient = gateway._clients.bulk = gateway._client
    gateway._clients.long = gateway._client
    with Stubber(gateway._client) as stub:
        yield gateway, stub
        stub.assert_no_pending_responses()


@pytest.fixture
def opened(stubbed: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is asked of a store that opens every multipart upload as "u"."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        stubbed[0]._clients.opener, "open", lambda *given: asked.append(given) or "u"
    )
    return asked


NEUTRAL = {"Content-Type": "application/octet-stream", "x-amz-meta-beeline": "t"}


def test_begin_puts_the_token_into_the_metadata(
    stubbed: Any, opened: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _ = stubbed
    assert gateway.begin_upload("k", "t") == "u"
    monkeypatch.setattr("app.timeouts.is_short", lambda: True)
    assert gateway.begin_upload("k", "t") == "u"
    # In a job longer and more often, as all that is asked.
    assert opened == [("k", NEUTRAL, 15, 5), ("k", NEUTRAL, 3, 2)]


def test_begin_that_finds_storage_away_spares_the_next_one_the_wait(
    stubbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _ = stubbed
    asked: list[str] = []

    def nobody(key: str, *given: Any) -> str:
        asked.append(key)
        raise Away

    monkeypatch.setattr(gateway._clients.opener, "open", nobody)
    for key in ("first", "next"):
        with pytest.raises(Away):
            gateway.begin_upload(key, "t")
    assert asked == ["first"]


def test_finish_names_exactly_the_parts_given(stubbed: Any) -> None:
    gateway, stub = stubbed
    parts = {"Parts": [{"PartNumber": 1, "ETag": '"a"'}, {"PartNumber": 2, "ETag": '"b"'}]}
    stub.add_response(
        "complete_multipart_upload",
        {},
        BUCKET | {"Key": "k", "UploadId": "u", "MultipartUpload": parts},
    )
    gateway.finish_upload("k", "u", [Part(1, 5, '"a"'), Part(2, 5, '"b"')])


VERIFIED = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}


def test_f09_parts_are_verified_one_by_one_and_together(
    stubbed: Any, opened: list[tuple[Any, ...]]
) -> None:
    gateway, stub = stubbed
    assert gateway.begin_upload("k", "t", with_crc32=True) == "u"
    verified = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
    assert opened[0][1] == NEUTRAL | verified
    first, second = (PART | {"PartNumber": n, "ETag": f'"{n}"'} for n in (1, 2))
    stub.add_response(
        "list_parts",
        {"Parts": [first | {"ChecksumCRC32": "AAAAAQ=="}, second], "IsTruncated": False},
        BUCKET | {"Key": "k", "UploadId": "u"},
    )
    parts = gateway.list_parts("k", "u")
    assert [part.crc32 for part in parts] == [b"\0\0\0\1", None]
    named = {"PartNumber": 1, "ETag": '"1"', "ChecksumCRC32": "AAAAAQ=="}
    complete = {"Key": "k", "UploadId": "u", "MultipartUpload": {"Parts": [named]}}
    whole = {"ChecksumCRC32": "AAAAAg==", "ChecksumType": "FULL_OBJECT"}
    stub.add_response("complete_multipart_upload", {}, BUCKET | complete | whole)
    gateway.finish_upload("k", "u", parts[:1], b"\0\0\0\2")
    stub.add_client_error("complete_multipart_upload", "BadDigest", http_status_code=400)
    with pytest.raises(Damaged):
        gateway.finish_upload("k", "u", parts[:1], b"\0\0\0\2")


def test_what_a_part_contained_before_it_was_sent_again_does_not_count(stubbed: Any) -> None:
    """SeaweedFS lists it as well, in no particular order."""
    gateway, stub = stubbed
    newer, older = (
        PART | {"ETag": f'"{minute}"', "LastModified": datetime(2026, 1, 1, 8, minute, tzinfo=UTC)}
        for minute in (2, 1)
    )
    second = PART | {"PartNumber": 2, "ETag": '"b"'}
    for again in ([newer, older], [older, newer]):
        answer = {"Parts": [*again, second], "IsTruncated": False}
        stub.add_response("list_parts", answer, BUCKET | {"Key": "k", "UploadId": "u"})
        assert gateway.list_parts("k", "u") == [Part(1, 5, '"2"'), Part(2, 5, '"b"')]


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        ({"ChecksumCRC32": "AAAAAg==", "ChecksumType": "FULL_OBJECT"}, b"\0\0\0\2"),
        ({"ChecksumCRC32": "AAAAAg=="}, b"\0\0\0\2"),
        ({"ChecksumCRC32": "AAAAAg==-3", "ChecksumType": "COMPOSITE"}, None),
        ({"ChecksumCRC32": "AAAAAg==-3"}, None),
        ({"ChecksumCRC32": "AAAAAg==", "ChecksumType": "COMPOSITE"}, None),
        ({"ChecksumCRC32": "AAAA"}, None),
        ({}, None),
    ],
)
def test_only_a_checksum_of_the_whole_is_one(
    stubbed: Any, said: dict[str, str], believed: bytes | None
) -> None:
    gateway, stub = stubbed
    answer = {"ContentLength": 3, "ETag": '"e"', "Metadata": {"beeline": "t"}}
    stub.add_response(
        "head_object", answer | said, BUCKET | {"Key": "k", "ChecksumMode": "ENABLED"}
    )
    assert gateway.head("k", with_crc32=True) == Stored(3, '"e"', "t", believed)
    # Whoever does not need it does not ask: some stores want further rights for it.
    stub.add_response("head_object", answer, BUCKET | {"Key": "k"})
    assert gateway.head("k") == Stored(3, '"e"', "t")


@pytest.mark.parametrize(
    ("said", "is_packed"),
    [
        ({}, False),
        ({"ContentEncoding": ""}, False),
        ({"ContentEncoding": "aws-chunked"}, False),
        ({"ContentEncoding": "gzip"}, True),
        ({"ContentEncoding": "aws-chunked, br"}, True),
    ],
)
def test_an_object_is_packed_when_its_encoding_is_more_than_how_it_came(
    stubbed: Any, said: dict[str, str], is_packed: bool
) -> None:
    gateway, stub = stubbed
    answer = {"ContentLength": 3, "ETag": '"e"', "Metadata": {"beeline": "t"}}
    stub.add_response("head_object", answer | said, BUCKET | {"Key": "k"})
    assert gateway.head("k") == Stored(3, '"e"', "t", is_packed=is_packed)


@pytest.mark.parametrize("name", ["beeline", "Beeline"])
def test_the_token_is_found_whatever_the_case_of_its_header(stubbed: Any, name: str) -> None:
    """As servers written in Go send it: X-Amz-Meta-Beeline."""
    gateway, stub = stubbed
    answer = {"ContentLength": 3, "ETag": '"e"', "Metadata": {"other": "o", name: "t"}}
    stub.add_response("head_object", answer, BUCKET | {"Key": "k"})
    assert gateway.head("k") == Stored(3, '"e"', "t")


PROBE = BUCKET | VERIFIED | {"Key": ANY}


def probed(stub: Any) -> None:
    """Let the multipart upload of the probe be aborted."""
    stub.add_response("abort_multipart_upload", {}, BUCKET | {"Key": ANY, "UploadId": "u"})


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (VERIFIED, Checksums.YES),
        ({}, Checksums.NO),
        ({"ChecksumAlgorithm": "CRC32"}, Checksums.NO),
        ({"ChecksumAlgorithm": "CRC32", "ChecksumType": "COMPOSITE"}, Checksums.NO),
    ],
)
def test_a_store_is_asked_once_whether_it_verifies(
    stubbed: Any, answer: dict[str, str], known: Checksums
) -> None:
    gateway, stub = stubbed
    assert gateway.checksums is Checksums.UNKNOWN
    stub.add_response("create_multipart_upload", {"UploadId": "u"} | answer, PROBE)
    probed(stub)
    assert [gateway.ask_checksums() for _ in range(3)] == [known] * 3
    assert gateway.checksums is known


def test_the_probe_lies_below_our_prefix_and_one_that_stays_does_no_harm(stubbed: Any) -> None:
    gateway, stub = stubbed
    keys: list[str] = []
    ask = gateway._client.create_multipart_upload

    def watched(**given: Any) -> Any:
        keys.append(given["Key"])
        return ask(**given)

    gateway._client.create_multipart_upload = watched
    stub.add_response("create_multipart_upload", {"UploadId": "u"} | VERIFIED, PROBE)
    stub.add_client_error("abort_multipart_upload", "AccessDenied", http_status_code=403)
    assert gateway.ask_checksums() is Checksums.YES
    assert [key.startswith("beeline/") for key in keys] == [True]


@pytest.mark.parametrize(
    ("code", "status", "known"),
    [
        ("NotImplemented", 501, Checksums.NO),
        ("InvalidArgument", 400, Checksums.NO),
        ("InvalidRequest", 400, Checksums.NO),
        ("AccessDenied", 403, Checksums.UNKNOWN),
        ("NoSuchBucket", 404, Checksums.UNKNOWN),
        ("ExpiredToken", 400, Checksums.UNKNOWN),
        ("AuthorizationHeaderMalformed", 400, Checksums.UNKNOWN),
        ("404", 404, Checksums.UNKNOWN),
        ("InternalError", 500, Checksums.UNKNOWN),
    ],
)
def test_a_refusal_of_the_checksum_is_an_answer_and_one_of_us_is_not(
    stubbed: Any, monkeypatch, code: str, status: int, known: Checksums
) -> None:
    gateway, stub = stubbed
    stub.add_client_error("create_multipart_upload", code, http_status_code=status)
    assert [gateway.ask_checksums() for _ in range(3)] == [known] * 3
    if known is Checksums.UNKNOWN:
        later = time.monotonic() + REST_SECONDS + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        monkeypatch.setattr(gateway._circuit, "_clock", lambda: later)
        stub.add_response("create_multipart_upload", {"UploadId": "u"} | VERIFIED, PROBE)
        probed(stub)
        assert gateway.ask_checksums() is Checksums.YES
    else:
        # It was an answer: nobody else is kept from storage because of it.
        stub.add_response("head_bucket", {}, BUCKET)
        gateway.check()


@pytest.mark.parametrize(("said", "known"), [("on", Checksums.YES), ("off", Checksums.OFF)])
def test_who_is_told_does_not_ask(stubbed: Any, said: str, known: Checksums) -> None:
    gateway, _ = stubbed
    gateway._settings = replace(gateway._settings, s3_checksums=said)
    assert gateway.ask_checksums() is gateway.checksums is known


def test_whoever_comes_while_one_asks_waits_a_little_and_does_without(
    stubbed: Any, monkeypatch
) -> None:
    gateway, _ = stubbed
    monkeypatch.setattr("app.gateways.storage.REST_SECONDS", 0.01)
    meanwhile: list[Checksums] = []

    def ask_slowly() -> Checksums:
        assert meanwhile == [], "it was asked twice"
        meanwhile.append(Checksums.OFF)
        with ThreadPoolExecutor(1) as pool:
            meanwhile[0] = pool.submit(gateway.ask_checksums).result()
        return Checksums.YES

    monkeypatch.setattr(gateway, "_probe", ask_slowly)
    assert gateway.ask_checksums() is Checksums.YES
    assert meanwhile == [Checksums.UNKNOWN]


@pytest.mark.parametrize("verifies", [True, False])
def test_the_real_endpoint_is_asked_and_nothing_of_it_stays(
    app: Flask, without_checksums: Callable[[], None], verifies: bool
) -> None:
    if not verifies:
        without_checksums()
    storage._answered = Checksums.UNKNOWN
    before = [one for page in storage.open_uploads() for one in page]
    assert storage.ask_checksums() is (Checksums.YES if verifies else Checksums.NO)
    assert [one for page in storage.open_uploads() for one in page] == before


def test_f09_a_damaged_part_is_refused_by_storage_itself(app: Flask) -> None:
    body = b"what the sender has"
    right = zlib.crc32(body).to_bytes(4, "big")
    upload_id = storage.begin_upload("beeline/f09", "t", with_crc32=True)
    size = [(1, len(body))]
    ((url, headers),) = storage.urls.parts("beeline/f09", upload_id, size, 600, [right])
    single, more = storage.urls.put("beeline/f09s", "t", len(body), 600, right)
    for at in range(len(body)):
        damaged = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        for answer in (put(url, damaged, headers), put(single, damaged, more)):
            assert answer.status == 400
            assert b"<Code>BadDigest</Code>" in answer.data
    assert storage.list_parts("beeline/f09", upload_id) == []
    assert storage.head("beeline/f09s") is None
    # Nor can the checksum be left out or changed to fit: it is part of the signature.
    other = crc32_of(b"another body of ours")
    for forged in ({}, {"x-amz-checksum-crc32": other}):
        assert put(url, body, forged).status == 403
        assert put(single, body, {**more, "x-amz-checksum-crc32": other}).status == 403
    assert put(url, body, headers).status == put(single, body, more).status == 200
    assert [part.crc32 for part in storage.list_parts("beeline/f09", upload_id)] == [right]
    head = storage.head("beeline/f09s", with_crc32=True)
    assert head is not None
    assert head.crc32 == right
    storage.abort_upload("beeline/f09", upload_id)


def test_deletes_go_a_thousand_at_a_time_and_refusals_are_told(stubbed: Any) -> None:
    gateway, stub = stubbed
    keys = [f"k{n}" for n in range(1001)]
    for batch, errors in (
        (keys[:1000], [{"Key": "k7", "Code": "InternalError"}]),
        (keys[1000:], []),
    ):
        stub.add_response(
            "delete_objects",
            {"Errors": errors},
            BUCKET | {"Delete": {"Objects": [{"Key": key} for key in batch], "Quiet": True}},
        )
    assert gateway.delete(keys) == ["k7"]


def test_what_must_have_a_checksum_has_one_that_older_stores_know(app: Flask) -> None:
    """As JuiceFS and older MinIO, which answer MissingContentMD5."""
    sent: dict[str, AWSPreparedRequest] = {}

    def note(event_name: str, request: AWSPreparedRequest, **_: Any) -> None:
        sent[event_name.rpartition(".")[2]] = request

    gateway = Storage()
    gateway.bind(config.current())
    for client in (gateway._clients.bulk, gateway._client):
        client.meta.events.register("before-send.s3", note)
    assert gateway.delete(["beeline/md5", "beeline/more"]) == []
    gateway.setup(["http://localhost"], abort_after_days=9)
    for name in ("DeleteObjects", "PutBucketCors", "PutBucketLifecycleConfiguration"):
        md5 = hashlib.md5(sent[name].body).digest()
        assert sent[name].headers["Content-MD5"] == base64.b64encode(md5), name
    assert "Content-MD5" not in sent["HeadBucket"].headers


@pytest.mark.usefixtures("app")
def test_whatever_a_key_is_made_of_its_object_is_deleted_and_no_other() -> None:
    keys = [
        f"beeline/odd/{odd}"
        for odd in ("<Key>&amp;", "é\U0001f41d 'x\"", "a\nb", "a\rb\t", "]]>", "%20+")
    ]
    for key in [*keys, "beeline/odd/<Key>&"]:
        storage.put_object(key, "t", b"1", "text/plain")
    assert storage.delete([*keys, "beeline/odd/never"]) == []
    assert [key for key in keys if storage.head(key)] == []
    assert storage.head("beeline/odd/<Key>&") is not None
    assert storage.delete(["beeline/odd/<Key>&"]) == []


def test_f48_every_page_of_open_uploads_is_read(stubbed: Any) -> None:
    gateway, stub = stubbed
    first = {"Key": "beeline/a", "UploadId": "1", "Initiated": datetime(2030, 1, 1, tzinfo=UTC)}
    stub.add_response(
        "list_multipart_uploads",
        {
            "Uploads": [first],
            "IsTruncated": True,
            "NextKeyMarker": "beeline/a",
            "NextUploadIdMarker": "1",
        },
        BUCKET | {"Prefix": "beeline/"},
    )
    stub.add_response(
        "list_multipart_uploads",
        {"Uploads": [first | {"UploadId": "2"}], "IsTruncated": False},
        BUCKET | {"Prefix": "beeline/", "KeyMarker": "beeline/a", "UploadIdMarker": "1"},
    )
    assert [one.s3_upload_id for page in gateway.open_uploads() for one in page] == ["1", "2"]


def test_f48_f51_every_page_of_objects_is_read_and_only_ours_are_shown(stubbed: Any) -> None:
    """Even where a store gives more than it was asked for."""
    gateway, stub = stubbed
    when = datetime(2030, 1, 1, tzinfo=UTC)
    ours, theirs = (
        {"Key": key, "Size": 3, "LastModified": when} for key in ("beeline/a", "beelines/b")
    )
    stub.add_response(
        "list_objects_v2",
        {"Contents": [ours, theirs], "IsTruncated": True, "NextContinuationToken": "t"},
        BUCKET | {"Prefix": "beeline/"},
    )
    stub.add_response(
        "list_objects_v2",
        {"Contents": [ours | {"Key": "beeline/c"}], "IsTruncated": False},
        BUCKET | {"Prefix": "beeline/", "ContinuationToken": "t"},
    )
    pages = list(gateway.objects())
    assert pages == [[Listed("beeline/a", 3, when)], [Listed("beeline/c", 3, when)]]


def test_a_listing_goes_on_after_a_key_even_where_a_store_begins_anew(stubbed: Any) -> None:
    gateway, stub = stubbed
    when = datetime(2030, 1, 1, tzinfo=UTC)
    found = [{"Key": f"beeline/{n}", "Size": 3, "LastModified": when} for n in "abc"]
    stub.add_response(
        "list_objects_v2",
        {"Contents": found, "IsTruncated": False},
        BUCKET | {"Prefix": "beeline/", "StartAfter": "beeline/b"},
    )
    assert list(gateway.objects("beeline/b")) == [[Listed("beeline/c", 3, when)]]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("NoSuchUpload", NoSuchUpload),
        ("NoSuchKey", NoSuchUpload),  # as Ceph says it
        ("AccessDenied", Unavailable),
        ("SlowDown", Unavailable),
    ],
)
def test_refusals_are_told_in_our_words(stubbed: Any, code: str, expected: type) -> None:
    gateway, stub = stubbed
    stub.add_client_error("list_parts", code, http_status_code=400)
    with pytest.raises(expected):
        gateway.list_parts("k", "u")


def test_other_buckets_are_those_that_storage_lists(stubbed: Any) -> None:
    gateway, stub = stubbed
    stub.add_response("list_buckets", {"Buckets": [{"Name": "b"}]})
    assert not gateway.has_other_buckets()
    stub.add_response("list_buckets", {"Buckets": [{"Name": "b"}, {"Name": "backups"}]})
    assert gateway.has_other_buckets()
    stub.add_client_error("list_buckets", "AccessDenied", http_status_code=403)
    assert not gateway.has_other_buckets()


def test_an_object_without_etag_is_told_and_not_used(stubbed: Any) -> None:
    """As JuiceFS answers of what came in parts, unless its gateway has --keep-etag."""
    gateway, stub = stubbed
    stub.add_response(
        "head_object", {"ContentLength": 3, "Metadata": {"beeline": "t"}}, BUCKET | {"Key": "k"}
    )
    with pytest.raises(Unavailable, match="no ETag"):
        gateway.head("k")


@pytest.mark.parametrize("code", ["NoSuchUpload", "NoSuchKey"])
def test_aborting_what_is_not_there_is_success(stubbed: Any, code: str) -> None:
    gateway, stub = stubbed
    stub.add_client_error("abort_multipart_upload", code, http_status_code=404)
    gateway.abort_upload("k", "u")


@pytest.mark.parametrize("ask", ["head", "check"])
def test_a_store_that_does_not_answer_is_unavailable(stubbed: Any, monkeypatch, ask: str) -> None:
    gateway, _ = stubbed

    def away(**given: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr(
        gateway._client, f"{ask.replace('check', 'head')}_object", away, raising=False
    )
    monkeypatch.setattr(gateway._client, "head_bucket", away)
    with pytest.raises(Unavailable):
        gateway.head("k") if ask == "head" else gateway.check()


def test_s15_a_signed_address_is_good_for_nothing_else(app: Flask) -> None:
    url, headers = storage.urls.put("beeline/s15", "token", 5, 600)
    for other in (
        (url.replace("beeline/s15", "beeline/s16"), headers),
        (url, headers | {"x-amz-meta-beeline": "other"}),
        (url, {k: v for k, v in headers.items() if k != "If-None-Match"}),
        (url, headers | {"Content-Type": "text/html"}),
        (url, headers | {"x-amz-acl": "public-read"}),
        (url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"), headers),
    ):
        assert put(other[0], b"12345", other[1]).status == 403
    assert http.request("GET", url).status == 403
    assert put(url, b"12345", headers).status == 200
    assert put(url, b"54321", headers).status == 412


def test_browsers_of_our_origin_only_may_put(app: Flask) -> None:
    """F05."""
    # Whatever others have made of the bucket's rules.
    storage.setup(["http://localhost"], abort_after_days=9)
    url, _ = storage.urls.put("beeline/cors", "token", 5, 600)
    for origin, status in (("http://localhost", 200), ("https://evil.example", 403)):
        preflight = http.request(
            "OPTIONS",
            url,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": (
                    "content-type,if-none-match,x-amz-checksum-crc32,x-amz-meta-beeline"
                ),
            },
        )
        assert preflight.status == status


def test_setup_is_repeatable_and_the_backstop_only_aborts(app: Flask) -> None:
    """F26: how old an upload may become is tested in tests/flows/test_release.py."""
    for _ in range(2):
        storage.setup(["http://localhost"], abort_after_days=9)
    answer = storage._client.get_bucket_lifecycle_configuration(Bucket=storage._bucket)
    rule = answer["Rules"][0]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 9
    assert rule["Filter"]["Prefix"] == "beeline/"
    assert "Expiration" not in rule


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented", "NoSuchCORSConfiguration"])
def test_setup_sets_our_rule_where_others_cannot_be_read(stubbed: Any, code: str) -> None:
    gateway, stub = stubbed
    stub.add_response("head_bucket", {}, BUCKET)
    stub.add_client_error("get_bucket_cors", code, http_status_code=403)
    stub.add_response("put_bucket_cors", {}, BUCKET | {"CORSConfiguration": ANY})
    stub.add_response(
        "put_bucket_lifecycle_configuration", {}, BUCKET | {"LifecycleConfiguration": ANY}
    )
    gateway.setup(["https://send.example"], abort_after_days=9)
    stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("cors", "lifecycle", "not_taken"),
    [
        ("NotImplemented", "MalformedXML", ["CORS", "lifecycle"]),  # MinIO
        ("MethodNotAllowed", None, ["CORS"]),
        (None, "NotImplemented", ["lifecycle"]),
    ],
)
def test_setup_tells_which_rules_a_store_does_not_take(
    stubbed: Any, cors: str | None, lifecycle: str | None, not_taken: list[str]
) -> None:
    gateway, stub = stubbed
    stub.add_response("head_bucket", {}, BUCKET)
    stub.add_client_error("get_bucket_cors", "NoSuchCORSConfiguration", http_status_code=404)
    for call, code in (("cors", cors), ("lifecycle_configuration", lifecycle)):
        if code is None:
            stub.add_response(f"put_bucket_{call}", {})
        else:
            status = 501 if code == "NotImplemented" else 400
            stub.add_client_error(f"put_bucket_{call}", code, http_status_code=status)
    assert gateway.setup(["https://send.example"], abort_after_days=9) == not_taken


def test_setup_survives_a_store_that_overlooks_what_it_is_asked_for(stubbed: Any) -> None:
    """As rclone, which answers with the list of objects: to it, the PUT would create the bucket."""
    gateway, stub = stubbed
    stub.add_response("head_bucket", {}, BUCKET)
    stub.add_response("get_bucket_cors", {}, BUCKET)
    for call in ("cors", "lifecycle_configuration"):
        stub.add_client_error(f"put_bucket_{call}", "BucketAlreadyExists", http_status_code=409)
    not_taken = gateway.setup(["https://send.example"], abort_after_days=9)
    assert not_taken == ["CORS", "lifecycle"]


def test_setup_ends_where_storage_refuses_us(stubbed: Any) -> None:
    gateway, stub = stubbed
    stub.add_response("head_bucket", {}, BUCKET)
    stub.add_client_error("get_bucket_cors", "AccessDenied", http_status_code=403)
    stub.add_client_error("put_bucket_cors", "AccessDenied", http_status_code=403)
    with pytest.raises(StorageRefused):
        gateway.setup(["https://send.example"], abort_after_days=9)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_a_bucket_on_aws_is_made_in_its_region(region: str, monkeypatch) -> None:
    """us-east-1 must not be named as a location, every other must."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with mock_aws():
        gateway = Storage()
        gateway.bind(
            config.load(
                {
                    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
                    "BASE_URL": "https://send.example",
                    "DATABASE_URL": "postgres://x",
                    "REDIS_URL": "redis://x",
                    "S3_BUCKET": "beeline-test",
                    "S3_REGION": region,
                }
            )
        )
        gateway.setup(["https://send.example"], abort_after_days=9)
        client = botocore.session.Session().create_client("s3", region_name=region)
        found = client.get_bucket_location(Bucket="beeline-test")["LocationConstraint"]
        assert (found or "us-east-1") == region
        assert gateway.urls.origin.startswith("https://beeline-test.s3")
        assert "X-Amz-Signature" in gateway.urls.get("k", "attachment", 60)


@pytest.mark.parametrize("endpoint", ["", "https://s3.example.org"])
def test_keys_that_boto3_finds_are_used_with_their_token(endpoint: str, monkeypatch) -> None:
    """As temporary ones have one, and are refused without it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "temporary")
    gateway = Storage()
    gateway.bind(config.load(dict(os.environ) | GOOD | {"S3_ENDPOINT_URL": endpoint}))
    asked = gateway._client.generate_presigned_url("get_object", Params=BUCKET | {"Key": "k"})
    for url in (gateway.urls.get("k", "attachment", 60), asked):
        assert "X-Amz-Security-Token=temporary" in url


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """An address that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        listening.setblocking(False)
        yield listening


def connections_to(listening: socket.socket) -> int:
    """How many were made, each of which is one try."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


FROM = Source("p", '"e"')


@pytest.mark.parametrize(
    "ask",
    [
        lambda gateway: gateway.finish_upload("k", "u", [Part(1, 1, '"e"')]),
        lambda gateway: gateway.copy_part("k", "u", 1, FROM, 0, 1),
        lambda gateway: gateway.copy_whole(FROM, "k", "t"),
        lambda gateway: gateway.put_part("k", "u", 1, memoryview(b"")),
    ],
    ids=["Complete", "UploadPartCopy", "CopyObject", "UploadPart"],
)
@pytest.mark.parametrize(("is_short", "tries"), [(True, 2), (False, 3)])
def test_what_takes_long_has_fewer_tries_in_a_request_than_in_a_job(
    silent: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Storage], None],
    is_short: bool,
    tries: int,
) -> None:
    for where in ("app.gateways.clients", "app.gateways.storage"):
        monkeypatch.setattr(f"{where}.LONG", (0.2, 2))
        monkeypatch.setattr(f"{where}.PATIENT", (0.2, 3))
    monkeypatch.setattr("app.timeouts.is_short", lambda: is_short)
    monkeypatch.setattr("app.gateways.storage.WAITS", (0.0, 0.0, 0.0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    keys = {"S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s"}
    gateway = Storage()
    gateway.bind(config.load(GOOD | keys | {"S3_ENDPOINT_URL": url}))
    with pytest.raises(Away):
        ask(gateway)
    assert connections_to(silent) == tries


def test_a_request_that_completes_or_copies_holds_its_thread_for_some_two_minutes() -> None:
    """It asks what is there, has storage work, and asks again how that has ended."""
    (before, tries), (work, work_tries) = QUICK, LONG
    assert 2 * before * tries + work * work_tries < 135
