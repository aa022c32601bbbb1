"""The description as a page, in a real browser: pictures of it, axe, and where its links lead."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.steps import look


def test_how_it_looks_and_where_it_leads(open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.get_by_role("link", name="For developers").click()
    expect(page.get_by_role("heading", name="For developers")).to_be_visible()
    call = page.locator("details", has=page.locator("#call-offer_form"))
    call.locator("summary").click()
    page.locator("details", has=page.locator("#call-create_transfer")).locator("summary").click()
    expect(call.get_by_text("Request body")).to_be_visible()
    look(page, "docs")
    # What a link names is opened, though it is in a part that is closed.
    call.get_by_role("link", name="Problem").first.click()
    expect(page.locator("#schema-Problem").get_by_text("request_id")).to_be_visible()
