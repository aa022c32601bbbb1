"""/s3: each row of its contract, for the asset service and for Uppy, and each of its errors."""

import hashlib
import os
import re
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import urllib3
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, select, update

from app import clock
from app.config import MIB, settings
from app.db import db, transaction
from app.errors import NotFound, Outage
from app.extensions import storage
from app.gateways.s3_answers import OBJECT_TYPE, Away
from app.models import Asset, AssetVersion, Scope, Upload, UploadState
from app.redaction import redacted
from app.services import accounts, asset_upkeep, assets, thumbnails, upkeep
from tests.factories import http, put
from tests.keeper import Keeper, post_form
from tests.pictures import drawn, encoded
from tests.watching import Watch

Configure = Callable[..., None]
PART = 5 * MIB
NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def keeper(client: FlaskClient) -> Keeper:
    return Keeper(client)


@pytest.fixture
def stranger(client: FlaskClient) -> Keeper:
    return Keeper(client, "Other")


def version_of(key: str) -> AssetVersion:
    return db.session.scalars(
        select(AssetVersion)
        .join(AssetVersion.upload)
        .where(Upload.key == key)
        .execution_options(populate_existing=True)
    ).one()


def upload_at(key: str) -> Upload | None:
    found = select(Upload).where(Upload.key == key).execution_options(populate_existing=True)
    return db.session.scalar(found)


def error(answer: Any) -> tuple[int, str]:
    """Status and code of an error, which is in the shape of this dialect."""
    assert set(answer.json) == {"error", "message", "code"}, answer.json
    assert answer.json["error"] == answer.json["message"]
    return answer.status_code, answer.json["code"]


# -- the asset service ---------------------------------------------------------------------------


def test_an_asset_goes_all_the_way(keeper: Keeper) -> None:
    bodies = (b"a" * PART, b"the end")
    started = keeper.start(fileName="Höhe.TXT", fileSize=PART + 7, tags="one, two,one")
    assert set(started) == {"uploadId", "assetId", "key"}
    at = f"{settings.s3_prefix}{keeper.workspace}"
    assert started["key"] == f"{at}/digital_assets/{started['assetId']}.txt"
    asked = {"UploadId": started["uploadId"], "assetId": started["assetId"]}
    signed = keeper.get("/get-upload-url", PartNumber=1, **asked)
    assert (signed.status_code, set(signed.json)) == (200, {"url", "expiresIn"})
    assert signed.json["expiresIn"] == 3600
    parts = keeper.send(started, *bodies)
    parts[1]["ETag"] = parts[1]["ETag"].strip('"')
    for _ in range(2):
        done = keeper.complete(started, parts)
        assert done.status_code == 200, done.text
        assert set(done.json) == {"success", "location", "key", "etag"}
        assert (done.json["success"], done.json["key"]) == (True, started["key"])
        assert done.json["location"].endswith(f"/{started['key']}")
    shown = keeper.show(started["assetId"])
    assert (shown["name"], shown["size"], shown["tags"]) == ("Höhe.TXT", PART + 7, ["one", "two"])
    assert shown["etag"] == done.json["etag"]
    assert keeper.fetch(started["assetId"]) == b"".join(bodies)


def test_a_download_is_led_to_storage_under_its_name(keeper: Keeper) -> None:
    name = unicodedata.normalize("NFD", "Zoë — 日本.txt")
    kept = keeper.keep(b"bytes", fileName=name)
    assert kept["name"] == name
    led = keeper.get("/download", key=kept["key"])
    assert led.status_code == 302
    answer = http.request("GET", led.headers["Location"])
    assert answer.data == b"bytes"
    assert "filename*=UTF-8''Zoe" in answer.headers["Content-Disposition"]
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_download_url_lives_as_long_as_was_asked(keeper: Keeper) -> None:
    kept = keeper.keep()
    answer = keeper.get("/download-url", assetId=kept["assetId"], expiresIn=7200)
    assert (answer.json["expiresIn"], "X-Amz-Expires=7200" in answer.json["url"]) == (7200, True)
    assert keeper.get("/download-url", assetId=kept["assetId"]).json["expiresIn"] == 300
    for wrong in (0, 604801, "soon", -1):
        answer = keeper.get("/download-url", assetId=kept["assetId"], expiresIn=wrong)
        assert error(answer) == (400, "INVALID_PARAMETER")


def test_versions_lie_at_keys_of_their_own_and_the_newest_is_shown(keeper: Keeper) -> None:
    first = keeper.keep(b"one", fileName="a.txt")
    second = keeper.keep(b"two!", assetId=first["assetId"], fileName="b.md", fileType="text/x-md")
    assert second["assetId"] == first["assetId"]
    at = f"{settings.s3_prefix}{keeper.workspace}/versions/{first['assetId']}"
    assert second["key"] == f"{at}/v2.md"
    assert (second["version"], second["name"], second["size"]) == (2, "b.md", 4)
    assert [one["version"] for one in second["versions"]] == [2, 1]
    assert keeper.fetch(first["assetId"]) == b"two!"
    assert keeper.fetch(first["assetId"], version=1) == b"one"
    # What nobody completes leaves its number unused: a key is never used again.
    begun = keeper.start(assetId=first["assetId"])
    assert begun["key"].endswith("/v3.bin") or begun["key"].endswith("/v3.txt")
    abort = {"uploadId": begun["uploadId"], "assetId": begun["assetId"]}
    assert keeper.post("/abort-upload", **abort).json == {"success": True}
    assert "/v4." in keeper.keep(b"three", assetId=first["assetId"])["key"]


def test_tags_are_those_of_a_new_asset(keeper: Keeper) -> None:
    asset_id = keeper.keep(b"1", tags="first")["assetId"]
    assert keeper.keep(b"2", assetId=asset_id, tags="second")["tags"] == ["first"]


def test_an_older_version_that_arrives_late_is_not_shown(keeper: Keeper) -> None:
    asset_id = keeper.keep(b"1")["assetId"]
    late = keeper.start(assetId=asset_id)
    parts = keeper.send(late, b"late")
    keeper.keep(b"newest", assetId=asset_id)
    assert keeper.complete(late, parts).status_code == 200
    assert keeper.fetch(asset_id) == b"newest"


def test_a_version_without_a_name_keeps_the_name_the_asset_has_when_it_arrives(
    keeper: Keeper,
) -> None:
    asset_id = keeper.keep(b"1", fileName="a.txt")["assetId"]
    unnamed = keeper.start(assetId=asset_id)
    parts = keeper.send(unnamed, b"2")
    keeper.call("PATCH", f"/s3/assets/{asset_id}", json={"name": "renamed.txt"})
    assert keeper.complete(unnamed, parts).status_code == 200
    assert keeper.show(asset_id)["name"] == "renamed.txt"
    assert keeper.names(q="renamed") == ["renamed.txt"]
    # Once another version is shown, it is given out under the name that it had.
    keeper.keep(b"3", assetId=asset_id, fileName="c.txt")
    url = keeper.get("/download-url", assetId=asset_id, version=2).json["url"]
    answer = http.request("GET", url)
    assert answer.headers["Content-Disposition"].endswith("''renamed.txt")


@pytest.mark.parametrize("by", ["key", "assetId"])
@pytest.mark.usefixtures("inside")
def test_delete_takes_the_versions_and_thumbnails_along(
    keeper: Keeper, queued: list, by: str
) -> None:
    photo = encoded(drawn(), "JPEG")
    kept = keeper.keep(photo, fileName="a.jpg", fileType="image/jpeg")
    keeper.picture(version_of(kept["key"]).id)
    kept = keeper.keep(photo, assetId=kept["assetId"], fileName="a.jpg", fileType="image/jpeg")
    keeper.picture(version_of(kept["key"]).id)
    at = f"{settings.s3_prefix}{keeper.workspace}/thumbnails/{kept['assetId']}"
    keys = [one["key"] for one in kept["versions"]] + [f"{at}.jpg", f"{at}/v2.jpg"]
    assert all(storage.head(key) for key in keys)
    queued.clear()
    query = {"workspaceId": keeper.workspace, by: kept[by]}
    answer = keeper.call("DELETE", "/s3/delete", query_string=query)
    assert (answer.status_code, answer.json) == (200, {"success": True})
    assert queued == [("upkeep.remove_bytes",)]
    upkeep.remove_bytes()
    assert [storage.head(key) for key in keys] == [None] * 4
    assert error(keeper.call("DELETE", "/s3/delete", query_string=query)) == (404, "NOT_FOUND")
    assert error(keeper.get(f"/assets/{kept['assetId']}")) == (404, "NOT_FOUND")


@pytest.mark.usefixtures("inside")
def test_an_abort_drops_the_parts_and_a_complete_one_is_not_aborted(keeper: Keeper) -> None:
    started = keeper.start()
    keeper.send(started, b"half")
    abort = {"uploadId": started["uploadId"], "assetId": started["assetId"]}
    assert keeper.post("/abort-upload", **abort).json == {"success": True}
    assert error(keeper.post("/abort-upload", **abort)) == (404, "INVALID_UPLOAD_ID")
    upkeep.remove_bytes()
    with pytest.raises(Exception, match=r"NoSuchUpload|does not exist"):
        storage.list_parts(started["key"], started["uploadId"])
    kept = keeper.start()
    keeper.complete(kept, keeper.send(kept, b"whole"))
    abort = {"uploadId": kept["uploadId"], "assetId": kept["assetId"]}
    assert error(keeper.post("/abort-upload", **abort)) == (409, "WRONG_STATE")
    assert keeper.fetch(kept["assetId"]) == b"whole"


@pytest.mark.usefixtures("inside")
def test_the_later_of_two_simultaneous_aborts_finds_no_upload(keeper: Keeper) -> None:
    started = keeper.start()
    found = assets.upload_of(accounts.authenticate(keeper.key), started["uploadId"])
    assets.abort(found)
    with pytest.raises(NotFound):
        assets.abort(found)


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        (lambda parts: parts[:1], (400, "INVALID_PARAMETER"), "every part"),
        (lambda parts: [*parts, {"PartNumber": 3, "ETag": "x"}], (409, "UPLOAD_FAILED"), "part 3"),
        (lambda parts: [parts[0], parts[1] | {"ETag": '"0"'}], (409, "UPLOAD_FAILED"), "part 2"),
        (lambda parts: [parts[0], parts[0]], (400, "INVALID_PARAMETER"), "repeat"),
        (lambda parts: [], (400, "INVALID_PARAMETER"), "list"),
        (lambda parts: None, (400, "MISSING_PARAMETER"), "required"),
        (lambda parts: ["1"], (400, "INVALID_PARAMETER"), "object"),
        (lambda parts: [{"PartNumber": "1", "ETag": "x"}], (400, "INVALID_PARAMETER"), "number"),
        (lambda parts: [{"PartNumber": 1}], (400, "MISSING_PARAMETER"), "ETag"),
    ],
)
def test_complete_believes_storage_and_names_what_is_wrong(
    keeper: Keeper, change: Any, expected: Any, words: str
) -> None:
    started = keeper.start()
    parts = keeper.send(started, b"a" * PART, b"b")
    answer = keeper.complete(started, change(parts))
    assert error(answer) == expected
    assert words in answer.json["error"]
    # Nothing is lost by it.
    assert keeper.complete(started, parts).status_code == 200


def test_sizes_are_those_of_storage_and_must_be_those_announced(keeper: Keeper) -> None:
    started = keeper.start(fileSize=6)
    answer = keeper.complete(started, keeper.send(started, b"12345"))
    assert error(answer) == (409, "UPLOAD_FAILED")
    assert answer.json["error"] == "Expected 6 bytes, and found 5."
    assert keeper.complete(started, keeper.send(started, b"123456")).status_code == 200
    small = keeper.start()
    answer = keeper.complete(small, keeper.send(small, b"a" * MIB, b"b"))
    assert error(answer) == (409, "UPLOAD_FAILED")
    gap = keeper.start()
    parts = keeper.send(gap, b"a" * PART, b"b" * PART)
    asked = {"UploadId": gap["uploadId"], "assetId": gap["assetId"], "PartNumber": 4}
    tag = put(keeper.get("/get-upload-url", **asked).json["url"], b"c").headers["ETag"]
    answer = keeper.complete(gap, [*parts, {"PartNumber": 4, "ETag": tag}])
    assert error(answer) == (409, "UPLOAD_FAILED")
    assert answer.json["error"] == "Part 3 is missing."


def test_limits_are_those_of_the_installation(keeper: Keeper, configure: Configure) -> None:
    configure(max_file_size=5)
    answer = keeper.get("/start-upload", fileType="a/b", fileSize=6)
    assert error(answer) == (400, "INVALID_PARAMETER")
    started = keeper.start()
    answer = keeper.complete(started, keeper.send(started, b"123456"))
    assert error(answer) == (400, "INVALID_PARAMETER")
    form = keeper.params().json
    assert post_form(form, b"123456").status == 400
    assert post_form(form, b"12345").status == 201


@pytest.mark.usefixtures("inside")
def test_a_complete_whose_answer_was_lost_is_found_to_be_done(
    keeper: Keeper, monkeypatch: Any
) -> None:
    started = keeper.start()
    parts = keeper.send(started, b"bytes")

    def away(*_: Any) -> None:
        raise Outage

    with monkeypatch.context() as patch:
        patch.setattr(storage, "head", away)
        assert keeper.complete(started, parts).status_code == 503
    assert version_of(started["key"]).ready_at is None
    assert keeper.complete(started, parts).status_code == 200
    assert keeper.fetch(started["assetId"]) == b"bytes"


def test_storage_that_is_away_is_told_as_such(keeper: Keeper, monkeypatch: Any) -> None:
    started = keeper.start()

    def away(*_: Any) -> None:
        raise Outage("Storage is not answering right now.")

    monkeypatch.setattr(storage, "list_parts", away)
    answer = keeper.complete(started, [{"PartNumber": 1, "ETag": "x"}])
    assert error(answer) == (503, "S3_ERROR")
    assert answer.headers["Retry-After"] == "5"


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


# -- search --------------------------------------------------------------------------------------


def test_search_by_words_type_tag_and_date(keeper: Keeper) -> None:
    keeper.keep(
        fileName="Summer_Photo-2024.JPG", fileType="image/jpeg", tags="holiday,Café au lait"
    )
    keeper.keep(fileName="report.pdf", fileType="application/pdf", tags="2024")
    keeper.keep(fileName="ΣΊΣΥΦΟΣ отчёт.txt")
    assert len(keeper.names()) == 3
    for words, found in {
        "photo": ["Summer_Photo-2024.JPG"],
        "summ 2024": ["Summer_Photo-2024.JPG"],
        "CAFÉ": ["Summer_Photo-2024.JPG"],
        unicodedata.normalize("NFD", "café"): ["Summer_Photo-2024.JPG"],
        "2024": ["report.pdf", "Summer_Photo-2024.JPG"],
        "pdf": ["report.pdf"],
        "отчёт": ["ΣΊΣΥΦΟΣ отчёт.txt"],
        "σίσυφος": ["ΣΊΣΥΦΟΣ отчёт.txt"],
        "nothing": [],
        "' | & ! :* (": [],
        "\\": [],
    }.items():
        assert keeper.names(q=words) == found, words
    assert keeper.names(type="image") == ["Summer_Photo-2024.JPG"]
    assert keeper.names(type="application/pdf") == ["report.pdf"]
    assert keeper.names(type="%") == []
    assert keeper.names(type="IMAGE/jpeg") == ["Summer_Photo-2024.JPG"]
    assert keeper.names(tag="holiday") == ["Summer_Photo-2024.JPG"]
    assert keeper.names(tag="Café au lait", q="photo") == ["Summer_Photo-2024.JPG"]
    later = f"{clock.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    assert len(keeper.names(to=later)) == 3
    assert keeper.names(**{"from": later}) == []


def test_a_type_is_found_whatever_its_capitals_and_parameters(keeper: Keeper) -> None:
    keeper.keep(fileName="1", fileType="text/plain; charset=utf-8")
    keeper.keep(fileName="2", fileType="text/plain ;charset=utf-8")
    keeper.keep(fileName="3", fileType="IMAGE/PNG")
    keeper.keep(fileName="4", fileType="text/plainer")
    assert keeper.names(type="text/plain") == ["2", "1"]
    assert keeper.names(type="text/plain; charset=UTF-8") == ["1"]
    assert keeper.names(type="image/png") == keeper.names(type="Image") == ["3"]


def test_pages_come_with_one_query_for_items_and_one_for_the_count(keeper: Keeper) -> None:
    for number in range(5):
        keeper.keep(fileName=f"{number}.txt")
    asked: list[str] = []

    def note(_c: Any, _x: Any, statement: str, *_rest: Any) -> None:
        if "FROM asset" in statement:
            asked.append(statement)

    with keeper.client.application.app_context():
        bind = db.session.get_bind()
    event.listen(bind, "before_cursor_execute", note)
    page = keeper.get("/assets", limit=2, offset=1).json
    event.remove(bind, "before_cursor_execute", note)
    assert [one["name"] for one in page["items"]] == ["3.txt", "2.txt"]
    assert (page["limit"], page["offset"], page["total_count"]) == (2, 1, 5)
    assert len(asked) == 2


def test_an_asset_is_renamed_and_tagged(keeper: Keeper) -> None:
    kept = keeper.keep(fileName="old.txt", tags="a")
    at = f"/s3/assets/{kept['assetId']}"
    edited = keeper.call("PATCH", at, json={"name": "new.txt"})
    assert (edited.status_code, edited.json["name"], edited.json["tags"]) == (200, "new.txt", ["a"])
    keeper.call("PATCH", at, json={"tags": ["b", "b", "c"]})
    assert keeper.show(kept["assetId"])["tags"] == ["b", "c"]
    assert (keeper.names(q="old"), keeper.names(q="new"), keeper.names(tag="c")) == (
        [],
        ["new.txt"],
        ["new.txt"],
    )
    for wrong in ({"name": ""}, {"tags": "a"}, {"tags": [""]}, {"key": "x"}, []):
        assert keeper.call("PATCH", at, json=wrong).status_code == 400


# -- thumbnails ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("inside")
def test_a_picture_is_made_by_the_maker_and_shown(keeper: Keeper, queued: list) -> None:
    kept = keeper.keep(encoded(drawn(), "PNG"), fileName="a.png", fileType="image/png")
    version = version_of(kept["key"])
    assert ("thumbnails.make", str(version.id)) in queued
    assert kept["thumbnailUrl"] is None
    for _ in range(2):  # a job may run twice
        keeper.picture(version.id)
    answer = http.request("GET", keeper.show(kept["assetId"])["thumbnailUrl"])
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert answer.data.startswith(b"\xff\xd8\xff")
    at = f"{settings.s3_prefix}{keeper.workspace}/thumbnails/{kept['assetId']}.jpg"
    assert storage.head(at) is not None


@pytest.mark.usefixtures("inside")
def test_a_picture_is_made_of_what_was_copied_anew(keeper: Keeper) -> None:
    """As in a bucket that was moved, by a tool that does not cut its objects into parts."""
    photo = encoded(drawn(), "PNG")
    kept = keeper.keep(photo, fileName="a.png", fileType="image/png")
    version = version_of(kept["key"])
    (upload,) = db.session.scalars(select(Upload).where(Upload.key == kept["key"]))
    storage.put_object(upload.key, upload.token, photo, OBJECT_TYPE)
    keeper.picture(version.id)
    assert keeper.show(kept["assetId"])["thumbnailUrl"] is None
    with transaction():
        db.session.execute(update(AssetVersion).values(claimed_until=None))
    db.session.expire_all()
    keeper.picture(version.id)
    assert keeper.show(kept["assetId"])["thumbnailUrl"] is not None


@pytest.mark.usefixtures("inside")
def test_what_cannot_be_seen_has_no_picture(keeper: Keeper, queued: list) -> None:
    broken = keeper.keep(b"no picture at all", fileName="a.png", fileType="image/png")
    keeper.picture(version_of(broken["key"]).id)
    assert keeper.show(broken["assetId"])["thumbnailUrl"] is None
    queued.clear()
    keeper.keep(b"words", fileName="a.txt")
    assert not any(job[0] == "thumbnails.make" for job in queued)


@pytest.mark.usefixtures("inside")
def test_a_lost_reminder_of_a_picture_is_repeated(keeper: Keeper, queued: list) -> None:
    kept = keeper.keep(encoded(drawn(), "PNG"), fileName="a.png", fileType="image/png")
    version = version_of(kept["key"])
    queued.clear()
    upkeep.requeue_stuck()
    assert not any(job[0] == "thumbnails.make" for job in queued)
    with transaction():
        db.session.execute(
            update(AssetVersion).values(queued_at=clock.now() - timedelta(minutes=5))
        )
    upkeep.requeue_stuck()
    assert ("thumbnails.make", str(version.id)) in queued


# -- Uppy's companion ----------------------------------------------------------------------------


def test_uppys_multipart_row_by_row(keeper: Keeper) -> None:
    body = {"filename": "Ünï.txt", "type": "text/plain", "metadata": {"tags": "up", "x": 1}}
    made = keeper.call("POST", "/s3/multipart", json=body)
    assert made.status_code == 200
    assert set(made.json) == {"key", "uploadId", "bucket"}
    at, key = f"/s3/multipart/{made.json['uploadId']}", {"key": made.json["key"]}
    signed = keeper.call("GET", f"{at}/1", query_string=key)
    assert (signed.status_code, set(signed.json)) == (200, {"url", "expires"})
    batch = keeper.call("GET", f"{at}/batch", query_string=key | {"partNumbers": "1,2"})
    urls = batch.json["presignedUrls"]
    assert set(urls) == {"1", "2"}
    tags = [put(urls[n], b).headers["ETag"] for n, b in (("1", b"a" * PART), ("2", b"b"))]
    held = keeper.call("GET", at, query_string=key)
    assert held.json == [
        {"PartNumber": 1, "ETag": tags[0], "Size": PART},
        {"PartNumber": 2, "ETag": tags[1], "Size": 1},
    ]
    parts = [{"PartNumber": 1, "ETag": tags[0].strip('"')}, {"PartNumber": 2, "ETag": tags[1]}]
    for _ in range(2):
        done = keeper.call("POST", f"{at}/complete", query_string=key, json={"parts": parts})
        assert (done.status_code, set(done.json)) == (200, {"location", "key", "bucket"})
    assert keeper.names(tag="up") == ["Ünï.txt"]
    assert error(keeper.call("GET", f"{at}/1", query_string=key)) == (409, "WRONG_STATE")
    assert error(keeper.call("DELETE", at, query_string=key)) == (409, "WRONG_STATE")


def test_uppys_abort(keeper: Keeper) -> None:
    made = keeper.call("POST", "/s3/multipart", json={"filename": "a", "type": "a/b"}).json
    at, key = f"/s3/multipart/{made['uploadId']}", {"key": made["key"]}
    done = keeper.call("DELETE", at, query_string=key)
    assert (done.status_code, done.json) == (200, {})
    assert error(keeper.call("GET", at, query_string=key)) == (404, "INVALID_UPLOAD_ID")


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("GET", "{at}/0", {}),
        ("GET", "{at}/10001", {}),
        ("GET", "{at}/1000000000000000000000", {}),
        ("GET", "{at}/batch", {"query": {"partNumbers": "1,,2"}}),
        ("GET", "{at}/batch", {}),
        ("GET", "{at}/1", {"query": {"key": ""}}),
        ("POST", "/s3/multipart", {"json": []}),
        ("POST", "/s3/multipart", {"json": {"filename": 1}}),
        ("POST", "/s3/multipart", {"json": {"metadata": []}}),
        ("POST", "/s3/multipart", {"json": {"metadata": {"fileSize": "x"}}}),
        ("POST", "{at}/complete", {"json": {}}),
    ],
)
def test_what_uppy_gets_wrong_is_told(
    keeper: Keeper, method: str, path: str, given: dict[str, Any]
) -> None:
    made = keeper.call("POST", "/s3/multipart", json={"filename": "a", "type": "a/b"}).json
    query = {"key": made["key"]} | given.pop("query", {})
    at = f"/s3/multipart/{made['uploadId']}"
    answer = keeper.call(method, path.format(at=at), query_string=query, **given)
    assert error(answer)[0] == 400


@pytest.mark.usefixtures("inside")
def test_a_form_is_for_one_concrete_key_and_what_comes_is_kept(keeper: Keeper) -> None:
    given = {"filename": "näme.txt", "metadata[tags]": "form", "metadata[name]": "x"}
    answer = keeper.params(**given)
    assert (answer.status_code, set(answer.json)) == (200, {"method", "url", "fields", "expires"})
    form = answer.json
    assert form["method"] == "POST"
    assert form["url"].endswith("/")
    assert not {"file", "success_action_redirect"} & set(form["fields"])
    assert "$" not in form["fields"]["key"]
    posted = post_form(form, b"small")
    assert posted.status in (200, 201, 204)
    assert posted.headers["ETag"]
    assert keeper.names(tag="form") == []
    assert asset_upkeep.confirm_posted() == 1
    assert keeper.names(tag="form") == ["näme.txt"]
    led = keeper.get("/download", key=form["fields"]["key"])
    assert http.request("GET", led.headers["Location"]).data == b"small"
    (item,) = keeper.get("/assets").json["items"]
    assert item["key"].endswith(f"/digital_assets/{item['assetId']}.txt")


@pytest.mark.usefixtures("inside")
def test_whoever_asks_for_what_a_form_brought_need_not_wait_for_the_sweep(keeper: Keeper) -> None:
    form = keeper.params().json
    key = form["fields"]["key"]
    assert error(keeper.get("/download", key=key)) == (404, "NOT_FOUND")
    post_form(form, b"now")
    led = keeper.get("/download", key=key)
    assert http.request("GET", led.headers["Location"]).data == b"now"
    assert keeper.names() == ["small.txt"]


@pytest.mark.usefixtures("inside")
def test_a_form_that_is_sent_again_changes_nothing(keeper: Keeper) -> None:
    form = keeper.params().json
    post_form(form, b"first")
    assert keeper.get("/download", key=form["fields"]["key"]).status_code == 302
    post_form(form, b"second")
    upkeep.remove_bytes()
    led = keeper.get("/download", key=form["fields"]["key"])
    assert http.request("GET", led.headers["Location"]).data == b"first"


@pytest.mark.usefixtures("inside")
def test_what_is_swapped_while_it_is_copied_is_not_taken(keeper: Keeper, monkeypatch: Any) -> None:
    form = keeper.params().json
    key = form["fields"]["key"]
    post_form(form, b"first")
    head = storage.head

    def swapping(at: str, **given: Any) -> Any:
        found = head(at, **given)
        post_form(form, b"second")
        return found

    monkeypatch.setattr(storage, "head", swapping)
    assert error(keeper.get("/download", key=key))[0] == 404
    assert keeper.names() == []


@pytest.mark.parametrize("step", ["head", "copy_whole"])
@pytest.mark.usefixtures("inside")
def test_who_asks_while_the_sweep_keeps_what_a_form_brought_gets_it(
    keeper: Keeper, monkeypatch: Any, step: str
) -> None:
    form = keeper.params().json
    post_form(form, b"once")
    honest = getattr(storage, step)

    def outrun(*given: Any) -> Any:
        monkeypatch.setattr(storage, step, honest)
        assert asset_upkeep.confirm_posted() == 1
        upkeep.remove_bytes()
        return honest(*given)

    monkeypatch.setattr(storage, step, outrun)
    led = keeper.get("/download", key=form["fields"]["key"])
    assert led.status_code == 302, led.text
    answer = http.request("GET", led.headers["Location"])
    assert answer.data == b"once"
    assert answer.headers["Content-Disposition"].endswith("''small.txt")


@pytest.mark.usefixtures("inside")
def test_a_copy_that_lands_after_its_asset_was_deleted_is_removed_too(
    keeper: Keeper, monkeypatch: Any
) -> None:
    form = keeper.params().json
    posted = form["fields"]["key"]
    post_form(form, b"bytes")
    landed: list[str] = []

    def landing_late(source: Any, key: str, token: str) -> None:
        query = {"workspaceId": keeper.workspace, "key": posted}
        assert keeper.call("DELETE", "/s3/delete", query_string=query).status_code == 200
        upkeep.remove_bytes()
        storage.put_object(key, token, b"bytes", "text/plain")
        landed.append(key)

    monkeypatch.setattr(storage, "copy_whole", landing_late)
    assert error(keeper.get("/download", key=posted))[0] == 404
    assert storage.head(landed[0]) is not None
    with transaction():
        db.session.execute(update(Upload).values(urls_until=clock.now() - timedelta(hours=1)))
        due = update(Upload).where(Upload.removed_at.is_(None))
        db.session.execute(due.values(remove_after=clock.now()))
    upkeep.remove_bytes()
    assert storage.head(landed[0]) is None


def test_a_copy_that_outlived_the_request_for_it_is_found_by_the_next(
    keeper: Keeper, monkeypatch: Any
) -> None:
    form = keeper.params().json
    post_form(form, b"bytes")
    copy = storage.copy_whole

    def cut_off(*given: Any) -> None:
        copy(*given)
        raise Away

    monkeypatch.setattr(storage, "copy_whole", cut_off)
    assert keeper.get("/download", key=form["fields"]["key"]).status_code == 503
    monkeypatch.setattr(storage, "copy_whole", None)
    again = keeper.get("/download", key=form["fields"]["key"])
    assert http.request("GET", again.headers["Location"]).data == b"bytes"


@pytest.mark.usefixtures("inside")
def test_nothing_is_copied_for_an_asset_that_was_deleted_meanwhile(
    keeper: Keeper, monkeypatch: Any
) -> None:
    form = keeper.params().json
    posted = form["fields"]["key"]
    post_form(form, b"bytes")
    head = storage.head

    def deleting(*given: Any) -> Any:
        found = head(*given)
        query = {"workspaceId": keeper.workspace, "key": posted}
        assert keeper.call("DELETE", "/s3/delete", query_string=query).status_code == 200
        return found

    monkeypatch.setattr(storage, "head", deleting)
    monkeypatch.setattr(storage, "copy_whole", None)
    assert error(keeper.get("/download", key=posted)) == (404, "NOT_FOUND")


def test_storage_refuses_what_a_form_does_not_allow(keeper: Keeper) -> None:
    form = keeper.params(**{"metadata[fileSize]": "5"}).json
    assert post_form(form, b"123456").status == 400
    assert post_form(form, b"1", key=f"{form['fields']['key']}x").status == 403
    assert post_form(form, b"1", **{"Content-Type": "text/html"}).status == 403


# -- sessions ------------------------------------------------------------------------------------


def opened(keeper: Keeper, **body: Any) -> str:
    """The path of a new session."""
    answer = keeper.call("POST", "/s3/sessions", json=body)
    assert answer.status_code == 201, answer.text
    assert set(answer.json) == {"url", "workspaceId", "expiresIn"}
    assert answer.json["workspaceId"] == keeper.workspace
    return answer.json["url"].removeprefix(settings.base_url)


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


# -- a small form --------------------------------------------------------------------------------


def form(keeper: Keeper, body: bytes, again: str | None = None, **fields: str) -> Any:
    """Send a form, and with `again` say by this key that it is the same as before."""
    file = {"file": (fields.pop("filename", "a.txt"), body, "text/plain")}
    given = {"workspaceId": keeper.workspace} | fields | file
    data, content_type = urllib3.encode_multipart_formdata(given)
    headers = {"Idempotency-Key": again} if again else {}
    return keeper.call(
        "POST", "/api/assets/upload", data=data, content_type=content_type, headers=headers
    )


def test_a_form_is_not_taken_unless_that_was_switched_on(keeper: Keeper) -> None:
    answer = form(keeper, b"1")
    assert error(answer) == (403, "FORBIDDEN")
    assert "/files" in answer.json["error"]


def test_a_small_form_is_an_asset(keeper: Keeper, stranger: Keeper, configure: Configure) -> None:
    configure(max_asset_form_size=3 * MIB)
    # More than any other request may be.
    body = b"x" * (2 * MIB + 1)
    answer = form(keeper, body, tags="a,b", filename="ü.txt")
    assert answer.status_code == 201
    assert (answer.json["name"], answer.json["tags"], answer.json["size"]) == (
        "ü.txt",
        ["a", "b"],
        len(body),
    )
    assert keeper.fetch(answer.json["assetId"]) == body
    again = form(keeper, b"2", assetId=answer.json["assetId"])
    assert (again.status_code, again.json["version"]) == (201, 2)
    assert error(form(stranger, b"2", assetId=answer.json["assetId"]))[0] == 404
    assert error(form(stranger, b"2", workspaceId=keeper.workspace))[0] == 403
    assert error(form(keeper, b"x" * (3 * MIB + 1)))[0] == 400
    assert error(form(keeper, b"x" * (4 * MIB))) == (413, "TOO_LARGE")
    nothing = keeper.call("POST", "/api/assets/upload", data={"workspaceId": keeper.workspace})
    assert error(nothing) == (400, "MISSING_PARAMETER")


@pytest.mark.usefixtures("inside")
def test_a_form_that_is_sent_again_under_its_key_is_one_asset(
    keeper: Keeper, configure: Configure
) -> None:
    """Each time with another boundary, as every client chooses one anew."""
    configure(max_asset_form_size=MIB)
    key = "k" * 20
    first, again = (form(keeper, b"1", key, tags="a") for _ in range(2))
    assert first.status_code == 201
    assert (again.status_code, again.json) == (201, first.json)
    assert len(keeper.names()) == 1
    for other in (form(keeper, b"2", key, tags="a"), form(keeper, b"1", key, tags="b")):
        assert error(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert form(keeper, b"1", tags="a").json["assetId"] != first.json["assetId"]
    # Another version of an asset is not made twice either.
    named = {"assetId": first.json["assetId"]}
    told = [form(keeper, b"3", "v" * 20, **named) for _ in range(2)]
    assert [one.json["version"] for one in told] == [2, 2]
    assert keeper.fetch(first.json["assetId"]) == b"3"


@pytest.mark.usefixtures("inside")
def test_a_form_that_storage_did_not_take_arrives_when_it_is_sent_again(
    keeper: Keeper, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(max_asset_form_size=MIB)

    def away(*given: Any) -> None:
        raise Outage

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put_object", away)
        assert form(keeper, b"1", "k" * 20).status_code == 503
    db.session.execute(update(Upload).values(urls_until=clock.now()))
    answer = form(keeper, b"1", "k" * 20)
    assert answer.status_code == 201
    assert keeper.fetch(answer.json["assetId"]) == b"1"
    assert db.session.query(AssetVersion).count() == 1
    # Deleted now, it would be removed once more when this attempt must be over.
    assert upload_at(answer.json["key"]).urls_until > clock.now()


# -- what time brings ----------------------------------------------------------------------------


def age(**by: Any) -> None:
    """All that is there was last touched so long ago, and its addresses have died."""
    past = clock.now() - timedelta(**by)
    with transaction():
        db.session.execute(update(AssetVersion).values(last_activity_at=past, look_after=past))
        db.session.execute(
            update(Upload).where(Upload.urls_until.is_not(None)).values(urls_until=past)
        )


@pytest.mark.usefixtures("inside")
def test_what_nobody_goes_on_with_is_aborted(keeper: Keeper) -> None:
    kept = keeper.keep()
    begun, new = keeper.start(), keeper.start(assetId=kept["assetId"])
    keeper.send(begun, b"half")
    form = keeper.params().json
    # What is noted may be a minute old: for so much longer nobody is given up.
    age(hours=24, seconds=30)
    assert asset_upkeep.abandon_stale() == 0
    age(hours=25)
    fresh = keeper.start()
    assert asset_upkeep.abandon_stale() == 3
    upkeep.remove_bytes()
    opens = {one.s3_upload_id for page in storage.open_uploads() for one in page}
    assert not {begun["uploadId"], new["uploadId"]} & opens
    assert fresh["uploadId"] in opens
    assert db.session.get(Asset, uuid.UUID(begun["assetId"])) is None
    assert upload_at(form["fields"]["key"]).state is UploadState.ABORTED
    assert keeper.show(kept["assetId"])["version"] == 1


@pytest.mark.usefixtures("inside")
def test_a_form_is_looked_after_until_it_is_dead(keeper: Keeper) -> None:
    keeper.params()
    assert asset_upkeep.confirm_posted() == 0
    (row,) = db.session.scalars(select(AssetVersion)).all()
    assert timedelta(seconds=10) < row.look_after - clock.now() < timedelta(seconds=40)
    # Not again at once.
    assert asset_upkeep._claim_looks() == []


@pytest.mark.usefixtures("inside")
def test_the_bucket_and_the_rows_agree_about_assets(
    keeper: Keeper, configure: Configure, monkeypatch: Any
) -> None:
    """Their keys are ours, whatever letters and slashes they have."""
    made = f"assets-{uuid.uuid4().hex[:8]}/"
    configure(s3_prefix=made)
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_prefix=made))
    photo = encoded(drawn(), "PNG")
    kept = [keeper.keep(photo, fileName="B.png", fileType="image/png") for _ in range(3)]
    kept.append(keeper.keep(photo, assetId=kept[0]["assetId"], fileName="c"))
    for one in kept:
        keeper.picture(version_of(one["key"]).id)
    post_form(keeper.params().json, b"1")
    asset_upkeep.confirm_posted()
    found = upkeep.find_orphans()
    assert (found.orphan_count, found.lost, found.lost_count) == (0, [], 0)
    storage.delete([kept[1]["key"]])
    assert upkeep.find_orphans().lost_count == 1
    assert upkeep.find_unknown_uploads().unknown == []


@pytest.mark.usefixtures("inside")
def test_deleted_while_it_is_completed_it_does_not_come_back(
    keeper: Keeper, monkeypatch: Any
) -> None:
    started = keeper.start()
    parts = keeper.send(started, b"1")
    finish = storage.finish_upload

    def late(*given: Any) -> None:
        finish(*given)
        version = version_of(started["key"])
        assets.abandon([version.id])

    monkeypatch.setattr(storage, "finish_upload", late)
    assert error(keeper.complete(started, parts))[0] == 404
    upkeep.remove_bytes()
    assert storage.head(started["key"]) is None
    assert keeper.names() == []


@pytest.mark.real_commits
def test_no_transaction_is_open_while_storage_is_asked(keeper: Keeper, watch: Watch) -> None:
    photo = encoded(drawn(), "PNG")
    kept = keeper.keep(photo, fileName="a.png", fileType="image/png")
    begun = keeper.start()
    keeper.call("GET", f"/s3/multipart/{begun['uploadId']}", query_string={"key": begun["key"]})
    form = keeper.params().json
    post_form(form, b"1")
    assert keeper.get("/download", key=form["fields"]["key"]).status_code == 302
    post_form(keeper.params().json, b"2")
    keeper.get("/getBucketConfig")
    with keeper.client.application.app_context():
        thumbnails.make(str(version_of(kept["key"]).id))
        assert asset_upkeep.confirm_posted() == 1
        upkeep.remove_bytes()
    assert {"CopyObject", "PutObject", "HeadObject", "ListParts", "GetBucketCors"} <= set(
        watch.asked
    )
    assert "CreateMultipartUpload by ourselves" in watch.asked
    assert watch.idle == []


def test_what_is_in_a_session_is_cut_from_logs(keeper: Keeper) -> None:
    path = opened(keeper)
    assert redacted(f"GET {path}/s3/params") == "GET /s3/as/.../s3/params"
    assert re.search(r"/s3/as/[\w.-]{60,}", path)


def test_bytes_are_what_was_sent(keeper: Keeper) -> None:
    body = os.urandom(12 * MIB)
    started = keeper.start(fileSize=len(body))
    pieces = [body[at : at + PART] for at in range(0, len(body), PART)]
    assert keeper.complete(started, keeper.send(started, *pieces)).status_code == 200
    fetched = keeper.fetch(started["assetId"])
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(body).digest()
