"""More files for what was sent, and a form that brings it back: from the sender's page, in a real browser."""

import hashlib
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    SIZES,
    assert_arrived,
    call,
    choose,
    expect_state,
    look,
    make_files,
    remembered,
    send,
    stop_at,
)
from tests.browser.test_asking import expire, sent
from tests.browser.test_manage import STYLES, page_of
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


def zip_of(page: Page) -> dict[str, str]:
    """Download all, and the SHA-256 of each file in it."""
    with page.expect_download(timeout=60_000) as getting:
        page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(Path(getting.value.path())) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


def test_a_second_batch_comes_beside_what_is_there_and_is_then_one_with_it(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    """With a reload in the middle; recipients miss nothing meanwhile."""
    old = make_files(tmp_path, {"one.bin": 300_000, "two.bin": 6 * MIB})
    new = make_files(tmp_path, {"three.bin": 40 * MIB, "four.bin": 5})
    page = open_page("/health")
    page.add_init_script(PLAIN)
    page.goto("/")
    link = send(page, *(tmp_path / name for name in old))
    reader = open_page(link, accept_downloads=True)
    assert zip_of(reader) == old

    page.get_by_role("link", name="Manage").click()
    page.get_by_role("link", name="Add files").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Add files")
    look(page, "adding-ready")
    held, puts = stop_at(page, live, 2)
    choose(page, *(tmp_path / name for name in new))
    expect(page.locator("#link-hint")).to_contain_text("can download what is there")
    expect(page.locator("#options")).to_have_count(0)
    look(page, "adding-uploading")
    puts.wait_for(2)
    remembered(page)
    page.reload()
    held.release()
    puts.begun.clear()

    again = page.get_by_role("button", name="Choose the file again")
    expect(page.locator(".offer-said")).to_contain_text("already safe")
    look(page, "adding-interrupted")
    for name in ("one.bin", "two.bin"):
        expect(reader.get_by_role("button", name=f"Download {name}")).to_be_visible()
    assert_arrived(open_page, link, old)
    manage = open_page(page.url.removesuffix("/add"))
    expect(manage.locator("#manage-coming")).to_contain_text("are on the way")
    look(manage, "manage-coming")

    again.click()
    choose(page, *(tmp_path / name for name in new))
    expect_state(page, "done", seconds=90)
    expect(page.locator("#heading")).to_have_text("2 files were added")
    assert len(puts.begun) == 6 - 2  # what was safe is not sent again
    look(page, "adding-done")
    assert_arrived(open_page, link, old | new)
    expect(manage.locator("#manage-coming")).to_have_count(0)
    expect(manage.locator("#manage-files li")).to_have_count(4)
    assert zip_of(open_page(link, accept_downloads=True)) == old | new
    page.get_by_role("link", name="Manage").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("4 files")


def test_it_is_cancelled_and_what_was_there_stays(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"more.bin": 300_000})
    made = sent(live)
    page = open_page(f"{page_of(made)}/add", viewport=SIZES["390"])
    held, _ = stop_at(page, live, 0)
    choose(page, tmp_path / "more.bin")
    expect(page.locator("#cancel")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("remove what was sent of these?")).to_be_visible()
    look(page, "adding-cancel")
    page.get_by_role("button", name="Stop and remove").click()
    expect(page.get_by_text("What was there before stays.")).to_be_visible()
    held.release()
    page.get_by_role("link", name="Back to its page").click()
    expect(page.get_by_text("Ready to download")).to_be_visible()
    expect(page.locator("#manage-files li")).to_have_count(1)


def test_continued_on_the_first_page_it_asks_about_what_is_added_and_nothing_else(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"more.bin": 300_000})
    made = sent(live)
    page = open_page("/health")
    page.add_init_script(PLAIN)
    page.goto(f"{page_of(made)}/add")
    stop_at(page, live, 0)
    choose(page, tmp_path / "more.bin")
    expect(page.locator("#cancel")).to_be_visible()
    remembered(page)
    page.goto("/")
    page.get_by_role("button", name="Choose the file again").click()
    choose(page, tmp_path / "more.bin")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("group")).to_contain_text("Stop, and remove what was sent of these?")
    page.get_by_role("button", name="Stop and remove").click()
    expect(page.get_by_text("What was there before stays.")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_what_has_expired_is_changed_and_comes_back(
    open_page: OpenPage, live: Stack, scripts: bool
) -> None:
    made = sent(live)
    expire(live, made)
    page = open_page(page_of(made), java_script_enabled=scripts, viewport=SIZES["390"])
    expect(page.get_by_text("Nobody can download it now")).to_be_visible()
    expect(page.get_by_role("link", name="Add files")).to_have_count(0)
    page.locator("#manage-details summary").click()
    between = """(button) => button.getBoundingClientRect().top
      - button.previousElementSibling.getBoundingClientRect().bottom"""
    assert page.locator("#m-save").evaluate(between) >= 8
    if scripts:
        look(page, "manage-expired-form")
        page.evaluate(STYLES)
    page.get_by_label("Title").fill("Once more")
    page.get_by_role("button", name="Make it available again").click()
    expect(page.get_by_text("It is available again.").first).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("Once more")
    expect(page.get_by_role("link", name="Add files")).to_be_visible()
    reader = open_page(f"/d/{made['slug']}")
    expect(reader.get_by_role("button", name="Download", exact=True)).to_be_visible()


def test_an_upload_that_outlived_its_link_leads_to_where_it_is_brought_back(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"long.bin": 300_000})

    def outlive(route: Route) -> None:
        key = route.request.headers["authorization"].removeprefix("Bearer ")
        made = {"id": route.request.url.split("/")[-2], "owner_token": key}
        answer = route.fetch()
        while call(live, "GET", f"/transfers/{made['id']}", key)["status"] != "READY":
            time.sleep(0.1)
        expire(live, made)
        route.fulfill(response=answer)

    page = open_page()
    page.route("**/complete", outlive)
    choose(page, tmp_path / "long.bin")
    expect_state(page, "failed")
    expect(page.locator("#trouble-title")).to_have_text("This transfer has expired.")
    for hidden in ("#retry", "#cancel", "#copy", "#o-title", "#add-files"):
        expect(page.locator(hidden)).to_be_hidden()
    look(page, "sending-expired")
    page.get_by_role("link", name="Manage").click()
    page.locator("#manage-extend").click()
    expect(page.get_by_text("Ready to download")).to_be_visible()
    page.goto("/")
    expect(page.locator("#mine").get_by_role("link")).to_have_text("long.bin")
