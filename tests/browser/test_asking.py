"""After the end, and when something is wrong: asking the sender, reporting, a blocked link."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import call, choose, expect_state, link_of, look, make_files
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]


def sent(live: Stack, **options: object) -> dict[str, Any]:
    """A transfer of one small file, ready."""
    body = {"files": [{"path": "Rushes, day one.mov", "size": 5}], "title": "Rushes"} | options
    made = call(live, "POST", "/transfers", body=body)
    url, token = f"/transfers/{made['id']}", made["owner_token"]
    wanted = {"wanted": [{"file": made["files"][0]["id"], "numbers": [1]}]}
    (part,) = call(live, "POST", f"{url}/parts", token, wanted)["parts"]
    put = urllib.request.Request(part["url"], b"hello", part["headers"], method="PUT")
    urllib.request.urlopen(put, timeout=10).close()
    call(live, "POST", f"{url}/complete", token, {})
    for _ in range(200):
        if call(live, "GET", url, token)["status"] == "READY":
            return made
        time.sleep(0.1)
    raise AssertionError("it did not become READY")


def expire(live: Stack, made: dict[str, Any]) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    change = {"expires_at": soon.isoformat()}
    call(live, "PATCH", f"/transfers/{made['id']}", made["owner_token"], change)
    time.sleep(1.5)


def requests(live: Stack, made: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"/transfers/{made['id']}/requests"
    return call(live, "GET", url, made["owner_token"])["requests"]


def flask(live: Stack, *words: str) -> str:
    """A command, as an operator types it."""
    command = [sys.executable, "-m", "flask", *words]
    done = subprocess.run(
        command, env={**os.environ, **live.environ}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_how_all_of_it_looks(open_page: OpenPage, live: Stack) -> None:
    made = sent(live, max_downloads=1, message="Hello")
    path = f"/d/{made['slug']}"
    reader = open_page(path)
    look(reader, "recipient-with-report-link")
    with reader.expect_download():
        reader.get_by_role("button", name="Download").click()
    late = open_page(path)
    look(late, "ask-for-more")
    expire(live, made)
    late.reload()
    look(late, "ask-for-time")
    late.get_by_label("Message (optional)").evaluate(
        "(field) => field.removeAttribute('maxlength')"
    )
    late.get_by_label("Message (optional)").fill("x" * 501)
    late.get_by_role("button", name="Ask for more time").click()
    expect(late.get_by_text("This must be at most 500 characters.")).to_be_visible()
    look(late, "ask-wrong")
    late.get_by_label("Message (optional)").fill("Two more days, please")
    late.get_by_role("button", name="Ask for more time").click()
    expect(late.get_by_text("Your request has been passed on.")).to_be_visible()
    look(late, "ask-noted")
    late.reload()
    expect(late.get_by_text("You have already asked today.")).to_be_visible()
    look(late, "ask-today")

    look(open_page(f"/d/{sent(live, password='open sesame')['slug']}"), "recipient-password-report")
    other = sent(live)
    page = open_page(f"/d/{other['slug']}")
    page.get_by_role("link", name="Report this").click()
    page.wait_for_url("**/report")
    look(page, "report")
    page.get_by_label("Your e-mail").evaluate("(field) => field.removeAttribute('maxlength')")
    page.get_by_label("Something else").check()
    page.get_by_label("Your e-mail").fill("x" * 250 + "@example.org")
    page.evaluate("document.querySelector('form').noValidate = true")
    page.get_by_role("button", name="Send the report").click()
    expect(page.get_by_text("This must be at most 254 characters.")).to_be_visible()
    look(page, "report-wrong")
    page.get_by_label("Your e-mail").fill("eve@example.org")
    page.get_by_role("button", name="Send the report").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    look(page, "report-thanks")
    flask(live, "transfers", "quarantine", f"{live.url}/d/{other['slug']}")
    page.get_by_role("link", name="Back to the link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This is not available")
    look(page, "recipient-unavailable")


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_by_keyboard_alone_the_sender_is_asked_once(
    open_page: OpenPage, live: Stack, script: bool
) -> None:
    made = sent(live)
    expire(live, made)
    page = open_page(f"/d/{made['slug']}", java_script_enabled=script)
    expect(page).to_have_title("Rushes · Beeline")
    page.get_by_label("Message (optional)").focus()
    page.keyboard.type("Two more days,")
    page.keyboard.press("Enter")
    page.keyboard.type("please")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Your name or e-mail (optional)")).to_be_focused()
    page.keyboard.type("Ada")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your request has been passed on.")).to_be_visible()
    expect(page.get_by_label("Message (optional)")).to_have_count(0)
    page.goto(f"/d/{made['slug']}")
    expect(page.get_by_text("You have already asked today.")).to_be_visible()
    (asked,) = requests(live, made)
    assert (asked["message"], asked["contact"]) == ("Two more days,\nplease", "Ada")
    assert asked["reason"] == "expired"


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_s31_by_keyboard_alone_a_link_is_reported(
    open_page: OpenPage, live: Stack, script: bool
) -> None:
    made = sent(live)
    page = open_page(f"/d/{made['slug']}", java_script_enabled=script)
    page.get_by_role("link", name="Report this").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Report this link")
    page.get_by_label("Harmful software").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("It pretends to be someone else")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("It asks for my bank")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    listed = [line for line in flask(live, "reports", "list").splitlines() if made["slug"] in line]
    assert [line.split()[4] for line in listed] == ["phishing"]


def test_s31_a_sender_at_work_is_told_that_it_was_blocked(
    open_page: OpenPage, live: Stack, tmp_path: Any
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    page = open_page()
    page.route("**/complete", lambda route: (flask(live, "transfers", "quarantine", link_of(page)), route.continue_()))  # fmt: skip
    choose(page, tmp_path / "one.bin")
    expect_state(page, "failed")
    expect(page.locator("#trouble-title")).to_have_text("This transfer was blocked.")
    expect(page.locator("#retry")).to_be_hidden()


def test_s31_a_sender_of_a_blocked_file_is_told_no_more_than_that(
    open_page: OpenPage, live: Stack, tmp_path: Any
) -> None:
    """By real workers: it is never given out, and what the sender reads names no file."""
    make_files(tmp_path, {"holiday.jpg": 4711, "harmless.txt": 10})
    flask(live, "blocklist", "add", str(tmp_path / "holiday.jpg"), "--reason", "malware")
    page = open_page()
    choose(page, tmp_path / "holiday.jpg", tmp_path / "harmless.txt")
    expect_state(page, "failed", 60)
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("This transfer was blocked.")
    expect(trouble).not_to_contain_text("holiday.jpg")
    link = page.locator("#link").get_attribute("href") or ""
    expect(page.locator("#link")).to_be_hidden()
    look(page, "sender-blocked")
    reader = open_page(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("This is not available")
    assert link in flask(live, "reports", "list")
