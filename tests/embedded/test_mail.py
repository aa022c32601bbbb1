"""The mail catcher: every mail is caught, and none can do harm on its page."""

import smtplib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import EmailMessage
from http.client import HTTPMessage
from pathlib import Path

import pytest

from embedded import mail, services
from embedded.ports import free_port

HOSTILE = '<script>document.title="owned"</script><img src="https://tracker.example/x.png">'


@pytest.fixture
def box(tmp_path: Path) -> mail.Box:
    return mail.Box(tmp_path / "mail")


@pytest.fixture
def page(box: mail.Box) -> Iterator[str]:
    """The URL of the page that shows the box."""
    with mail.page_server(box, free_port()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(address: str, **headers: str) -> tuple[int, HTTPMessage, str]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read().decode(errors="replace")


def message(subject: str = "Ünïcode 🐝", **texts: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "bee@example.org", "jürgen@exämple.org", subject
    made.set_content(texts.get("plain", "Grüße, see https://bee.example/d/x?a=1&b=2"))
    if "html" in texts:
        made.add_alternative(texts["html"], subtype="html")
    return made


def kept(box: mail.Box, made: EmailMessage) -> str:
    """Put a mail into the box; returns the path of its page."""
    box.add(made.as_bytes(policy=made.policy.clone(utf8=True)), "bee@example.org", ["a@x.org"])
    return f"/mail/{box.newest(1)[0][0]}"


def test_a_mail_to_a_non_ascii_address_is_caught_and_shown() -> None:
    with services.started(["mail"]) as env:
        port = int(env["MAIL_URL"].rsplit(":", 1)[1])
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.send_message(message(html="<b>hi</b>"))
        listed = get(env["MAIL_PAGE_URL"])[2]
        assert "jürgen@exämple.org" in listed
        assert "Ünïcode 🐝" in listed


def test_caught_mails_are_listed_newest_first(box: mail.Box, page: str) -> None:
    for number in range(3):
        kept(box, message(f"number {number}"))
    _, _, text = get(page)
    assert [text.index(f"number {number}") for number in (2, 1, 0)] == sorted(
        text.index(f"number {number}") for number in range(3)
    )


def test_a_mail_is_shown_with_headers_text_and_links(box: mail.Box, page: str) -> None:
    status, headers, text = get(page + kept(box, message()))
    assert status == 200
    for words in ("jürgen@exämple.org", "Ünïcode 🐝", "Grüße", "a@x.org"):
        assert words in text
    assert 'href="https://bee.example/d/x?a=1&amp;b=2"' in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_html_is_shown_where_it_can_do_nothing(box: mail.Box, page: str) -> None:
    path = kept(box, message("<script>alert(1)</script>", html=HOSTILE, plain=HOSTILE))
    _, _, text = get(page + path)
    assert "<script" not in text
    assert "<img" not in text
    frame = text[text.index("<iframe") : text.index("</iframe>")]
    assert f'src="{path}/html"' in frame
    assert "allow-scripts" not in frame
    assert "allow-same-origin" not in frame
    _, _, listed = get(page)
    assert "<script" not in listed

    _, headers, body = get(f"{page}{path}/html")
    assert HOSTILE in body
    rules = dict(
        rule.strip().partition(" ")[::2] for rule in headers["Content-Security-Policy"].split(";")
    )
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "allow-scripts" not in rules["sandbox"]
    assert "script-src" not in rules


def test_an_attached_file_is_only_offered_for_saving(box: mail.Box, page: str) -> None:
    made = message()
    made.add_attachment(HOSTILE.encode(), maintype="text", subtype="html", filename="ä b.html")
    path = kept(box, made)
    assert "ä b.html" in get(page + path)[2]
    _, headers, body = get(f"{page}{path}/file/0")
    assert body == HOSTILE
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%A4%20b.html"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/mail/none", "/mail/../../etc/passwd", "/x", "/mail", "/mail/"])
def test_what_is_not_there_is_not_found(page: str, path: str) -> None:
    assert get(page + path)[0] == 404


@pytest.mark.parametrize("rest", ["/html", "/file/0", "/file/-1", "/file/x", "/nothing"])
def test_a_mail_has_only_the_parts_it_has(box: mail.Box, page: str, rest: str) -> None:
    assert get(page + kept(box, message()) + rest)[0] == 404


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("localhost:1", 200)])
def test_only_names_of_this_machine_are_answered(page: str, host: str, status: int) -> None:
    assert get(page, Host=host)[0] == status


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no headers at all",
        b"Subject: =?utf-8?q?broken\r\n\r\n\xff\xfe",
        b"Content-Type: text/html; charset=martian\r\n\r\n<p>h\xc3\xa9",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno parts",
        b"From: \xff\xff\r\nSubject: a\r\n b\x00c\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
    ],
)
def test_a_broken_mail_is_shown_as_far_as_it_goes(box: mail.Box, page: str, content: bytes) -> None:
    box.add(content, "a@x.org\r\nX-Made: up", [])
    path = f"/mail/{box.newest(1)[0][0]}"
    assert get(page)[0] == 200
    assert get(page + path)[0] == 200
    raw = get(f"{page}{path}/raw")[2]
    assert raw.splitlines()[0] == "Return-Path: <a@x.org  X-Made: up>"


def test_the_page_listens_on_loopback_only(page: str) -> None:
    port = int(page.rsplit(":", 1)[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in others - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=0.3)
