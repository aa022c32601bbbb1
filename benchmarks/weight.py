"""What a browser fetches for the first page: its size plain, gzipped and as it is sent."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, Response

from benchmarks import chromium, place
from benchmarks.knobs import MIB
from benchmarks.turns import say, table


@dataclass(frozen=True)
class Fetched:
    """One answer: its name, kind, and sizes in bytes; `phase` is when it was requested."""

    phase: str
    name: str
    kind: str
    plain: int
    gzipped: int
    sent: int


def run() -> None:
    """Fetch the home page: until it has loaded, then at rest, then after a small file was sent."""
    with (
        place.folder(64 * MIB) as data,
        place.opened(data, "sink") as here,
        chromium.started() as browser,
    ):
        stack = here.beeline()
        page = browser.new_context().new_page()
        fetched = _watch(page, stack.url, data)
    _tell(fetched)


def _watch(page: Page, url: str, data: Path) -> list[Fetched]:
    answers: list[tuple[str, Response]] = []
    phase = "first view"
    page.on("response", lambda answer: answers.append((phase, answer)))
    page.goto(url, wait_until="load")
    phase = "at rest"
    page.wait_for_timeout(3000)
    phase = "when sending"
    page.locator("#files-input").set_input_files(str(place.make_file(data / "small.bin", 20 * MIB)))
    page.locator("#sender[data-state=done]").wait_for()
    wanted = [(when, one) for when, one in answers if one.url.startswith(url)]
    found: dict[str, Fetched] = {}
    for when, one in wanted:
        if one.request.method == "GET" and one.ok:
            # What a worker loads again comes from the browser's cache.
            found.setdefault(one.url, _weigh(when, one))
    return list(found.values())


def _weigh(phase: str, answer: Response) -> Fetched:
    body = answer.body()
    path = urlsplit(answer.url).path
    # Without the folder named by a hash.
    name = path.split("/", 3)[3] if path.startswith("/static/") else path
    sent = answer.headers.get("content-length")
    is_zipped = "content-encoding" in answer.headers
    kind = answer.headers.get("content-type", "").partition(";")[0]
    zipped = len(gzip.compress(body, 9))
    return Fetched(
        phase, name, kind, len(body), zipped, int(sent) if sent and is_zipped else len(body)
    )


def _tell(fetched: list[Fetched]) -> None:
    known = [one for one in fetched if one.kind != "application/json"]
    rows = [[o.name, o.phase, f"{o.plain:,}", f"{o.gzipped:,}", f"{o.sent:,}"] for o in known]
    first = [one for one in known if one.phase == "first view"]
    scripts = [one for one in known if one.kind.endswith("javascript")]
    uploader = [one for one in scripts if one.name.startswith(("js/upload", "js/sender/"))]
    for name, group in (
        ("first view", first),
        ("all scripts", scripts),
        ("the uploader", uploader),
    ):
        sums = [sum(getattr(one, what) for one in group) for what in ("plain", "gzipped", "sent")]
        rows.append([f"= {name}: {len(group)} requests", "", *(f"{size:,}" for size in sums)])
    table("bytes", ["", "fetched", "plain", "gzip -9", "as sent"], rows)
    if all(one.sent == one.plain for one in known):
        say("   the web process sends nothing compressed: gzip is up to what stands before it")
