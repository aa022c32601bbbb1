"""How many requests Beeline and storage get while the page sends one very large file."""

import re
from collections import Counter
from urllib.parse import urlsplit

from playwright.sync_api import Request

from benchmarks import chromium, place
from benchmarks.knobs import MIB, size_of, text
from benchmarks.turns import figure, table

LIMIT_SECONDS = 1800


def run() -> None:
    """Send a sparse file of REQUESTS_SIZE (10G) to storage that discards the bytes.

    On loopback, where hashing is hardly faster than sending, and on the paced line.
    """
    size = size_of(text("REQUESTS_SIZE", "10G"))
    rows = []
    with (
        place.folder(64 * MIB) as data,
        place.opened(data, "sink") as here,
        chromium.started() as browser,
    ):
        file = place.make_file(data / "sparse.bin", size, sparse=True)
        ways = [
            (f"{line}, {words}", endpoint, setting)
            for line, endpoint in (("loopback", here.endpoint_url), ("paced line", here.line()))
            for words, setting in place.checksum_ways()
        ]
        for words, endpoint, setting in ways:
            url = here.beeline(S3_PUBLIC_ENDPOINT_URL=endpoint, **setting).url
            asked = Counter[str]()

            def count(request: Request, url: str = url, asked: Counter[str] = asked) -> None:
                if "/static/" not in request.url:
                    asked[_kind(request, url)] += 1

            with chromium.page_at(browser, url, limit_seconds=LIMIT_SECONDS) as page:
                page.on("request", count)
                chromium.send(page, file, endpoint)
            puts = asked.pop("PUT to storage")
            rows.append([words, f"{puts:,}", f"{asked.total():,}", f"1/{puts / asked.total():.0f}"])
            rows += [[f"  {kind}", "", figure(number), ""] for kind, number in asked.most_common()]
    head = ["", "PUTs", "control requests", "of one per part"]
    table(f"{size // MIB:,} MiB, once each", head, rows)


def _kind(request: Request, url: str) -> str:
    if not request.url.startswith(url):
        return f"{request.method} to storage"
    path = re.sub(r"/[0-9a-f-]{36}", "/ID", urlsplit(request.url).path)
    return f"{request.method} {path}"
