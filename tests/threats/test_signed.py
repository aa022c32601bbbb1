"""F55, F56, F65, S15, S16, S17: a signed address is good for one thing, for a while, and for no other size."""

import gzip
import json
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from sqlalchemy import func, select

from app import clock, config
from app.config import MIB
from app.db import db
from app.extensions import storage
from app.models import File, Upload
from tests.factories import Sender, Sent, http, put

Urls = dict[str, str]
PART = 8 * MIB


@pytest.fixture
def big(sender: Sender) -> Sent:
    """A transfer whose file goes in two parts, the second of one byte."""
    return sender.create({"big": b"b" * (PART + 1)})


def query(url: str, **changes: str | None) -> str:
    """The same address with some of its query changed, or left out."""
    base, _, words = url.partition("?")
    pairs = dict(pair.split("=", 1) for pair in words.split("&"))
    pairs |= {name.replace("_", "-"): value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if value is None:
            pairs.pop(name.replace("_", "-"), None)
    return base + "?" + "&".join(f"{name}={value}" for name, value in pairs.items())


# What is done with the address of part 2, which takes one byte: (what, method, url, body).
MISUSES: list[tuple[str, str, Callable[[str, str], str], bytes]] = [
    ("for another part", "PUT", lambda url, other: query(url, partNumber="1"), b"x"),
    ("for a part outside the plan", "PUT", lambda url, other: query(url, partNumber="3"), b"x"),
    ("for another upload", "PUT", lambda url, other: query(url, uploadId=upload_of(other)), b"x"),
    ("for another file's key", "PUT", lambda url, other: other_key(url, other), b"x"),
    ("for a key of the user's own", "PUT", lambda url, other: other_path(url, "/evil"), b"x"),
    ("for the whole object", "PUT", lambda url, other: query(url, uploadId=None, partNumber=None), b"x"),
    ("with a byte too many", "PUT", lambda url, other: url, b"xx"),
    ("with a byte too few", "PUT", lambda url, other: url, b""),
    ("for longer", "PUT", lambda url, other: query(url, X_Amz_Expires="604800"), b"x"),
    ("with the date moved", "PUT", lambda url, other: query(url, X_Amz_Date="20990101T000000Z"), b"x"),
    ("without its signature", "PUT", lambda url, other: query(url, X_Amz_Signature=None), b"x"),
    ("with another one", "PUT", lambda url, other: query(url, X_Amz_Signature="0" * 64), b"x"),
    ("with all of it off", "PUT", lambda url, other: url.split("?")[0], b"x"),
    ("with a permission added", "PUT", lambda url, other: url + "&acl=public-read", b"x"),
    ("to read", "GET", lambda url, other: url, b""),
    ("to list the parts", "GET", lambda url, other: query(url, partNumber=None), b""),
    ("to delete", "DELETE", lambda url, other: url, b""),
    ("to complete", "POST", lambda url, other: query(url, partNumber=None), b"<x/>"),
]  # fmt: skip


def upload_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["uploadId"][0]


def other_key(url: str, other: str) -> str:
    return other_path(url, urlsplit(other).path.rpartition("/")[2])


def other_path(url: str, name: str) -> str:
    path = urlsplit(url).path
    return url.replace(path, path.rpartition("/")[0] + "/" + name.lstrip("/"), 1)


def test_s15_no_misuse_of_an_address_works(app: Flask, big: Sent, sender: Sender) -> None:
    other = sender.create({"other": b"o" * (PART + 1)})
    (mine,) = big.sign(big.files[0], 2)
    (theirs,) = other.sign(other.files[0], 2)
    for what, method, change, body in MISUSES:
        url = change(mine["url"], theirs["url"])
        answer = http.request(method, url, body=body, redirect=False)
        assert answer.status in (400, 403), (what, answer.status, answer.data)
    for sent in (big, other):
        assert sent.call("GET", "/parts").json["files"][0]["held"] == []
    assert put(mine["url"], b"x").status == 200


def test_s15_what_says_that_it_is_packed_is_not_taken(app: Flask, sender: Sender) -> None:
    """No signature covers that header; storage keeps it, and browsers would unpack what comes."""
    body = gzip.compress(b"s" * MIB)
    sent = sender.create({"small": body})
    (part,) = sent.sign(sent.files[0])
    packed = part["headers"] | {"Content-Encoding": "gzip"}
    assert put(part["url"], body, packed).status == 200
    shown = sent.complete().process().show()
    assert (shown["status"], shown["files"][0]["problem"]["code"]) == ("INIT", "damaged")
    assert sent.upload().complete().process().show()["status"] == "READY"
    answer = http.request("GET", location(sent, sent.files[0]).headers["Location"])
    assert "Content-Encoding" not in answer.headers


def test_s15_an_address_dies_in_time(
    app: Flask, big: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    big.sign(big.files[0], 1)  # The upload is there, and storage is asked nothing in the past.
    then = clock.now() - timedelta(seconds=config.settings.part_url_ttl_in_seconds + 1)
    with monkeypatch.context() as past:
        past.setattr(clock, "now", lambda: then)
        (old,) = big.sign(big.files[0], 2)
    assert put(old["url"], b"x").status == 403


def test_s15_after_the_end_old_addresses_change_nothing_and_new_ones_are_refused(
    app: Flask, sender: Sender
) -> None:
    contents = {"small": b"s" * 100, "big": b"b" * (PART + 1)}
    sent = sender.create(contents)
    old = [part for file in sent.files for part in sent.sign(file)]
    sent.upload().complete()
    wanted = [{"file": sent.files[0]["id"], "numbers": [1]}]
    assert sent.call("POST", "/parts", json={"wanted": wanted}).status_code == 409
    sent.process()
    for part in old:
        answer = put(part["url"], b"E" * part["size"], part["headers"])
        assert answer.status in (404, 412), answer.data
    for file in sent.files:
        assert fetched(sent, file).data == contents[file["path"]]


def test_s15_keys_hold_nothing_that_a_person_typed(
    app: Flask, sender: Sender, inside: None
) -> None:
    """S20: so no name can lead out of our prefix, or onto another's object."""
    sender.create({"../etc/passwd".replace("..", "dots"): b"", "beeline/x": b"", "%2e%2e": b""})
    for key in db.session.scalars(select(Upload.key)):
        assert re.fullmatch(r"beeline/[0-9a-f]{40}", key)


# -- downloads ----------------------------------------------------------------------------------


def location(sent: Sent, file: dict[str, Any]) -> Any:
    """The answer that leads a command line to the bytes."""
    plain = sent.client.application.test_client(use_cookies=False)
    url = f"/d/{sent.slug}/files/{file['id']}"
    answer = plain.get(url, headers={"User-Agent": "curl/8"})
    assert answer.status_code == 303
    return answer


def fetched(sent: Sent, file: dict[str, Any]) -> Any:
    """What storage says to the address that leads to the bytes."""
    return http.request("GET", location(sent, file).headers["Location"])


def test_s16_a_download_address_lives_five_minutes_and_is_kept_by_nobody(
    app: Flask, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    sent = sender.ready()
    logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG)
    answer = location(sent, sent.files[0])
    words = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert int(words["X-Amz-Expires"][0]) <= 300
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert words["response-cache-control"] == ["private, no-store"]
    assert words["X-Amz-Signature"][0] not in caplog.text
    # It cannot be made to show the file in the browser, nor under another name.
    url = answer.headers["Location"]
    for change in (
        {"response_content_disposition": "inline"},
        {"response_content_type": "text/html"},
        {"response_content_disposition": None},
        {"response_content_type": None},
        {"X_Amz_Expires": "604800"},
    ):
        assert http.request("GET", query(url, **change)).status == 403
    for method in ("PUT", "DELETE", "POST"):
        assert http.request(method, url, body=b"x").status == 403


def test_f55_f56_an_address_is_good_again_for_minutes_counted_once_and_no_longer(
    app: Flask, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N links, not N transfers of bytes: an aborted download goes on where it was."""
    sent = sender.ready({"a.txt": b"content"}, max_downloads=2)
    url = location(sent, sent.files[0]).headers["Location"]
    for _ in range(2):
        assert http.request("GET", url).data == b"content"
    rest = http.request("GET", url, headers={"Range": "bytes=3-"})
    assert (rest.status, rest.data) == (206, b"tent")
    assert sent.row().download_count == 1
    then = clock.now() - timedelta(seconds=config.settings.download_url_ttl_in_seconds + 1)
    with monkeypatch.context() as past:
        past.setattr(clock, "now", lambda: then)
        old = location(sent, sent.files[0]).headers["Location"]
    assert http.request("GET", old).status == 403
    most = config.Settings.__dataclass_fields__["download_url_ttl_in_seconds"].metadata
    assert most["default"] <= 300


@pytest.mark.parametrize("seconds", [-60, 60])
def test_f65_a_signed_url_works_where_storages_clock_is_a_minute_off(
    sender: Sender, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Also with the shortest lifetime that the settings allow."""
    configure(part_url_ttl_in_seconds=120, download_url_ttl_in_seconds=120)
    signing_clock = clock.now
    with monkeypatch.context() as off:
        off.setattr(clock, "now", lambda: signing_clock() + timedelta(seconds=seconds))
        sent = sender.create({"small": b"s", "big": b"b" * (PART + 1)}).upload()
        sent.complete().process()
        assert fetched(sent, sent.files[0]).data == b"s"


def test_s16_no_address_is_shown_where_it_is_not_used(app: Flask, sender: Sender) -> None:
    sent = sender.ready()
    shown = sender.client.get(f"/d/{sent.slug}").text + json.dumps(sent.show())
    assert "X-Amz" not in shown


# -- lies about size -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, PART + 5])
@pytest.mark.parametrize("lie", [-1, +1, +1000])
def test_s17_storage_never_holds_more_or_less_than_was_declared(
    app: Flask, sender: Sender, inside: None, size: int, lie: int
) -> None:
    sent = sender.create({"f": b"x" * size})
    last = sent.sign(sent.files[0])[-1]
    body = b"x" * (last["size"] + lie)
    answer = put(last["url"], body, last["headers"])
    assert answer.status == 403, answer.data
    assert sent.call("GET", "/parts").json["files"][0]["held"] == []
    sent.complete().process()
    shown = sent.show()
    assert (shown["status"], shown["files"][0]["problem"]["code"]) == ("INIT", "missing")
    key = db.session.scalar(
        select(Upload.key)
        .join(File, File.upload_id == Upload.id)
        .where(File.transfer_id == sent.id)
    )
    assert storage.head(key) is None


@pytest.mark.parametrize("lie", [-1, +1])
def test_s17_a_store_that_takes_any_length_is_not_believed(
    app: Flask, sender: Sender, inside: None, lie: int
) -> None:
    """Not every store checks the signed length: what it holds is measured before READY."""
    sent = sender.create({"small": b"x" * 5, "big": b"x" * (PART + 5)})
    for file in sent.files:
        sent.sign(file)
    small, big = db.session.scalars(
        select(Upload).join(File).where(File.transfer_id == sent.id).order_by(File.position)
    )
    client, bucket = storage._client, storage._bucket
    token = {"beeline": small.token}
    client.put_object(Bucket=bucket, Key=small.key, Body=b"x" * (5 + lie), Metadata=token)
    into = {"Bucket": bucket, "Key": big.key, "UploadId": big.s3_upload_id}
    for number, size in ((1, PART), (2, 5 + lie)):
        client.upload_part(**into, PartNumber=number, Body=b"x" * size)
    assert [one["held"] for one in sent.call("GET", "/parts").json["files"]] == [[], [1]]
    shown = sent.complete().process().show()
    assert shown["status"] == "INIT"
    assert [one["problem"]["code"] for one in shown["files"]] == ["wrong_size", "missing"]


def test_s17_the_plan_is_what_was_declared_to_the_byte(
    app: Flask, sender: Sender, inside: None
) -> None:
    sent = sender.create({"a": b"x" * 7, "b": b"", "c": b"x" * (PART + 1)})
    parts = [part for file in sent.files for part in sent.sign(file)]
    declared = sum(file["size"] for file in sent.files)
    planned = select(func.sum(Upload.size)).join(File, File.upload_id == Upload.id)
    assert sum(part["size"] for part in parts) == declared == PART + 8
    assert db.session.scalar(planned.where(File.transfer_id == sent.id)) == declared
    for part in parts:
        assert "content-length" in parse_qs(urlsplit(part["url"]).query)["X-Amz-SignedHeaders"][0]
