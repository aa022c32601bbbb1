"""/s3: how assets are found and shown: search, names and tags, thumbnails."""

import unicodedata
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app import clock
from app.config import settings
from app.db import db, transaction
from app.extensions import storage
from app.gateways.s3_answers import OBJECT_TYPE
from app.models import AssetVersion, Upload
from app.services import upkeep
from tests.factories import http
from tests.keeper import Keeper, version_of
from tests.pictures import drawn, encoded
from tests.watching import statements

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
    with statements(keeper.client.application) as told:
        page = keeper.get("/assets", limit=2, offset=1).json
    assert [one["name"] for one in page["items"]] == ["3.txt", "2.txt"]
    assert (page["limit"], page["offset"], page["total_count"]) == (2, 1, 5)
    assert sum("FROM asset" in one for one in told) == 2


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
