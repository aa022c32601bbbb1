"""The main job, in a real browser: drop files, get a link, download them, byte for byte."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    Hold,
    assert_arrived,
    choose,
    downloaded,
    drop,
    expect_state,
    link_of,
    make_files,
    send,
)
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]

ODD_NAMES = {
    "with spaces and (brackets).txt": 1,
    "quotes \" ' `.bin": 1000,
    "emoji 🎬👩‍🔬.mov": MIB,
    "عنوان من اليمين.pdf": 12_345,
    "percent %41 & plus + hash #.txt": 5,
    "é" * 125 + ".jpeg": 77,  # 255 bytes
    "empty": 0,
}
MANY_PARTS = {"large.bin": 40 * MIB + 7, "exactly one.bin": 8 * MIB}
# As spreadsheets put it: the text, and a picture of it. Whether it was kept from the field.
PASTE = """(target) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData('text/plain', 'a table');
  clipboardData.items.add(new File(['x'], 'picture.png', { type: 'image/png' }));
  const paste = new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true });
  return !target.dispatchEvent(paste);
}"""


@pytest.fixture
def dropped(tmp_path: Path) -> dict[str, str]:
    return make_files(
        tmp_path, ODD_NAMES | MANY_PARTS | {f"trip/day {n}/{n}.raw": 500 + n for n in range(12)}
    )


def test_dropped_files_and_a_folder_arrive_byte_for_byte(
    open_page: OpenPage, tmp_path: Path, dropped: dict[str, str]
) -> None:
    sender = open_page()
    drop(sender, *sorted(tmp_path.iterdir()))
    link = link_of(sender)
    expect_state(sender, "done")
    expect(sender).to_have_title("Sent · Beeline")

    reader = open_page(link, accept_downloads=True)
    for summary in reader.locator("summary").all():
        summary.click()
    for path, expected in dropped.items():
        button = reader.get_by_role("button", name=f"Download {path}", exact=True)
        name, found = downloaded(reader, button)
        assert found == expected, path
        assert Path(path).suffix == Path(name).suffix, name


def test_f64_without_javascript_a_file_still_comes(open_page: OpenPage, tmp_path: Path) -> None:
    sums = make_files(tmp_path, {"one.bin": 300_000})
    link = send(open_page(), tmp_path / "one.bin")
    reader = open_page(link, java_script_enabled=False)
    assert downloaded(reader, reader.get_by_role("button", name="Download")) == (
        "one.bin",
        sums["one.bin"],
    )


def test_the_link_works_from_the_first_moment_and_its_page_follows_to_the_end(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 30 * MIB})
    sender = open_page()
    held = Hold(sender, live, after=1)
    choose(sender, tmp_path / "a.bin")
    reader = open_page(link_of(sender))
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "uploading")
    expect(reader).to_have_title("Files on their way · Beeline")
    expect(reader.get_by_role("button")).to_have_count(0)

    held.release()
    expect_state(sender, "done")
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "ready", timeout=10_000)
    expect(reader.get_by_role("status")).to_have_text("The files are ready to download.")
    expect(reader).to_have_title("Files for you · Beeline")
    polls: list[str] = []
    reader.on("request", lambda request: polls.append(request.url))
    reader.wait_for_timeout(3000)
    assert polls == [], "what is settled is not polled"


def test_what_is_said_beside_the_files_is_saved_as_it_changes(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 10})
    sender = open_page()
    link = send(sender, tmp_path / "a.bin")
    sender.get_by_label("Title").fill("<b>Rushes</b>")
    sender.get_by_label("Message").fill("Line one\nLine two")
    sender.get_by_label("Expires in").select_option("30 days")
    sender.get_by_label("Downloads").fill("0")
    sender.get_by_label("Downloads").blur()
    expect(sender.locator("#s-downloads")).to_contain_text("at least 1")
    expect(sender.get_by_label("Downloads")).to_have_attribute("aria-invalid", "true")
    sender.get_by_label("Downloads").fill("3")
    for field in ("title", "message", "expires", "downloads"):
        expect(sender.locator(f"#s-{field}")).to_have_text("Saved")

    reader = open_page(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("<b>Rushes</b>")
    expect(reader.get_by_text("Line two")).to_be_visible()
    expect(reader.get_by_text("3 downloads left")).to_be_visible()
    days = reader.locator("time").evaluate(
        "(time) => (new Date(time.dateTime) - Date.now()) / 864e5"
    )
    assert 29.9 < days < 30.1
    downloaded(reader, reader.get_by_role("button", name="Download"))
    expect(reader.get_by_text("2 downloads left")).to_be_visible()


def test_what_was_begun_days_ago_expires_as_many_days_from_now_as_are_chosen(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 10})
    sender = open_page()

    def begin_earlier(route: Route) -> None:
        made = route.fetch()
        created_at = datetime.now(UTC) - timedelta(days=2)
        route.fulfill(response=made, json=made.json() | {"created_at": created_at.isoformat()})

    sender.route("**/transfers", begin_earlier)
    link = send(sender, tmp_path / "a.bin")
    expect(sender.get_by_label("Expires in")).to_have_value("7")
    sender.get_by_label("Expires in").select_option("1 day")
    expect(sender.locator("#s-expires")).to_have_text("Saved")
    days = (
        open_page(link)
        .locator("time")
        .evaluate("(time) => (new Date(time.dateTime) - Date.now()) / 864e5")
    )
    assert 0.9 < days < 1.1


def test_a_removed_file_is_gone_and_an_undone_removal_is_not(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"keep.bin": 9 * MIB, "back.bin": 9 * MIB, "go.bin": 9 * MIB})
    sender = open_page()
    held = Hold(sender, live)
    choose(sender, *sorted(tmp_path.iterdir()))
    sender.get_by_role("button", name="Remove back.bin").click()
    sender.get_by_role("button", name="Remove go.bin").click()
    sender.get_by_role("button", name="Undo removing back.bin").click()
    held.break_lines()
    held.release()
    expect_state(sender, "done")
    reader = open_page(link_of(sender))
    expect(reader.locator(".file")).to_have_count(2)
    expect(reader.get_by_text("go.bin")).to_have_count(0)


def test_a_file_removed_on_its_own_page_stops_only_itself(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"go.bin": 40 * MIB, "stay.bin": 40 * MIB})
    sender = open_page()
    held = Hold(sender, live, after=3)
    with sender.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        choose(sender, *sorted(tmp_path.iterdir()))
    made = creating.value.json()
    link_of(sender)
    manage = open_page(f"/m/{made['id']}.{made['owner_token']}")
    manage.get_by_label("Remove go.bin", exact=True).click()
    manage.get_by_role("button", name="Remove it: go.bin").click()
    expect(manage.get_by_label("Remove go.bin", exact=True)).to_have_count(0)
    held.refuse()  # Addresses are asked for once more.
    held.release()
    expect_state(sender, "done")
    expect(sender.locator("#files .file")).to_have_count(1)
    expect(sender.locator("#heading")).to_have_text("Your file is ready to download")
    assert_arrived(open_page, link_of(sender), {"stay.bin": sums["stay.bin"]})


def test_files_dropped_on_the_way_go_to_the_same_link(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"first.bin": 20 * MIB, "later/same.txt": 3, "same.txt": 3})
    sender = open_page()
    held = Hold(sender, live)
    choose(sender, tmp_path / "first.bin")
    link_of(sender)
    drop(sender, tmp_path / "later" / "same.txt")
    expect(sender.get_by_text("same.txt", exact=True)).to_be_visible()
    drop(sender, tmp_path / "same.txt")
    expect(sender.get_by_text("same (2).txt", exact=True)).to_be_visible()
    held.release()
    expect_state(sender, "done")
    reader = open_page(link_of(sender))
    expect(reader.locator(".file")).to_have_count(3)


def test_cancelling_asks_and_then_leaves_nothing(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB})
    sender = open_page()
    Hold(sender, live)
    choose(sender, tmp_path / "a.bin")
    link = link_of(sender)
    sender.get_by_role("button", name="Cancel").click()
    sender.get_by_role("button", name="Keep sending").click()
    expect_state(sender, "uploading")
    sender.get_by_role("button", name="Cancel").click()
    sender.get_by_role("button", name="Stop and remove").click()
    expect_state(sender, "ready")
    expect(sender.get_by_role("alert")).to_have_text("Cancelled. Nothing was kept.")
    reader = open_page(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("This was deleted")


def test_the_question_whether_to_cancel_ends_with_the_upload(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB})
    sender = open_page()
    held = Hold(sender, live)
    choose(sender, tmp_path / "a.bin")
    link = link_of(sender)
    sender.get_by_role("button", name="Cancel").click()
    held.release()
    expect_state(sender, "done")
    expect(sender.get_by_role("button", name="Stop and remove")).to_be_hidden()
    expect(sender.locator("#heading")).to_be_focused()
    # The press that was on its way.
    sender.locator("#cancel-yes").evaluate("(button) => button.click()")
    reader = open_page(link)
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "ready")
    expect_state(sender, "done")


def test_what_is_pasted_where_one_types_is_text(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB})
    sender = open_page()
    Hold(sender, live)
    choose(sender, tmp_path / "a.bin")
    link_of(sender)
    for field in ("o-message", "o-title", "o-password"):
        assert not sender.locator(f"#{field}").evaluate(PASTE), "the field does what it always does"
    assert sender.locator("body").evaluate(PASTE)
    expect(sender.get_by_role("button", name="Remove picture.png")).to_have_count(1)


def test_a_folder_that_was_emptied_comes_again(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB, "trip/one.txt": 3})
    sender = open_page()
    Hold(sender, live)
    drop(sender, tmp_path / "a.bin", tmp_path / "trip")
    link_of(sender)
    sender.locator("#files summary").click()
    sender.get_by_role("button", name="Remove trip/one.txt").click()
    expect(sender.locator("#files .folder")).to_have_count(0)
    expect(sender.get_by_role("button", name="Remove a.bin")).to_be_focused()
    drop(sender, tmp_path / "trip")
    expect(sender.locator("#files .folder")).to_contain_text("1 file")


def tab_to(page: Page, what: str) -> None:
    """Press Tab until the focus is where it should be able to get."""
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.matches({what!r})"):
            return
    raise AssertionError(f"{what} cannot be reached by Tab")


def test_the_whole_way_by_keyboard(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 10})
    sender = open_page("/health", permissions=["clipboard-read", "clipboard-write"])
    sender.add_init_script(PLAIN)
    sender.goto("/")
    tab_to(sender, "#choose-files")
    sender.keyboard.press("Enter")
    sender.wait_for_function("window.asked.length == 1")
    assert sender.evaluate("window.asked") == ["files-input"], "its dialog would have opened"
    choose(sender, tmp_path / "a.bin")
    expect_state(sender, "done")
    tab_to(sender, "#copy")
    sender.keyboard.press("Enter")
    expect(sender.locator("#copy")).to_have_text("Copied")
    link = link_of(sender)
    assert sender.evaluate("navigator.clipboard.readText()") == link

    reader = open_page(link)
    tab_to(reader, "[data-download] button")
    with reader.expect_download():
        reader.keyboard.press("Enter")


def test_f62_leaving_is_only_asked_about_while_bytes_move(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 20 * MIB})
    asked: list[str] = []
    sender = open_page()
    sender.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    held = Hold(sender, live)
    choose(sender, tmp_path / "a.bin")
    link_of(sender)
    sender.evaluate("setTimeout(() => location.reload())")
    sender.wait_for_timeout(500)
    assert asked == ["beforeunload"]
    held.release()
    expect_state(sender, "done")
    sender.reload()
    assert asked == ["beforeunload"]
