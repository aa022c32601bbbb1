"""Every page in every state: a picture of it, and axe finds nothing; light, dark, wide, phone."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import (
    MIB,
    PLAIN,
    Hold,
    Puts,
    call,
    choose,
    expect_state,
    link_of,
    look,
    make_files,
    send,
)
from tests.lab.stack import Stack, kill_family

OpenPage = Callable[..., Page]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    make_files(
        tmp_path, {"Interview with the director, final cut.mov": 36 * MIB, "notes.txt": 1200}
    )
    return sorted(tmp_path.iterdir())


def test_home(open_page: OpenPage) -> None:
    look(open_page("/"), "home")


def test_the_senders_states(open_page: OpenPage, live: Stack, files: list[Path]) -> None:
    page = open_page("/")
    held, puts = Hold(page, live, after=3), Puts(page, live)
    choose(page, *files)
    puts.wait_for(3)
    look(page, "sender-uploading")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Remove notes.txt").click()
    look(page, "sender-asking")
    page.get_by_role("button", name="Keep sending").click()
    page.get_by_role("button", name="Undo removing notes.txt").click()
    page.get_by_role("button", name="Pause").click()
    expect_state(page, "paused")
    look(page, "sender-paused")
    page.get_by_role("button", name="Continue").click()
    held.break_lines()
    expect(page.locator("#trouble-title")).to_have_text("The storage cannot be reached.")
    look(page, "sender-waiting")
    page.get_by_role("button", name="Try now").click()
    held.release()
    expect_state(page, "done")
    look(page, "sender-done")


def test_the_senders_failure(open_page: OpenPage, live: Stack, files: list[Path]) -> None:
    page = open_page("/")
    Hold(page, live).refuse()
    choose(page, *files)
    expect_state(page, "failed", 90)
    page.get_by_text("Details", exact=True).click()
    look(page, "sender-failed")


def test_the_offers(open_page: OpenPage, live: Stack, files: list[Path]) -> None:
    page = open_page("/health")
    page.context.add_init_script(PLAIN)
    page.goto("/")
    offer = page.locator(".offer").first
    held, puts = Hold(page, live, after=3), Puts(page, live)
    choose(page, *files)
    puts.wait_for(3)
    link_of(page)
    other = page.context.new_page()
    other.goto("/")
    expect(other.locator(".offer")).to_contain_text("in another tab")
    look(other, "offer-elsewhere")
    other.close()

    page.route("**/transfers/**", lambda route: None)
    page.reload()
    expect(offer).to_contain_text("Finding out")
    look(page, "offer-asking")
    page.unroute("**/transfers/**")
    page.route("**/transfers/**", lambda route: route.abort())
    page.reload()
    expect(offer).to_contain_text("we ask again by ourselves")
    look(page, "offer-unreachable")
    page.unroute("**/transfers/**")
    page.reload()
    expect(offer).to_contain_text("already safe")
    look(page, "offer-choose")
    offer.get_by_role("button", name="Choose the file").click()
    choose(page, files[1])
    expect(offer.get_by_role("alert")).to_contain_text("Still missing")
    look(page, "offer-refused")
    offer.get_by_role("button", name="Discard").click()
    look(page, "offer-discard")

    for name in ("Wedding.zip", "A name that is long enough to need more than one line.tar.gz"):
        (files[0].parent / name).write_bytes(files[0].read_bytes())
        choose(page, files[0].parent / name)
        link_of(page)
        page.reload()
    held.release()
    expect(page.locator(".offer")).to_have_count(3)
    expect(page.get_by_role("button", name="Choose")).to_have_count(5)
    look(page, "offers")


@pytest.fixture
def no_worker(live: Stack) -> Iterator[None]:
    kill_family(live.running["worker"])
    yield
    live.start("worker")


@pytest.mark.usefixtures("no_worker")
def test_while_it_is_checked(open_page: OpenPage, files: list[Path]) -> None:
    page = open_page("/")
    choose(page, *files)
    expect_state(page, "checking")
    look(page, "sender-checking")
    reader = open_page(link_of(page))
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "processing")
    look(reader, "recipient-processing")


def test_the_recipients_states(open_page: OpenPage, live: Stack, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 3000, "trip/b.raw": 200, "trip/c.raw": 300, "Été 🎬.mov": 5})
    sender = open_page()
    with sender.expect_response(lambda answer: answer.url.endswith("/transfers")) as creating:
        sender.locator("#folder-input").set_input_files(str(tmp_path))
    created = creating.value.json()
    expect_state(sender, "done")
    path, token = f"/d/{created['slug']}", created["owner_token"]
    api = f"/transfers/{created['id']}"
    call(live, "PATCH", api, token, {"title": "Rushes", "message": "Hello", "max_downloads": 1})

    reader = open_page(path)
    reader.locator("summary").first.click()
    look(reader, "recipient-ready")
    with reader.expect_download():
        reader.get_by_role("button", name="Download").first.click()
    look(open_page(path), "recipient-limit-reached")
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    call(live, "PATCH", api, token, {"expires_at": soon.isoformat()})
    time.sleep(2)
    look(open_page(path), "recipient-expired")
    call(live, "DELETE", api, token)
    look(open_page(path), "recipient-deleted")


def test_a_protected_transfer(open_page: OpenPage, files: list[Path]) -> None:
    sender = open_page("/")
    link = send(sender, files[1])
    sender.get_by_label("Protect with a password").fill("open sesame")
    expect(sender.locator("#s-password")).to_have_text("Saved. A password is set.")
    look(sender, "sender-protected")
    reader = open_page(link)
    look(reader, "recipient-password")
    for _ in range(5):
        reader.get_by_label("Password", exact=True).fill("guess")
        reader.get_by_role("button", name="Open").click()
        expect(reader.get_by_text("That password is not right.")).to_be_visible()
    look(reader, "recipient-password-wrong")
    reader.get_by_label("Password", exact=True).fill("guess")
    reader.get_by_label("Password", exact=True).press("Enter")
    expect(reader.locator("#password-said")).not_to_have_text("That password is not right.")
    look(reader, "recipient-password-wait")


def test_one_file_still_on_its_way_and_no_file_at_all(
    open_page: OpenPage, live: Stack, files: list[Path]
) -> None:
    look(open_page(send(open_page(), files[1])), "recipient-one-file")
    body = {"files": [{"path": "a.bin", "size": 10}]}
    look(
        open_page(f"/d/{call(live, 'POST', '/transfers', body=body)['slug']}"),
        "recipient-uploading",
    )
    look(open_page("/d/" + "x" * 32), "error-unknown-link")


def test_the_ways_without_this_browser(open_page: OpenPage, files: list[Path]) -> None:
    many, one = send(open_page(), *files), send(open_page(), files[1])
    for name, link in (("many", many), ("one", one)):
        reader = open_page(link)
        code = reader.get_by_role("img", name="QR code of this page's link")
        expect(code).to_be_hidden()
        reader.get_by_text("Command line", exact=True).click()
        reader.get_by_text("QR code", exact=True).click()
        expect(code).to_be_visible()
        expect(code).not_to_have_js_property("naturalWidth", 0)
        look(reader, f"recipient-elsewhere-{name}")


def test_a_command_is_copied_whole(open_page: OpenPage, files: list[Path]) -> None:
    reader = open_page(send(open_page(), files[1]), permissions=["clipboard-read"])
    reader.get_by_text("Command line", exact=True).click()
    button = reader.get_by_role("button", name="Copy the command: Download")
    button.click()
    expect(button).to_have_text("Copied")
    copied = reader.evaluate("navigator.clipboard.readText()")
    assert copied == f'curl -OJL "{reader.url}"'
    expect(button).to_have_text("Copy")


def test_the_senders_code_is_of_the_link(open_page: OpenPage, files: list[Path]) -> None:
    page = open_page()
    code = page.get_by_role("img", name="QR code of the link")
    expect(code).to_be_hidden()
    link = send(page, files[1])
    expect(code).to_be_visible()
    expect(code).not_to_have_js_property("naturalWidth", 0)
    assert link.endswith((code.get_attribute("src") or "").removesuffix(".svg"))


def test_twice_as_large_nothing_is_lost(open_page: OpenPage, files: list[Path]) -> None:
    half = {"640": {"width": 640, "height": 450}}
    look(open_page(device_scale_factor=2), "home-zoomed", half)
    link = send(open_page(), files[1])
    look(open_page(link, device_scale_factor=2), "recipient-zoomed", half)


def test_f_the_first_view_is_light(open_page: OpenPage, live: Stack) -> None:
    page = open_page("/health")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto("/")
    assert len(urls) <= 6, urls
