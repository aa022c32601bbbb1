"""Looking at files on the recipient's page: who may, what it costs, and what is never done."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from app import clock
from app.db import db
from app.models import Download, Preview
from app.services import previewing
from tests import pictures
from tests.factories import Sender, Sent, http
from tests.pages.test_manage import page_of
from tests.pictures import drawn, encoded

PHOTO = encoded(drawn(), "JPEG")
FILES = {"a.jpg": PHOTO, "b.wav": pictures.wav(), "c.html": b"<script>alert(1)</script>"}
HTMX = {"HX-Request": "true"}


@pytest.fixture
def seen(app: Flask, sender: Sender) -> Callable[..., Sent]:
    """A READY transfer whose previews have been made."""

    def make(contents: dict[str, bytes] = FILES, **options: object) -> Sent:
        sent = sender.ready(contents, **options)
        with app.app_context():
            previewing.make(str(sent.id))
        return sent

    return make


def address(sent: Sent, path: str, what: str = "") -> str:
    (file_id,) = (file["id"] for file in sent.files if file["path"] == path)
    return f"/d/{sent.slug}/files/{file_id}/preview{what}"


def download(client: FlaskClient, sent: Sent, page: str) -> None:
    """Press a button of the page."""
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    get = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert client.post(get, data={"csrf_token": token[1]}).status_code == 303


def every_address(sent: Sent) -> list[str]:
    return [
        address(sent, "a.jpg"),
        address(sent, "a.jpg", "/thumbnail"),
        address(sent, "a.jpg", "/picture"),
        address(sent, "b.wav", "/media"),
        address(sent, "c.html"),
    ]


def test_rows_have_pictures_and_lead_to_previews(client: FlaskClient, seen: Callable) -> None:
    sent = seen(FILES | {"d.bin": b"1"})
    page = client.get(f"/d/{sent.slug}").text
    assert re.findall(r'<img src="([^"]+)" alt=""', page) == [address(sent, "a.jpg", "/thumbnail")]
    assert re.findall(r'href="([^"]+/preview)"', page) == [
        address(sent, path) for path in ("a.jpg", "b.wav", "c.html")
    ]
    assert page.count('class="thumb"') == 4


def test_where_no_file_has_a_picture_no_room_is_kept(client: FlaskClient, seen: Callable) -> None:
    sent = seen({"a.txt": b"1", "b.bin": b"2"})
    assert 'class="thumb"' not in client.get(f"/d/{sent.slug}").text


def test_files_are_looked_through_once_for_pictures_and_not_for_each_row(
    client: FlaskClient, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Preview] = []
    monkeypatch.setattr(Preview, "is_made", property(asked.append))
    few, many = (sender.ready({f"{n}.txt": b"1" for n in range(count)}) for count in (5, 50))
    for address_of in (lambda sent: f"/d/{sent.slug}", page_of):
        counts = []
        for sent in (few, many):
            asked.clear()
            assert client.get(address_of(sent)).status_code == 200
            counts.append(len(asked))
        assert 0 < counts[1] <= 10 * counts[0]


def test_pictures_come_from_storage_as_pictures_and_nothing_else(
    client: FlaskClient, seen: Callable
) -> None:
    sent = seen()
    for what, size in (("/thumbnail", (96, 96)), ("/picture", (640, 480))):
        answer = client.get(address(sent, "a.jpg", what))
        assert answer.status_code == 303
        assert re.fullmatch(r"private, max-age=\d+", answer.headers["Cache-Control"])
        picture = http.request("GET", answer.headers["Location"])
        assert picture.headers["Content-Type"] == "image/webp"
        assert picture.headers["Content-Disposition"] == "attachment"
        assert pictures.opened(picture.data).size == size


def test_s01_a_page_or_script_is_shown_as_its_text(client: FlaskClient, seen: Callable) -> None:
    sent = seen(FILES | {"d.svg": b"<svg onload='alert(1)'>"})
    for path, text in (("c.html", "&lt;script&gt;"), ("d.svg", "&lt;svg onload=&#39;")):
        page = client.get(address(sent, path)).text
        assert text in page
        assert "alert(1)" in page
        assert "<script>alert" not in page
        assert "<svg onload" not in page
        for what in ("/thumbnail", "/picture", "/media"):
            assert client.get(address(sent, path, what)).status_code == 404


def test_of_a_long_text_it_is_said_that_it_goes_on(client: FlaskClient, seen: Callable) -> None:
    sent = seen({"long.txt": b"a line\n" * 3000, "short.txt": b"a line\n"})
    assert "The beginning of the file." in client.get(address(sent, "long.txt")).text
    assert "The beginning of the file." not in client.get(address(sent, "short.txt")).text


def test_a_fragment_for_htmx_and_a_page_for_everybody_else(
    client: FlaskClient, seen: Callable
) -> None:
    sent = seen()
    page, fragment = (client.get(address(sent, "a.jpg"), headers=h) for h in ({}, HTMX))
    assert "<html" in page.text
    assert "<html" not in fragment.text
    assert "HX-Request" in fragment.headers["Vary"]
    figure = r'<img class="seen-media" src="[^"]+/picture" width="640" height="480"'
    assert re.search(figure, page.text)
    assert re.search(figure, fragment.text)


def test_looking_counts_nothing(app: Flask, client: FlaskClient, seen: Callable) -> None:
    sent = seen()
    for url in every_address(sent):
        assert client.get(url).status_code in (200, 303)
    assert sent.row().download_count == 0
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Download)) == 0


def test_without_a_limit_the_file_itself_may_be_played(client: FlaskClient, seen: Callable) -> None:
    sent = seen()
    assert f'src="{address(sent, "b.wav", "/media")}"' in client.get(address(sent, "b.wav")).text
    answer = client.get(address(sent, "b.wav", "/media"))
    media = http.request("GET", answer.headers["Location"])
    assert media.headers["Content-Type"] == "audio/wav"
    assert media.data == FILES["b.wav"]


def test_with_a_limit_only_whose_download_is_counted_may_play_it(
    app: Flask, client: FlaskClient, seen: Callable
) -> None:
    sent = seen(max_downloads=1)
    page = client.get(f"/d/{sent.slug}").text
    preview = client.get(address(sent, "b.wav")).text
    assert "<audio" not in preview
    assert "Downloads are limited" in preview
    assert client.get(address(sent, "b.wav", "/media")).status_code == 404
    download(client, sent, page)
    assert "<audio" in client.get(address(sent, "b.wav")).text
    assert client.get(address(sent, "b.wav", "/media")).status_code == 303
    # It was the only one: whoever comes now sees nothing.
    stranger = app.test_client()
    for url in every_address(sent):
        answer = stranger.get(url)
        assert answer.status_code in (303, 410)
        assert answer.headers.get("Location", f"/d/{sent.slug}") == f"/d/{sent.slug}"


def test_with_a_limit_only_whose_download_is_counted_may_read_all_of_a_short_text(
    client: FlaskClient, seen: Callable
) -> None:
    words = "a secret\n"
    contents = {"a.txt": words.encode(), "b.txt": (words * 900).encode("utf-16")}
    sent = seen(contents | {"long.txt": words.encode() * 3000}, max_downloads=2)
    page = client.get(f"/d/{sent.slug}").text
    for headers in ({}, HTMX):
        for path in contents:
            preview = client.get(address(sent, path), headers=headers).text
            assert "a secret" not in preview
            assert "so you can read it here only after downloading it" in preview
        beginning = client.get(address(sent, "long.txt"), headers=headers).text
        assert "a secret" in beginning
        assert "Downloads are limited" not in beginning
    download(client, sent, page)
    for path in contents:
        assert "a secret" in client.get(address(sent, path)).text


@pytest.mark.parametrize("way", ["expired", "deleted"])
def test_what_has_ended_shows_nothing(client: FlaskClient, seen: Callable, way: str) -> None:
    sent = seen()
    urls = every_address(sent)
    if way == "deleted":
        sent.call("DELETE")
    else:
        sent.set(expires_at=clock.now() - timedelta(seconds=1))
    for url in urls:
        answer = client.get(url)
        assert answer.status_code in (303, 410), url
        assert answer.headers.get("Location", f"/d/{sent.slug}") == f"/d/{sent.slug}"
        assert "alert(1)" not in answer.text


def test_s10_without_the_password_nothing_is_shown(
    app: Flask, client: FlaskClient, seen: Callable
) -> None:
    sent = seen(password="open sesame")
    stranger = app.test_client()
    for url in every_address(sent):
        for headers in ({}, HTMX):
            answer = stranger.get(url, headers=headers)
            assert answer.status_code in (204, 303, 401), url
            assert answer.headers.get("Location", f"/d/{sent.slug}") == f"/d/{sent.slug}"
            assert "alert(1)" not in answer.text
    page = client.get(f"/d/{sent.slug}").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    form = {"csrf_token": token[1], "password": "open sesame"}
    assert client.post(f"/d/{sent.slug}", data=form).status_code == 303
    for url in every_address(sent):
        answer = client.get(url)
        assert answer.status_code in (200, 303)
        assert answer.headers.get("Location") != f"/d/{sent.slug}"


def test_htmx_is_told_to_load_the_page_anew(client: FlaskClient, seen: Callable) -> None:
    sent = seen()
    sent.call("DELETE")
    answer = client.get(address(sent, "a.jpg"), headers=HTMX)
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (204, "true")


def test_what_has_no_preview_is_not_found(
    client: FlaskClient, seen: Callable, sender: Sender
) -> None:
    sent = seen(FILES | {"cut.jpg": PHOTO[:1000], "d.bin": b"1"})
    waiting, other = sender.ready({"a.jpg": PHOTO}), sender.create({"a.jpg": PHOTO})
    urls = [address(sent, "cut.jpg", "/picture"), address(sent, "d.bin", "/picture")]
    urls += [address(sent, "c.html", "/media"), address(sent, "a.jpg", "/media")]
    # Another transfer's file.
    urls += [address(sent, "a.jpg").replace(sent.slug, waiting.slug)]
    for url in urls:
        assert client.get(url).status_code == 404, url
    assert client.get(address(other, "a.jpg")).status_code == 409


def test_the_preview_of_a_file_without_one_leads_to_the_transfer(
    client: FlaskClient, seen: Callable, sender: Sender
) -> None:
    sent, waiting = seen({"cut.jpg": PHOTO[:1000], "d.bin": b"1"}), sender.ready({"a.jpg": PHOTO})
    for one, path in ((sent, "cut.jpg"), (sent, "d.bin"), (waiting, "a.jpg")):
        answer = client.get(address(one, path))
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{one.slug}")


def test_a_program_gets_what_everybody_gets(client: FlaskClient, seen: Callable) -> None:
    sent = seen()
    for url in every_address(sent):
        assert client.get(url, headers={"User-Agent": "curl/8.5.0"}).status_code in (200, 303)
    assert sent.row().download_count == 0


def test_the_manage_page_shows_no_picture_that_asks_for_a_password(
    seen: Callable[..., Sent], client: FlaskClient
) -> None:
    assert "/preview" in client.get(page_of(seen())).text
    assert "/preview" not in client.get(page_of(seen(password="open sesame"))).text
