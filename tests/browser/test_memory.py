"""The tab's memory stays flat however large a file is: only slices of it are ever touched."""

from pathlib import Path

from playwright.sync_api import Browser

from benchmarks import chromium as usage
from benchmarks import place
from embedded import services
from tests.browser.steps import MIB, choose, expect_state

SIZE = 5 * 1024 * MIB
# What a tab may grow by while it sends. Half of one second's bytes in memory would be more.
GROWTH = 200 * MIB


def test_five_gib_in_a_tab_that_does_not_grow(chromium: Browser, tmp_path: Path) -> None:
    """With checksums; to an endpoint that verifies everything but forgets the bytes."""
    file = place.make_file(tmp_path / "five.bin", SIZE, sparse=True)
    with place.opened(tmp_path / "data", "sink") as here:
        url = here.beeline().url
        processes = usage.Usage(chromium)
        before = {one["id"] for one in processes.processes()}
        context = chromium.new_context()
        page = context.new_page()
        page.goto(url)
        tabs = [
            one["id"]
            for one in processes.processes()
            if one["type"] == "renderer" and one["id"] not in before
        ]
        assert tabs
        with usage.MemoryWatch({"tab": tabs}) as watch:
            choose(page, file)
            expect_state(page, "done", 180)
        context.close()
        key = here.s3.list_objects_v2(Bucket=services.BUCKET)["Contents"][0]
        assert key["Size"] == SIZE
    assert watch.peak["tab"] - watch.first["tab"] < GROWTH
