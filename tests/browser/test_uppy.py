"""Uppy 5 and 6 as they are published, in a real browser, on a page of another origin than ours.

The page is the one that docs/uppy.md shows, as it stands.
"""

import hashlib
import json
import os
import subprocess
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, Route, expect

from app.config import MIB
from tests.factories import http
from tests.lab.stack import Stack

DOCUMENT = Path("docs/uppy.md").read_text()
VERSIONS = {"uppy5": "v5.2.4", "uppy6": "v6.0.1"}
CDN = "https://releases.transloadit.com/uppy/"
# Small files by a form, and everything in parts where that is asked for.
SENDING = {
    "one byte.txt": b"1",
    "200 KB.jpg": os.urandom(200_000),
    unicodedata.normalize("NFD", "Zoë 日本語 — Füße.bin"): os.urandom(12 * MIB),
}
DRIVEN = """
<!doctype html><meta charset="utf-8"><script type="module">
  import { AwsS3, Uppy } from "https://releases.transloadit.com/uppy/v6.0.1/uppy.min.mjs";
  const session = await (await fetch("/upload-session")).json();
  window.uppy = new Uppy().use(AwsS3, {
    companionEndpoint: session.url, shouldUseMultipart: true, limit: 1
  });
  window.sent = [];
  uppy.on("upload-success", (file, { body }) => window.sent.push([file.name, body.key]));
  uppy.on("upload-error", (file, error) => window.sent.push([file.name, String(error)]));
  window.add = (name, size) => {
    const data = new Blob([new Uint8Array(size).map((_, at) => at % 251)]);
    uppy.addFile({ name, data });
  };
</script>
"""


@dataclass
class Site:
    """Somebody's own site: its page, and the key that only its server has."""

    live: Stack
    url: str
    key: str
    workspace: str
    page: str = ""

    def ask(self, path: str, **query: str) -> Any:
        """As its server asks ours."""
        fields = {"workspaceId": self.workspace, **query}
        return http.request(
            "GET",
            f"{self.live.url}{path}",
            fields=fields,
            headers={"x-api-key": self.key},
            redirect=False,
        )

    def sha256(self, key: str) -> str:
        """Of what lies behind a key."""
        led = self.ask("/s3/download", key=key)
        assert led.status == 302, led.data
        return sha256(http.request("GET", led.headers["Location"]).data)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def shell(number: int, **given: str) -> str:
    """Run one of the document's commands as it stands; what it prints."""
    command = DOCUMENT.split("```sh\n")[number].partition("```")[0]
    done = subprocess.run(
        ["bash", "-euc", command], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(live: Stack) -> Iterator[Site]:
    """A site on a port of its own, which the bucket has been told of."""
    words = [
        "flask",
        "keys",
        "issue",
        "--workspace",
        "Uppy",
        "--name",
        "a site",
        "--scope",
        "admin",
    ]
    done = subprocess.run(words, env=live.environ, capture_output=True, text=True, check=True)
    key = done.stdout.strip()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_session = self.path == "/upload-session"
            body = shell(2, BASE=live.url, KEY=key) if is_session else made.page
            self.send_response(200)
            kind = "application/json" if is_session else "text/html; charset=utf-8"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    shell(1, BASE=live.url, ADMIN_KEY=key, PAGE=url)
    session = json.loads(shell(2, BASE=live.url, KEY=key))
    made = Site(live, url, key, session["workspaceId"])
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["uppy5", "uppy6"])
def visit(
    request: pytest.FixtureRequest, chromium: Browser, site: Site
) -> Iterator[Callable[[str], Page]]:
    """Open a page of the site with this Uppy, which comes from npm where it says its CDN."""
    uppy = request.param
    context = chromium.new_context()
    context.route(f"{CDN}{VERSIONS[uppy]}/*", lambda route: from_npm(route, uppy))

    def open_page(html: str) -> Page:
        if uppy == "uppy5":  # what the document says of it
            html = html.replace("v6.0.1", "v5.2.4").replace("companionEndpoint", "endpoint")
        site.page = html
        page = context.new_page()
        page.goto(site.url)
        return page

    yield open_page
    context.close()


def from_npm(route: Route, uppy: str) -> None:
    """Answer for the CDN with what npm has of it."""
    name = route.request.url.rpartition("/")[2]
    headers = {"Access-Control-Allow-Origin": "*"}
    headers["Content-Type"] = "text/css" if name.endswith(".css") else "text/javascript"
    route.fulfill(path=f"node_modules/{uppy}/dist/{name}", headers=headers)


def test_the_documents_page_sends_and_it_arrives(
    site: Site, visit: Callable[[str], Page], tmp_path: Path
) -> None:
    page = visit(DOCUMENT.partition("```html\n")[2].partition("```")[0])
    files = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": body}
        for name, body in SENDING.items()
    ]
    page.locator("input.uppy-Dashboard-input").first.set_input_files(files)
    page.get_by_role("button", name="Upload 3 files").click()
    items = page.locator("#sent li")
    expect(items).to_have_count(len(SENDING))
    keys = {item.text_content(): item.get_attribute("data-key") for item in items.all()}
    assert {name: site.sha256(key or "") for name, key in keys.items()} == {
        name: sha256(body) for name, body in SENDING.items()
    }
    found = site.ask("/s3/assets", q="Zoë").json()["items"]
    assert {one["name"] for one in found} == {list(SENDING)[2]}


def driven(page: Page) -> Page:
    page.wait_for_function("!!window.add")
    return page


def test_in_parts_paused_and_resumed_by_what_storage_holds(
    site: Site, visit: Callable[[str], Page]
) -> None:
    page = driven(visit(DRIVEN))
    asked: list[str] = []
    page.on("request", lambda one: asked.append(f"{one.method} {one.url}"))
    size = 12 * MIB
    page.evaluate(
        """([name, size]) => {
          uppy.once("s3-multipart:part-uploaded", () => { uppy.pauseAll(); window.paused = true; });
          add(name, size);
          uppy.upload();
        }""",
        ["paused.bin", size],
    )
    page.wait_for_function("window.paused")
    assert not any(map(is_list, asked))
    page.evaluate("uppy.resumeAll()")
    page.wait_for_function("window.sent.length")
    ((name, key),) = page.evaluate("window.sent")
    body = bytes(at % 251 for at in range(251)) * (size // 251 + 1)
    assert (name, site.sha256(key)) == ("paused.bin", sha256(body[:size]))
    # It asked what is there, and did not send the first part again.
    assert any(map(is_list, asked))
    assert len([one for one in asked if one.startswith("PUT") and "partNumber=1&" in one]) == 1


def is_list(line: str) -> bool:
    """Whether a request was for the parts of an upload."""
    method, _, url = line.partition(" ")
    return method == "GET" and url.partition("?")[0].split("/")[-2] == "multipart"


def test_given_up_nothing_of_it_stays(site: Site, visit: Callable[[str], Page]) -> None:
    page = driven(visit(DRIVEN))

    def is_abort(one: Response) -> bool:
        return one.request.method == "DELETE" and "/s3/multipart/" in one.url

    with page.expect_response(is_abort) as given_up:
        page.evaluate(
            """() => {
              uppy.once("s3-multipart:part-uploaded", () => uppy.cancelAll());
              add("given up.bin", 12 * 1024 * 1024);
              uppy.upload();
            }"""
        )
    assert given_up.value.status == 200
    at = given_up.value.url
    assert http.request("GET", at).json()["code"] == "INVALID_UPLOAD_ID"
    assert site.ask("/s3/assets", q="given").json()["items"] == []
