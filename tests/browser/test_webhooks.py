"""The pages of webhooks in a real browser: each state, the log that renews itself, and no script."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import look
from tests.browser.test_asking import flask
from tests.lab.receiver import Receiver
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
AT = "/workspace/webhooks"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


def key_of(live: Stack, workspace: str) -> str:
    words = ["keys", "issue", "--workspace", workspace, "--name", "a test's", "--scope", "admin"]
    return flask(live, *words).strip().splitlines()[-1]


def come_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Add a webhook")).to_be_visible()


def test_from_the_door_to_a_message_that_was_taken(
    open_page: OpenPage, live: Stack, receiver: Receiver
) -> None:
    def seen(name: str) -> None:
        look(page, f"webhooks-{name}")

    page = open_page(AT)
    page.get_by_label("API key").fill("bee_nobody")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("There is no such key")).to_be_visible()
    expect(page.get_by_label("API key")).to_be_focused()
    seen("door-wrong")
    come_in(page, key_of(live, "Film"))
    seen("none")
    page.get_by_label("Address").fill("https://127.1/")
    page.get_by_role("button", name="Add").press("Enter")
    expect(page.get_by_text("This must give its host in full")).to_be_visible()
    seen("wrong")
    page.get_by_label("Address").fill("https://hooks.example.org/")
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    page.get_by_role("button", name="Add").press("Enter")
    expect(page.get_by_text("Choose at least one.")).to_be_in_viewport()
    expect(page.get_by_label("Ready to download")).to_be_focused()
    seen("no-event")
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_label("Address").fill("https://hooks.example.org/a/rather/long/path/of/some/tool")
    page.get_by_label("Expired").uncheck()
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#secret")).to_be_visible()
    seen("made")
    secret = page.locator("#secret").inner_text()
    page.reload()
    expect(page.locator("#secret")).to_have_text(secret)
    expect(page.locator(".person")).to_have_count(1)
    receiver.answers = [500, 200]
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".person")).to_have_count(2)
    page.get_by_role("link", name=receiver.url).click()
    expect(page.get_by_text("Nothing yet.")).to_be_visible()
    seen("one-new")
    page.get_by_role("button", name="Send a test").press("Enter")
    expect(page.locator("#log .person")).to_have_count(1)
    expect(page.locator("#log").get_by_text("It answered 500.")).to_be_visible(timeout=40_000)
    expect(page.locator("#live")).to_have_text("Test: It answered 500.")
    expect(page.get_by_role("button", name="Send a test")).to_be_focused()
    expect(page.get_by_text("Next try")).to_be_visible()
    expect(page.locator(".status-title")).to_have_text("Failing")
    seen("one-fails")
    page.get_by_role("button", name="Send again").press("Enter")
    expect(page.locator("#log .person-state", has_text="Accepted")).to_be_visible(timeout=40_000)
    expect(page.locator("#live")).to_have_text("Test: Accepted")
    expect(page.get_by_role("heading", name="Messages")).to_be_focused()
    expect(page.locator(".status-title")).to_have_text("On")
    seen("one-taken")
    page.locator("summary", has_text="Delete").click()
    seen("one-asks")
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_text("You switched it off.")).to_be_visible()
    seen("one-off")
    page.get_by_role("link", name="All webhooks").click()
    expect(page.locator(".person-state", has_text="Switched off")).to_be_visible()
    seen("some")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_receiver_that_is_gone_switches_it_off_on_the_open_page(
    open_page: OpenPage, live: Stack, receiver: Receiver
) -> None:
    receiver.answers = [410]
    page = open_page(AT)
    come_in(page, key_of(live, "Gone"))
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name=receiver.url).click()
    page.get_by_role("button", name="Send a test").press("Enter")
    expect(page.locator(".status-title")).to_have_text("Switched off", timeout=40_000)
    expect(page.get_by_text("it no longer exists (410)")).to_be_visible()
    expect(page.locator("#live")).to_have_text("It is switched off. Test: Given up")
    # What was pressed is gone.
    expect(page.get_by_role("heading", name="Webhook", exact=True)).to_be_focused()
    expect(page.get_by_role("button", name="Switch on")).to_be_visible()


def test_what_does_not_get_through_is_told_beside_its_button(
    open_page: OpenPage, live: Stack, receiver: Receiver
) -> None:
    receiver.answers = [500]
    page = open_page(AT)
    page.clock.install()
    come_in(page, key_of(live, "Bad line"))
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name=receiver.url).click()
    # Until its scripts have run, the button sends its form as it would without any.
    page.wait_for_url(f"**{AT}/*")
    page.route("**/test", lambda route: route.fulfill(status=503, body="no"))
    test = page.get_by_role("button", name="Send a test")
    told = page.get_by_role("alert")
    test.press("Enter")
    expect(told).to_contain_text("That did not get through.")
    expect(test).to_be_focused()
    look(page, "webhooks-did-not-get-through")
    page.unroute("**/test")
    test.press("Enter")
    expect(page.locator("#log .person")).to_have_count(1)
    expect(told).to_have_count(0)
    page.route("**/retry", lambda route: route.abort())
    again = page.get_by_role("button", name="Send again")
    again.press("Enter")
    expect(told).to_contain_text("That did not get through.")
    # The log renews itself, and not while that is read.
    page.clock.fast_forward(16_000)
    page.wait_for_timeout(500)
    expect(told).to_be_visible()
    look(page, "webhooks-again-did-not-get-through")


def test_without_a_script_everything_works(
    open_page: OpenPage, live: Stack, receiver: Receiver
) -> None:
    page = open_page(AT, java_script_enabled=False)
    come_in(page, key_of(live, "No script"))
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#secret")).to_be_visible()
    page.get_by_role("link", name=receiver.url).click()
    page.get_by_role("button", name="Send a test").click()
    # It looks again by itself while something waits.
    expect(page.locator("#log .person-state", has_text="Accepted")).to_be_visible(timeout=40_000)
    page.locator("summary", has_text="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("No webhooks yet.")).to_be_visible()
