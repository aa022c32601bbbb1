"""SENDERS in a real browser: signing in to send, and a link on another site that leads there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import started
from tests.browser.steps import choose, expect_state, follow_from_elsewhere, look
from tests.browser.test_mine import enter_code
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
MINE = "ada@studio.example"


@pytest.fixture(scope="module")
def live(post: MailServer) -> Iterator[Stack]:
    """A Beeline where only some may send."""
    with started(("web", "worker"), MAIL_URL=post.url, SENDERS="@studio.example") as stack:
        yield stack


def test_who_may_send_signs_in_and_sends_and_nobody_else(
    open_page: OpenPage, live: Stack, post: MailServer, tmp_path: Path
) -> None:
    page = open_page("/")
    expect(page.get_by_role("heading", name="Sign in to send")).to_be_visible()
    look(page, "sign-in-to-send")
    enter_code(page, post, MINE)
    expect(page.get_by_role("heading", name="Drop files or folders here")).to_be_visible()
    # Files that are chosen before the scripts have run are not noticed.
    page.wait_for_load_state()
    file = tmp_path / "mine.txt"
    file.write_text("mine")
    choose(page, file)
    expect_state(page, "done")
    expect(page.get_by_label("Your e-mail")).to_have_value(MINE)
    page.goto("/mine")
    expect(page.get_by_role("link", name="mine.txt")).to_be_visible()

    follow_from_elsewhere(page, live, f"{live.url}/")
    expect(page.get_by_role("heading", name="Drop files or folders here")).to_be_visible()

    # Who may not is told so.
    page = open_page("/")
    enter_code(page, post, "eve@example.org")
    expect(page.get_by_role("heading", name="You cannot send from here")).to_be_visible()
    look(page, "no-sender")
    page.goto("/mine/requests")
    expect(page.get_by_text("You cannot ask for files from here")).to_be_visible()
    look(page, "requests-not-allowed")
    page.goto("/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="My transfers")).to_be_visible()
