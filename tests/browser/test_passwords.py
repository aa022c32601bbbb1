"""A password on a transfer, as sender and recipient meet it; with JavaScript and without."""

import json
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
    link_of,
    make_files,
    remembered,
    send,
    stop_at,
)
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
SECRET = "open sesame 🐝"
EVERYTHING_KEPT = """async () => {
  const kept = [JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie];
  for (const {name} of await indexedDB.databases()) {
    const db = await new Promise((done) => {
      const asked = indexedDB.open(name);
      asked.onsuccess = () => done(asked.result);
    });
    for (const store of db.objectStoreNames) {
      kept.push(JSON.stringify(await new Promise((done) => {
        const asked = db.transaction(store).objectStore(store).getAll();
        asked.onsuccess = () => done(asked.result);
      })));
    }
    db.close();
  }
  return kept.join();
}"""


def protect(sender: Page, word: str = SECRET) -> None:
    """Fill in the field; it saves itself."""
    sender.get_by_label("Protect with a password").fill(word)
    expect(sender.locator("#s-password")).to_have_text("Saved. A password is set.")


def unlock(reader: Page, word: str) -> None:
    """Fill in the recipient's one field."""
    reader.get_by_label("Password", exact=True).fill(word)
    reader.get_by_role("button", name="Open").click()


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_s10_whoever_knows_the_password_gets_the_file(
    open_page: OpenPage, tmp_path: Path, script: bool
) -> None:
    sums = make_files(tmp_path, {"one.bin": 300_000})
    sender = open_page()
    link = send(sender, tmp_path / "one.bin")
    protect(sender)

    reader = open_page(link, java_script_enabled=script)
    expect(reader).to_have_title("Password needed · Beeline")
    expect(reader.get_by_role("heading", level=1)).to_have_text("This needs a password")
    expect(reader.get_by_text("one.bin")).to_have_count(0)
    expect(reader.get_by_role("button")).to_have_count(1)
    unlock(reader, "open sesame")
    expect(reader.get_by_text("That password is not right.")).to_be_visible()
    expect(reader.get_by_label("Password", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(reader.get_by_label("Password", exact=True)).to_have_value("")
    reader.get_by_label("Password", exact=True).fill(SECRET)
    reader.get_by_label("Password", exact=True).press("Enter")
    button = reader.get_by_role("button", name="Download")
    assert downloaded(reader, button) == ("one.bin", sums["one.bin"])
    reader.goto(link)
    expect(reader.get_by_role("button", name="Download")).to_be_visible()


def test_s10_too_many_tries_say_when_to_come_again(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"one.bin": 10})
    sender = open_page()
    link = send(sender, tmp_path / "one.bin")
    protect(sender)
    reader = open_page(link)
    for _ in range(5):
        unlock(reader, "guess")
        expect(reader.get_by_text("That password is not right.")).to_be_visible()
    unlock(reader, SECRET)
    expect(reader.get_by_text("Too many tries. Try again in")).to_be_visible()
    reader.wait_for_timeout(5_500)
    unlock(reader, SECRET)
    expect(reader.get_by_role("button", name="Download")).to_be_visible()


def test_it_is_shown_changed_and_removed(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"one.bin": 10})
    sender = open_page()
    link = send(sender, tmp_path / "one.bin")
    field, said = sender.get_by_label("Protect with a password"), sender.locator("#s-password")
    remove = sender.get_by_role("button", name="Remove the password")
    expect(remove).to_be_hidden()
    field.fill("abc")
    field.blur()
    expect(said).to_have_text("The password must be at least 4 characters.")
    expect(field).to_have_attribute("aria-invalid", "true")
    protect(sender)
    expect(field).to_have_attribute("type", "password")
    sender.get_by_role("button", name="Show the password").click()
    expect(field).to_have_attribute("type", "text")
    sender.get_by_role("button", name="Hide the password").click()
    expect(field).to_have_attribute("type", "password")

    # An emptied field is no removal: it may be about to hold another.
    field.fill("")
    field.blur()
    expect(said).to_have_text("A password is set. Type another to change it.")
    assert open_page(link).get_by_label("Password", exact=True).is_visible()
    protect(sender, "another one")
    remove.click()
    expect(said).to_have_text("Removed. The link opens without one.")
    expect(remove).to_be_hidden()
    expect(field).to_have_value("")
    expect(open_page(link).get_by_role("button", name="Download")).to_be_visible()


@pytest.mark.parametrize("leaving", ["reload", "close"])
def test_whoever_leaves_the_moment_it_is_typed_has_it_set(
    open_page: OpenPage, tmp_path: Path, leaving: str
) -> None:
    make_files(tmp_path, {"one.bin": 10})
    sender = open_page()
    link = send(sender, tmp_path / "one.bin")
    sender.get_by_label("Protect with a password").press_sequentially(SECRET)
    if leaving == "reload":
        sender.reload()
    else:
        sender.close(run_before_unload=True)
    reader = open_page(link)
    for _ in range(20):
        if reader.get_by_label("Password", exact=True).is_visible():
            return
        reader.reload()
    raise AssertionError("The link opens without it.")


def test_it_is_never_kept_in_the_browser(open_page: OpenPage, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"big.bin": 30 * MIB})
    sender = open_page("/health")
    sender.context.add_init_script(PLAIN)
    sender.goto("/")
    held, puts = stop_at(sender, live, 1)
    choose(sender, tmp_path / "big.bin")
    link = link_of(sender)
    puts.wait_for(1)
    protect(sender)
    remembered(sender)
    kept = sender.evaluate(EVERYTHING_KEPT)
    assert "big.bin" in kept
    assert SECRET not in kept
    assert json.dumps(SECRET)[1:-1] not in kept

    sender.reload()
    expect(sender.locator(".offer")).to_contain_text("already safe")
    held.release()
    sender.locator(".offer").get_by_role("button", name="Choose the file").click()
    choose(sender, tmp_path / "big.bin")
    expect_state(sender, "done")
    assert link_of(sender) == link
    expect(sender.get_by_label("Protect with a password")).to_have_value("")
    expect(sender.locator("#s-password")).to_contain_text("A password is set.")
    expect(sender.get_by_role("button", name="Remove the password")).to_be_visible()
    expect(open_page(link).get_by_label("Password", exact=True)).to_be_visible()


def test_a_page_that_is_open_asks_as_soon_as_there_is_one(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"big.bin": 30 * MIB})
    sender = open_page()
    held, _ = stop_at(sender, live, 1)
    choose(sender, tmp_path / "big.bin")
    reader = open_page(link_of(sender))
    expect(reader.get_by_text("big.bin")).to_be_visible()
    protect(sender)
    expect(reader.get_by_label("Password", exact=True)).to_be_visible()
    expect(reader).to_have_title("Password needed · Beeline")
    expect(reader.get_by_text("big.bin")).to_have_count(0)
    unlock(reader, SECRET)
    expect(reader.get_by_text("big.bin")).to_be_visible()
    held.release()
    expect(reader.get_by_role("button", name="Download")).to_be_visible()
