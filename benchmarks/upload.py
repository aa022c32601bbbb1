"""The same file sent by Beeline and by each of its peers.

On loopback, on loopback to storage that discards the bytes, and on a paced line.
"""

import contextlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks import chromium, peers, place
from benchmarks.knobs import MIB, knobs
from benchmarks.peers import Peers
from benchmarks.place import RATE, Place
from benchmarks.turns import Contestant, Rounds, figure, median, ratio, say, table, take_turns

WITH, WITHOUT = "Beeline, CRC32 on", "Beeline, CRC32 off"
BASES = ("curl, one stream", "Uppy 5", "Uppy 6")
KINDS = ("browser", "network", "tab", "endpoint", "web")


def run() -> None:
    """Print three tables: SIZE on loopback twice, PACED_SIZE on the line, which PACE scales."""
    given = knobs()
    has_uppy = peers.fetch_uppy()
    with (
        place.folder(3 * max(given.size, given.paced_size)) as data,
        chromium.started() as browser,
    ):
        for line in given.lines:
            size = given.size_on(line)
            file = place.make_file(data / f"{line}.bin", size)
            with _opened(data, "s3" if line == "loopback" else "sink", browser) as (here, others):
                endpoint = here.line() if line == "paced" else here.endpoint_url
                contestants = _contestants(here, others, file, endpoint, has_uppy)
                rate = RATE * given.pace if line == "paced" else None
                _compare(given.words_for(line), contestants, size, rate)
            file.unlink()


@contextlib.contextmanager
def _opened(data: Path, endpoint: str, browser: Browser) -> Generator[tuple[Place, Peers]]:
    with place.opened(data, endpoint) as here, peers.opened(here, browser) as others:
        yield here, others


def _contestants(
    here: Place, others: Peers, file: Path, endpoint: str, has_uppy: bool
) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {
        "curl, one stream": partial(peers.curl, here, file, endpoint),
        "s3transfer": partial(peers.s3transfer, here, file, endpoint),
    }
    if has_uppy:
        found["Uppy 5"] = partial(others.send, "uppy5", file, endpoint)
        found["Uppy 6"] = partial(others.send, "uppy6", file, endpoint)
    for words, setting in place.checksum_ways():
        url = here.beeline(S3_PUBLIC_ENDPOINT_URL=endpoint, **setting).url
        act = partial(chromium.send, file=file, storage=endpoint)
        found[f"Beeline, {words}"] = partial(others.browse, url, act)
    return found


def _compare(
    title: str, contestants: dict[str, Contestant], size: int, rate: float | None = None
) -> None:
    say(f"   {title}:")
    rounds = take_turns(contestants)
    bases = {name: median(rounds.get(name, [])) for name in BASES}
    rows = [_row(name, rounds, bases, size, rate) for name in rounds]
    head = [
        "",
        "rounds",
        "MB/s",
        *(f"x {name}" for name in BASES),
        "of line",
        "first PUT s",
        "done s",
    ]
    table(f"{title}, {size // MIB} MiB, medians", head, rows)
    costs = [
        [name, *(figure(median(turns, kind), 2) for kind in KINDS)]
        for name, turns in rounds.items()
    ]
    table("CPU seconds", ["", *KINDS], costs)
    on, off = (median(rounds.get(name, [])) for name in (WITH, WITHOUT))
    say(f"   Beeline's speed with CRC32 is {ratio(off, on)} x its speed without")


def _row(
    name: str, rounds: Rounds, bases: dict[str, float | None], size: int, rate: float | None
) -> list[str]:
    took = median(rounds[name])
    speed = size / took if took else None
    return [
        name,
        str(len(rounds[name])),
        figure(speed / 1e6 if speed else None),
        *(ratio(base, took) for base in bases.values()),
        ratio(speed, rate),
        figure(median(rounds[name], "first"), 2),
        figure(median(rounds[name], "shown"), 2),
    ]
