"""Looking at files in a real browser: by mouse, by key, without JavaScript, in light and dark."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import pictures
from tests.browser.steps import (
    MIB,
    Hold,
    call,
    choose,
    drop,
    expect_state,
    link_of,
    look,
    send,
)
from tests.lab.stack import Stack
from tests.pictures import drawn, encoded

OpenPage = Callable[..., Page]
CONTENTS = {
    "Coast road, evening.jpg": encoded(drawn(2400, 1600), "JPEG"),
    "Portrait.heic": pictures.heic(900, 1200),
    "Contract.pdf": pictures.pdf(),
    "Rushes/First take.mp4": pictures.video("mp4", dark=3, seconds=2),
    "Rushes/Atmosphere.wav": pictures.wav(),
    "notes.txt": ("A line that is not long.\n" * 30).encode(),
    "data.bin": b"123",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, body in CONTENTS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    return tmp_path


@pytest.fixture
def link(open_page: OpenPage, live: Stack, files: Path) -> str:
    """Of a transfer whose previews have all been made."""
    sender = open_page()
    drop(sender, *sorted(files.iterdir()))
    expect_state(sender, "done")
    link = link_of(sender)
    wait_for_previews(sender, link, 6)
    return link


def wait_for_previews(page: Page, path: str, count: int) -> None:
    for _ in range(60):
        if page.request.get(path).text().count("data-look") == count:
            return
        time.sleep(0.5)
    raise AssertionError("the previews were not made")


def unfold(reader: Page) -> None:
    for summary in reader.locator(".folder summary").all():
        summary.click()


def preview(reader: Page, name: str) -> Locator:
    return reader.get_by_role("link", name=f"Preview {name}")


def is_shown(picture: Locator) -> None:
    expect(picture).to_be_visible()
    expect(picture).not_to_have_js_property("naturalWidth", 0)


def test_every_kind_is_seen_without_leaving_the_page(open_page: OpenPage, link: str) -> None:
    reader = open_page(link)
    unfold(reader)
    before = reader.url
    for picture in reader.locator(".thumb img").all():
        is_shown(picture)
    look(reader, "recipient-previews")
    for name, kind in (
        ("Coast road, evening.jpg", "image"),
        ("Portrait.heic", "portrait"),
        ("Contract.pdf", "pdf"),
        ("Rushes/First take.mp4", "video"),
        ("Rushes/Atmosphere.wav", "audio"),
        ("notes.txt", "text"),
    ):
        path = preview(reader, name)
        path.click()
        expect(path).to_have_attribute("aria-expanded", "true")
        expect(reader.locator(".seen:visible")).to_have_count(1)
        expect(reader.locator(".figure-seen")).to_be_visible()
        if kind in ("image", "portrait", "pdf"):
            is_shown(reader.locator("img.seen-media"))
        look(reader, f"recipient-preview-{kind}")
        assert reader.url == before
    path.click()
    expect(reader.locator(".seen:visible")).to_have_count(0)


def test_by_keyboard_alone(open_page: OpenPage, link: str) -> None:
    reader = open_page(link)
    first = reader.locator("a.look").first
    first.focus()
    reader.keyboard.press("Enter")
    expect(reader.locator(".seen:visible")).to_have_count(1)
    expect(first).to_be_focused()
    reader.keyboard.press("Enter")
    expect(reader.locator(".seen:visible")).to_have_count(0)
    reader.keyboard.press("Enter")
    expect(reader.locator(".figure-seen")).to_be_visible()
    reader.keyboard.press("Escape")
    expect(reader.locator(".seen:visible")).to_have_count(0)
    expect(first).to_have_attribute("aria-expanded", "false")
    expect(first).to_be_focused()
    text = reader.get_by_role("link", name="notes.txt")
    text.focus()
    reader.keyboard.press("Enter")
    words = reader.locator(".seen-text")
    expect(words).to_be_visible()
    words.focus()
    reader.keyboard.press("Escape")
    expect(text).to_be_focused()


def test_a_film_and_a_sound_play_in_the_page(open_page: OpenPage, link: str) -> None:
    reader = open_page(link)
    unfold(reader)
    for name, tag in (("First take.mp4", "video"), ("Atmosphere.wav", "audio")):
        reader.get_by_role("link", name=name).click()
        player = reader.locator(f"{tag}.seen-media")
        expect(player).to_be_visible()
        player.evaluate("(media) => { media.muted = true; return media.play(); }")
        reader.wait_for_function(f"document.querySelector('{tag}').currentTime > 0")


def test_on_a_page_of_its_own_a_film_goes_on_when_its_address_has_died(
    open_page: OpenPage, link: str
) -> None:
    reader = open_page(link)
    unfold(reader)
    address = reader.get_by_role("link", name="First take.mp4").get_attribute("href")
    reader.goto(f"{address}")
    player = reader.locator("video.seen-media")
    player.evaluate("(media) => { media.muted = true; return media.play(); }")
    reader.wait_for_function("document.querySelector('video').currentTime > 0")
    at = player.evaluate(
        "(media) => { media.pause(); const at = media.currentTime;"
        " media.dispatchEvent(new Event('error')); return at; }"
    )
    goes_on = "(at) => { const film = document.querySelector('video');"
    goes_on += " return film.currentTime >= at && (!film.paused || film.ended); }"
    reader.wait_for_function(goes_on, arg=at)


def test_without_javascript_a_preview_is_a_page(open_page: OpenPage, link: str) -> None:
    reader = open_page(link, java_script_enabled=False)
    reader.get_by_role("link", name="Coast road, evening.jpg").click()
    expect(reader.get_by_role("heading", level=1)).to_contain_text("Coast road")
    expect(reader.get_by_role("img", name="Preview of Coast road")).to_be_visible()
    expect(reader.get_by_role("button", name="Download")).to_be_visible()
    reader.get_by_role("link", name="Back to the transfer").click()
    expect(reader.get_by_role("heading", level=1)).to_have_text("7 files for you")


def test_one_file_alone(open_page: OpenPage, files: Path) -> None:
    sender = open_page()
    link = send(sender, files / "Coast road, evening.jpg")
    wait_for_previews(sender, link, 1)
    reader = open_page(link)
    look(reader, "recipient-one-picture")
    reader.locator("a.look").click()
    is_shown(reader.locator("img.seen-media"))
    look(reader, "recipient-one-picture-open")
    reader.goto(f"{reader.locator('a.look').get_attribute('href')}")
    look(reader, "preview-page")


def test_a_download_leaves_what_is_open_as_it_was(
    open_page: OpenPage, live: Stack, files: Path
) -> None:
    # So long that what is shown of it, with a limit, cannot be all of it.
    (files / "notes.txt").write_text("What is to be done.\n" * 1000)
    sender = open_page()
    with sender.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        sender.locator("#files-input").set_input_files([files / "notes.txt", files / "data.bin"])
    created = creating.value.json()
    link = f"/d/{created['slug']}"
    expect(sender.locator("#sender")).to_have_attribute("data-state", "done", timeout=30_000)
    call(live, "PATCH", f"/transfers/{created['id']}", created["owner_token"], {"max_downloads": 2})
    wait_for_previews(sender, link, 1)
    reader = open_page(link)
    reader.get_by_role("link", name="Preview notes.txt").click()
    expect(reader.locator(".seen-text")).to_be_visible()
    with reader.expect_download():
        reader.get_by_role("button", name="Download notes.txt").click()
    reader.get_by_text("Command line").press("Enter")
    expect(reader.get_by_text("1 download left")).to_be_visible()
    expect(reader.locator(".seen-text")).to_be_visible()
    expect(reader.locator("summary", has_text="Command line")).to_be_focused()


def test_whoever_watches_it_arrive_sees_the_pictures_come(
    open_page: OpenPage, live: Stack, files: Path
) -> None:
    sender = open_page()
    (files / "large.bin").write_bytes(b"x" * 30 * MIB)
    held = Hold(sender, live, after=2)
    choose(sender, files / "Coast road, evening.jpg", files / "large.bin")
    reader = open_page(link_of(sender))
    expect(reader.get_by_text("On its way").first).to_be_visible()
    held.release()
    is_shown(reader.locator(".thumb img"))
    expect(reader.locator("#transfer")).not_to_have_attribute("data-coming", "")


def test_what_ended_meanwhile_is_told(open_page: OpenPage, live: Stack, files: Path) -> None:
    sender = open_page()
    with sender.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        sender.locator("#files-input").set_input_files([files / "notes.txt", files / "data.bin"])
    created = creating.value.json()
    expect(sender.locator("#sender")).to_have_attribute("data-state", "done", timeout=30_000)
    wait_for_previews(sender, f"/d/{created['slug']}", 1)
    reader = open_page(f"/d/{created['slug']}")
    call(live, "DELETE", f"/transfers/{created['id']}", created["owner_token"])
    reader.get_by_role("link", name="Preview notes.txt").click()
    expect(reader.get_by_role("heading", level=1)).to_have_text("This was deleted")
