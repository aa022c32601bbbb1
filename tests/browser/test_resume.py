"""An upload cannot be lost: whatever ends the page, what is safe stays safe and it goes on there."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, Route, expect

from tests.browser.steps import (
    KEPT,
    MIB,
    PLAIN,
    Hold,
    Puts,
    assert_arrived,
    call,
    choose,
    drop,
    expect_state,
    forgotten,
    keep,
    link_of,
    look,
    make_files,
    remembered,
    stop_at,
)
from tests.browser.test_asking import expire
from tests.lab.chromium import FLAGS, path
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


def begun(page: Page, live: Stack, paths: list[Path], count: int) -> tuple[str, Puts]:
    """An upload of which so many pieces are safe, in a page that has just been loaded again."""
    held, puts = stop_at(page, live, count)
    choose(page, *paths)
    link = link_of(page)
    puts.wait_for(count)
    remembered(page)
    page.reload()
    held.release()
    puts.begun.clear()
    return link, puts


@pytest.fixture
def plain(open_page: OpenPage) -> Page:
    """A page of a browser without handles."""
    page = open_page("/health")
    page.add_init_script(PLAIN)
    page.goto("/")
    return page


@pytest.fixture
def keeper(open_page: OpenPage) -> Page:
    """A page of a browser that keeps handles."""
    page = open_page("/health")
    page.add_init_script(KEPT)
    page.goto("/")
    return page


def test_f59_after_a_reload_one_click_goes_on_with_the_kept_file(
    keeper: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"Wedding.zip": 80 * MIB + 5})
    keep(keeper, tmp_path, "Wedding.zip")
    held, puts = stop_at(keeper, live, 4)
    keeper.evaluate("window.kept = ['Wedding.zip']")
    keeper.get_by_role("button", name="Choose files").click()
    link = link_of(keeper)
    expect(keeper.locator("#link-hint")).to_contain_text("You can close this tab")
    puts.wait_for(4)
    remembered(keeper)
    keeper.reload()
    held.release()
    puts.begun.clear()

    offer = keeper.locator(".offer")
    expect(offer.get_by_role("heading")).to_have_text("Continue Wedding.zip")
    expect(offer.locator(".offer-said")).to_have_text("39 % is already safe.")
    offer.get_by_role("button", name="Continue").click()
    expect_state(keeper, "done")
    assert link_of(keeper) == link
    assert len(puts.begun) == 11 - 4, "only what is missing was sent"
    assert_arrived(open_page, link, sums)
    keeper.goto("/")
    keeper.wait_for_timeout(500)
    expect(keeper.locator(".offer")).to_have_count(0)


def test_f59_after_a_reload_the_same_file_is_chosen_again(
    plain: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 64 * MIB, "b.txt": 7})
    link, puts = begun(plain, live, sorted(tmp_path.iterdir()), 5)
    offer = plain.locator(".offer")
    expect(offer.get_by_role("button", name="Continue")).to_be_hidden()
    offer.get_by_role("button", name="Choose the file").click()
    assert plain.evaluate("window.asked") == ["files-input"]
    choose(plain, tmp_path / "a.bin", tmp_path / "b.txt")
    expect_state(plain, "done")
    assert link_of(plain) == link
    assert len(puts.begun) == 9 - 5
    assert_arrived(open_page, link, sums)


def test_what_was_said_beside_the_files_is_there_again(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    Hold(plain, live)
    choose(plain, tmp_path / "a.bin")
    link_of(plain)
    plain.get_by_label("Title").fill("Rushes")
    plain.get_by_label("Message").fill("Line one\nLine two")
    plain.get_by_label("Expires in").select_option("30 days")
    plain.get_by_label("Downloads").fill("3")
    for field in ("title", "message", "expires", "downloads"):
        expect(plain.locator(f"#s-{field}")).to_have_text("Saved")
    plain.reload()
    offer = plain.locator(".offer")
    expect(offer.get_by_role("heading")).to_have_text("Continue Rushes")
    expect(offer).to_contain_text("Nothing of it is safe yet.")
    offer.get_by_role("button", name="Choose").click()
    choose(plain, tmp_path / "a.bin")
    expect(plain.get_by_label("Title")).to_have_value("Rushes")
    expect(plain.get_by_label("Message")).to_have_value("Line one\nLine two")
    expect(plain.get_by_label("Expires in")).to_have_value("30")
    expect(plain.get_by_label("Downloads")).to_have_value("3")


def test_without_leave_to_read_the_files_again_it_says_so_and_both_ways_stay_open(
    keeper: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.mov": 24 * MIB})
    keep(keeper, tmp_path, "a.mov")
    held, puts = stop_at(keeper, live, 1)
    keeper.evaluate("window.kept = ['a.mov']")
    keeper.get_by_role("button", name="Choose files").click()
    link_of(keeper)
    puts.wait_for(1)
    remembered(keeper)
    keeper.reload()
    held.release()
    keeper.evaluate("""
      FileSystemHandle.prototype.queryPermission = async () => 'prompt';
      FileSystemHandle.prototype.requestPermission = async () => window.leave ?? 'denied';
    """)
    offer = keeper.locator(".offer")
    offer.get_by_role("button", name="Continue").click()
    expect(offer.get_by_role("alert")).to_contain_text("may not be read without your leave")
    expect(offer.get_by_role("button", name="Choose the file again")).to_be_visible()
    keeper.evaluate("window.leave = 'granted'")
    offer.get_by_role("button", name="Continue").click()
    expect_state(keeper, "done")


def test_a_file_that_changed_since_is_refused_by_name(
    plain: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.mov": 40 * MIB})
    before = (tmp_path / "a.mov").stat()
    link, _ = begun(plain, live, [tmp_path / "a.mov"], 2)
    offer = plain.locator(".offer")
    again = offer.get_by_role("button", name="Choose the file again")
    data = (tmp_path / "a.mov").read_bytes()

    def chosen(content: bytes, at: int, name: str = "a.mov") -> None:
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(at, at))
        again.click()
        choose(plain, tmp_path / name)

    chosen(data + bytes(3_000_000), before.st_mtime_ns)
    expect(offer.get_by_role("alert")).to_have_text(
        "“a.mov” has changed since: it is 3.0 MB larger. Sending it would mix two versions."
    )
    chosen(data, before.st_mtime_ns + 3_600_000_000_000)
    expect(offer.get_by_role("alert")).to_contain_text("it was saved again on")
    chosen(bytes([data[0] ^ 1]) + data[1:], before.st_mtime_ns)
    expect(offer.get_by_role("alert")).to_contain_text("its content is different")
    chosen(data, before.st_mtime_ns, "other.mov")
    expect(offer.get_by_role("alert")).to_have_text(
        "That is not what was being sent. Still missing: “a.mov”."
    )
    chosen(data, before.st_mtime_ns)
    expect_state(plain, "done")
    assert_arrived(open_page, link, sums)


def test_the_others_go_on_without_a_file_that_cannot_be_chosen_again(
    plain: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 40 * MIB, "changed.bin": 24 * MIB, "b.txt": 5})
    link, _ = begun(plain, live, sorted(tmp_path.iterdir()), 3)
    (tmp_path / "changed.bin").write_bytes(b"other")
    offer = plain.locator(".offer")
    without = offer.get_by_role("button", name="Continue with the others")
    expect(offer.get_by_role("button", name="Choose the files again")).to_be_visible()
    expect(without).to_be_hidden()
    choose_again = offer.get_by_role("button", name=re.compile("^Choose the file"))
    choose_again.click()
    choose(plain, *sorted(tmp_path.iterdir()))
    expect(offer.get_by_role("alert")).to_contain_text("“changed.bin” has changed since")
    look(plain, "resume-without")
    without.click()
    expect_state(plain, "done")
    assert link_of(plain) == link
    expect(plain.locator("#heading")).to_have_text("Your 2 files are ready to download")
    reader = open_page(link)
    expect(reader.get_by_text("changed.bin")).to_have_count(0)
    del sums["changed.bin"]
    assert_arrived(open_page, link, sums)


def test_nothing_is_left_to_go_on_without_the_only_file(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    begun(plain, live, [tmp_path / "a.bin"], 1)
    (tmp_path / "a.bin").write_bytes(b"other")
    offer = plain.locator(".offer")
    offer.get_by_role("button", name="Choose the file again").click()
    choose(plain, tmp_path / "a.bin")
    expect(offer.get_by_role("alert")).to_contain_text("“a.bin” has changed since")
    expect(offer.get_by_role("button", name="Continue with the others")).to_be_hidden()


def test_what_is_safe_already_is_not_asked_for_and_not_called_another(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.txt": 7, "b.bin": 40 * MIB})
    begun(plain, live, sorted(tmp_path.iterdir()), 2)
    offer = plain.locator(".offer")
    expect(offer.get_by_role("heading")).to_have_text("Continue a.txt and 1 more")
    expect(offer.locator(".offer-said")).to_contain_text("Still needed: “b.bin”.")
    name = "Choose the file again: a.txt and 1 more"
    offer.get_by_role("button", name=name, exact=True).click()
    choose(plain, tmp_path / "a.txt")
    expect(offer.get_by_role("alert")).to_have_text(
        "Not needed again: “a.txt”. Still missing: “b.bin”."
    )


def test_a_kept_file_that_changed_or_went_is_named_and_can_be_chosen(
    keeper: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.mov": 24 * MIB, "b.mov": 24 * MIB})
    for name in ("a.mov", "b.mov"):
        keep(keeper, tmp_path, name)
    held, puts = stop_at(keeper, live, 2)
    keeper.evaluate("window.kept = ['a.mov', 'b.mov']")
    keeper.get_by_role("button", name="Choose files").click()
    link_of(keeper)
    puts.wait_for(2)
    remembered(keeper)
    keeper.evaluate("navigator.storage.getDirectory().then((root) => root.removeEntry('b.mov'))")
    keep(keeper, tmp_path, "a.mov")
    keeper.reload()
    held.release()
    offer = keeper.locator(".offer")
    offer.get_by_role("button", name="Continue").click()
    expect(offer.get_by_role("alert")).to_contain_text("“a.mov” has changed since: it was saved")
    expect(offer.get_by_role("alert")).to_contain_text("“b.mov” is no longer where it was.")
    expect(offer.get_by_role("button", name="Choose the files again")).to_be_focused()


@pytest.mark.parametrize("how", ["kept", "chosen again", "dropped again"])
def test_a_folder_goes_on_as_a_folder(
    open_page: OpenPage, live: Stack, tmp_path: Path, how: str
) -> None:
    files = {"trip/day 1/a.raw": 40 * MIB, "trip/b.raw": 9 * MIB} | {
        f"trip/day 2/{n}.txt": 40 + n for n in range(30)
    }
    sums = make_files(tmp_path, files)
    page = open_page("/health")
    page.add_init_script(KEPT if how == "kept" else PLAIN)
    page.goto("/")
    held, puts = stop_at(page, live, 6)
    if how == "kept":
        for path in files:
            keep(page, tmp_path, path)
        page.evaluate("window.kept = ['trip']")
        page.get_by_role("button", name="Choose a folder").click()
    else:
        page.locator("#folder-input").set_input_files(str(tmp_path / "trip"))
    link = link_of(page)
    puts.wait_for(6)
    remembered(page)
    page.reload()
    held.release()
    puts.begun.clear()
    offer = page.locator(".offer")
    expect(offer.get_by_role("heading")).to_have_text("Continue trip")
    if how == "kept":
        offer.get_by_role("button", name="Continue").click()
    else:
        (tmp_path / "trip" / "extra.txt").write_text("nobody asked for this")
        again = offer.get_by_role("button", name="Choose the folder again")
        again.click()
        assert page.evaluate("window.asked") == ["folder-input"]
        if how == "dropped again":
            box = offer.bounding_box() or {"x": 0, "y": 0}
            drop(page, tmp_path / "trip", at=(box["x"] + 20, box["y"] + 20))
        else:
            page.locator("#folder-input").set_input_files(str(tmp_path / "trip"))
    expect_state(page, "done")
    assert link_of(page) == link
    assert len(puts.begun) == 37 - 6
    assert_arrived(open_page, link, {path: sums[path] for path in list(files)[:3]})


def test_what_is_dropped_on_an_offer_that_is_still_asking_is_taken_once_it_knows(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 40 * MIB})
    link, _ = begun(plain, live, [tmp_path / "a.bin"], 2)
    asked: list[Route] = []
    plain.route("**/transfers/*/parts", lambda route: asked.append(route))
    plain.reload()
    offer = plain.locator(".offer")
    expect(offer).to_contain_text("Finding out what is safe.")
    box = offer.bounding_box() or {"x": 0, "y": 0}
    drop(plain, tmp_path / "a.bin", at=(box["x"] + 20, box["y"] + 20))
    plain.wait_for_timeout(300)
    expect_state(plain, "ready")
    # Those that wait are let go on, too.
    plain.unroute_all()
    expect_state(plain, "done")
    assert link_of(plain) == link


def test_discarding_asks_and_then_really_deletes(
    plain: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    link, _ = begun(plain, live, [tmp_path / "a.bin"], 1)
    offer = plain.locator(".offer")
    offer.get_by_role("button", name="Discard a.bin").click()
    offer.get_by_role("button", name="Keep it").click()
    expect(offer.get_by_role("button", name="Discard a.bin")).to_be_focused()
    offer.get_by_role("button", name="Discard a.bin").click()
    plain.keyboard.press("Escape")
    expect(offer.get_by_role("button", name="Discard and delete")).to_be_hidden()
    expect(offer.get_by_role("button", name="Discard a.bin")).to_be_focused()
    offer.get_by_role("button", name="Discard a.bin").click()
    held: list[Route] = []
    plain.route("**/transfers/*", lambda route: held.append(route))
    offer.get_by_role("button", name="Discard and delete").click()
    expect(offer).to_have_attribute("aria-busy", "true")
    expect(offer.get_by_role("button", name="Choose the file again")).to_be_disabled()
    held[0].continue_()
    expect(plain.locator(".offer")).to_have_count(0)
    expect(plain.locator("#choose-files")).to_be_focused()
    reader = open_page(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("This was deleted")


def test_what_the_server_no_longer_has_is_told_once(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    Hold(plain, live)
    with plain.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        choose(plain, tmp_path / "a.bin")
    created = creating.value.json()
    link_of(plain)
    remembered(plain)
    # Left first: the page that sends would be told of it by its next request, and say so itself.
    plain.goto("/health")
    call(live, "DELETE", f"/transfers/{created['id']}", created["owner_token"])
    plain.goto("/")
    expect(plain.locator(".offer")).to_contain_text("It can no longer be continued")
    expect(plain.locator("#choose-files")).to_have_class("button button-primary")
    plain.reload()
    plain.wait_for_timeout(500)
    expect(plain.locator(".offer")).to_have_count(0)


def test_f60_a_second_tab_offers_nothing_until_the_first_is_closed(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 40 * MIB})
    first = open_page("/health")
    first.context.add_init_script(PLAIN)
    first.goto("/")
    _, puts = stop_at(first, live, 2)
    choose(first, tmp_path / "a.bin")
    link = link_of(first)
    puts.wait_for(2)
    remembered(first)
    second = first.context.new_page()
    second.goto("/")
    offer = second.locator(".offer")
    expect(offer).to_contain_text("This is being sent in another tab of this browser.")
    expect(offer.get_by_role("button")).to_have_count(0)
    first.close()
    offer.get_by_role("button", name="Choose the file again").click()
    choose(second, tmp_path / "a.bin")
    expect_state(second, "done")
    assert_arrived(open_page, link, sums)


def test_f60_a_tab_that_looked_on_learns_that_another_goes_on_and_that_it_is_done(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 40 * MIB})
    first = open_page("/health")
    first.context.add_init_script(PLAIN)
    first.goto("/")
    begun(first, live, [tmp_path / "a.bin"], 2)
    second = first.context.new_page()
    second.goto("/")
    expect(second.locator(".offer").get_by_role("button", name="Choose")).to_be_visible()
    held = Hold(first, live)
    first.locator(".offer").get_by_role("button", name="Choose").click()
    choose(first, tmp_path / "a.bin")
    expect(second.locator(".offer")).to_contain_text("in another tab")
    held.release()
    expect_state(first, "done")
    expect(second.locator(".offer")).to_have_count(0)


def test_pausing_and_going_on_by_keyboard_and_across_a_reload(
    plain: Page, open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 64 * MIB})
    held, puts = stop_at(plain, live, 3)
    choose(plain, tmp_path / "a.bin")
    link = link_of(plain)
    puts.wait_for(3)
    expect(plain.locator("#heading")).to_be_focused()
    plain.keyboard.press("Tab")
    expect(plain.get_by_role("button", name="Pause")).to_be_focused()
    plain.keyboard.press("Enter")
    expect_state(plain, "paused")
    expect(plain.locator("#heading")).to_have_text("Paused. 37 % is safe.")
    expect(plain.locator("#live")).to_have_text("Paused. 37 % is safe.")
    expect(plain).to_have_title("Paused · Beeline")
    expect(plain.get_by_role("button", name="Continue")).to_be_focused()
    begun_before = len(puts.begun)
    plain.wait_for_timeout(500)
    assert len(puts.begun) == begun_before, "nothing is sent while it is paused"

    remembered(plain)
    plain.reload()
    offer = plain.locator(".offer")
    expect(offer.locator(".offer-said")).to_have_text("37 % is already safe.")
    offer.get_by_role("button", name="Choose").click()
    choose(plain, tmp_path / "a.bin")
    expect_state(plain, "uploading")
    plain.get_by_role("button", name="Pause").click()
    expect_state(plain, "paused")
    held.release()
    puts.begun.clear()
    plain.keyboard.press("Enter")
    expect_state(plain, "done")
    # The button that was pressed is hidden now.
    expect(plain.locator("#heading")).to_be_focused()
    assert len(puts.begun) == 8 - 3
    assert_arrived(open_page, link, sums)


def test_files_are_added_removed_and_all_is_cancelled_while_it_is_paused(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB, "b.bin": 9 * MIB, "c.bin": 9 * MIB})
    stop_at(plain, live, 1)
    choose(plain, tmp_path / "a.bin", tmp_path / "b.bin")
    link_of(plain)
    plain.get_by_role("button", name="Pause").click()
    expect_state(plain, "paused")
    choose(plain, tmp_path / "c.bin")
    expect(plain.get_by_role("button", name="Remove c.bin")).to_be_visible()
    plain.get_by_role("button", name="Remove b.bin").click()
    expect(plain.get_by_text("b.bin")).to_have_count(0, timeout=10_000)
    plain.reload()
    expect(plain.locator(".offer-name")).to_have_text("a.bin and 1 more")
    plain.locator(".offer").get_by_role("button", name="Choose the files again").click()
    choose(plain, tmp_path / "c.bin")
    expect(plain.locator(".offer").get_by_role("alert")).to_have_text("Still missing: “a.bin”.")
    choose_again = plain.locator(".offer").get_by_role("button", name="Choose the file again")
    choose_again.click()
    choose(plain, tmp_path / "a.bin")
    expect_state(plain, "uploading")
    plain.get_by_role("button", name="Pause").click()
    expect_state(plain, "paused")
    plain.get_by_role("button", name="Cancel").click()
    plain.keyboard.press("Escape")
    expect(plain.get_by_role("button", name="Cancel")).to_be_focused()
    plain.keyboard.press("Enter")
    plain.get_by_role("button", name="Stop and remove").click()
    expect_state(plain, "ready")
    forgotten(plain)
    plain.reload()
    plain.wait_for_timeout(500)
    expect(plain.locator(".offer")).to_have_count(0)


def test_everything_was_sent_but_not_said_so(plain: Page, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB})
    plain.route("**/complete", lambda route: route.abort())
    choose(plain, tmp_path / "a.bin")
    link_of(plain)
    expect_state(plain, "checking")
    remembered(plain)
    # Away from the page first: a request that is on its way while its route goes may never end.
    plain.goto("/health")
    plain.unroute("**/complete")
    plain.goto("/")
    offer = plain.locator(".offer")
    expect(offer).to_contain_text("All of it is safe. It only has to be checked.")
    offer.get_by_role("button", name="Continue").click()
    expect_state(plain, "done")


def test_it_became_ready_while_nobody_looked(plain: Page, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 9 * MIB})
    plain.route("**/transfers/*", lambda route: route.abort())
    choose(plain, tmp_path / "a.bin")
    link = link_of(plain)
    expect_state(plain, "checking")
    remembered(plain)
    plain.goto("/health")
    plain.unroute("**/transfers/*")
    for _ in range(40):
        plain.goto("/")
        if (
            plain.get_by_text("It has arrived intact.")
            .or_(plain.get_by_text("All of it is safe."))
            .inner_text()
            != "All of it is safe. It only has to be checked."
        ):
            break
    expect(plain.locator(".offer")).to_contain_text("It has arrived intact.")
    expect(plain.locator(".offer").get_by_role("link")).to_have_attribute("href", link)
    plain.reload()
    expect(plain.locator("#mine").get_by_role("link")).to_have_text("a.bin")
    expect(plain.locator(".offer")).to_have_count(0)


def test_it_expired_while_nobody_looked(plain: Page, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 9 * MIB})
    plain.route("**/transfers/*", lambda route: route.abort())
    with plain.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        choose(plain, tmp_path / "a.bin")
    made = creating.value.json()
    expect_state(plain, "checking")
    remembered(plain)
    plain.goto("/health")
    plain.unroute("**/transfers/*")
    while call(live, "GET", f"/transfers/{made['id']}", made["owner_token"])["status"] != "READY":
        time.sleep(0.1)
    expire(live, made)
    plain.goto("/")
    expect(plain.locator(".offer")).to_contain_text("It has expired")
    plain.locator(".offer").get_by_role("link", name="Manage").click()
    plain.locator("#manage-extend").click()
    expect(plain.get_by_text("Ready to download")).to_be_visible()
    plain.goto("/")
    expect(plain.locator("#mine").get_by_role("link")).to_have_text("a.bin")
    expect(plain.locator(".offer")).to_have_count(0)


def test_offline_the_offer_says_so_and_asks_again_by_itself(
    plain: Page, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    plain.route(
        lambda url: "/transfers/" in url and "offline" in plain.url, lambda route: route.abort()
    )
    _, puts = stop_at(plain, live, 1)
    choose(plain, tmp_path / "a.bin")
    link_of(plain)
    puts.wait_for(1)
    remembered(plain)
    plain.goto("/?offline")
    offer = plain.locator(".offer")
    expect(offer).to_contain_text("What was sent is safe; we ask again by ourselves.")
    plain.evaluate("history.replaceState(null, '', '/')")
    expect(offer).to_contain_text("33 % is already safe.", timeout=15_000)


def test_without_a_memory_everything_else_works_and_the_page_says_to_stay(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 24 * MIB})
    page = open_page("/health")
    page.add_init_script(
        "indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); };"
    )
    page.goto("/")
    held = Hold(page, live, after=1)
    choose(page, tmp_path / "a.bin")
    link = link_of(page)
    expect(page.locator("#link-hint")).to_contain_text("Keep this tab open")
    page.get_by_role("button", name="Pause").click()
    expect_state(page, "paused")
    page.get_by_role("button", name="Continue").click()
    held.release()
    expect_state(page, "done")
    assert_arrived(open_page, link, sums)


def test_without_locks_it_works_as_well(plain: Page, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 24 * MIB})
    plain.add_init_script("Object.defineProperty(navigator, 'locks', {value: undefined});")
    plain.reload()
    begun(plain, live, [tmp_path / "a.bin"], 1)
    plain.locator(".offer").get_by_role("button", name="Choose").click()
    choose(plain, tmp_path / "a.bin")
    expect_state(plain, "done")


@pytest.fixture
def profile(
    chromium: object, tmp_path_factory: pytest.TempPathFactory, live: Stack
) -> Iterator[Callable[[], tuple[BrowserContext, int]]]:
    """Starts a browser on one profile, again and again; gives it and its process's id."""
    folder = tmp_path_factory.mktemp("profile")
    player: Playwright = chromium.browser_type  # type: ignore[attr-defined]
    running: list[BrowserContext] = []

    def start() -> tuple[BrowserContext, int]:
        context = player.launch_persistent_context(  # type: ignore[attr-defined]
            folder,
            executable_path=path(),
            args=FLAGS,
            base_url=live.url,
        )
        running.append(context)
        return context, browser_on(folder)

    yield start
    running[-1].close()


def browser_on(profile: Path) -> int:
    """The process that was started on this profile, and not one of its children."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--user-data-dir={profile}".encode() in words and not any(
            word.startswith(b"--type=") for word in words
        ):
            return int(entry.name)
    raise AssertionError("no browser runs on this profile")


def test_f59_the_browser_is_killed_and_goes_on_when_it_is_started_again(
    profile: Callable[[], tuple[BrowserContext, int]],
    open_page: OpenPage,
    live: Stack,
    tmp_path: Path,
) -> None:
    sums = make_files(tmp_path, {"Film.mov": 80 * MIB})
    context, pid = profile()
    page = context.pages[0]
    page.add_init_script(KEPT)
    page.goto("/")
    keep(page, tmp_path, "Film.mov")
    _, puts = stop_at(page, live, 6)
    page.evaluate("window.kept = ['Film.mov']")
    page.get_by_role("button", name="Choose files").click()
    link = link_of(page)
    puts.wait_for(6)
    remembered(page)
    os.kill(pid, signal.SIGKILL)

    context, _ = profile()
    page = context.pages[0]
    page.goto("/")
    puts = Puts(page, live)
    offer = page.locator(".offer")
    expect(offer).to_contain_text("60 % is already safe.")
    offer.get_by_role("button", name="Continue").click()
    expect_state(page, "done")
    assert link_of(page) == link
    assert len(puts.begun) == 10 - 6
    assert_arrived(open_page, link, sums)
