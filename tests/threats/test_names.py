"""S01, S02, S19, S20, S21: hostile names and active contents, from the upload to the saved file."""

import html
import re
from email.message import Message
from urllib.parse import unquote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from app.db import db
from app.dispositions import saved_name, without_marks
from app.errors import Invalid
from app.extensions import storage
from app.inputs import Inputs
from app.models import File, Upload
from app.services import previewing
from tests.factories import Sender
from tests.pages.test_pages import token_in
from tests.test_dispositions import NAMES
from tests.threats.test_signed import fetched

# Beside those of the header's own test: markup and templates, and what a shell or a log reads.
MORE_NAMES = [
    "<img src=x onerror=alert(1)>.png", "\"><script>alert(1)</script>", "'-alert(1)-'", "{{7*7}}.txt",
    "${7*7}.txt", "javascript:alert(1)", "&lt;b&gt;.txt", "<!--.txt", "]]>.xml", "%3Cscript%3E.html",
    "x\"; filename=\"evil.exe", "x\"; X-Evil: 1; y=\"", "=?utf-8?q?evil?=", "UTF-8''evil.exe",
    "a;b=\"c\".txt", "back\\..\\..\\slash.txt", "..a", "a..", "%2e%2e%2fup", "~root", "|id", "name.html.",
    "\u202egnp.exe", "\u200b", "\U000e0041.txt", "\u0301combining", "\ufdfa" * 40, "Ⅷ.txt", "＜b＞.html",
]  # fmt: skip
ACTIVE = {
    "page.html": "text/html", "page.htm": "text/html; charset=utf-8", "page.xhtml": "application/xhtml+xml",
    "picture.svg": "image/svg+xml", "feed.xml": "application/xml", "style.xsl": "text/xsl",
    "code.js": "text/javascript", "module.mjs": "application/javascript", "data.json": "application/json",
    "mail.mht": "multipart/related", "paper.pdf": "application/pdf", "movie.swf": "application/x-shockwave-flash",
    "header": "text/html\r\nX-Evil: 1", "none": "",
}  # fmt: skip
SCRIPT = b"<script>alert(document.domain)</script>"


def is_taken(name: str) -> bool:
    """Whether the API takes it for the name of a file."""
    try:
        with Inputs({"path": name}) as given:
            given.path("path")
    except Invalid:
        return False
    return True


def test_s19_hostile_names_are_refused_or_go_all_the_way_and_do_nothing(
    app: Flask, sender: Sender, client: FlaskClient
) -> None:
    names = [name for name in dict.fromkeys(NAMES + MORE_NAMES) if is_taken(name)]
    assert len(names) >= 56
    for name in set(NAMES + MORE_NAMES) - set(names):
        body = {"files": [{"path": name, "size": 1}]}
        assert client.post("/transfers", json=body).status_code == 400
    contents = {name: f"content of {n}".encode() for n, name in enumerate(names)}
    sent = sender.ready(contents)
    assert [file["path"] for file in sent.show()["files"]] == names
    page = client.get(f"/d/{sent.slug}").text
    assert_only_text(page, names)
    for file in sent.files:
        answer = fetched(sent, file)
        assert answer.data == contents[file["path"]]
        assert "X-Evil" not in answer.headers
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert saved_as(answer.headers["Content-Disposition"]) == saved_name(
            file["path"].rpartition("/")[2]
        )


def assert_only_text(page: str, names: list[str]) -> None:
    """Every name is there to be read, and none of it is markup."""
    for name in names:
        assert (
            html.escape(without_marks(name.rpartition("/")[2]))
            .replace("&quot;", "&#34;")
            .replace("&#x27;", "&#39;")
            in page
        ), name
    page = re.sub(
        r'<img class="qr-code" src="/d/[\w-]{20,64}\.svg"[^<>"]*("[^<>"]*"[^<>"]*)*>', "", page
    )
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z!][\w-]*)", page)}
    assert tags <= {
        "html", "head", "meta", "title", "link", "script", "body", "svg", "symbol", "path", "circle", "rect", "line",
        "polyline", "use", "g", "a", "header", "main", "footer", "div", "section", "h1", "h2", "p", "ul", "li", "form",
        "input", "button", "span", "time", "details", "summary", "noscript", "bdi", "defs", "polygon", "ellipse",
        "code",
    } | {"!doctype"}  # fmt: skip
    assert re.findall(r"<script(?![^>]*\ssrc=\"/static/)", page) == []
    assert not re.search(r"<[^>]*\son[a-z]+=\"?[^\"]", re.sub(r"\"[^\"]*\"", '""', page))
    assert "49.txt" not in page  # nobody reckoned


def test_s19_no_page_shows_a_name_in_another_order_than_it_has(app: Flask, sender: Sender) -> None:
    marks = {"\u202e", "\u2066"}
    sent = sender.ready({"\u202efolder/invoice\u202etxt.exe": b"1", "\u2066notes.txt": b"2"})
    with app.app_context():
        previewing.make(str(sent.id))
    transfer = sender.client.get(f"/d/{sent.slug}").text
    # What the page remembers of an open folder is read by nobody.
    transfer = transfer.replace('data-keep="\u202efolder"', "")
    preview = sender.client.get(f"/d/{sent.slug}/files/{sent.files[1]['id']}/preview").text
    manage = sender.client.get(f"/m/{sent.id}.{sent.json['owner_token']}").text
    for page in (transfer, preview, manage):
        assert not marks & set(page)
        assert "notes.txt" in page
    assert 'aria-label="Download folder/invoicetxt.exe"' in transfer
    assert '<span class="name" title="folder"' in transfer


def saved_as(disposition: str) -> str:
    """The name a browser saves under; any client reads the header as one attachment."""
    assert disposition.isascii()
    assert disposition.isprintable()
    message = Message()
    message["Content-Disposition"] = disposition
    assert message.get_content_disposition() == "attachment"
    assert disposition.count(";") == 2
    name = unquote(disposition.rpartition("''")[2])
    assert not set(name) & set("/\\\0\r\n\u202e\u2066")
    assert name.strip(". ")
    return name


def test_s01_active_contents_are_stored_neutral_and_only_ever_saved(
    sender: Sender, inside: None
) -> None:
    """Whatever type its sender names: storage never tells a browser to run it."""
    for name, kind in ACTIVE.items():
        files = [{"path": name, "size": len(SCRIPT), "content_type": kind}]
        answer = sender.client.post("/transfers", json={"files": files})
        assert (answer.status_code == 400) == ("\n" in kind)
    sent = sender.ready(dict.fromkeys(ACTIVE, SCRIPT))
    for file in sent.files:
        upload = db.session.scalar(select(Upload).join(File).where(File.id == file["id"]))
        stored = storage._client.head_object(Bucket=storage._bucket, Key=upload.key)
        assert stored["ContentType"] == "application/octet-stream"
        answer = fetched(sent, file)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert storage.urls.origin not in ("http://localhost", "https://localhost")


@pytest.mark.parametrize("given", ["title", "message"])
def test_s02_words_of_a_sender_are_never_markup_in_any_state(sender: Sender, given: str) -> None:
    evil = "<img src=x onerror=alert(1)>\"'{{7*7}}</title><script>alert(1)</script>"
    sent = sender.create(**{given: evil})

    def look() -> str:
        pages = [
            sender.client.get(f"/d/{sent.slug}", headers=headers).text
            for headers in ({}, {"HX-Request": "true"})
        ]
        return "\n".join(pages)

    shown = look()
    sent.upload().complete()
    shown += look()
    sent.process()
    shown += look()
    assert token_in(shown)
    sent.set(max_downloads=1, download_count=1)
    shown += look()
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    for bad in ("<img src", "<script>", "</title><"):
        assert bad not in shown
