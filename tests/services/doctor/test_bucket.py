"""What `flask doctor` finds out about storage: it does in the bucket what browsers and workers do."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.stub import Stubber
from flask import Flask

from app import config
from app.extensions import storage
from app.gateways import plain_http
from app.gateways.s3_answers import TOKEN_HEADER
from app.services import doctor, heartbeats, upkeep
from app.services.doctor import Level
from tests.services.doctor.looking import assert_found, look, sends, site

Configure = Callable[..., None]
OF_STORAGE = (
    "bucket", "parts", "whole files", "checksums", "small files", "signed URLs", "forms",
    "downloads", "CORS", "lifecycle",
)  # fmt: skip


def test_what_is_tried_in_the_bucket_works_and_leaves_nothing(bucket: str) -> None:
    for name in ("storage address", "storage clock", *OF_STORAGE):
        assert_found(name, Level.OK)
    assert storage._client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert "Uploads" not in storage._client.list_multipart_uploads(Bucket=bucket)


def test_what_cannot_be_removed_from_the_bucket_is_told_and_found_by_the_sweeps(
    bucket: str, monkeypatch
) -> None:
    """As is what a command leaves that was killed."""
    monkeypatch.setattr(storage, "delete", lambda keys: keys)
    assert_found("small files", Level.FAILED, "AccessDenied", 'under "The bucket"')
    monkeypatch.setattr(storage, "abort_upload", lambda key, s3_upload_id: None)
    assert_found("parts", Level.OK)
    monkeypatch.setattr(upkeep, "ORPHAN_FOR", timedelta(seconds=-2))
    monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(seconds=-2))
    assert upkeep.find_orphans().orphan_count == 1
    assert len(upkeep.find_unknown_uploads().unknown) == 1


def test_a_store_that_browsers_cannot_reach_or_use_is_told(
    app: Flask, inside: None, configure: Configure, bound: None
) -> None:
    configure(base_url="https://send.example.org")
    assert_found("storage address", Level.FAILED, "their own machine", "S3_PUBLIC_ENDPOINT_URL")
    configure(s3_public_endpoint_url="http://s3.example.org")
    storage.bind(config.current())
    assert_found("storage address", Level.FAILED, "begin with https://")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"s3_secret_access_key": "a-wrong-secret"}, "S3_SECRET_ACCESS_KEY"),
        ({"s3_access_key_id": "nobody"}, "S3_ACCESS_KEY_ID"),
        ({"s3_bucket": "nobody-has-made-this"}, "`flask storage setup`"),
    ],
)
def test_a_store_that_refuses_us_is_told(
    app: Flask, inside: None, configure: Configure, bound: None, changes: Any, remedy: str
) -> None:
    configure(**changes)
    storage.bind(config.current())
    assert_found("bucket", Level.FAILED, remedy)
    assert "a-wrong-secret" not in look("bucket").said
    assert_found("parts", Level.FAILED)


def pass_on(request: Any, target: str, without: set[str]) -> None:
    """Send the request to `target` without these headers, and its answer back."""
    headers = {name: value for name, value in request.headers.items() if name not in without}
    body = request.rfile.read(int(headers.get("Content-Length", 0)))
    reply = plain_http.send(request.command, target + request.path, headers, body)
    request.send_response(reply.status)
    request.send_header("Content-Length", str(len(reply.body)))
    request.end_headers()
    request.wfile.write(reply.body)


@pytest.mark.parametrize(
    ("obeyed", "has_others", "level", "words"),
    [
        ("x-amz-copy-source", True, Level.FAILED, "an access key of its own"),
        ("x-amz-copy-source", False, Level.OK, ""),
        ("x-amz-acl", True, Level.WARNING, "IgnorePublicAcls"),
        ("nothing", True, Level.FAILED, "Make it private"),
    ],
)
def test_s15_a_store_that_obeys_what_was_not_signed_is_told(
    bucket: str, configure: Configure, monkeypatch, obeyed: str, has_others: bool, level: Level,
    words: str,
) -> None:  # fmt: skip
    """As Ceph's does."""
    target = config.settings.s3_endpoint_url
    client = storage._client

    def obey(request: Any) -> None:
        path = request.path.partition("?")[0]
        key = path.removeprefix(f"/{bucket}/")
        given = request.headers.get(obeyed)
        if given is not None and obeyed == "x-amz-acl":
            public.add(path)
        if given is not None and obeyed == "x-amz-copy-source":
            client.copy_object(Bucket=bucket, Key=key, CopySource=given.lstrip("/"))
        is_open = obeyed == "nothing" and request.path == path
        if given is not None or request.path in public or is_open:
            sends(200)(request)
        else:
            pass_on(request, target, without=set())

    public: set[str] = set()
    monkeypatch.setattr(storage, "has_other_buckets", lambda: has_others)
    with site(obey) as url:
        configure(s3_public_endpoint_url=url)
        storage.bind(config.current())
        assert_found("signed URLs", level, words)


def test_a_proxy_that_breaks_signatures_is_blamed_and_not_the_key(
    bucket: str, configure: Configure
) -> None:
    """One that names storage to itself, as proxies do by default: the host is signed."""
    target = config.settings.s3_endpoint_url

    with site(lambda request: pass_on(request, target, without={"Host"})) as url:
        configure(s3_public_endpoint_url=url)
        storage.bind(config.current())
        for name in ("parts", "small files", "downloads"):
            assert_found(name, Level.FAILED, "SignatureDoesNotMatch", "Host header")
            assert "S3_SECRET_ACCESS_KEY" not in look(name).said
        chosen = [one for one in doctor.CHECKS if one.name in ("parts", "checksums", "CORS")]
        found = [one.level for _, one in doctor.examine(chosen, lambda check: None)]
    assert found == [Level.FAILED, Level.SKIPPED, Level.SKIPPED]


@pytest.mark.parametrize(
    ("rule", "level", "words"),
    [
        (None, Level.FAILED, "does not admit our pages"),
        (
            {"AllowedOrigins": ["https://elsewhere.example"]},
            Level.FAILED,
            "does not admit our pages",
        ),
        ({"AllowedMethods": ["GET"]}, Level.FAILED, "does not admit our pages"),
        ({"AllowedHeaders": ["content-type"]}, Level.FAILED, "does not admit our pages"),
        ({"ExposeHeaders": []}, Level.WARNING, "ETag"),
        ({"AllowedOrigins": ["*"], "ExposeHeaders": ["etag"]}, Level.OK, ""),
    ],
)
def test_f05_a_cors_rule_that_keeps_pages_from_sending_is_told(
    bucket: str, rule: Any, level: Level, words: str
) -> None:
    (ours,) = storage.cors_rules()
    storage._client.delete_bucket_cors(Bucket=bucket)
    if rule is not None:
        given = {"CORSRules": [ours | rule]}
        storage._client.put_bucket_cors(Bucket=bucket, CORSConfiguration=given)
    assert_found("CORS", level, words)
    if level is not Level.OK:
        assert_found("CORS", level, "`flask storage setup`")


def lifecycle_of(bucket: str, *rules: dict[str, Any]) -> None:
    given = [{"ID": str(at), "Status": "Enabled", **one} for at, one in enumerate(rules)]
    storage._client.delete_bucket_lifecycle(Bucket=bucket)
    if given:
        storage._client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": given}
        )


ALL: dict[str, Any] = {"Filter": {"Prefix": ""}}
YEAR = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 365}}
WEEK = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}


@pytest.mark.parametrize(
    ("rules", "level", "words"),
    [
        ([], Level.WARNING, "no lifecycle rule"),
        ([ALL | YEAR], Level.OK, ""),
        ([ALL | YEAR | {"Status": "Disabled"}], Level.WARNING, "no lifecycle rule"),
        ([ALL | YEAR, ALL | WEEK], Level.WARNING, "after 7 days"),
        ([ALL | YEAR, {"Filter": {"Prefix": "logs/"}} | WEEK], Level.OK, ""),
        ([ALL | YEAR, ALL | {"Expiration": {"Days": 30}}], Level.FAILED, "MAX_EXPIRES_IN_DAYS"),
        ([ALL | YEAR, ALL | {"Expiration": {"Days": 400}}], Level.OK, ""),
        (
            [
                ALL | YEAR,
                {"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 1}},
            ],
            Level.OK,
            "",
        ),
    ],
)
def test_f26_lifecycle_rules_that_end_uploads_or_remove_files_are_told(
    bucket: str, rules: list[dict[str, Any]], level: Level, words: str
) -> None:
    lifecycle_of(bucket, *rules)
    assert_found("lifecycle", level, words)


@pytest.mark.parametrize(
    ("move", "level", "words"),
    [
        ({"Days": 30, "StorageClass": "GLACIER"}, Level.FAILED, "into an archive"),
        ({"Date": "2026-01-01", "StorageClass": "DEEP_ARCHIVE"}, Level.FAILED, "into an archive"),
        ({"Days": 0, "StorageClass": "GLACIER_IR"}, Level.OK, ""),
        ({"Days": 400, "StorageClass": "GLACIER"}, Level.OK, ""),
    ],
)
def test_a_lifecycle_rule_that_archives_files_is_told(
    bucket: str, monkeypatch, move: Any, level: Level, words: str
) -> None:
    rules = [ALL | YEAR | {"Status": "Enabled", "Transitions": [move]}]
    monkeypatch.setattr(storage, "lifecycle_rules", lambda: rules)
    assert_found("lifecycle", level, words)


def test_an_endpoint_that_names_the_bucket_is_told(
    app: Flask, inside: None, bucket: str, configure: Configure, bound: None
) -> None:
    configure(s3_endpoint_url=f"{config.current().s3_endpoint_url}/{bucket}")
    storage.bind(config.current())
    assert_found("bucket", Level.FAILED, "Take the bucket's name out of S3_ENDPOINT_URL.")


@pytest.mark.parametrize(
    ("code", "level", "words"),
    [
        ("AccessDenied", Level.WARNING, "s3:GetLifecycleConfiguration"),
        ("NotImplemented", Level.OK, "no lifecycle rules"),
        ("InternalError", Level.FAILED, "InternalError"),
    ],
)
def test_lifecycle_rules_that_cannot_be_read_are_told(
    bucket: str, code: str, level: Level, words: str
) -> None:
    status = 500 if code == "InternalError" else 403
    with Stubber(storage._clients.quick) as stub:
        for _ in range(2):  # as often as it is tried
            stub.add_client_error("get_bucket_lifecycle_configuration", code, "", status)
        assert_found("lifecycle", level, words)


def test_a_store_that_only_claims_to_verify_checksums_is_found_out(
    app: Flask,
    inside: None,
    without_checksums: Callable[[], None],
    configure: Configure,
    bound: None,
) -> None:
    without_checksums()
    assert_found("checksums", Level.OK, "verifies no checksums")
    configure(s3_checksums="off")
    storage.bind(config.current())
    assert_found("checksums", Level.OK, "S3_CHECKSUMS is off")
    configure(s3_checksums="on")
    storage.bind(config.current())
    assert_found("checksums", Level.FAILED, "S3_CHECKSUMS=off")


def test_a_store_without_forms_can_be_used_and_one_that_ignores_their_limits_cannot(
    bucket: str, monkeypatch
) -> None:
    """The first as OpenStack Swift: to it, that is another kind of form."""
    with monkeypatch.context() as swift:
        reply = plain_http.Reply(412, {}, b"Bad URL")
        swift.setattr(plain_http, "post_form", lambda *given: reply)
        assert_found("forms", Level.WARNING, "/files", "status 412")
    post_form = storage.urls.post_form
    monkeypatch.setattr(storage.urls, "post_form", lambda *given: post_form(*given[:2], 99, 60))
    assert_found("forms", Level.FAILED, "any size")


def test_a_store_that_keeps_no_metadata_is_found_out(bucket: str, monkeypatch) -> None:
    """As JuiceFS, unless its gateway has --object-meta."""
    head = storage.head
    monkeypatch.setattr(storage, "head", lambda key: dataclasses.replace(head(key), token=None))
    assert_found("whole files", Level.FAILED, "metadata")


def test_a_store_that_lets_files_be_overwritten_is_found_out(
    bucket: str, configure: Configure, monkeypatch
) -> None:
    def put(key: str, token: str, size: int, seconds: int) -> tuple[str, dict[str, str]]:
        """As if storage did not know If-None-Match."""
        headers = {TOKEN_HEADER: token}
        url = storage.urls._presigner.url("PUT", key, headers=headers, expires_in=seconds)
        return url, headers

    monkeypatch.setattr(storage.urls, "put", put)
    assert_found("small files", Level.FAILED, "S3_CONDITIONAL_WRITES=false")
    configure(s3_conditional_writes=False)
    assert_found("small files", Level.OK)
    assert storage._client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_download_without_ranges_or_without_its_name_is_told(bucket: str, monkeypatch) -> None:
    send, get = plain_http.send, storage.urls.get
    monkeypatch.setattr(plain_http, "send", lambda method, url, headers: send(method, url))
    assert_found("downloads", Level.FAILED, "ignores ranges")
    monkeypatch.setattr(plain_http, "send", send)
    monkeypatch.setattr(
        storage.urls, "get", lambda key, name, seconds: get(key, "attachment", seconds)
    )
    assert_found("downloads", Level.FAILED, "CloudFront")


def test_files_that_are_lost_are_told(app: Flask, inside: None) -> None:
    assert_found("lost files", Level.OK, "not been compared")
    heartbeats.note_run(upkeep.LOST_OBJECTS, 0)
    assert_found("lost files", Level.OK)
    heartbeats.note_run(upkeep.LOST_OBJECTS, 2)
    assert_found("lost files", Level.FAILED, "2 files", "Backup and restore")
