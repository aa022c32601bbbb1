"""A file request in a real browser: made, sent to on a phone, told of, listed and closed."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    choose,
    downloaded,
    expect_state,
    look,
    make_files,
    remembered,
    stop_at,
)
from tests.browser.test_mine import sign_in
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
OWNER = "studio@example.org"


@pytest.fixture
def live(mailing: Stack) -> Stack:
    return mailing


def test_from_a_request_to_its_files(
    open_page: OpenPage, live: Stack, post: MailServer, tmp_path: Path
) -> None:
    page = open_page("/mine")
    sign_in(page, post, OWNER)
    page.get_by_role("link", name="Ask others for files").click()
    page.get_by_label("What for").fill("Photos of the wedding of Ada and Bo")
    page.get_by_label("Message").fill("The large ones, please.\nBy Friday.")
    page.get_by_label("Open for").select_option("7 days")
    page.get_by_label("Files are kept for").select_option("30 days")
    page.get_by_role("button", name="Make a link").click()
    link = page.locator(".share-link").text_content() or ""
    assert "/r/" in link
    look(page, "requests-one")

    guest = open_page(link)
    expect(guest.get_by_role("heading", name="Photos of the wedding of Ada and Bo")).to_be_visible()
    expect(guest.get_by_text(f"They go to {OWNER}.")).to_be_visible()
    look(guest, "request")
    photo = tmp_path / "IMG 1.jpg"
    photo.write_bytes(bytes(range(256)) * 5000)
    before = len(post.to(OWNER))
    choose(guest, photo)
    expect_state(guest, "done")
    expect(guest.get_by_text(f"{OWNER} gets an e-mail with the link.")).to_be_visible()
    expect(guest.get_by_label("Expires in")).to_have_value("30")
    look(guest, "request-done")
    guest.get_by_role("link", name="Send something else").click()
    expect(guest).to_have_url(link)

    told = post.wait_for(OWNER, before + 1)[-1]
    assert told.subject == "Files have arrived for “Photos of the wedding of Ada and Bo”"
    found = re.search(r"http\S+/d/\S+", told.body("plain"))
    assert found
    reader = open_page(found[0])
    _, digest = downloaded(reader, reader.get_by_role("button", name="Download"))
    assert digest == hashlib.sha256(photo.read_bytes()).hexdigest()

    page.reload()
    expect(page.get_by_text("1 transfer, 1.3 MB")).to_be_visible()
    page.get_by_role("link", name="See what has come").click()
    expect(page.locator("#mine-list .person")).to_have_count(1)
    look(page, "request-came")
    page.get_by_label("Search").fill("no such")
    expect(page.get_by_text("Nothing was found for")).to_be_visible()
    page.get_by_role("link", name="All file requests").click()
    page.get_by_role("button", name="Close the request").click()
    expect(page.get_by_text("Closed", exact=True)).to_be_visible()
    guest.reload()
    expect(guest.get_by_text("This request is closed")).to_be_visible()


def asking(open_page: OpenPage, post: MailServer, email: str, *titles: str) -> Page:
    """The list of somebody who has just made requests with these titles."""
    page = open_page("/mine")
    sign_in(page, post, email)
    page.get_by_role("link", name="Ask others for files").click()
    for title in titles:
        page.get_by_label("What for").fill(title)
        page.get_by_role("button", name="Make a link").click()
    return page


def test_a_request_that_closes_while_the_page_is_open_says_so(
    open_page: OpenPage, live: Stack, post: MailServer, tmp_path: Path
) -> None:
    page = asking(open_page, post, "other-studio@example.org", "Soon closed")
    guest = open_page(page.locator(".share-link").text_content() or "")
    page.get_by_role("button", name="Close the request").click()
    file = tmp_path / "late.txt"
    file.write_text("late")
    choose(guest, file)
    expect(guest.get_by_text("This is not open: ask for a new link.")).to_be_visible()


def test_an_unfinished_upload_is_continued_on_the_page_of_its_request_even_when_it_is_closed(
    open_page: OpenPage, live: Stack, post: MailServer, tmp_path: Path
) -> None:
    """The page says to whom the files go, which is not true of what was begun elsewhere."""
    page = asking(open_page, post, "third-studio@example.org", "First", "Second")
    second, first = (one.text_content() or "" for one in page.locator(".share-link").all())
    make_files(tmp_path, {"rushes.mov": 20 * MIB})
    guest = open_page("/health")
    guest.add_init_script(PLAIN)
    guest.goto(first)
    held, puts = stop_at(guest, live, 1)
    choose(guest, tmp_path / "rushes.mov")
    puts.wait_for(1)
    remembered(guest)
    guest.reload()
    held.release()
    title = guest.locator(".offer-title")
    expect(title).to_have_text("Continue rushes.mov")
    guest.goto(second)
    # The list is there once the other page's engine is.
    guest.wait_for_load_state("networkidle")
    guest.wait_for_timeout(1500)
    expect(title).to_have_count(0)
    guest.goto("/")
    expect(title).to_have_text("Continue rushes.mov")
    # What was begun before it was closed still arrives, by the same link.
    page.get_by_role("button", name="Close the request for First").click()
    guest.goto(first)
    expect(guest.get_by_role("heading", name="This request is closed")).to_be_visible()
    expect(guest.get_by_text("Drop files or folders here")).to_be_hidden()
    look(guest, "request-closed-unfinished")
    guest.get_by_role("button", name="Choose the file again").click()
    choose(guest, tmp_path / "rushes.mov")
    expect_state(guest, "done")
    expect(page.get_by_text("Closed", exact=True)).to_be_visible()
