"""/s3: an asset and its versions, from their upload to their end; also what came by one small form."""

import hashlib
import os
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import urllib3
from sqlalchemy import update

from app import clock
from app.config import MIB, settings
from app.db import db, transaction
from app.errors import NotFound, Outage
from app.extensions import storage
from app.models import Asset, AssetVersion, Upload, UploadState
from app.services import accounts, asset_upkeep, assets, thumbnails, upkeep
from tests.factories import http, put
from tests.keeper import Keeper, error, post_form, upload_at, version_of
from tests.pictures import drawn, encoded
from tests.watching import Watch

Configure = Callable[..., None]
PART = 5 * MIB


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
    assert begun["key"] == f"{at}/v3.txt"
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


def test_bytes_are_what_was_sent(keeper: Keeper) -> None:
    body = os.urandom(12 * MIB)
    started = keeper.start(fileSize=len(body))
    pieces = [body[at : at + PART] for at in range(0, len(body), PART)]
    assert keeper.complete(started, keeper.send(started, *pieces)).status_code == 200
    fetched = keeper.fetch(started["assetId"])
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(body).digest()


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


@pytest.mark.parametrize("name", ["a\0b.txt", "a\x1b.txt", f"{'x' * 252}.txt"])
def test_the_name_of_a_file_in_a_form_is_as_restricted_as_any_other(
    keeper: Keeper, configure: Configure, name: str
) -> None:
    configure(max_asset_form_size=MIB)
    answer = form(keeper, b"1", filename=name)
    assert error(answer) == (400, "INVALID_PARAMETER")
    assert answer.json["error"].startswith("name: ")
    assert form(keeper, b"1", filename=name, name="a.txt").json["name"] == "a.txt"


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
