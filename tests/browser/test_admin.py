"""The admin's pages in a real browser: how each looks, from the own list to a blocked link."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import call, code_to, follow_from_elsewhere, look
from tests.browser.test_file_requests import asking
from tests.browser.test_mine import run, sign_in
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

ADMIN = "admin@example.org"


@pytest.fixture
def live(mailing: Stack) -> Stack:
    return mailing


def test_an_admin_blocks_a_link_that_was_reported(
    open_page: Callable[..., Page], live: Stack, post: MailServer
) -> None:
    files = [{"path": "Rechnung/Your-invoice-and-some-more-of-it.html", "size": 120_000}]
    made = call(
        live, "POST", "/transfers", body={"files": files, "title": "Your bank", "message": "Hi"}
    )
    page = open_page(f"/d/{made['slug']}/report")
    page.get_by_label("It pretends to be someone else").check()
    page.get_by_label("What did you see?").fill("It asks\nfor the password of my bank.")
    page.get_by_label("Your e-mail").fill("bo@example.org")
    before = len(post.to(ADMIN))
    page.get_by_role("button", name="Send the report").click()
    post.wait_for(ADMIN, before + 1)

    page.goto("/mine")
    sign_in(page, post, ADMIN)
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_text("Kept in storage")).to_be_visible()
    look(page, "admin")
    page.get_by_role("link", name="Run the checks").press("Enter")
    expect(page.get_by_text("1 process takes these jobs").first).to_be_visible()
    look(page, "admin-doctor")
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("link", name="Report").first.click()
    page.wait_for_url("**/admin/reports/*")
    look(page, "admin-report")
    page.get_by_role("button", name="Block the link").press("Enter")
    expect(page.get_by_role("button", name="Unblock the link")).to_be_visible()
    look(page, "admin-report-blocked")

    one_day = "UPDATE sender_codes SET used_at = used_at - interval %(ago)s WHERE email = %(email)s"
    run(live, one_day, ago="2 hours", email=ADMIN)
    page.reload()
    expect(page.get_by_role("button", name="Mail me a code")).to_be_visible()
    look(page, "admin-report-late")
    run(live, one_day, ago="1 day", email=ADMIN)
    page.reload()
    expect(page.get_by_role("heading", name="Sign in again")).to_be_visible()
    look(page, "admin-again")
    before = len(post.to(ADMIN))
    page.get_by_role("button", name="Mail me a code").click()
    page.get_by_label("Code from the mail").fill(code_to(post, ADMIN, before))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Close the report").press("Enter")
    expect(page.get_by_text("There are none.")).to_be_visible()


def test_an_admin_blocks_a_file_request_that_was_reported(
    open_page: Callable[..., Page], live: Stack, post: MailServer
) -> None:
    owner = asking(open_page, post, "your-bank@example.org", "Your bank needs your papers")
    link = owner.locator(".share-link").text_content() or ""
    guest = open_page(link)
    guest.get_by_role("link", name="Report this").click()
    guest.wait_for_url("**/report")
    look(guest, "report-request")
    guest.get_by_label("It pretends to be someone else").check()
    before = len(post.to(ADMIN))
    guest.get_by_role("button", name="Send the report").click()
    expect(guest.get_by_role("heading", name="Thank you")).to_be_visible()
    told = re.search(
        r"http\S+/admin/reports/\d+", post.wait_for(ADMIN, before + 1)[-1].body("plain")
    )
    assert told

    page = open_page("/mine")
    sign_in(page, post, ADMIN)
    page.get_by_role("link", name="Admin").click()
    page.wait_for_url("**/admin")
    look(page, "admin-requests")
    follow_from_elsewhere(page, live, told[0])
    expect(page.get_by_text("Files go to your-bank@example.org")).to_be_visible()
    look(page, "admin-report-request")
    page.get_by_role("button", name="Block the request").click()
    expect(page.get_by_role("button", name="Unblock the request")).to_be_visible()
    look(page, "admin-report-request-blocked")
    guest.goto(link)
    expect(guest.get_by_text("Nothing can be sent here.")).to_be_visible()
    look(guest, "request-blocked")
    owner.reload()
    expect(owner.get_by_text("Blocked", exact=True)).to_be_visible()
    look(owner, "requests-blocked")
    page.get_by_role("button", name="Unblock the request").click()
    expect(page.get_by_role("button", name="Block the request", exact=True)).to_be_visible()
    guest.goto(link)
    expect(guest.get_by_text("Drop files or folders here")).to_be_visible()

    body = {"files": [{"path": "papers.pdf", "size": 9}], "file_request": link.rpartition("/")[2]}
    came = open_page(f"/d/{call(live, 'POST', '/transfers', body=body)['slug']}")
    page.reload()
    look(page, "admin-report-request-that-brought-something")
    page.get_by_role("button", name="Block the request").click()
    expect(page.get_by_text("Links to 1 transfer that came still work.")).to_be_visible()
    look(page, "admin-report-request-blocked-alone")
    page.get_by_role("button", name="Block all that came, too").click()
    expect(page.get_by_text("that came still work")).to_have_count(0)
    came.reload()
    expect(came.get_by_role("heading", name="This is not available")).to_be_visible()
    page.get_by_role("button", name="Unblock the request").click()
    expect(page.get_by_role("button", name="Block it and all that came")).to_be_visible()
    came.reload()
    expect(came.get_by_text("papers.pdf")).to_be_visible()
    page.get_by_role("button", name="Close the report").click()
