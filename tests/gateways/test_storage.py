"""The storage gateway: what it asks of S3 to the letter, and how failures are told."""

from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from flask import Flask
from moto import mock_aws

from app import config
from app.errors import Unavailable
from app.extensions import storage
from app.gateways.storage import Listed, NoSuchUpload, Part, Storage
from tests.factories import http, put

BUCKET = {"Bucket": "b"}


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
    gateway._patient = gateway._client  # Complete has a client of its own.
    with Stubber(gateway._client) as stub:
        yield gateway, stub
        stub.assert_no_pending_responses()


def test_begin_puts_the_token_into_the_metadata(stubbed: Any) -> None:
    gateway, stub = stubbed
    stub.add_response(
        "create_multipart_upload",
        {"UploadId": "u"},
        BUCKET
        | {"Key": "k", "ContentType": "application/octet-stream", "Metadata": {"beeline": "t"}},
    )
    assert gateway.begin_upload("k", "t") == "u"


def test_finish_names_exactly_the_parts_given(stubbed: Any) -> None:
    gateway, stub = stubbed
    parts = {"Parts": [{"PartNumber": 1, "ETag": '"a"'}, {"PartNumber": 2, "ETag": '"b"'}]}
    stub.add_response(
        "complete_multipart_upload",
        {},
        BUCKET | {"Key": "k", "UploadId": "u", "MultipartUpload": parts},
    )
    gateway.finish_upload("k", "u", [Part(1, 5, '"a"'), Part(2, 5, '"b"')])


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


@pytest.mark.parametrize(
    ("code", "expected"),
    [("NoSuchUpload", NoSuchUpload), ("AccessDenied", Unavailable), ("SlowDown", Unavailable)],
)
def test_refusals_are_told_in_our_words(stubbed: Any, code: str, expected: type) -> None:
    gateway, stub = stubbed
    stub.add_client_error("list_parts", code, http_status_code=400)
    with pytest.raises(expected):
        gateway.list_parts("k", "u")


def test_aborting_what_is_not_there_is_success(stubbed: Any) -> None:
    gateway, stub = stubbed
    stub.add_client_error("abort_multipart_upload", "NoSuchUpload", http_status_code=404)
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
    url, headers = storage.put_url("beeline/s15", "token", 5, 600)
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
    url, _ = storage.put_url("beeline/cors", "token", 5, 600)
    for origin, status in (("http://localhost", 200), ("https://evil.example", 403)):
        preflight = http.request(
            "OPTIONS",
            url,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": "content-type,if-none-match,x-amz-meta-beeline",
            },
        )
        assert preflight.status == status


def test_setup_is_repeatable_and_the_backstop_outlasts_any_upload(app: Flask) -> None:
    """F26: the bucket's own rule must never abort an upload that we still allow."""
    for _ in range(2):
        storage.setup(["http://localhost"], abort_after_days=9)
    answer = storage._client.get_bucket_lifecycle_configuration(Bucket=storage._bucket)
    rule = answer["Rules"][0]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 9
    assert rule["Filter"]["Prefix"] == "beeline/"
    assert "Expiration" not in rule


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
        assert gateway.origin.startswith("https://beeline-test.s3")
        assert "X-Amz-Signature" in gateway.get_url("k", "attachment", 60)
