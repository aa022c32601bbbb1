"""/s3: who may do what: keys of a scope and workspace, sessions of pages, origins by CORS rules."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from app import clock
from app.config import settings
from app.db import db
from app.extensions import storage
from app.models import AssetVersion, Scope
from app.redaction import redacted
from app.services import accounts
from tests.factories import put
from tests.keeper import Keeper, error, opened

Configure = Callable[..., None]
NOWHERE = "00000000-0000-4000-8000-000000000000"


# -- whose it is ---------------------------------------------------------------------------------


def test_s07_a_stranger_finds_nothing_on_any_route(keeper: Keeper, stranger: Keeper) -> None:
    kept, started = keeper.keep(), keeper.start()
    parts = keeper.send(started, b"1")
    upload = {"uploadId": started["uploadId"], "assetId": started["assetId"]}
    query = {"UploadId": started["uploadId"], "assetId": started["assetId"], "PartNumber": 1}
    by_id, by_key = {"assetId": kept["assetId"]}, {"key": kept["key"]}
    at, key = f"/s3/multipart/{started['uploadId']}", {"key": started["key"]}

    def each(asker: Keeper, workspace: str) -> list[Any]:
        mine = {"workspaceId": workspace}
        return [
            asker.get("/start-upload", fileType="a/b", **by_id, **mine),
            asker.get("/get-upload-url", **query, **mine),
            asker.post("/complete-upload", **upload, parts=parts, **mine),
            asker.post("/abort-upload", **upload, **mine),
            asker.get("/download-url", **by_id, **mine),
            asker.get("/download", **by_key, **mine),
            asker.call("DELETE", "/s3/delete", query_string=by_id | mine),
            asker.call("DELETE", "/s3/delete", query_string=by_key | mine),
            asker.get(f"/assets/{kept['assetId']}"),
            asker.call("PATCH", f"/s3/assets/{kept['assetId']}", json={"name": "mine"}),
            asker.call("GET", f"{at}/1", query_string=key),
            asker.call("GET", f"{at}/batch", query_string=key | {"partNumbers": "1"}),
            asker.call("GET", at, query_string=key),
            asker.call("POST", f"{at}/complete", query_string=key, json={"parts": parts}),
            asker.call("DELETE", at, query_string=key),
        ]

    assert {one.status_code for one in each(stranger, stranger.workspace)} == {404}
    assert {one.status_code for one in each(stranger, keeper.workspace)[:8]} == {403}
    assert error(stranger.get("/assets", workspaceId=keeper.workspace)) == (403, "FORBIDDEN")
    assert stranger.names() == []
    assert keeper.complete(started, parts).status_code == 200
    assert keeper.fetch(kept["assetId"]) == b"hello"


def test_an_asset_is_not_shown_or_changed_under_another_workspace(
    keeper: Keeper, stranger: Keeper
) -> None:
    kept = keeper.keep()
    at = f"/s3/assets/{kept['assetId']}"
    for said, status in (
        ({"workspaceId": stranger.workspace}, (403, "FORBIDDEN")),
        ({"workspaceId": "x"}, (403, "FORBIDDEN")),
        ({"workspaceId": ""}, (400, "MISSING_PARAMETER")),
    ):
        assert error(keeper.call("GET", at, query_string=said)) == status
        assert error(keeper.call("PATCH", at, query_string=said, json={"name": "x"})) == status
    assert keeper.show(kept["assetId"])["name"] == kept["name"]
    for right in ({"workspaceId": keeper.workspace}, {}):
        assert keeper.call("GET", at, query_string=right).status_code == 200
        changed = keeper.call("PATCH", at, query_string=right, json={"name": "x"})
        assert changed.json["name"] == "x"


def test_the_key_that_is_given_is_only_compared(keeper: Keeper) -> None:
    """Whatever a client names, what is signed is what the row says."""
    one, other = keeper.start(), keeper.start()
    at = f"/s3/multipart/{one['uploadId']}"
    for key in (other["key"], "", "../x", "x" * 2000):
        answer = keeper.call("GET", f"{at}/1", query_string={"key": key})
        assert answer.status_code in (400, 404), key
    crossed = {"uploadId": one["uploadId"], "assetId": other["assetId"]}
    answer = keeper.post("/complete-upload", **crossed, parts=[{"PartNumber": 1, "ETag": "x"}])
    assert error(answer) == (404, "INVALID_UPLOAD_ID")


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, {"/download-url"}),
        (Scope.WRITE, {"/download-url", "/start-upload"}),
        (Scope.ADMIN, {"/download-url", "/start-upload", "/getBucketConfig"}),
    ],
)
def test_each_scope_may_what_it_says(client: FlaskClient, scope: Scope, allowed: set) -> None:
    keeper = Keeper(client, scope=scope)
    for path in ("/download-url", "/start-upload", "/getBucketConfig"):
        answer = keeper.get(path, assetId=NOWHERE, fileType="a/b")
        assert (answer.status_code == 403) is (path not in allowed)


def test_without_a_key_there_is_nothing(client: FlaskClient) -> None:
    assert error(client.get("/s3/start-upload")) == (401, "UNAUTHORIZED")
    assert error(client.get("/s3")) == (404, "NOT_FOUND")
    assert error(client.get("/s3/params")) == (401, "UNAUTHORIZED")
    assert error(client.get("/s3/nothing")) == (404, "NOT_FOUND")
    assert error(client.put("/s3/params")) == (405, "METHOD_NOT_ALLOWED")
    assert error(client.post("/api/assets/upload")) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/start-upload", {"workspaceId": ""}, "workspaceId"),
        ("/start-upload", {}, "fileType"),
        ("/get-upload-url", {"assetId": NOWHERE, "UploadId": "u"}, "PartNumber"),
        ("/get-upload-url", {"assetId": NOWHERE, "PartNumber": 1}, "UploadId"),
        ("/download-url", {}, "assetId"),
        ("/download", {}, "key"),
    ],
)
def test_what_is_missing_is_named(keeper: Keeper, path: str, query: Any, named: str) -> None:
    answer = keeper.get(path, **query)
    assert error(answer) == (400, "MISSING_PARAMETER")
    assert named in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/start-upload", {"fileType": "no type"}),
        ("/start-upload", {"fileType": "a/b", "fileSize": "big"}),
        ("/start-upload", {"fileType": "a/b", "fileSize": "9" * 30}),
        ("/start-upload", {"fileType": "a/b", "fileName": "x\0y"}),
        ("/start-upload", {"fileType": "a/b", "tags": "t" * 101}),
        ("/get-upload-url", {"assetId": NOWHERE, "UploadId": "u", "PartNumber": 0}),
        ("/get-upload-url", {"assetId": "no-id", "UploadId": "u", "PartNumber": 1}),
        ("/assets", {"from": "yesterday"}),
        ("/assets", {"limit": 0}),
        ("/assets", {"limit": 101}),
        ("/assets", {"offset": -1}),
    ],
)
def test_what_is_wrong_is_refused(keeper: Keeper, path: str, query: Any) -> None:
    assert error(keeper.get(path, **query)) == (400, "INVALID_PARAMETER")


@pytest.mark.usefixtures("inside")
def test_asking_for_the_head_makes_nothing(keeper: Keeper) -> None:
    given = {"workspaceId": keeper.workspace, "fileType": "a/b", "filename": "a", "type": "a/b"}
    for path in ("/s3/start-upload", "/s3/params", f"{opened(keeper)}/s3/params"):
        answer = keeper.call("HEAD", path, query_string=given)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert db.session.scalars(select(AssetVersion)).all() == []


# -- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["[]", "0", "false", '""'])
def test_a_session_is_not_opened_by_what_is_no_object(keeper: Keeper, body: str) -> None:
    answer = keeper.call("POST", "/s3/sessions", data=body, content_type="application/json")
    assert error(answer) == (400, "INVALID_PARAMETER")


def test_a_session_uploads_without_a_header_and_does_nothing_else(keeper: Keeper) -> None:
    at = f"{opened(keeper)}/s3"
    client = keeper.client
    assert client.get(f"{at}/params?filename=a&type=a/b").status_code == 200
    made = client.post(f"{at}/multipart", json={"filename": "a", "type": "a/b"}).json
    upload, key = f"{at}/multipart/{made['uploadId']}", {"key": made["key"]}
    signed = client.get(f"{upload}/1", query_string=key).json["url"]
    tag = put(signed, b"1").headers["ETag"]
    parts = {"parts": [{"PartNumber": 1, "ETag": tag}]}
    assert client.post(f"{upload}/complete", query_string=key, json=parts).status_code == 200
    assert keeper.names() == ["a"]
    for path in ("/assets", "/download", "/getBucketConfig", "/start-upload"):
        assert client.get(f"{at}{path}").status_code == 404


def test_a_session_replaces_nothing_that_is_there(keeper: Keeper) -> None:
    """Whoever has a page would show other bytes under an asset that others have sent."""
    at, kept = f"{opened(keeper)}/s3", keeper.keep(b"one")
    body = {"filename": "a", "metadata": {"assetId": kept["assetId"]}}
    form = {"metadata[assetId]": kept["assetId"]}
    for refused in (
        keeper.client.post(f"{at}/multipart", json=body),
        keeper.client.get(f"{at}/params", query_string=form),
    ):
        assert error(refused) == (403, "FORBIDDEN")
        assert "with a key" in refused.json["message"]
    again = keeper.call("POST", "/s3/multipart", json=body)
    assert "/v2." in again.json["key"]
    assert "/incoming/" in keeper.params(**form).json["fields"]["key"]
    assert keeper.fetch(kept["assetId"]) == b"one"


def test_a_session_ends_with_its_time_and_with_its_key(
    app: Flask, keeper: Keeper, monkeypatch: Any
) -> None:
    at = f"{opened(keeper, expiresIn=60)}/s3/params"
    assert keeper.client.get(at).status_code == 200
    now = clock.now()
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: now + timedelta(seconds=61))
        assert error(keeper.client.get(at)) == (401, "UNAUTHORIZED")
    with app.app_context():
        accounts.revoke_key(keeper.prefix)
    assert error(keeper.client.get(at)) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("wrong", ["x", "a.b.c", "..", "0.0.9999999999", "é"])
def test_a_made_up_session_is_none(keeper: Keeper, wrong: str) -> None:
    assert error(keeper.client.get(f"/s3/as/{wrong}/s3/params"))[0] == 401
    real = opened(keeper)
    assert error(keeper.client.get(f"{real}x/s3/params"))[0] == 401
    for seconds in (0, 86401, "long"):
        answer = keeper.call("POST", "/s3/sessions", json={"expiresIn": seconds})
        assert error(answer)[0] == 400


def test_a_page_of_another_origin_may_ask_in_a_session_and_nowhere_else(keeper: Keeper) -> None:
    at = f"{opened(keeper)}/s3/multipart"
    origin = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
    asked = keeper.client.options(at, headers=origin)
    assert asked.status_code in (200, 204)
    assert asked.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert asked.headers["Access-Control-Allow-Headers"] == "*"
    for path in (at, "/s3/as/wrong/s3/params"):
        assert keeper.client.get(path).headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Origin" not in keeper.call("GET", "/s3/assets").headers
    assert "Access-Control-Allow-Origin" not in keeper.client.options("/s3/multipart").headers


def test_pages_make_so_many_uploads_an_hour_and_programs_more(
    keeper: Keeper, configure: Configure
) -> None:
    at = f"{opened(keeper)}/s3/params"
    configure(max_creates_per_hour=2)
    base = {"environ_base": {"REMOTE_ADDR": "203.0.113.77"}}
    codes = [keeper.client.get(at, **base).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    refused = keeper.client.get(at, **base)
    assert error(refused) == (429, "TOO_MANY")
    assert refused.headers["Retry-After"]
    assert keeper.call("GET", "/s3/params", **base).status_code == 200


def test_what_is_in_a_session_is_cut_from_logs(keeper: Keeper) -> None:
    path = opened(keeper)
    assert redacted(f"GET {path}/s3/params") == "GET /s3/as/.../s3/params"
    assert re.search(r"/s3/as/[\w.-]{60,}", path)


# -- the bucket ----------------------------------------------------------------------------------


THEIRS = {"AllowedOrigins": ["https://app.example.org"], "AllowedMethods": ["PUT", "POST"]}


@pytest.fixture
def rules_stay(app: Flask) -> Any:
    """Before and after, the bucket has our rule only."""
    storage.set_cors_rules([], settings.origins)
    yield
    storage.set_cors_rules([], settings.origins)


@pytest.mark.usefixtures("rules_stay")
def test_rules_of_the_bucket_are_read_and_set_and_ours_stays(keeper: Keeper) -> None:
    (ours,) = keeper.get("/getBucketConfig").json["CORSRules"]
    assert "ETag" in ours["ExposeHeaders"]
    assert {"PUT", "POST"} <= set(ours["AllowedMethods"])
    rule = THEIRS | {"ExposeHeaders": ["ETag"], "AllowedHeaders": ["*"], "MaxAgeSeconds": 60}
    answer = keeper.call("POST", "/s3/updateBucketConfig", json={"CORSRules": [ours, rule]})
    assert (answer.status_code, answer.json) == (200, {"success": True})
    assert keeper.get("/getBucketConfig").json["CORSRules"] == [ours, rule]
    # A deployment sets the bucket up again, and must not shut these pages out.
    storage.setup(settings.origins, abort_after_days=9)
    assert keeper.get("/getBucketConfig").json["CORSRules"] == [ours, rule]
    keeper.call("POST", "/s3/updateBucketConfig", json={"CORSRules": []})
    assert keeper.get("/getBucketConfig").json["CORSRules"] == [ours]


@pytest.mark.parametrize(
    "rules",
    [
        "all",
        [1],
        [{}],
        [THEIRS | {"AllowedMethods": ["PATCH"]}],
        [THEIRS | {"AllowedOrigins": "*"}],
        [THEIRS | {"AllowedOrigins": ["https://*.*"]}],
        [THEIRS | {"AllowedOrigins": ["a b"]}],
        [THEIRS | {"AllowedHeaders": ["x-*-*"]}],
        [THEIRS | {"ExposeHeaders": ["*"]}],
        [THEIRS | {"ExposeHeaders": ["ETag:"]}],
        [THEIRS | {"MaxAgeSeconds": -1}],
        [THEIRS | {"MaxAgeSeconds": True}],
        [THEIRS | {"ID": 1}],
        [THEIRS | {"More": 1}],
        [THEIRS] * 100,
    ],
)
def test_rules_that_storage_would_not_take_are_refused(keeper: Keeper, rules: Any) -> None:
    answer = keeper.call("POST", "/s3/updateBucketConfig", json={"CORSRules": rules})
    assert error(answer) == (400, "INVALID_PARAMETER")


@pytest.mark.usefixtures("rules_stay")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, "UNSUPPORTED_MEDIA_TYPE"),
        ("null", "INVALID_PARAMETER"),
        ("[]", "INVALID_PARAMETER"),
        ("0", "INVALID_PARAMETER"),
        ("false", "INVALID_PARAMETER"),
        ("{}", "MISSING_PARAMETER"),
        ('{"CORSRules": null}', "MISSING_PARAMETER"),
        ('{"corsRules": []}', "MISSING_PARAMETER"),
        ('{"CORSRules": [], "more": 1}', "INVALID_PARAMETER"),
    ],
)
def test_only_an_empty_list_takes_all_rules_away(
    keeper: Keeper, body: str | None, code: str
) -> None:
    keeper.call("POST", "/s3/updateBucketConfig", json={"CORSRules": [THEIRS]})
    before = keeper.get("/getBucketConfig").json
    assert len(before["CORSRules"]) == 2
    sent = {} if body is None else {"data": body, "content_type": "application/json"}
    assert error(keeper.call("POST", "/s3/updateBucketConfig", **sent))[1] == code
    assert keeper.get("/getBucketConfig").json == before


def test_the_bucket_lets_a_page_read_the_etag(keeper: Keeper) -> None:
    """Without it Uppy 5 waits for ever."""
    started = keeper.start()
    asked = {"UploadId": started["uploadId"], "assetId": started["assetId"], "PartNumber": 1}
    url = keeper.get("/get-upload-url", **asked).json["url"]
    answer = put(url, b"1", {"Origin": settings.base_url})
    assert "etag" in answer.headers["Access-Control-Expose-Headers"].lower()
