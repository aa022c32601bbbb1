"""Of the storage gateway: pieces of what was sent, and small objects of our own. Real storage."""

import secrets

import pytest
from flask import Flask

from app.config import MIB, settings
from app.errors import Unavailable
from app.extensions import storage
from app.gateways.s3_answers import Source, SourceLost, Stored
from app.gateways.urls import INLINE_TYPES
from tests.factories import http

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def key(app: Flask) -> str:
    return f"{settings.s3_prefix}{secrets.token_hex(20)}"


def test_an_object_of_our_own_carries_its_token(key: str) -> None:
    etag = storage.put_object(key, "token", b"picture", "image/webp")
    assert storage.head(key) == Stored(7, etag, "token")
    assert storage.put_object(key, "token", b"picture", "image/webp") == etag


def test_a_piece_is_read_and_no_more(key: str) -> None:
    body = bytes(range(256)) * 1000
    source = Source(key, storage.put_object(key, "token", body, "image/webp"))
    assert storage.read(source, 0, 5) == body[:5]
    assert storage.read(source, 1000, 300) == body[1000:1300]
    assert storage.read(source, len(body) - 3, 3) == body[-3:]
    assert storage.read(source, 0, 0) == storage.read(source, 5, -3) == b""


def test_what_is_not_there_or_something_else_by_now_is_told(key: str) -> None:
    with pytest.raises(SourceLost):
        storage.read(Source(key, '"e"'), 0, 5)
    etag = storage.put_object(key, "token", b"as it was", "image/webp")
    storage.put_object(key, "token", b"as it is", "image/webp")
    with pytest.raises(SourceLost):
        storage.read(Source(key, etag), 0, 5)
    with pytest.raises(SourceLost):
        storage.read(Source(key, etag), 100, 5)


def test_a_store_that_knows_no_ranges_brings_nothing(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would bring all of a file, which may be terabytes."""
    source = Source(key, storage.put_object(key, "token", b"x" * MIB, "image/webp"))
    get = storage._get
    monkeypatch.setattr(storage, "_get", lambda url, headers, place: get(url, {}, place))
    with pytest.raises(Unavailable):
        storage.read(source, 0, 5)


@pytest.mark.parametrize("kind", sorted(INLINE_TYPES))
def test_s01_an_inline_address_says_what_it_is_and_is_a_download_for_whoever_opens_it(
    key: str, kind: str
) -> None:
    storage.put_object(key, "token", b"<html><script>", "image/webp")
    answer = http.request("GET", storage.urls.inline(key, kind, 60))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["Cache-Control"] == "private, max-age=60"


@pytest.mark.parametrize(
    "kind", ["text/html", "image/svg+xml", "application/pdf", "text/plain", "", "image/webp; x"]
)
def test_s01_no_other_type_is_ever_signed(key: str, kind: str) -> None:
    with pytest.raises(ValueError):
        storage.urls.inline(key, kind, 60)


def test_no_inline_type_can_hold_a_script() -> None:
    assert {kind.split("/")[0] for kind in INLINE_TYPES} == {"image", "video", "audio"}
    assert not {kind for kind in INLINE_TYPES if "svg" in kind or "xml" in kind}
