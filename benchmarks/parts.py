"""Which part size: lanes without an uploader, the page itself, and where the CPU time goes."""

import contextlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks import chromium, peers, place
from benchmarks.knobs import MIB, knobs
from benchmarks.peers import Peers
from benchmarks.place import Place
from benchmarks.turns import figure, median, ratio, say, table, take_turns

SIZES = (8, 16, 32, 64)
LANES = (4, 6)
KINDS = ("browser", "network", "tab", "endpoint", "line", "web")


def run() -> None:
    """Print a table each for loopback, for loopback to `sink` storage, and for the paced line."""
    given = knobs()
    with (
        place.folder(3 * max(given.size, given.paced_size)) as data,
        chromium.started() as browser,
    ):
        for line in given.lines:
            file = place.make_file(data / f"{line}.bin", given.size_on(line))
            with _opened(data, "s3" if line == "loopback" else "sink", browser) as (here, others):
                endpoint = here.line() if line == "paced" else here.endpoint_url
                _compare(given.words_for(line), here, others, file, endpoint)
            file.unlink()


@contextlib.contextmanager
def _opened(data: Path, endpoint: str, browser: Browser) -> Generator[tuple[Place, Peers]]:
    with (
        place.opened(data, endpoint) as here,
        peers.opened(here, browser) as others,
    ):
        yield here, others


def _compare(title: str, here: Place, others: Peers, file: Path, endpoint: str) -> None:
    say(f"   {title}:")
    contestants = {"curl": partial(peers.curl, here, file, endpoint)}
    for part in SIZES:
        for lanes in LANES:
            contestants[f"{part} MiB x {lanes}"] = partial(
                others.send, "lanes", file, endpoint, part=part * MIB, lanes=lanes
            )
    for part in SIZES:
        settings = {"PART_SIZE": str(part * MIB), "S3_PUBLIC_ENDPOINT_URL": endpoint}
        url = here.beeline(**settings).url
        send = partial(chromium.send, file=file, storage=endpoint)
        contestants[f"the page, {part} MiB"] = partial(others.browse, url, send)
    rounds = take_turns(contestants)
    base, size = median(rounds.get("curl", [])), file.stat().st_size
    rows = [
        [name, figure(size / 1e6 / (median(turns) or 1)), ratio(base, median(turns))]
        + [figure(median(turns, kind), 2) for kind in KINDS]
        for name, turns in rounds.items()
    ]
    head = ["part x lanes", "MB/s", "x curl", *(f"CPU s {kind}" for kind in KINDS)]
    table(f"{title}, {size // MIB} MiB", head, rows)
