"""The sender afterwards: the page that a finished upload leads to, by mouse, by key, without a script."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.steps import Hold, call, choose, code_to, expect_state, look, make_files, send
from tests.browser.test_asking import expire, flask, sent
from tests.lab.chromium import FLAGS, path
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


@pytest.fixture
def live(mailing: Stack, post: MailServer) -> Iterator[Stack]:
    post.answers["cy@example.org"] = ["550 5.1.1 There is no such mailbox"]
    yield mailing
    del post.answers["cy@example.org"]


# Taking a picture leaves empty ones on fields, and htmx carries them over, which the CSP forbids.
STYLES = "for (const one of document.querySelectorAll('[style]')) one.removeAttribute('style')"


def page_of(made: dict[str, Any]) -> str:
    return f"/m/{made['id']}.{made['owner_token']}"


def ask_for_more(open_page: OpenPage, made: dict[str, Any], words: str) -> None:
    reader = open_page(f"/d/{made['slug']}")
    reader.get_by_label("Message (optional)").fill(words)
    reader.get_by_label("Your name or e-mail (optional)").fill("Bob")
    reader.get_by_role("button", name="Ask for more").click()
    expect(reader.get_by_text("Your request has been passed on.")).to_be_visible()


def confirm(page: Page, post: MailServer, sender: str) -> None:
    """Enter an address, read the code in the mail, and type it."""
    before = len(post.to(sender))
    page.get_by_label("Your e-mail, to send the link").fill(sender)
    page.get_by_role("button", name="Mail me a code").click()
    expect(page.get_by_label("Code from the mail")).to_be_visible()
    page.get_by_label("Code from the mail").fill(code_to(post, sender, before))
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_label("Send to more people")).to_be_visible()


def test_how_all_of_it_looks(open_page: OpenPage, live: Stack, post: MailServer) -> None:
    def seen(page: Page, name: str) -> None:
        look(page, f"manage-{name}")
        page.evaluate(STYLES)

    made = sent(live, message="Hello Bob", password="open sesame")
    page = open_page(page_of(made))
    expect(page.get_by_text("Ready to download")).to_be_visible()
    seen(page, "ready")
    for summary in page.locator("#manage details[data-keep] > summary").all():
        if summary.locator("..").get_attribute("open") is None:
            summary.click()
    seen(page, "ready-open")
    sender = "ada@example.org"
    confirm(page, post, sender)
    page.get_by_label("Send to more people").fill("bo@example.org cy@example.org di@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".person")).to_have_count(4)
    for _ in range(100):
        states = [one["state"] for one in call(live, "GET", f"/transfers/{made['id']}", made["owner_token"])["recipients"]]  # fmt: skip
        if set(states) == {"sent", "failed"}:
            break
        time.sleep(0.1)
    page.reload()
    expect(page.get_by_text("Mail failed").first).to_be_visible()
    row = page.locator(".person", has_text="di@example.org")
    row.locator("summary").click()
    seen(page, "people")
    row.get_by_role("button", name="Take the link back").click()
    expect(row).to_contain_text("Taken back")
    seen(page, "people-taken-back")

    page.locator("#manage-details summary").click()
    page.get_by_label("Title").fill("Mine")
    page.get_by_label("Download limit").fill("many")
    page.get_by_role("button", name="Save").first.click()
    expect(page.get_by_text("This must be a whole number.")).to_be_visible()
    expect(page.get_by_label("Download limit")).to_be_focused()
    seen(page, "wrong")
    change = {"title": "Rushes, second version"}
    call(live, "PATCH", f"/transfers/{made['id']}", made["owner_token"], change)
    page.get_by_label("Download limit").fill("")
    page.get_by_role("button", name="Save").first.click()
    expect(page.get_by_text("It is now “Rushes, second version”.")).to_be_visible()
    seen(page, "changed-meanwhile")
    page.get_by_role("button", name="Save").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Mine")
    expect(page).to_have_title("Mine · Manage · Beeline")
    seen(page, "saved")

    page.locator("#manage-end summary").click()
    page.get_by_role("button", name="Delete now").click()
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    seen(page, "undo")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Delete now")).to_be_focused()
    page.get_by_role("button", name="Delete now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This was deleted")
    seen(page, "deleted")

    used = sent(live, max_downloads=1)
    reader = open_page(f"/d/{used['slug']}")
    with reader.expect_download():
        reader.get_by_role("button", name="Download").click()
    ask_for_more(open_page, used, "One more for the editor, please.\nShe has no copy.")
    page = open_page(page_of(used))
    seen(page, "limit-reached")
    expire(live, used)
    page.reload()
    expect(page.get_by_text("Nobody can download it now")).to_be_visible()
    seen(page, "expired")
    page.get_by_role("button", name="7 more days").click()
    expect(page.locator("[data-told]")).to_have_text("It can be downloaded again.")
    expect(page.locator("#live")).to_have_text("It can be downloaded again.")
    expect(page.locator("#m-title")).to_have_count(1)
    seen(page, "extended")
    flask(live, "transfers", "quarantine", f"{live.url}/d/{used['slug']}")
    page.reload()
    expect(page.get_by_text("has blocked this transfer")).to_be_visible()
    seen(page, "blocked")


def test_by_keyboard_alone_an_address_is_confirmed_and_people_are_named(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    page = open_page(page_of(sent(live)))
    sender = "kim@example.org"
    page.get_by_label("Your e-mail, to send the link").focus()
    page.keyboard.type(sender)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    expect(page.locator("#live")).to_have_text(f"A code was mailed to {sender}.")
    look(page, "manage-code")
    page.evaluate(STYLES)
    page.get_by_label("Code from the mail").focus()
    page.keyboard.type(code_to(post, sender))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Send to more people")).to_be_focused()
    page.keyboard.type("bo@example.org")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("It is being sent to 1 person.")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()


def test_a_question_that_is_open_stays_when_its_region_is_renewed(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    page = open_page(page_of(sent(live)))
    confirm(page, post, "lee@example.org")
    page.get_by_label("Send to more people").fill("bo@example.org di@example.org")
    page.get_by_role("button", name="Send", exact=True).click()
    row = page.locator(".person", has_text="di@example.org")
    row.locator("summary").click()
    page.evaluate("document.activeElement.blur()")
    with page.expect_response("**/people"):
        page.evaluate(
            "htmx.ajax('GET', `${location.pathname}/people`, {target: '#manage-people', swap: 'outerHTML'})"
        )
    page.wait_for_timeout(200)
    take_back = row.get_by_role("button", name="Take the link back")
    expect(take_back).to_be_visible()
    expect(page.locator(".inline-ask[open]")).to_have_count(1)

    # By key: it is thought better of, and then done.
    take_back.focus()
    page.keyboard.press("Escape")
    expect(take_back).to_be_hidden()
    expect(row.locator("summary")).to_be_focused()
    row.locator("summary").press("Enter")
    take_back.press("Enter")
    expect(page.locator("#manage-people [data-told]")).to_be_focused()


def test_from_the_upload_to_the_page_and_back_from_the_first_page(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 300_000, "two.bin": 300_000})
    page = open_page()
    hold = Hold(page, live)
    choose(page, tmp_path / "one.bin", tmp_path / "two.bin")
    expect(page.locator("#link")).to_be_visible()
    stored = page.evaluate("Object.keys(localStorage)")
    assert stored == []  # nothing is remembered of it as finished
    hold.release()
    expect_state(page, "done")
    look(page, "manage-done")
    page.get_by_role("link", name="Manage").click()
    expect(page.get_by_text("Ready to download")).to_be_visible()
    assert "two.bin" in page.content()
    page.goto("/")
    mine = page.get_by_role("region", name="Sent from this device")
    expect(mine).to_be_visible()
    look(page, "manage-mine")
    mine.get_by_role("link").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("2 files")
    page.go_back()
    assert re.search(r"\d:\d\d:\d\d", mine.locator("time").get_attribute("title") or "")
    mine.get_by_role("button", name="Forget").press("Enter")
    page.reload()
    expect(page.locator("#choose-files")).to_be_visible()
    expect(mine).to_be_hidden()


def test_what_is_forgotten_can_be_undone_and_the_focus_stays_in_its_place(
    open_page: OpenPage,
) -> None:
    page = open_page()
    page.evaluate("""() => [1, 2, 3].forEach((day) => localStorage.setItem(`beeline-sent:${day}`, JSON.stringify(
        {id: `${day}`, token: 't', title: `Rushes ${day}`, link: '/d/x', at: `2026-01-0${day}T12:00:00Z`})))""")
    page.clock.install()
    page.reload()
    rows = page.locator(".mine")
    middle = rows.nth(1)
    middle.get_by_role("button").press("Enter")
    expect(middle).to_contain_text("Forgotten")
    expect(page.locator("#live")).to_contain_text("Forgotten: Rushes 2.")
    expect(middle.get_by_role("button", name="Undo forgetting Rushes 2")).to_be_focused()
    assert page.evaluate("localStorage.getItem('beeline-sent:2')") is None
    page.keyboard.press("Enter")
    expect(middle.get_by_role("button", name="Forget Rushes 2")).to_be_focused()
    assert page.evaluate("localStorage.getItem('beeline-sent:2')") is not None

    page.keyboard.press("Enter")
    expect(middle).to_contain_text("Forgotten")
    look(page, "manage-forgotten")
    page.clock.fast_forward(5_000)
    expect(rows).to_have_count(2)
    expect(page.get_by_role("link", name="Rushes 1")).to_be_focused()
    for left in (1, 0):
        rows.last.get_by_role("button").press("Enter")
        expect(rows.last).to_contain_text("Forgotten")
        page.clock.fast_forward(5_000)
        expect(rows).to_have_count(left)
    expect(page.locator("#choose-files")).to_be_focused()


def test_it_follows_an_upload_and_a_file_is_taken_out_by_key(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 300_000, "two.bin": 300_000, "three.bin": 300_000})
    page = open_page()
    tokens: list[str] = []
    page.on("request", lambda request: tokens.append(request.headers.get("authorization", "")))
    hold = Hold(page, live)
    choose(page, *(tmp_path / f"{name}.bin" for name in ("one", "two", "three")))
    expect(page.locator("#link")).to_be_visible()
    for _ in range(100):
        if any(tokens):
            break
        page.wait_for_timeout(50)
    token = next(one for one in tokens if one).partition(" ")[2]
    kept = page.evaluate(
        """async () => {
          const db = await new Promise((done) => {
            const asked = indexedDB.open('beeline'); asked.onsuccess = () => done(asked.result);
          });
          return new Promise((done) => {
            const asked = db.transaction('transfers').objectStore('transfers').getAll();
            asked.onsuccess = () => done(asked.result[0].id);
          });
        }"""
    )
    manage = open_page(f"/m/{kept}.{token}")
    expect(manage.get_by_text("It is being sent from the browser")).to_be_visible()
    look(manage, "manage-uploading")
    remove = manage.get_by_label("Remove three.bin", exact=True)
    remove.press("Enter")
    look(manage, "manage-removing")
    manage.keyboard.press("Escape")
    sure = manage.get_by_role("button", name="Remove it: three.bin")
    expect(sure).to_be_hidden()
    expect(remove).to_be_focused()
    remove.press("Enter")
    sure.press("Enter")
    expect(remove).to_have_count(0)
    expect(manage.locator("[data-told]")).to_be_focused()
    code = manage.locator("summary", has_text="QR code")
    code.focus()
    with manage.expect_response("**/now"):
        pass
    manage.wait_for_timeout(200)
    expect(code).to_be_focused()
    look(manage, "manage-removed")
    hold.release()
    expect(manage.get_by_text("Ready to download", exact=True)).to_be_visible(timeout=60_000)
    expect(manage.locator("#manage-people")).to_be_visible()


def test_without_a_script_everything_is_there(open_page: OpenPage, live: Stack) -> None:
    made = sent(live)
    page = open_page(page_of(made), java_script_enabled=False)
    page.locator("#manage-details summary").click()
    page.get_by_label("Title").fill("Mine")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Mine")
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.get_by_label("Download limit").fill("0")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("This must be from 1")).to_be_visible()
    page.locator("#manage-end summary").click()
    page.get_by_role("button", name="Delete now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This was deleted")


def test_whoever_leaves_while_it_can_be_undone_meant_it(open_page: OpenPage, live: Stack) -> None:
    made = sent(live)
    page = open_page(page_of(made))
    page.locator("#manage-end summary").press("Enter")
    page.get_by_role("button", name="Delete now").press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.goto("/")
    expect_deleted(open_page, made)


def expect_deleted(open_page: OpenPage, made: dict[str, Any]) -> None:
    for _ in range(100):
        reader = open_page(f"/d/{made['slug']}")
        if reader.get_by_role("heading", level=1).inner_text() == "This was deleted":
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")


@pytest.fixture
def keeping(chromium: Browser, live: Stack) -> Iterator[Page]:
    """A page as in people's browsers: what is left is kept as it was, and is back without a
    request."""
    browser = chromium.browser_type.launch(
        executable_path=path(), args=FLAGS, ignore_default_args=["--disable-back-forward-cache"]
    )
    try:
        yield browser.new_page(base_url=live.url)
    finally:
        browser.close()


def go_back(page: Page) -> None:
    """Playwright's own would wait for a load, and there is none."""
    page.evaluate("setTimeout(() => history.back())")


def test_it_is_found_again_until_it_is_really_deleted(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    """The way to its manage page is nowhere else, and a request to delete it may fail."""
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    link = send(page, tmp_path / "one.bin")
    page.get_by_role("link", name="Manage").click()
    page.clock.install()
    page.route("**/delete", lambda route: route.fulfill(status=503, body="busy"))
    delete_now(page)
    expect(page.get_by_text("busy")).to_be_visible(timeout=15_000)
    page.goto("/")
    page.locator("#mine").get_by_role("link", name="one.bin").click()
    page.unroute("**/delete")
    delete_now(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("This was deleted", timeout=15_000)
    page.goto("/")
    expect(page.locator("#choose-files")).to_be_visible()
    expect(page.locator("#mine")).to_be_hidden()
    assert page.evaluate("Object.keys(localStorage)") == []
    expect(open_page(link).get_by_role("heading", level=1)).to_have_text("This was deleted")


def delete_now(page: Page) -> None:
    page.locator("#manage-end summary").press("Enter")
    page.get_by_role("button", name="Delete now").press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.clock.run_for(7_000)


def test_whoever_comes_back_to_what_was_deleted_is_told_so(
    open_page: OpenPage, keeping: Page, live: Stack
) -> None:
    made = sent(live)
    keeping.goto(page_of(made))
    keeping.locator("#manage-end summary").press("Enter")
    keeping.get_by_role("button", name="Delete now").press("Enter")
    expect(keeping.get_by_role("button", name="Undo")).to_be_focused()
    keeping.locator(".logo").click()
    keeping.wait_for_url(f"{live.url}/")
    expect_deleted(open_page, made)
    go_back(keeping)
    # Before the list of people asks by itself.
    heading = keeping.get_by_role("heading", level=1)
    expect(heading).to_have_text("This was deleted", timeout=10_000)


def test_whoever_comes_back_to_the_first_page_finds_nothing_that_was_forgotten_meanwhile(
    keeping: Page, live: Stack
) -> None:
    keeping.goto("/")
    keeping.evaluate("""() => localStorage.setItem('beeline-sent:1', JSON.stringify(
        {id: '1', token: 't', title: 'Rushes', link: '/d/x', at: '2026-01-01T12:00:00Z'}))""")
    keeping.reload()
    expect(keeping.locator(".mine")).to_have_count(1)
    keeping.goto("/docs")
    keeping.evaluate("localStorage.clear()")
    go_back(keeping)
    expect(keeping).to_have_url(f"{live.url}/")
    expect(keeping.locator(".mine")).to_have_count(0)
    expect(keeping.get_by_role("region", name="Sent from this device")).to_be_hidden()


def test_where_nothing_can_be_kept_sending_still_works(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }});"
    )
    page.goto("/")
    send(page, tmp_path / "one.bin")
    page.get_by_role("link", name="Manage").click()
    expect(page.get_by_text("Ready to download")).to_be_visible()
