"""What a person does, in words the tests use; and what every page is checked for."""

import contextlib
import hashlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, Route, expect

from tests.lab.stack import Stack

AXE = Path("node_modules/axe-core/axe.min.js")
SCREENSHOTS = Path("var/screenshots")
SIZES = {"1280": {"width": 1280, "height": 900}, "390": {"width": 390, "height": 844}}
MIB = 1024 * 1024


def make_files(folder: Path, files: dict[str, int]) -> dict[str, str]:
    """Files whose bytes differ everywhere; the SHA-256 of each by its path."""
    sums = {}
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        block = hashlib.sha256(name.encode()).digest() * 32768
        data = b"".join(
            hashlib.sha256(f"{name}{at}".encode()).digest() + block for at in range(size // MIB + 1)
        )[:size]
        path.write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    return sums


def drop(page: Page, *paths: Path) -> None:
    """A real drop from outside the browser: folders are folders."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def choose(page: Page, *paths: Path) -> None:
    """As if by the button's file dialog.

    Not through the dialog itself: Chromium now and then opens a real one, which nobody closes, and
    then no test after it gets another.
    """
    page.locator("#files-input").set_input_files([str(path) for path in paths])


def expect_state(page: Page, state: str, seconds: float = 30) -> None:
    """The sender's page says where it is."""
    expect(page.locator("#sender")).to_have_attribute("data-state", state, timeout=seconds * 1000)


def link_of(page: Page) -> str:
    """The link that the sender is shown."""
    link = page.locator("#link")
    expect(link).to_be_visible()
    return link.get_attribute("href") or ""


def send(page: Page, *paths: Path) -> str:
    """Choose, wait until it is done, give the link."""
    choose(page, *paths)
    expect_state(page, "done")
    return link_of(page)


def downloaded(page: Page, button: Any) -> tuple[str, str]:
    """Click, and give the saved file's name and SHA-256."""
    with page.expect_download() as getting:
        button.click()
    saved = getting.value
    return saved.suggested_filename, hashlib.sha256(Path(saved.path()).read_bytes()).hexdigest()


class Hold:
    """From so many requests on, storage takes what is sent and does not answer, until release()."""

    def __init__(self, page: Page, live: Stack, after: int = 0) -> None:
        self._left = after
        self._held: list[Route] = []
        self._then: Callable[[Route], None] = self._held.append
        page.route(f"{live.environ['S3_ENDPOINT_URL']}/**", self._pass)

    def release(self) -> None:
        """Let everything go on."""
        self._from_now_on(lambda route: route.continue_())

    def break_lines(self) -> None:
        """Every line breaks, those that are held and those to come."""
        self._from_now_on(lambda route: route.abort())

    def _from_now_on(self, then: Callable[[Route], None]) -> None:
        self._then = then
        while self._held:
            # The page itself may have given one up by now.
            with contextlib.suppress(Error):
                then(self._held.pop())

    def _pass(self, route: Route) -> None:
        if route.request.method == "PUT" and self._left == 0:
            self._then(route)
            return
        self._left -= route.request.method == "PUT"
        route.continue_()


def call(live: Stack, method: str, path: str, token: str = "", body: object = None) -> Any:
    """The API, as a script speaks it."""
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(live.url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def look(page: Page, name: str) -> None:
    """Keep a picture, and let axe look for what shuts people out; nothing may be wider than its
    window."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(500)  # Transitions end, so that colours are what they will be.
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    told = [
        (one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]
    ]
    assert told == [], name
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), (
        f"{name}: too wide"
    )
