"""The description as a page, in a real browser: pictures of it, axe, and where its links lead."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import SIZES, look


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(SIZES))
def test_how_it_looks_and_where_it_leads(
    open_page: Callable[..., Page], scheme: str, width: str
) -> None:
    page = open_page("/", viewport=SIZES[width], color_scheme=scheme)
    page.get_by_role("link", name="For programs").click()
    expect(page.get_by_role("heading", name="For programs")).to_be_visible()
    call = page.locator("details", has=page.locator("#call-offer_form"))
    call.locator("summary").click()
    page.locator("details", has=page.locator("#call-create_transfer")).locator("summary").click()
    expect(call.get_by_text("What is sent")).to_be_visible()
    look(page, f"docs-{width}-{scheme}")
    # What a link names is opened, though it is in a part that is closed.
    call.get_by_role("link", name="Problem").first.click()
    expect(page.locator("#schema-Problem").get_by_text("request_id")).to_be_visible()
