"""What a person does, in words the tests use; and what every page is checked for."""

import hashlib
import itertools
import json
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request, expect

from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

AXE = Path("node_modules/axe-core/axe.min.js")
SCREENSHOTS = Path("var/screenshots")
# Five hundred pictures would take a whole run minutes; whoever works on a page runs its tests alone.
PICTURES = "PYTEST_XDIST_WORKER" not in os.environ
SIZES = {"1280": {"width": 1280, "height": 900}, "390": {"width": 390, "height": 844}}
MIB = 1024 * 1024
OpenPage = Callable[..., Page]
# As in a browser without handles; and no dialog of the system opens, which nobody would close.
PLAIN = """
delete window.showOpenFilePicker; delete window.showDirectoryPicker;
delete DataTransferItem.prototype.getAsFileSystemHandle;
window.asked = [];
addEventListener('click', (event) => {
  if (event.target.type !== 'file') return;
  window.asked.push(event.target.id);
  event.preventDefault();
}, true);
"""
# The browser's own dialog, answered with files of its private file system: their handles are real.
KEPT = """
window.kept = [];
window.showOpenFilePicker = async () => {
  const root = await navigator.storage.getDirectory();
  return Promise.all(window.kept.map((name) => root.getFileHandle(name)));
};
window.showDirectoryPicker = async () => {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(window.kept[0]);
};
"""
KEEP = """async ([input, path]) => {
  let folder = await navigator.storage.getDirectory();
  const names = path.split('/');
  const name = names.pop();
  for (const one of names) folder = await folder.getDirectoryHandle(one, {create: true});
  const stream = await (await folder.getFileHandle(name, {create: true})).createWritable();
  await stream.write(input.files[0]);
  await stream.close();
}"""
KNOWN = """async (wanted) => {
  if (!(await indexedDB.databases()).some(({name}) => name === 'beeline')) return !wanted;
  const db = await new Promise((done) => {
    const asked = indexedDB.open('beeline');
    asked.onsuccess = () => done(asked.result);
  });
  const records = await new Promise((done) => {
    const asked = db.transaction('files').objectStore('files').getAll();
    asked.onsuccess = () => done(asked.result);
  });
  db.close();
  return wanted === records.some(({files}) => files.some(({print}) => print !== undefined));
}"""


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


def drop(page: Page, *paths: Path, at: tuple[float, float] = (300, 300)) -> None:
    """A real drop from outside the browser: folders are folders."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send(
            "Input.dispatchDragEvent", {"type": kind, "x": at[0], "y": at[1], "data": data}
        )


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


# Between the page and its requests to storage. Here and not in the browser's DevTools, through which each
# piece would go as text: that takes longer than to send it.
HOLD = """
const { open, send, abort } = XMLHttpRequest.prototype;
const held = new Map(), targets = new WeakMap();
Object.assign(XMLHttpRequest.prototype, {
  open(method, url, ...more) {
    targets.set(this, { method, url: String(url) });
    open.call(this, method, url, ...more);
  },
  send(body) {
    const { method, url } = targets.get(this);
    if (method !== 'PUT' || !url.startsWith(STORAGE)) return send.call(this, body);
    held.set(this, body);
    window[ASK]().then((answer) => { if (answer !== 'hold') letGo(answer, [this]); });
  },
  abort() {
    if (held.delete(this)) end(this, 'abort');
    else abort.call(this);
  },
});
const end = (request, why) => {
  for (const name of [why, 'loadend']) request.dispatchEvent(new ProgressEvent(name));
};
const letGo = (answer, which = [...held.keys()]) => {
  for (const request of which) {
    if (!held.has(request)) continue;
    const body = held.get(request);
    held.delete(request);
    if (answer === 'break') end(request, 'error');
    // With another signature: storage itself says no.
    if (answer === 'refuse') open.call(request, 'PUT', targets.get(request).url.replace(/ture=.{8}/, 'ture=00000000'));
    if (answer !== 'break') send.call(request, body);
  }
};
addEventListener(ASK, (event) => letGo(event.detail));
"""


class Hold:
    """From so many requests on, nothing reaches storage, and nothing is answered, until release()."""

    def __init__(self, page: Page, live: Stack, after: int = 0) -> None:
        self._page = page
        self._left = after
        self._then = "hold"
        # Another one on the same page stands before the first.
        self._name = f"mayLeave{id(self)}"
        storage = live.environ["S3_ENDPOINT_URL"]
        script = f"{{ const STORAGE = '{storage}', ASK = '{self._name}'; {HOLD} }}"
        page.expose_function(self._name, self._may_leave)
        page.add_init_script(script)
        page.evaluate(script)

    def release(self) -> None:
        """Let everything go on."""
        self._from_now_on("pass")

    def break_lines(self) -> None:
        """Every line breaks, those that are held and those to come."""
        self._from_now_on("break")

    def refuse(self) -> None:
        """Storage answers 403, to those that are held and those to come."""
        self._from_now_on("refuse")

    def _from_now_on(self, then: str) -> None:
        self._then = then
        self._page.evaluate(
            "([name, detail]) => dispatchEvent(new CustomEvent(name, { detail }))",
            [self._name, then],
        )

    def _may_leave(self) -> str:
        if self._left == 0:
            return self._then
        self._left -= 1
        return "pass"


class Puts:
    """What was put into storage: begun, and taken in."""

    def __init__(self, page: Page, live: Stack) -> None:
        self._page = page
        self._storage = live.environ["S3_ENDPOINT_URL"]
        self.begun: list[str] = []
        self.stored: list[str] = []
        page.on("request", lambda request: self._note(request, self.begun))
        page.on("requestfinished", lambda request: self._note(request, self.stored))

    def _note(self, request: Request, where: list[str]) -> None:
        if request.method == "PUT" and request.url.startswith(self._storage):
            where.append(request.url.partition("X-Amz-")[0])

    def wait_for(self, count: int) -> None:
        """Until so many pieces are safe."""
        for _ in range(300):
            if len(self.stored) >= count:
                return
            self._page.wait_for_timeout(50)
        raise AssertionError(f"{len(self.stored)} pieces of {count} were stored")


def code_to(post: MailServer, email: str, before: int = 0) -> str:
    """The code in the subject of the newest mail, after so many that came before."""
    code = re.match(r"\d+", post.wait_for(email, before + 1)[-1].subject)
    assert code
    return code[0]


def follow_from_elsewhere(page: Page, live: Stack, address: str) -> None:
    """Follow a link to us on another site's page, such as a web mail's or an intranet's."""
    # localhost is another site than 127.0.0.1.
    elsewhere = f"{live.url.replace('127.0.0.1', 'localhost')}/elsewhere"
    body = f'<a href="{address}">Go there</a>'
    page.route(elsewhere, lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(elsewhere)
    page.get_by_role("link", name="Go there").click()


def keep(page: Page, folder: Path, path: str) -> None:
    """Copy a file from the disk into the browser's private file system."""
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'k'}))"
    )
    page.locator("#k").set_input_files(str(folder / path))
    page.evaluate(KEEP, [page.locator("#k").element_handle(), path])
    page.locator("#k").evaluate("(input) => input.remove()")


def stop_at(page: Page, live: Stack, count: int) -> tuple[Hold, Puts]:
    """Nothing gets through any more after so many pieces."""
    return Hold(page, live, after=count), Puts(page, live)


def remembered(page: Page) -> None:
    """Until the browser knows its files again: that takes a moment after the link is there."""
    _wait_until_known(page, is_known=True)


def forgotten(page: Page) -> None:
    """Until it knows of none any more."""
    _wait_until_known(page, is_known=False)


def _wait_until_known(page: Page, *, is_known: bool) -> None:
    # Not wait_for_function(): it takes the promise of an async function for true.
    for _ in range(300):
        if page.evaluate(KNOWN, is_known):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the browser {'knows of no' if is_known else 'still knows its'} files")


def assert_arrived(open_page: OpenPage, link: str, sums: dict[str, str]) -> None:
    """Every file is downloaded, byte for byte."""
    reader = open_page(link)
    for summary in reader.locator("summary").all():
        summary.click()
    for path, expected in sums.items():
        name = f"Download {path}" if len(sums) > 1 else "Download"
        button = reader.get_by_role("button", name=name, exact=len(sums) > 1).first
        assert downloaded(reader, button)[1] == expected, path


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


def look(page: Page, name: str, sizes: Mapping[str, Any] = SIZES) -> None:
    """Nothing may be wider than its window, and axe finds nothing that shuts people out, wide and on a
    phone, light and dark; pictures are kept of all four.

    One page shows all of them in turn: what brings it into a state takes longer than four pictures.
    """
    before = page.viewport_size
    # Every width once, every colour once: what is wrong hangs on one of them.
    checked = {(next(iter(sizes)), "light"), (next(reversed(sizes)), "dark")}
    for (width, size), scheme in itertools.product(sizes.items(), ("light", "dark")):
        if not PICTURES and (width, scheme) not in checked:
            continue
        page.set_viewport_size(size)
        # Without motion, colours are at once what they will be.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        take_picture(page, f"{name}-{width}-{scheme}")
        at = f"{name}, {width} px, {scheme}"
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), (
            f"{at}: too wide"
        )
        if (width, scheme) in checked:
            assert (found := accused(page)) == [], (at, found)
    page.emulate_media(color_scheme="null", reduced_motion="null")
    page.set_viewport_size(before)


def take_picture(page: Page, name: str) -> None:
    """Keep a picture of the whole page, unless nobody will look at it."""
    if PICTURES:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def accused(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]
    ]
