"""The oldest browsers that are supported, Firefox 115 and Safari 16.4, lack some of what Chromium has."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    assert_arrived,
    choose,
    expect_state,
    link_of,
    make_files,
    stop_at,
)
from tests.browser.test_asking import sent
from tests.browser.test_manage import expect_deleted, page_of
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
# What came later, to either of them: first what our scripts use if it is there, then what they could
# easily come to use.
OLDER = (
    PLAIN
    + """
delete AbortSignal.any; delete Element.prototype.role; delete Navigator.prototype.wakeLock;
delete IDBFactory.prototype.databases;
// Without `keepalive`, a request goes with its page.
const { fetch } = window;
let isLeaving = false;
addEventListener('pagehide', () => { isLeaving = true; }, true);
window.fetch = (...asked) => (isLeaving ? new Promise(() => {}) : fetch(...asked));

delete window.Iterator; delete Array.fromAsync; delete Object.groupBy; delete Map.groupBy;
delete Promise.withResolvers; delete Promise.try; delete URL.parse; delete RegExp.escape;
delete Blob.prototype.bytes; delete Response.prototype.bytes; delete Uint8Array.prototype.toBase64;
for (const name of ['map', 'filter', 'some', 'every', 'find', 'forEach', 'reduce', 'take', 'drop', 'toArray', 'flatMap']) {
  delete Object.getPrototypeOf(Object.getPrototypeOf([].values()))[name];
}
for (const name of ['union', 'difference', 'intersection', 'isSubsetOf']) delete Set.prototype[name];
"""
)


@pytest.fixture
def older(open_page: OpenPage) -> Page:
    """A page of an older browser; it still has to be opened."""
    page = open_page("/health")
    page.add_init_script(OLDER)
    return page


def test_files_are_sent_paused_and_continued_after_a_reload(
    older: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 40 * MIB})
    older.goto("/")
    held, puts = stop_at(older, live, 2)
    choose(older, tmp_path / "a.bin")
    link = link_of(older)
    puts.wait_for(2)
    older.get_by_role("button", name="Pause").click()
    expect_state(older, "paused")
    older.get_by_role("button", name="Continue").click()
    expect_state(older, "uploading")
    older.reload()
    held.release()
    older.locator(".offer").get_by_role("button", name="Choose the file").click()
    choose(older, tmp_path / "a.bin")
    expect_state(older, "done")
    assert link_of(older) == link
    assert_arrived(open_page, link, sums)


def test_a_click_that_does_not_get_through_is_told_to_screen_readers(
    older: Page, live: Stack
) -> None:
    older.goto(page_of(sent(live)))
    older.route("**/details", lambda route: route.abort())
    older.locator("#manage-details summary").click()
    older.get_by_label("Title").fill("Rushes")
    older.get_by_role("button", name="Save").click()
    expect(older.get_by_role("alert")).to_contain_text("That did not get through")


def test_whoever_leaves_while_a_deletion_can_be_undone_meant_it(
    older: Page, open_page: OpenPage, live: Stack
) -> None:
    made = sent(live)
    older.goto(page_of(made))
    older.locator("#manage-end summary").click()
    older.get_by_role("button", name="Delete now").click()
    older.goto("/")
    expect_deleted(open_page, made)
