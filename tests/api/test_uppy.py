"""/s3 as Uppy's companion: multipart uploads, and forms whose objects are kept."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app import clock
from app.config import MIB
from app.db import db, transaction
from app.extensions import storage
from app.gateways.s3_answers import Away
from app.models import AssetVersion, Upload
from app.services import asset_upkeep, upkeep
from tests.factories import http, put
from tests.keeper import Keeper, error, post_form

PART = 5 * MIB


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


@pytest.mark.usefixtures("inside")
def test_a_form_is_looked_after_until_it_is_dead(keeper: Keeper) -> None:
    keeper.params()
    assert asset_upkeep.confirm_posted() == 0
    (row,) = db.session.scalars(select(AssetVersion)).all()
    assert timedelta(seconds=10) < row.look_after - clock.now() < timedelta(seconds=40)
    # Not again at once.
    assert asset_upkeep._claim_looks() == []
