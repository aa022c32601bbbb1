"""API keys of one's own in a real browser: made, copied, used, seen in the list, and revoked."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import started
from tests.browser.steps import call, code_to, look
from tests.browser.test_mine import run, sign_in
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
ADA = "ada@studio.example"
EVE = "eve@example.org"
LONG = "The export of everything that was filmed on the day before, to the archive of the studio"


@pytest.fixture(scope="module")
def live(post: MailServer) -> Iterator[Stack]:
    """A Beeline where only some may send."""
    with started(("web", "worker"), MAIL_URL=post.url, SENDERS="@studio.example") as stack:
        yield stack


def send_one(live: Stack, key: str, title: str) -> None:
    """A whole transfer, as a script sends it."""
    made = call(live, "POST", "/transfers", key, {"title": title})
    at = f"/transfers/{made['id']}"
    told = call(live, "POST", f"{at}/upload-url", key, {"filename": "footage.mov"})
    put = urllib.request.Request(told["upload_url"], b"footage", method="PUT")
    urllib.request.urlopen(put, timeout=10).close()
    assert call(live, "POST", f"{at}/complete", key)["status"] == "READY"


def test_a_key_from_its_making_to_its_end(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    page = open_page("/mine", permissions=["clipboard-read", "clipboard-write"])
    sign_in(page, post, ADA)
    look(page, "mine-with-keys")
    page.get_by_role("link", name="API keys").click()
    page.wait_for_url("**/mine/keys")
    look(page, "keys-none")
    page.get_by_label("What it is for").fill("a\u202eb")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_text("This must be 1 to 200 characters")).to_be_visible()
    expect(page.get_by_label("What it is for")).to_be_focused()
    look(page, "keys-wrong")
    page.get_by_label("What it is for").fill("Nightly export")
    page.get_by_role("button", name="Make a key").click()
    shown = page.locator("#key")
    expect(shown).to_be_visible()
    look(page, "keys-made")
    page.get_by_role("button", name="Copy the key").click()
    key = page.evaluate("navigator.clipboard.readText()")
    assert key == shown.inner_text()
    page.reload()
    expect(page.get_by_text("This form has already made a key.")).to_be_visible()
    expect(page.get_by_text(key)).to_have_count(0)
    look(page, "keys-repeated")

    send_one(live, key, "Footage of Friday")
    page.get_by_role("link", name="My transfers").first.click()
    page.get_by_role("link", name="Footage of Friday").click()
    expect(page.get_by_role("heading", name="Footage of Friday")).to_be_visible()

    page.goto("/mine/keys")
    page.get_by_label("What it is for").fill(LONG)
    page.get_by_label("What it may do").select_option("Only read")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_role("link", name="Make another key").click()
    page.get_by_role("button", name="Revoke the key for Nightly export").click()
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
    look(page, "keys-some")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        send_one(live, key, "Too late")

    # Another day.
    run(live, "UPDATE sender_codes SET used_at = used_at - interval '2 hours'")
    page.reload()
    look(page, "keys-again")
    before = len(post.to(ADA))
    page.get_by_role("button", name="Mail me a code").click()
    page.get_by_label("Code from the mail").fill(code_to(post, ADA, before))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Make a key")).to_be_visible()


def test_without_a_script_a_key_is_made_shown_and_revoked(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    page = open_page("/mine", java_script_enabled=False)
    sign_in(page, post, "bo@studio.example")
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("Backup")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("#key").inner_text()
    expect(page.get_by_role("button", name="Copy the key")).to_be_hidden()
    assert call(live, "GET", "/transfers", key)["total_count"] == 0
    page.get_by_role("button", name="Revoke the key for Backup").click()
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()


def test_whoever_may_not_send_is_told_so(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    """Somebody who could once."""
    run(
        live,
        "WITH own AS (INSERT INTO workspaces (id, name, email)"
        " VALUES (gen_random_uuid(), 'an id', %(email)s) RETURNING id)"
        " INSERT INTO api_keys (id, workspace_id, name, prefix, key_hash, scope)"
        " SELECT gen_random_uuid(), id, 'Nightly export', 'bee_3f9k2m7q1x0z', sha256('x'), 'write'"
        " FROM own",
        email=EVE,
    )
    page = open_page("/mine")
    sign_in(page, post, EVE)
    page.get_by_role("link", name="API keys").click()
    expect(page.get_by_text("You cannot make API keys here")).to_be_visible()
    expect(page.get_by_text("Refused", exact=True)).to_be_visible()
    look(page, "keys-refused")
