"""The pages without a browser: status codes, headers, forms, and that looking never counts."""

import gzip
import re
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app import clock, static_files
from app.extensions import storage
from tests.factories import Sender, http


def token_in(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def test_home_and_unknown_addresses(client: FlaskClient) -> None:
    assert client.get("/").status_code == 200
    missing = client.get("/d/" + "x" * 32)
    assert missing.status_code == 404
    assert missing.mimetype == "text/html"
    for odd in ("/d/short", "/d/%00" + "x" * 30, "/d/" + "x" * 65, "/d/" + "é" * 32):
        assert client.get(odd).status_code == 404


def test_an_address_of_nobodys_is_a_page_for_a_browser_and_json_for_a_program(
    client: FlaskClient,
) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = client.get("/nope", headers=browser)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert client.get("/nope", headers={"Accept": "application/json"}).is_json
    assert client.get("/transfers/nope", headers=browser).is_json


@pytest.mark.parametrize(("ended", "code"), [("expired", 410), ("deleted", 410), (None, 200)])
def test_each_state_has_its_code(sender: Sender, ended: str | None, code: int) -> None:
    sent = sender.ready()
    if ended == "deleted":
        sent.call("DELETE")
    if ended == "expired":
        sent.set(expires_at=clock.now() - timedelta(seconds=1))
    page = sender.client.get(f"/d/{sent.slug}")
    assert page.status_code == code
    assert ("a.txt" in page.text) == (code == 200)


def test_htmx_gets_the_changing_region_alone_and_polls_only_while_it_changes(
    sender: Sender,
) -> None:
    sent = sender.create()
    url = f"/d/{sent.slug}"
    page, fragment = (sender.client.get(url, headers=h) for h in ({}, {"HX-Request": "true"}))
    assert "<html" in page.text
    assert "<html" not in fragment.text
    assert "HX-Request" in fragment.headers["Vary"]
    assert "hx-get" in fragment.text
    sent.upload().complete()
    assert "hx-get" in sender.client.get(url, headers={"HX-Request": "true"}).text
    sent.process()
    assert "hx-get" not in sender.client.get(url, headers={"HX-Request": "true"}).text


def test_folders_lie_in_folders_and_count_all_that_is_below_them(sender: Sender) -> None:
    deep = ["/".join("x" * depth) + "/end.txt" for depth in range(1, 21)]
    names = ("top.txt", "trip/b.txt", "trip/Day 1/c.txt", "trip/day 2/more/d.txt", *deep)
    page = sender.client.get(f"/d/{sender.ready(dict.fromkeys(names, b'12')).slug}").text
    told = re.findall(r'data-keep="([^"]+)".*?file-state">([^<]+)<.*?file-size">([^<]+)<', page)
    folders = {path: (count, size) for path, count, size in told}
    assert folders["trip"] == ("3 files", "6 bytes")
    assert folders["trip/Day 1"] == folders["trip/day 2/more"] == ("1 file", "2 bytes")
    # A folder that holds nothing but another one is one row with it.
    assert "trip/day 2" not in folders
    assert ">day 2/more<" in page
    # Deeper than the page goes, the rest of the path is one folder.
    assert ">x/x/x/x<" in page
    ids = re.findall(r' id="(folder-[^"]*)"', page)
    assert len(ids) == len(set(ids)) == len(folders)
    assert page.count(">c.txt<") == 1


def test_what_lies_in_a_merged_folder_is_sorted_and_merged_too(sender: Sender) -> None:
    names = ("trip/photos/z/1", "trip/photos/a/2", "trip/photos/m/deep/er/3")
    page = sender.client.get(f"/d/{sender.ready(dict.fromkeys(names, b'1')).slug}").text
    shown = ["trip/photos", "trip/photos/a", "trip/photos/m/deep/er", "trip/photos/z"]
    assert re.findall(r'data-keep="(trip[^"]*)"', page) == shown


def test_a_folder_tells_how_much_of_it_has_arrived(sender: Sender) -> None:
    sent = sender.create({"a/1.txt": b"1", "a/b/2.txt": b"2"})
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "0 of 2 files" in page
    assert "0 of 1 file<" in page


def test_a_click_counts_once_and_leads_to_the_bytes(sender: Sender) -> None:
    sent = sender.ready({"a.txt": b"content"})
    page = sender.client.get(f"/d/{sent.slug}")
    form = {"csrf_token": token_in(page.text)}
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    for _ in range(2):
        answer = sender.client.post(url, data=form)
        assert answer.status_code == 303
        assert answer.headers["Cache-Control"] == "no-store"
        assert http.request("GET", answer.headers["Location"]).data == b"content"
    assert sent.row().download_count == 1


def test_f54_looking_counts_nothing(sender: Sender) -> None:
    sent = sender.ready()
    file = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    for agent in ("Slackbot", "Mozilla/5.0", "facebookexternalhit/1.1", "Googlebot", ""):
        for url in (f"/d/{sent.slug}", file):
            for method in ("GET", "HEAD", "OPTIONS"):
                answer = sender.client.open(url, method=method, headers={"User-Agent": agent})
                assert "X-Amz-Signature" not in answer.headers.get("Location", "")
    curl_head = sender.client.head(file, headers={"User-Agent": "curl/8"})
    assert "X-Amz-Signature" not in curl_head.headers.get("Location", "")
    assert sent.row().download_count == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_command_line_needs_neither_cookie_nor_token(sender: Sender, method: str) -> None:
    sent = sender.ready({"a.txt": b"content"})
    plain = sender.client.application.test_client(use_cookies=False)
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    answer = plain.open(url, method=method, headers={"User-Agent": "curl/8.1"})
    assert answer.status_code == 303
    assert http.request("GET", answer.headers["Location"]).data == b"content"
    assert sent.row().download_count == 1


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Cookie": "beeline=x"}],
)
def test_another_site_cannot_click_for_its_visitor(sender: Sender, headers: dict) -> None:
    """S06."""
    sent = sender.ready()
    plain = sender.client.application.test_client(use_cookies=False)
    answer = plain.post(f"/d/{sent.slug}/files/{sent.files[0]['id']}", headers=headers)
    assert answer.status_code == 400
    assert sent.row().download_count == 0


def test_the_last_download_used_up_leads_a_browser_to_the_page_that_says_so(
    sender: Sender,
) -> None:
    sent = sender.ready(max_downloads=1)
    page = sender.client.get(f"/d/{sent.slug}")
    form = {"csrf_token": token_in(page.text)}
    sent.set(download_count=1)
    answer = sender.client.post(f"/d/{sent.slug}/files/{sent.files[0]['id']}", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}")
    assert sender.client.get(f"/d/{sent.slug}").status_code == 410


def test_s02_what_a_sender_typed_is_never_markup(sender: Sender) -> None:
    evil = "<script>alert(1)</script>"
    sent = sender.ready({f"{evil.replace('/', '-')}.txt": b"x"}, title=evil, message=evil)
    page = sender.client.get(f"/d/{sent.slug}").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_s03_s04_headers_are_on_every_answer(client: FlaskClient, sender: Sender) -> None:
    sent = sender.create()
    for url in ("/", f"/d/{sent.slug}", "/nope", "/health", "/transfers"):
        headers = client.get(url).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert re.search(r"form-action 'self' http://127\.0\.0\.1:\d+", policy)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert (headers.get("Cache-Control") == "no-store") == (url != "/")


def test_static_files_are_kept_for_ever_under_hashed_names(client: FlaskClient) -> None:
    page = client.get("/").text
    urls = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert any(url.endswith("site.css") for url in urls)
    assert any(url.endswith(".js") for url in urls)
    for url in urls:
        with client.get(url) as answer:
            assert answer.status_code == 200
            assert "max-age=315360000" in answer.headers["Cache-Control"]
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/static/site.css").status_code == 404
    assert client.get(urls[0].replace("/static/", "/static/..%2f")).status_code == 404


def test_scripts_travel_without_comments_and_compressed(client: FlaskClient) -> None:
    page = client.get("/").text
    url = re.findall(r'src="(/static/[^"]+/js/upload.js)"', page)[0]
    for name in ("upload.js", "upload/memory.js", "upload/transfer-upload.js"):
        with client.get(url.replace("upload.js", name)) as answer:
            plain = answer.data
        source = (static_files.STATIC / "js" / name).read_bytes()
        assert b"export" in plain or b"import" in plain
        assert b"@param" not in plain
        assert len(plain) < len(source)
        packed = {"Accept-Encoding": "gzip, br"}
        with client.get(url.replace("upload.js", name), headers=packed) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert gzip.decompress(answer.data) == plain


def test_a_static_file_is_only_read_and_only_sent_to_whoever_lacks_it(client: FlaskClient) -> None:
    url = re.findall(r'href="(/static/[^"]+site.css)"', client.get("/").text)[0]
    with client.get(url) as answer:
        assert answer.mimetype == "text/css"
        size, seen = len(answer.data), {"If-Modified-Since": answer.headers["Last-Modified"]}
    with client.get(url, headers=seen) as again:
        assert (again.status_code, again.data) == (304, b"")
    with client.head(url) as head:
        assert (head.status_code, head.data, head.content_length) == (200, b"", size)
    assert client.post(url).status_code == 405


def test_cookies_are_http_only_and_lax(sender: Sender) -> None:
    """S05."""
    sent = sender.ready()
    cookie = sender.client.get(f"/d/{sent.slug}").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_ready_names_what_does_not_answer(client: FlaskClient, monkeypatch) -> None:
    assert client.get("/ready").json["status"] == "OK"
    monkeypatch.setattr(storage, "check", lambda: 1 / 0)
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json["checks"] == {
        "database": "OK",
        "queue": "OK",
        "storage": "not answering",
        "sweeps": "late",
        "zips": "OK",
        "inspections": "OK",
        "objects": "OK",
        "checksums": "not asked yet",
    }
