"""The recipient need not wait for the last file: each can be had as soon as it is safe."""

import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import (
    MIB,
    assert_arrived,
    call,
    choose,
    downloaded,
    expect_state,
    link_of,
    look,
    make_files,
)
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


class Line:
    """How fast a page may send, in bytes a second."""

    def __init__(self, page: Page) -> None:
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Network.enable")

    def allow(self, rate: int) -> None:
        self._devtools.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate},
        )


def test_the_first_of_three_is_had_while_its_sender_stands_in_the_middle_of_the_second(
    open_page: OpenPage, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"1.bin": 300_000, "2.bin": 24 * MIB, "3.bin": 9 * MIB + 1})
    sender = open_page()
    line = Line(sender)
    line.allow(MIB)
    asked: list[Any] = []
    sender.on(
        "request",
        lambda one: asked.append(one.post_data_json) if one.url.endswith("/parts") else None,
    )
    choose(sender, *sorted(tmp_path.iterdir()))
    reader = open_page(link_of(sender))
    region = reader.locator("#transfer")
    expect(region).to_have_attribute("data-state", "uploading")
    expect(reader.get_by_role("button")).to_have_count(0)
    expect(reader.get_by_text("On its way", exact=True)).to_have_count(3)

    button = reader.get_by_role("button", name="Download 1.bin")
    expect(button).to_be_visible(timeout=30_000)
    expect(reader.get_by_role("button")).to_have_count(1)
    expect(reader.get_by_role("status")).to_have_text("Some files can already be downloaded.")
    expect_state(sender, "uploading")
    sender.get_by_role("button", name="Pause").click()
    expect_state(sender, "paused")
    assert downloaded(reader, button) == ("1.bin", sums["1.bin"])
    expect(region).to_have_attribute("data-state", "uploading")
    named = [one["sent"] for one in asked if "sent" in one]
    assert [len(ids) for ids in named] == [1], "the first, once"

    line.allow(-1)
    sender.get_by_role("button", name="Continue").click()
    expect_state(sender, "done", 60)
    expect(region).to_have_attribute("data-state", "ready")
    for name in ("2.bin", "3.bin"):
        button = reader.get_by_role("button", name=f"Download {name}")
        assert downloaded(reader, button)[1] == sums[name]


class Script:
    """A sender by the API, who sends and names what the test says."""

    def __init__(self, live: Stack, files: dict[str, bytes], **options: Any) -> None:
        self._live, self._files = live, files
        announced = [{"path": path, "size": len(body)} for path, body in files.items()]
        self._made = call(live, "POST", "/transfers", body={"files": announced, **options})
        self.path = f"/d/{self._made['slug']}"

    def send(self, *paths: str) -> None:
        """Put these into storage, and say so."""
        known = {file["path"]: file["id"] for file in self._made["files"]}
        wanted = [{"file": known[path], "numbers": [1]} for path in paths]
        size = sum(len(self._files[path]) for path in paths)
        for path, part in zip(paths, self._parts(wanted=wanted)["parts"], strict=True):
            body, headers = self._files[path], part["headers"]
            request = urllib.request.Request(part["url"], body, headers, method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
        self._parts(wanted=[], sent=[known[path] for path in paths], sent_size=size)

    def finish(self) -> None:
        """That is all."""
        self._call("/complete", {})

    def delete(self) -> None:
        """Remove all of it."""
        made = self._made
        call(self._live, "DELETE", f"/transfers/{made['id']}", made["owner_token"])

    def _parts(self, **body: Any) -> Any:
        return self._call("/parts", body)

    def _call(self, path: str, body: Any) -> Any:
        made = self._made
        return call(self._live, "POST", f"/transfers/{made['id']}{path}", made["owner_token"], body)


FILES = {
    "Interview with the director, final cut.mov": b"i" * 5_300_000,
    "notes.txt": b"n" * 1200,
    "trip/day 1/0001.raw": b"1" * 400_000,
    "trip/day 1/0002.raw": b"2" * 410_000,
    "trip/day 1/0003.raw": b"3" * 420_000,
}


@pytest.fixture
def script(live: Stack) -> Script:
    return Script(live, FILES, title="Rushes", message="The first of them.", max_downloads=5)


def test_how_it_looks(open_page: OpenPage, script: Script) -> None:
    script.send("notes.txt", "trip/day 1/0001.raw", "trip/day 1/0003.raw")
    reader = open_page(script.path)
    expect(reader.get_by_role("button", name="Download notes.txt")).to_be_visible()
    reader.locator("summary").click()
    look(reader, "recipient-unlocking")


def test_what_is_open_and_focused_stays_so_and_nothing_moves_that_has_not_changed(
    open_page: OpenPage, script: Script
) -> None:
    reader = open_page(script.path)
    polls: list[int] = []
    reader.on("response", lambda one: polls.append(one.status) if script.path in one.url else None)
    reader.locator("summary").focus()
    reader.keyboard.press("Enter")
    region = reader.locator("#transfer").element_handle()
    reader.wait_for_timeout(4500)
    assert polls, "it polls"
    assert set(polls) == {304}
    assert region.evaluate("(region) => region.isConnected")

    script.send("trip/day 1/0002.raw")
    button = reader.get_by_role("button", name="Download trip/day 1/0002.raw")
    expect(button).to_be_visible()
    assert not region.evaluate("(region) => region.isConnected")
    assert reader.evaluate("document.activeElement.matches('summary')")
    button.focus()
    # The page is short of its end: closing the folder for a moment would make it jump.
    reader.set_viewport_size({"width": 390, "height": 300})
    button.scroll_into_view_if_needed()
    before = reader.evaluate("scrollY")
    assert before > 0
    script.send("notes.txt")
    expect(reader.get_by_role("button", name="Download notes.txt")).to_have_count(1)
    assert reader.evaluate("document.activeElement.ariaLabel") == "Download trip/day 1/0002.raw"
    expect(button).to_be_visible()
    assert abs(reader.evaluate("scrollY") - before) < 60, "a line of words at most"


def test_an_open_folder_is_never_closed_when_the_page_is_renewed_after_a_download(
    open_page: OpenPage, script: Script
) -> None:
    """Not for a moment either: the page becomes short then, and Firefox and Safari jump to its end."""
    script.send(*FILES)
    script.finish()
    reader = open_page(script.path, accept_downloads=True)
    expect(reader.get_by_role("button", name="Download all")).to_be_visible(timeout=30_000)
    reader.locator(".folder summary").click()
    # What is seen after each change of the page, as a browser may paint it then.
    reader.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => seen.push(document.querySelector('.folder details').open))
            .observe(document.querySelector('.column'), { childList: true });
        }"""
    )
    with reader.expect_download():
        reader.get_by_role("button", name="Download trip/day 1/0003.raw").click()
    expect(reader.get_by_text("4 downloads left")).to_be_visible()
    assert reader.evaluate("seen") == [True]


def test_where_what_had_the_focus_is_gone_the_heading_has_it(
    open_page: OpenPage, script: Script
) -> None:
    reader = open_page(script.path)
    report = reader.get_by_role("link", name="Report this")
    report.focus()
    script.send("notes.txt")
    button = reader.get_by_role("button", name="Download notes.txt")
    expect(button).to_be_visible()
    expect(report).to_be_focused()
    button.focus()
    script.delete()
    heading = reader.get_by_role("heading", level=1)
    expect(heading).to_have_text("This was deleted")
    expect(heading).to_be_focused()


def test_a_button_that_is_being_pressed_is_not_taken_away(
    open_page: OpenPage, script: Script
) -> None:
    script.send("notes.txt")
    reader = open_page(script.path)
    button = reader.get_by_role("button", name="Download notes.txt")
    expect(button).to_be_visible()
    place = button.bounding_box()
    assert place
    reader.mouse.move(place["x"] + 5, place["y"] + 5)
    reader.mouse.down()
    with reader.expect_response(lambda one: script.path in one.url and one.status == 200):
        script.send("trip/day 1/0001.raw")
    reader.wait_for_timeout(300)
    with reader.expect_download() as getting:
        reader.mouse.up()
    saved = Path(getting.value.path()).read_bytes()
    assert hashlib.sha256(saved).digest() == hashlib.sha256(FILES["notes.txt"]).digest()
    reader.locator("summary").click()
    expect(reader.get_by_role("button", name="Download trip/day 1/0001.raw")).to_be_visible()


def test_without_javascript_what_is_safe_still_comes(open_page: OpenPage, script: Script) -> None:
    script.send("notes.txt")
    reader = open_page(script.path, java_script_enabled=False)
    button = reader.get_by_role("button", name="Download notes.txt")
    expect(button).to_be_visible(timeout=30_000)  # The page comes again by itself.
    name, found = downloaded(reader, button)
    assert (name, found) == ("notes.txt", hashlib.sha256(FILES["notes.txt"]).hexdigest())


def test_it_ends_as_ever(open_page: OpenPage, script: Script) -> None:
    script.send("notes.txt")
    script.send(*sorted(set(FILES) - {"notes.txt"}))
    script.finish()
    reader = open_page(script.path)
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "ready")
    sums = {path: hashlib.sha256(body).hexdigest() for path, body in FILES.items()}
    assert_arrived(open_page, script.path, sums)
