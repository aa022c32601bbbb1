"""The tab's memory while it sends a small and a large file, in a new browser for each."""

from functools import partial
from pathlib import Path

from benchmarks import chromium, place
from benchmarks.knobs import MIB, knobs, size_of, text
from benchmarks.place import Place
from benchmarks.turns import Turn, figure, median, ratio, table, take_turns

LIMIT_SECONDS = 900
GROUPS = {"tab": {"renderer"}, "the rest of the browser": {"browser", "utility", "GPU"}}

WHEN = (" at rest", "")


def run() -> None:
    """Send sparse files of MEMORY_SMALL (512M) and MEMORY_LARGE (4G) to `sink` storage."""
    sizes = [size_of(text("MEMORY_SMALL", "512M")), size_of(text("MEMORY_LARGE", "4G"))]
    with place.folder(64 * MIB) as data, place.opened(data, "sink") as here:
        contestants = {}
        for words, setting in place.checksum_ways():
            url = here.beeline(**setting).url
            for size in sizes:
                file = place.make_file(data / f"{size}.bin", size, sparse=True)
                name = f"{size // MIB} MiB, {words}"
                contestants[name] = partial(_send, here, url, file)
        rounds = take_turns(contestants, rounds=min(knobs().rounds, 5))
    rows, base = [], None
    for index, (name, turns) in enumerate(rounds.items()):
        peak = median(turns, "tab")
        base = peak if index % len(sizes) == 0 else base
        sizes_told = [figure(median(turns, f"{group}{when}")) for group in GROUPS for when in WHEN]
        rows.append([name, *sizes_told, ratio(peak, base)])
    head = ["", *(f"{group}{when or ', peak'}" for group in GROUPS for when in WHEN)]
    table("resident MiB", [*head, "tab: x the smaller"], rows)


def _send(here: Place, url: str, file: Path) -> Turn:
    here.forget()
    with chromium.started() as browser:
        usage = chromium.Usage(browser)
        with chromium.page_at(browser, url, limit_seconds=LIMIT_SECONDS) as page:
            running = usage.processes()
            kinds = {
                group: [one["id"] for one in running if one["type"] in types]
                for group, types in GROUPS.items()
            }
            with chromium.MemoryWatch(kinds) as watch:
                told = chromium.send(page, file, here.endpoint_url)
    peaks = {group: size / MIB for group, size in watch.peak.items()}
    before = {f"{group}{WHEN[0]}": size / MIB for group, size in watch.first.items()}
    return Turn(told["stored"], before | peaks)
