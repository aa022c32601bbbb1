"""The mail catcher: accepts every mail, delivers none, and shows them on a page.

    python -m embedded.mail --smtp-port 1025 --page-port 8025 --data var/mail

Mails are kept unchanged in a Maildir, below added header lines with the envelope's addresses.
Senders are not trusted: HTML is shown in a frame that may run nothing and load nothing, and
attachments are only ever offered for download.
"""

import argparse
import asyncio
import html
import mailbox
import re
import threading
from collections.abc import Iterable
from email import message_from_bytes, policy
from email.headerregistry import BaseHeader
from email.message import EmailMessage
from email.parser import HeaderParser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from aiosmtpd.smtp import SMTP, Envelope, Session

LISTED = 200
LARGEST_MAIL = 50 * 1024 * 1024
LOOPBACK = "127.0.0.1"

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'"
# The frame's URL can also be opened directly, so the response carries its own sandbox. Links may
# open a new tab: following the link in a mail is what the page is for.
BODY_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "img-src data:; style-src 'unsafe-inline'; form-action 'none'"
)
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #8884;
  vertical-align: top; overflow-wrap: anywhere; }
iframe { width: 100%; height: 40rem; border: 1px solid #8884; background: #fff; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 1rem; border: 1px solid #8884; }
"""


class Box:
    """The mails caught so far, newest first."""

    def __init__(self, folder: Path) -> None:
        """Open the Maildir and create the folders it lacks."""
        for part in ("tmp", "new", "cur"):  # mailbox takes an empty folder for a broken Maildir.
            (folder / part).mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._box = mailbox.Maildir(folder, factory=None, create=True)

    def add(self, content: bytes, sender: str, recipients: Iterable[str]) -> None:
        """Store one mail, with its envelope's addresses as extra headers."""
        envelope = [f"Return-Path: <{sender}>", *(f"Delivered-To: {name}" for name in recipients)]
        head = "".join(f"{_one_line(line)}\r\n" for line in envelope)
        with self._lock:
            self._box.add(head.encode() + content)

    def newest(self, limit: int) -> list[tuple[str, bytes]]:
        """The keys and raw contents of at most `limit` mails, newest first."""
        with self._lock:
            keys = sorted(self._box.keys(), key=_age_of, reverse=True)[:limit]
            return [(key, self._box.get_bytes(key)) for key in keys]

    def get(self, key: str) -> bytes | None:
        """The raw content of a mail, or None if there is no such key."""
        with self._lock:
            return self._box.get_bytes(key) if key in self._box else None


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)


def _age_of(key: str) -> tuple[int, int]:
    """A sort key by age: Maildir keys begin with the second, then name the microsecond."""
    parts = re.match(r"(\d+)\.M(\d+)", key)
    return (int(parts[1]), int(parts[2])) if parts else (0, 0)


class Catcher:
    """The handler that aiosmtpd calls for each mail."""

    def __init__(self, box: Box) -> None:
        """Store every mail in `box`."""
        self._box = box

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store the mail, whatever its recipients."""
        content = envelope.content
        assert isinstance(content, bytes)
        self._box.add(content, envelope.mail_from or "", envelope.rcpt_tos)
        return "250 Kept, and delivered to nobody"


def headers_of(content: bytes) -> dict[str, str]:
    """The decoded headers by lower-case name, repeated ones joined; raw UTF-8 is read too."""
    text = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[0].decode(errors="replace")
    found: dict[str, str] = {}
    message = HeaderParser(policy=policy.SMTPUTF8).parsestr(text)
    for name, value in message.items():
        known = found.get(name.lower())
        found[name.lower()] = f"{known}, {_shown(value)}" if known else _shown(value)
    return found


def _shown(value: "BaseHeader | str") -> str:
    return _one_line(str(value))


def parsed(content: bytes) -> EmailMessage:
    """Parse a raw mail."""
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def body_of(message: EmailMessage, kind: str) -> str | None:
    """The text of the body of this kind (`plain` or `html`), or None if there is none."""
    part = message.get_body((kind,))
    if part is None:
        return None
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    try:
        return content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # An unknown charset.
        return content.decode(errors="replace")


def list_page(mails: Iterable[tuple[str, bytes]]) -> str:
    """The HTML page that lists the mails."""
    rows = []
    for key, content in mails:
        headers = headers_of(content)
        subject = headers.get("subject", "").strip() or "(no subject)"
        rows.append(
            f"<tr><td>{_escaped(headers.get('date', ''))}"
            f"<td>{_escaped(headers.get('delivered-to', ''))}"
            f'<td><a href="/mail/{quote(key, safe="")}">{_escaped(subject)}</a>'
        )
    table = f"<table><tr><th>Sent<th>To<th>Subject{''.join(rows)}</table>"
    empty = "<p>No mail yet. This page looks again every few seconds.</p>"
    title = "Caught mail"
    return _page(title, f"<h1>{title}</h1>{table if rows else empty}", refreshes=True)


def mail_page(key: str, content: bytes) -> str:
    """The HTML page of one mail: its text, its HTML in a sandboxed frame, and its attachments."""
    headers, message = headers_of(content), parsed(content)
    address = f"/mail/{quote(key, safe='')}"
    names = ("date", "from", "to", "cc", "reply-to", "return-path", "delivered-to", "subject")
    rows = [
        f"<tr><th>{name.capitalize()}<td>{_escaped(headers[name])}"
        for name in names
        if name in headers
    ]
    pieces = [
        '<p><a href="/">All mail</a></p>',
        f"<h1>{_escaped(headers.get('subject', '(no subject)'))}</h1>",
        f"<table>{''.join(rows)}</table>",
    ]
    if body_of(message, "html") is not None:
        sandbox = "allow-popups allow-popups-to-escape-sandbox"
        frame = f'<iframe sandbox="{sandbox}" src="{address}/html" title="HTML text"></iframe>'
        pieces.append(f"<h2>HTML</h2>{frame}")
    plain = body_of(message, "plain")
    if plain is not None:
        pieces.append(f"<h2>Text</h2><pre>{_linked(plain)}</pre>")
    files = [
        f'<li><a href="{address}/file/{number}">{_escaped(part.get_filename() or "unnamed")}</a>'
        for number, part in enumerate(message.iter_attachments())
    ]
    if files:
        pieces.append(f"<h2>Files</h2><ul>{''.join(files)}</ul>")
    pieces.append(f'<p><a href="{address}/raw">As it came</a></p>')
    return _page(headers.get("subject", "Mail"), "".join(pieces))


def _escaped(text: str) -> str:
    return html.escape(text)


def _linked(text: str) -> str:
    """Escape the text and make its web addresses links."""
    pieces = re.split(r"(https?://[^\s<>\"']+)", text)
    for at in range(1, len(pieces), 2):
        url = _escaped(pieces[at])
        pieces[at] = f'<a href="{url}" rel="noreferrer noopener" target="_blank">{url}</a>'
    return "".join(piece if at % 2 else _escaped(piece) for at, piece in enumerate(pieces))


def _page(title: str, body: str, *, refreshes: bool = False) -> str:
    refresh = '<meta http-equiv="refresh" content="5">' if refreshes else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{refresh}<title>{_escaped(title)}</title><style>{STYLE}</style><body>{body}</body></html>"
    )


class Page(BaseHTTPRequestHandler):
    """Handles requests for the web page. `page_server` sets `box` on a subclass."""

    box: Box
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer with a page or a part of a mail, or with 404; with 403 for a foreign host name."""
        # Against DNS rebinding: a foreign site could point its own name at loopback to read
        # mails, but then that name would be here.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (LOOPBACK, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"Ask for 127.0.0.1 or localhost.")
            return
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words == [""]:
            self._answer_page(list_page(self.box.newest(LISTED)))
            return
        content = self.box.get(words[1]) if words[0] == "mail" and len(words) > 1 else None
        if content is None or not self._answer_mail(words[1], content, words[2:]):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is no such mail.")

    def _answer_mail(self, key: str, content: bytes, words: list[str]) -> bool:
        if not words:
            self._answer_page(mail_page(key, content))
            return True
        if words == ["raw"]:
            self._answer(HTTPStatus.OK, "text/plain", content)
            return True
        if words == ["html"] and (body := body_of(parsed(content), "html")) is not None:
            page = f'<!doctype html><meta charset="utf-8"><base target="_blank">{body}'
            self._answer(HTTPStatus.OK, "text/html", page.encode(), policy=BODY_POLICY)
            return True
        files = list(parsed(content).iter_attachments())
        if len(words) == 2 and words[0] == "file" and words[1] in map(str, range(len(files))):
            self._answer_file(files[int(words[1])])
            return True
        return False

    def _answer_file(self, part: Any) -> None:
        content = part.get_payload(decode=True)
        name = quote(part.get_filename() or "unnamed", safe="")
        self._answer(
            HTTPStatus.OK,
            "application/octet-stream",
            content if isinstance(content, bytes) else part.as_bytes(),
            disposition=f"attachment; filename*=UTF-8''{name}",
        )

    def _answer_page(self, page: str) -> None:
        self._answer(HTTPStatus.OK, "text/html", page.encode())

    def _answer(
        self,
        status: HTTPStatus,
        kind: str,
        body: bytes,
        *,
        policy: str = PAGE_POLICY,
        disposition: str | None = None,
    ) -> None:
        self.send_response(status)
        charset = "; charset=utf-8" if kind.startswith("text/") else ""
        self.send_header("Content-Type", kind + charset)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if disposition:
            self.send_header("Content-Disposition", disposition)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the page refreshes itself every few seconds."""


def page_server(box: Box, port: int) -> ThreadingHTTPServer:
    """Create the page's server; the caller calls its `serve_forever` and `shutdown`."""
    server = ThreadingHTTPServer((LOOPBACK, port), type("BoxPage", (Page,), {"box": box}))
    server.daemon_threads = True
    return server


async def _catch(box: Box, port: int) -> None:
    def connection() -> SMTP:
        return SMTP(Catcher(box), enable_SMTPUTF8=True, data_size_limit=LARGEST_MAIL)

    server = await asyncio.get_running_loop().create_server(connection, LOOPBACK, port)
    print(f"taking mail on {LOOPBACK}:{port}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Run the SMTP server and the page until stopped."""
    parser = argparse.ArgumentParser(description="Catch mail and show it on a page.")
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--page-port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    box = Box(given.data)
    page = page_server(box, given.page_port)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    asyncio.run(_catch(box, given.smtp_port))


if __name__ == "__main__":
    main()
