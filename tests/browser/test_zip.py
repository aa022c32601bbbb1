"""Download all, in a real browser: one click, the zip is made, and the download starts by itself."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import MIB, drop, expect_state, link_of, look, make_files
from tests.lab.stack import Stack, kill_family

OpenPage = Callable[..., Page]


@pytest.fixture
def link(open_page: OpenPage, tmp_path: Path) -> str:
    make_files(
        tmp_path,
        {
            "Ceremony.mov": 21 * MIB,
            "photos/1 first.jpg": 300_000,
            "photos/2 ü.jpg": 5,
            "empty.txt": 0,
        },
    )
    sender = open_page()
    drop(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done")
    return link_of(sender)


def unpacked(path: Path, into: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {info.filename: opened.read(info) for info in opened.infolist()}


def sent(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_click_and_everything_comes(
    open_page: OpenPage, link: str, tmp_path: Path, live: Stack
) -> None:
    reader = open_page(link, accept_downloads=True)
    with reader.expect_download() as getting:
        reader.get_by_role("button", name="Download all").press("Enter")
    assert getting.value.suggested_filename == "files.zip"
    assert unpacked(Path(getting.value.path()), tmp_path) == sent(tmp_path)
    # Whoever comes later finds it made.
    later = open_page(link, accept_downloads=True)
    expect(later.locator("#zip")).to_have_attribute("data-state", "ready")
    with later.expect_download() as getting:
        later.get_by_role("button", name="Download all").click()
    assert unpacked(Path(getting.value.path()), tmp_path) == sent(tmp_path)


def test_without_javascript_the_page_leads_there(
    open_page: OpenPage, link: str, tmp_path: Path
) -> None:
    reader = open_page(link, java_script_enabled=False, accept_downloads=True)
    reader.get_by_role("button", name="Download all").click()
    expect(reader.locator("#zip")).to_have_attribute("data-state", "ready")
    with reader.expect_download() as getting:
        reader.get_by_role("button", name="Download all").click()
    assert unpacked(Path(getting.value.path()), tmp_path) == sent(tmp_path)


@pytest.mark.parametrize("status", [None, 403, 429, 503], ids=str)
def test_a_click_that_does_not_get_through_says_so_and_surprises_nobody_later(
    open_page: OpenPage, link: str, status: int | None
) -> None:
    reader = open_page(link, accept_downloads=True)
    asked: list[str] = []
    reader.on("request", lambda one: asked.append(one.url) if one.method == "POST" else None)
    reader.route(
        "**/zip",
        lambda route: route.fulfill(status=status, body="no") if status else route.abort(),
    )
    button = reader.get_by_role("button", name="Download all")
    button.press("Enter")
    note = reader.locator("#zip [role=alert]")
    expect(note).to_contain_text("That did not get through")
    expect(button).to_be_focused()
    if status == 503:
        look(reader, "zip-did-not-get-through")
    reader.unroute("**/zip")
    # Somebody else has it made, and this page is renewed: nothing comes that was not asked for again.
    other = open_page(link, accept_downloads=True)
    with other.expect_download():
        other.get_by_role("button", name="Download all").click()
    reader.evaluate("htmx.ajax('GET', location.pathname, {target: '#transfer', swap: 'outerHTML'})")
    expect(reader.locator("#zip")).to_have_attribute("data-state", "ready")
    reader.wait_for_timeout(300)
    assert len(asked) == 1
    with reader.expect_download():
        button.click()


def test_while_it_is_made_nothing_on_the_page_flickers(
    open_page: OpenPage, link: str, live: Stack
) -> None:
    reader = open_page(link)
    kill_family(live.running["maker"])
    try:
        reader.get_by_role("button", name="Download all").press("Enter")
        expect(reader.get_by_text("The download starts by itself.")).to_be_visible()
        # What is seen after each change of the page, as a browser may paint it then.
        reader.evaluate(
            """() => {
              window.seen = [];
              new MutationObserver(() => seen.push(document.querySelector('.zip .hint').innerText))
                .observe(document.querySelector('.column'), { childList: true, subtree: true });
            }"""
        )
        reader.wait_for_function("() => seen.length >= 2")
        assert set(reader.evaluate("seen")) == {
            "The download starts by itself. Meanwhile, you can download single files."
        }
    finally:
        live.start("maker")


def test_how_it_looks(open_page: OpenPage, link: str, live: Stack) -> None:
    reader = open_page(link)
    look(reader, "zip-none")
    kill_family(live.running["maker"])
    try:
        reader.get_by_role("button", name="Download all").press("Enter")
        expect(reader.get_by_text("Making one zip of everything")).to_be_visible()
        # The button is gone; from here the next one is where it will be again.
        expect(reader.get_by_role("heading", level=1)).to_be_focused()
        look(reader, "zip-building")
        single = reader.get_by_role("button", name="Download Ceremony.mov")
        expect(single).to_be_visible()
    finally:
        live.start("maker")
    with reader.expect_download():
        pass
    expect(reader.locator("#zip")).to_have_attribute("data-state", "ready")
    reader.keyboard.press("Tab")
    expect(reader.get_by_role("button", name="Download all")).to_be_focused()
    look(reader, "zip-ready")
