"""Chromium as a person uses it: the page is opened, a file is chosen, and the page does the rest.

Nothing here knows how the uploader works: the browser itself reports when the first request to
storage began and when the last one ended.
"""

import contextlib
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.knobs import knobs
from tests.lab.chromium import FLAGS, path

REST_SECONDS = 2.0
# Notes when the file is chosen. Makes room for one entry per request: browsers keep only 250.
CLOCK = """
performance.setResourceTimingBufferSize(1e5);
addEventListener('change', () => { window.chosenAt ??= performance.now(); }, true);
"""
# Seconds from the choice to storage's first request and last answer, and the number of requests.
STORED = """(storage) => {
  const all = performance.getEntriesByType('resource')
    .filter((one) => one.name.startsWith(storage));
  return {
    first: (Math.min(...all.map((one) => one.startTime)) - chosenAt) / 1000,
    stored: (Math.max(...all.map((one) => one.responseEnd)) - chosenAt) / 1000,
    requests: all.length,
    shown: (performance.now() - chosenAt) / 1000,
  };
}"""


@contextlib.contextmanager
def started() -> Generator[Browser]:
    """Debian's Chromium, or another one on the PATH."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_at(browser: Browser, url: str, limit_seconds: float | None = None) -> Generator[Page]:
    """A page in a fresh profile, loaded and idle."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout((limit_seconds or knobs().turn_seconds) * 1000)
        page.add_init_script(CLOCK)
        page.goto(url, wait_until="load")
        # Whatever a page fetches after loading has arrived before the clock starts.
        page.wait_for_timeout(REST_SECONDS * 1000)
        yield page
    finally:
        context.close()


def send(page: Page, file: Path, storage: str) -> dict[str, float]:
    """Choose the file on Beeline's page and wait until the page shows that it is done.

    Returns the seconds to the first request to storage, to its last answer and to the page showing
    that it is done, and the number of requests. Raises RuntimeError with the page's message if the
    upload failed.
    """
    page.locator("#files-input").set_input_files(str(file))
    page.locator("#sender[data-state=done], #sender[data-state=failed]").wait_for()
    if page.locator("#sender").get_attribute("data-state") == "failed":
        raise RuntimeError(page.locator("#facts").text_content() or "the upload has stopped")
    return dict(page.evaluate(STORED, storage))


class Usage:
    """The browser's processes, and the CPU they have used, by kind."""

    def __init__(self, browser: Browser) -> None:
        self._devtools = browser.new_browser_cdp_session()

    def processes(self) -> list[dict[str, Any]]:
        """Each with its type, process id and CPU seconds."""
        return list(self._devtools.send("SystemInfo.getProcessInfo")["processInfo"])

    def cpu_seconds(self) -> dict[str, float]:
        """CPU of all processes so far, by kind."""
        used: dict[str, float] = {}
        for one in self.processes():
            kind = {"browser": "browser", "renderer": "tab"}.get(one["type"], "network")
            used[kind] = used.get(kind, 0.0) + one["cpuTime"]
        return used


class MemoryWatch:
    """Samples the resident memory of some processes until it is stopped."""

    def __init__(self, kinds: dict[str, list[int]], pause: float = 0.05) -> None:
        self._kinds = kinds
        self._pause = pause
        self._over = threading.Event()
        self.first = self._now()
        self.peak = dict(self.first)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            for kind, size in self._now().items():
                self.peak[kind] = max(self.peak[kind], size)
            time.sleep(self._pause)

    def _now(self) -> dict[str, int]:
        return {kind: sum(map(resident, pids)) for kind, pids in self._kinds.items()}


def resident(pid: int) -> int:
    """The resident memory of a process in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
