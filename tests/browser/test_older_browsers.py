"""The oldest browsers that are supported, Firefox 115 and Safari 16.4, lack some of what Chromium has."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    Hold,
    assert_arrived,
    call,
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


def style_without(page: Page, *features: str) -> None:
    """The browser does not know these features, and leaves out the rules that have them."""

    def answer(route: Route) -> None:
        style = route.fetch().text()
        for feature in features:
            style = style.replace(feature, "unknown")
        route.fulfill(body=style, content_type="text/css")

    page.route("**/site.css", answer)


def test_buttons_beside_files_are_as_large_as_they_look(
    older: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 5, "b.bin": 5})
    # Safari has `content-visibility`, which clips rows, but not this, which keeps what sticks out.
    style_without(older, "overflow-clip-margin")
    older.goto("/")
    Hold(older, live)
    choose(older, tmp_path / "a.bin", tmp_path / "b.bin")
    button = older.get_by_role("button", name="Remove a.bin")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box
    edge = [box["x"] + box["width"] - 2, box["y"] + box["height"] / 2]
    found = "([x, y]) => document.elementFromPoint(x, y)?.closest('button')?.ariaLabel"
    assert older.evaluate(found, edge) == "Remove a.bin"


def test_what_removes_a_file_is_in_the_row_of_the_file(older: Page, live: Stack) -> None:
    files = [{"path": name, "size": 5} for name in ("a.bin", "b.bin")]
    made = call(live, "POST", "/transfers", body={"files": files})
    style_without(older, ":has(", "content-visibility", "overflow-clip-margin")
    older.goto(page_of(made))
    for name in ("a.bin", "b.bin"):
        row = older.get_by_role("listitem").filter(has=older.get_by_title(name)).bounding_box()
        button = older.get_by_label(f"Remove {name}", exact=True).bounding_box()
        assert row
        assert button
        assert row["y"] <= button["y"] <= row["y"] + row["height"]


def test_while_files_are_dragged_over_the_page_it_keeps_saying_drop(
    older: Page, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 5})
    # Safari tells where the pointer goes only since 2026.
    older.add_init_script(
        "Object.defineProperty(MouseEvent.prototype, 'relatedTarget', { get: () => null })"
    )
    older.goto("/")
    older.evaluate(
        """() => {
          window.hidings = 0;
          const veil = document.getElementById('veil');
          new MutationObserver(() => { window.hidings += veil.hidden; })
            .observe(veil, { attributeFilter: ['hidden'] });
        }"""
    )
    devtools = older.context.new_cdp_session(older)
    data = {"items": [], "files": [str(tmp_path / "a.bin")], "dragOperationsMask": 1}
    veil = older.locator("#veil")
    for kind, y in [("dragEnter", 30), *(("dragOver", y) for y in range(50, 850, 20))]:
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 640, "y": y, "data": data})
    expect(veil).to_be_visible()
    assert older.evaluate("window.hidings") == 0
    # DevTools send no event for a pointer that leaves the window.
    older.evaluate(
        """() => document.elementFromPoint(640, 830)
          .dispatchEvent(new DragEvent('dragleave', { bubbles: true }))"""
    )
    expect(veil).to_be_hidden()


@pytest.mark.parametrize(("colors", "appearance"), [("none", "none"), ("active", "auto")])
def test_a_choice_looks_as_the_fields_beside_it_where_browsers_draw_their_own(
    open_page: OpenPage, live: Stack, colors: str, appearance: str
) -> None:
    """Safari's own is grey and higher. Forced colours leave out our arrow, so there it is theirs."""
    page = open_page(page_of(sent(live)), forced_colors=colors)
    choice = page.locator("#m-expires")
    expect(choice).to_have_css("appearance", appearance)
