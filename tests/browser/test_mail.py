"""Sending by mail as a sender meets it: the code once, then one press; and the links in mails."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import (
    MIB,
    Hold,
    Puts,
    choose,
    downloaded,
    expect_state,
    link_of,
    look,
    make_files,
    send,
)
from tests.lab.mailserver import Caught, MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


@pytest.fixture
def live(mailing: Stack) -> Stack:
    return mailing


@pytest.fixture(autouse=True)
def _empty(post: MailServer) -> None:
    post.caught.clear()


def confirm(page: Page, post: MailServer, sender: str) -> None:
    """Read the code in the mail, and type it."""
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    code = re.match(r"\d{8}", post.wait_for(sender)[0].subject)
    assert code
    page.get_by_label("Code from the mail").fill(code[0])
    page.get_by_role("button", name="Confirm").click()


def link_in(mail: Caught) -> str:
    found = re.search(r'class="button-words" href="([^"]+)"', mail.body("html"))
    assert found
    return found[1]


def test_the_whole_way_by_mail(open_page: OpenPage, post: MailServer, tmp_path: Path) -> None:
    sums = make_files(tmp_path, {"one.bin": 300_000})
    page = open_page()
    link = send(page, tmp_path / "one.bin")
    expect(page.locator("#copy")).to_have_class(re.compile("button-primary"))
    page.get_by_label("Send to").fill("bo@example.org, cy@example.org\ndi@example.org")
    expect(page.locator("#copy")).not_to_have_class(re.compile("button-primary"))
    expect(page.locator("#send-mail")).to_have_class(re.compile("button-primary"))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_text("Enter your own address")).to_be_visible()
    page.get_by_label("Your e-mail").fill("Ada@example.org")
    page.get_by_label("Your e-mail").press("Enter")
    confirm(page, post, "ada@example.org")
    expect(page.locator("#s-sender")).to_have_text("Sent to 3 people.")
    (mail,) = post.wait_for("bo@example.org")
    own = link_in(mail)
    assert own != link
    reader = open_page(own)
    got = downloaded(reader, reader.get_by_role("button", name="Download"))
    assert got == ("one.bin", sums["one.bin"])
    # It remembers this sender: no code the next time.
    page.goto("/")
    send(page, tmp_path / "one.bin")
    expect(page.get_by_label("Your e-mail")).to_have_value("ada@example.org")
    page.get_by_label("Send to").fill("eve@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")
    post.wait_for("eve@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")
    assert len(post.to("eve@example.org")) == 1


def test_while_it_is_uploading_nobody_is_mailed_before_it_is_there(
    open_page: OpenPage, post: MailServer, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"big.bin": 20 * MIB})
    page = open_page()
    held = Hold(page, live, after=1)
    choose(page, tmp_path / "big.bin")
    link_of(page)
    page.get_by_label("Send to").fill("bo@example.org")
    page.get_by_label("Your e-mail").fill("fay@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    confirm(page, post, "fay@example.org")
    expect(page.locator("#s-sender")).to_contain_text("as soon as everything has arrived")
    assert post.to("bo@example.org") == []
    held.release()
    expect_state(page, "done")
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")
    expect(page.locator("#figure")).to_have_text("Sent")
    expect(page.locator("#manage-hint")).to_contain_text("The e-mail you get leads there too.")
    expect(page.locator(".card-work .button-primary:visible")).to_have_text("Copy link")
    post.wait_for("bo@example.org")


def test_what_was_not_mailed_is_not_called_sent(
    open_page: OpenPage, post: MailServer, live: Stack, tmp_path: Path
) -> None:
    """Addresses that were typed while it was uploading, and then neither Send nor the code."""
    make_files(tmp_path, {"big.bin": 12 * MIB})
    page = open_page()
    held = Hold(page, live, after=1)
    choose(page, tmp_path / "big.bin")
    link_of(page)
    page.get_by_label("Send to").fill("bo@example.org")
    page.get_by_label("Your e-mail").fill("hal@example.org")
    held.release()
    expect_state(page, "done")
    hint = page.locator("#link-hint")
    expect(hint).to_contain_text("Not mailed yet: press Send.")
    expect(hint).not_to_contain_text("close this tab")
    expect(page.locator("#figure")).to_have_text("Ready")
    expect(page.locator("#live")).to_contain_text("Not mailed yet")
    expect(page).to_have_title("Ready · Beeline")
    look(page, "sender-unsent")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.close(run_before_unload=True)
    page.wait_for_timeout(500)
    assert asked == ["beforeunload"]
    page.get_by_role("button", name="Send", exact=True).click()
    expect(hint).to_contain_text("Not mailed yet: enter the code.")
    confirm(page, post, "hal@example.org")
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")
    expect(hint).to_contain_text("You can close this tab.")
    expect(page.locator("#figure")).to_have_text("Sent")
    expect(page).to_have_title("Sent · Beeline")
    post.wait_for("bo@example.org")
    page.get_by_label("Send to").fill("bo@example.org, cy@example.org")
    expect(page.locator("#figure")).to_have_text("Ready")


def test_what_is_wrong_is_said_where_it_is(
    open_page: OpenPage, post: MailServer, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    send(page, tmp_path / "one.bin")
    to, mine = page.get_by_label("Send to"), page.get_by_label("Your e-mail")
    to.fill("bo@example.org, cy.example.org")
    mine.fill("gil@example.org")
    button = page.get_by_role("button", name="Send", exact=True)
    button.click()
    said = "“cy.example.org” is not an e-mail address."
    expect(page.locator("#s-recipients")).to_have_text(said)
    to.fill("bo@example.org, bo@nowhere")
    button.click()
    expect(page.locator("#s-recipients")).to_have_text("“bo@nowhere” is not an e-mail address.")
    expect(to).to_have_attribute("aria-invalid", "true")
    to.fill("bo@example.org")
    mine.fill("gil@")
    button.click()
    expect(page.locator("#s-sender")).to_have_text("This is not an e-mail address.")
    mine.fill("gil@example.org")
    button.click()
    page.get_by_label("Code from the mail").fill("12")
    page.get_by_label("Code from the mail").press("Enter")
    expect(page.locator("#s-code")).to_have_text("The code is not the one that was mailed.")
    assert post.to("bo@example.org") == []


def test_the_first_view_knows_nothing_of_mail(open_page: OpenPage) -> None:
    page = open_page("/health")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto("/")
    assert len(urls) <= 6
    assert not [url for url in urls if "mail-form" in url]


def test_what_sends_mail_is_asked_for_again_when_it_did_not_come(
    open_page: OpenPage, live: Stack, post: MailServer, tmp_path: Path
) -> None:
    """Send neither leaves the page, with an upload on its way, nor forgets what was typed."""
    make_files(tmp_path, {"one.bin": 6 * MIB})
    page = open_page()
    held = Hold(page, live)
    page.route("**/mail-form.js*", lambda route: route.abort())
    choose(page, tmp_path / "one.bin")
    link_of(page)
    page.get_by_label("Send to").fill("bo@example.org")
    page.get_by_label("Your e-mail").fill("typed@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#s-sender")).to_contain_text("Not sent. Check your connection")
    page.unroute("**/mail-form.js*")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    held.release()
    expect_state(page, "done", 60)
    confirm(page, post, "typed@example.org")
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")
    assert len(post.wait_for("bo@example.org")) == 1


def test_a_tab_that_is_open_over_a_new_release_mails_all_the_same(
    open_page: OpenPage, post: MailServer, tmp_path: Path
) -> None:
    """The script that mails is there before it is needed: its address is gone with the release."""
    make_files(tmp_path, {"one.bin": 10})
    page = open_page("/health")
    with page.expect_response("**/mail-form.js*"):
        page.goto("/")
    page.route("**/mail-form.js*", lambda route: route.fulfill(status=404))
    choose(page, tmp_path / "one.bin")
    expect_state(page, "done")
    page.get_by_label("Send to").fill("bo@example.org")
    page.get_by_label("Your e-mail").fill("anna@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    confirm(page, post, "anna@example.org")
    expect(page.locator("#s-sender")).to_have_text("Sent to 1 person.")


def test_nothing_is_called_sent_while_what_mails_did_not_come(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page("/health")
    page.route("**/mail-form.js*", lambda route: route.fulfill(status=404))
    page.goto("/")
    choose(page, tmp_path / "one.bin")
    expect_state(page, "done")
    page.get_by_label("Send to").fill("bo@example.org")
    expect(page.locator("#figure")).to_have_text("Ready")
    expect(page.locator("#link-hint")).to_contain_text("Not mailed yet: press Send.")
    expect(page.locator("#send-mail")).to_have_class(re.compile("button-primary"))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#s-sender")).to_contain_text("choose “Manage”")
    look(page, "sender-mail-not-loaded")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.get_by_role("link", name="Manage").click(no_wait_after=True)
    expect(page.locator("#figure")).to_have_text("Ready")
    assert asked == ["beforeunload"]
    page.get_by_label("Send to").fill("")
    expect(page.locator("#figure")).to_have_text("Sent")


def test_the_readmes_picture(open_page: OpenPage, live: Stack, tmp_path: Path) -> None:
    """`make picture` keeps what this one sees."""
    make_files(
        tmp_path, {"Interview with the director, final cut.mov": 36 * MIB, "notes.txt": 1200}
    )
    page = open_page()
    held, puts = Hold(page, live, after=3), Puts(page, live)
    choose(page, *sorted(tmp_path.iterdir()))
    puts.wait_for(3)
    expect(page.get_by_label("Send to")).to_be_visible()
    expect(page.locator("#figure")).to_have_text("44 %")
    expect(page.locator("#files .file", has_text="notes.txt")).to_contain_text("Sent")
    look(page, "sender-mail-uploading")
    held.release()
    expect_state(page, "done")


def test_the_senders_page_with_mail(open_page: OpenPage, post: MailServer, tmp_path: Path) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    send(page, tmp_path / "one.bin")
    sender = "s@example.org"
    page.get_by_label("Send to").fill("bo@example.org, cy@example.org")
    page.get_by_label("Your e-mail").fill(sender)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    expect(page.locator(".card-work .button-primary:visible")).to_have_text("Confirm")
    look(page, "sender-mail-code")
    # Whoever presses "Send" again means the code that stands there: it is no wish for another.
    (mail,) = post.wait_for(sender)
    page.get_by_label("Code from the mail").fill(mail.subject[:8])
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#s-sender")).to_have_text("Sent to 2 people.")
    expect(page.locator(".card-work .button-primary:visible")).to_have_text("Copy link")
    assert len(post.to(sender)) == 1
    look(page, "sender-mail-sent")


def is_drawn(page: Page) -> bool:
    """The line reaches the page's left edge, and its dot is as strong as the words."""
    return bool(page.locator(".beeline").evaluate(
        """(line) => getComputedStyle(line, '::before').height === '4px'
          && getComputedStyle(line.querySelector('.beeline-now')).fill === getComputedStyle(line).color"""
    ))  # fmt: skip


def test_links_in_mails_lead_to_one_button(
    open_page: OpenPage, post: MailServer, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    send(page, tmp_path / "one.bin")
    sender, reader = "t@example.org", "r@example.org"
    page.get_by_label("Send to").fill(reader)
    page.get_by_label("Your e-mail").fill(sender)
    page.get_by_role("button", name="Send", exact=True).click()
    confirm(page, post, sender)
    (mail,) = post.wait_for(reader)
    leave = str(mail.message["List-Unsubscribe"]).strip("<>")
    other = open_page(leave)
    look(other, "opt-out")
    other.get_by_role("button", name="Stop all e-mails").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("E-mails stopped")
    assert is_drawn(other)
    look(other, "opt-out-done")
    other.get_by_role("link", name="To the start page").click()
    expect(other.locator("#choose-files")).to_be_visible()


def extend_link(live: Stack, link: str) -> str:
    """As the mail to the sender has it."""
    code = (
        "import sys; from app import create_app; from app.services import link_targets, mail_links\n"
        "with create_app().app_context():\n"
        "    print(mail_links.extend_seal(link_targets.find(sys.argv[1]).transfer.id))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, link.rpartition("/")[2]],
        env=live.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return f"/m/extend/{done.stdout.strip()}"


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_more_time_is_one_click(
    open_page: OpenPage, live: Stack, tmp_path: Path, script: bool
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    link = send(page, tmp_path / "one.bin")
    page.get_by_label("Downloads").fill("1")
    expect(page.locator("#s-downloads")).to_have_text("Saved")
    reader = open_page(link)
    downloaded(reader, reader.get_by_role("button", name="Download"))
    path = extend_link(live, link)
    sender = open_page(path, java_script_enabled=script)
    if script:
        look(sender, "extend")
    sender.get_by_role("button", name="7 more days and 5 downloads").click()
    expect(sender.get_by_role("heading", level=1)).to_have_text("Transfer extended")
    expect(
        sender.get_by_text(re.compile(r"until [^.]*20\d\d[^.]*, up to 5 times\."))
    ).to_be_visible()
    assert is_drawn(sender)
    if script:
        look(sender, "extend-done")
    sender.get_by_role("link", name="Open the link").click()
    expect(sender.get_by_role("button", name="Download")).to_be_visible()
    expect(open_page(link).get_by_text("5 downloads left")).to_be_visible()
