"""What goes wrong on the way says its cause, keeps what is safe, and mends itself where it can."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.browser.steps import (
    KEPT,
    MIB,
    PLAIN,
    Hold,
    Puts,
    choose,
    downloaded,
    drop,
    expect_state,
    keep,
    link_of,
    look,
    make_files,
    send,
)
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]

REFUSAL = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
# A disk on which a piece takes that long.
SLOW_DISK = """
const { postMessage } = Worker.prototype;
Worker.prototype.postMessage = function (question) {
  setTimeout(() => postMessage.call(this, question), 3000);
};
"""
CORS = {"Access-Control-Allow-Origin": "*"}
# A file that is deleted between the listing of its folder and its opening.
VANISHING = """
const { getFile } = FileSystemFileHandle.prototype;
FileSystemFileHandle.prototype.getFile = function () {
  return this.name.endsWith('~lock') ? Promise.reject(new DOMException('', 'NotFoundError')) : getFile.call(this);
};
"""


class Storage:
    """The way to storage, with faults put into it: one for each PUT, then none."""

    def __init__(self, page: Page, live: Stack, faults: list[str]) -> None:
        self.faults = faults
        self.puts: list[str] = []
        page.route(f"{live.environ['S3_ENDPOINT_URL']}/**", self._pass)

    def _pass(self, route: Route) -> None:
        if route.request.method != "PUT":
            route.continue_()
            return
        self.puts.append(route.request.url)
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "none":
            route.continue_()
        elif fault == "drop":
            route.abort()
        elif fault == "answer lost":
            route.fetch()
            route.abort()
        else:
            route.fulfill(status=int(fault), body=REFUSAL, headers=CORS)


def test_f01_f02_f03_faults_in_passing_need_nobody(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    """One after the other, of every kind; test_bad_lines.py has many of each."""
    faults = ["503", "drop", "403", "answer lost", "500", "drop"]
    sums = make_files(tmp_path, {"a.bin": 40 * MIB + 1, "b.txt": 5, "c.txt": 6})
    sender = open_page()
    storage = Storage(sender, live, list(faults))
    choose(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done", 60)
    assert storage.faults == []
    assert len(storage.puts) <= 6 + 2 + len(faults), "only what failed is sent again"
    reader = open_page(link_of(sender))
    for name, expected in sums.items():
        button = reader.get_by_role("button", name=f"Download {name}")
        assert downloaded(reader, button) == (name, expected)


def test_f05_an_upload_works_when_the_page_cannot_read_etags(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    """CORS rules often expose no ETag. The page needs none: our server asks storage for them."""
    sums = make_files(tmp_path, {"a.bin": 12 * MIB, "b.txt": 5})
    sender = open_page()
    etags: list[str] = []

    def hide(route: Route) -> None:
        answer = route.fetch()
        etags.append(answer.headers.get("etag", ""))
        hidden = {"etag", "access-control-expose-headers"}
        shown = {name: value for name, value in answer.headers.items() if name not in hidden}
        route.fulfill(response=answer, headers=shown)

    sender.route(f"{live.environ['S3_ENDPOINT_URL']}/**", hide)
    choose(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done", 60)
    assert len([etag for etag in etags if etag]) == 3, "two parts and a small file"
    reader = open_page(link_of(sender))
    for name, expected in sums.items():
        button = reader.get_by_role("button", name=f"Download {name}")
        assert downloaded(reader, button) == (name, expected)


def test_f02_what_passes_within_seconds_is_not_told(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    """One failure of one file is no reason to say that everything waits: the others arrive."""
    make_files(tmp_path, {f"{number}.txt": 2000 for number in range(40)})
    sender = open_page()
    Storage(sender, live, ["503", "none", "none"] * 15)
    sender.evaluate("""() => {
      window.told = [];
      const note = () => window.told.push(document.title, document.getElementById('live').textContent);
      for (const id of ['live', 'trouble']) new MutationObserver(note).observe(document.getElementById(id),
        {childList: true, characterData: true, attributes: true, subtree: true});
    }""")
    choose(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done", 60)
    told = sender.evaluate("window.told")
    assert "Sent. The files are ready to download." in told
    assert not [words for words in told if "busy" in words or "Waiting" in words]


def test_a_refusal_for_good_says_so_and_try_again_sends_only_what_is_missing(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 72 * MIB})
    sender = open_page()
    held, puts = Hold(sender, live, after=4), Puts(sender, live)
    choose(sender, tmp_path / "a.bin")
    puts.wait_for(4)
    held.refuse()
    expect_state(sender, "failed", 60)
    expect(sender.locator("#trouble-title")).to_have_text("The storage refused “a.bin”.")
    expect(sender.locator("#trouble-text")).to_contain_text("is safe")
    sender.get_by_text("Details", exact=True).click()
    expect(sender.locator("#facts")).to_contain_text("SignatureDoesNotMatch")
    held.release()
    puts.begun.clear()
    sender.get_by_role("button", name="Try again").click()
    expect_state(sender, "done")
    assert len(puts.begun) == 9 - 4


def test_what_is_said_after_a_stop_leaves_its_cause_and_its_way_on(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 40 * MIB, "b.txt": 5})
    sender = open_page()
    held, puts = Hold(sender, live, after=2), Puts(sender, live)
    choose(sender, tmp_path / "a.bin")
    puts.wait_for(2)
    held.refuse()
    expect_state(sender, "failed", 60)
    sender.route("**/files", lambda route: route.fulfill(status=409, json={}))
    drop(sender, tmp_path / "b.txt")
    expect(sender.get_by_role("alert")).to_contain_text("These files were not added. This transfer")
    sender.unroute_all()
    expect(sender.locator("#trouble-title")).to_have_text("The storage refused “a.bin”.")
    expect(sender.get_by_text("Details", exact=True)).to_be_visible()
    drop(sender, tmp_path / "b.txt")
    expect(sender.get_by_role("button", name="Remove b.txt")).to_be_visible()
    expect(sender.get_by_role("alert")).to_have_count(0)
    expect(sender.locator("#trouble-title")).to_have_text("The storage refused “a.bin”.")
    held.release()
    sender.get_by_role("button", name="Try again").click()
    expect_state(sender, "done")
    expect(sender.locator("#heading")).to_have_text("Your 2 files are ready to download")


def test_files_whose_adding_is_not_answered_are_not_lost_and_added_once(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"a.bin": 40 * MIB, "b.txt": 5})
    sender = open_page()
    held, puts = Hold(sender, live, after=2), Puts(sender, live)
    choose(sender, tmp_path / "a.bin")
    puts.wait_for(2)
    lost: list[str] = []

    def lose_six(route: Route) -> None:
        answer = route.fetch()
        lost.append(route.request.url)
        if len(lost) <= 6:
            route.fulfill(status=504, body="the gateway's own page")
        else:
            route.fulfill(response=answer)

    sender.route("**/files", lose_six)
    drop(sender, tmp_path / "b.txt")
    expect(sender.get_by_role("alert")).to_have_text(
        "These files are not added yet. This site is busy right now. It continues by itself."
    )
    held.release()
    expect_state(sender, "done", 60)
    assert len(lost) == 7
    expect(sender.locator("#heading")).to_have_text("Your 2 files are ready to download")
    expect(sender.get_by_role("alert")).to_have_count(0)
    reader = open_page(link_of(sender))
    for name, expected in sums.items():
        button = reader.get_by_role("button", name=f"Download {name}")
        assert downloaded(reader, button) == (name, expected)


def test_a_check_that_was_given_up_is_no_longer_said_to_go_on(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 1 * MIB})
    sender = open_page()

    def give_up(route: Route) -> None:
        said = {"code": "gave_up", "message": "Storage did not answer."}
        transfer = route.fetch().json()
        route.fulfill(json={**transfer, "status": "INIT", "problem": said})

    sender.route(re.compile(r"/transfers/[^/]+$"), give_up)
    choose(sender, tmp_path / "a.bin")
    expect_state(sender, "failed", 60)
    expect(sender.locator("#trouble-title")).to_have_text("The files could not be checked.")
    expect(sender.locator("#figure")).to_have_text("Stopped")
    sender.unroute_all()
    sender.get_by_role("button", name="Try again").click()
    expect_state(sender, "done", 60)


def test_f04_offline_is_said_and_it_goes_on_by_itself(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 64 * MIB})
    sender = open_page()
    held, puts = Hold(sender, live, after=3), Puts(sender, live)
    choose(sender, tmp_path / "a.bin")
    puts.wait_for(3)
    sender.context.set_offline(True)
    held.break_lines()
    expect(sender.locator("#trouble-title")).to_have_text("You are offline.")
    expect(sender.locator("#trouble-text")).to_have_text("37 % is safe. It continues by itself.")
    held.release()
    sender.context.set_offline(False)
    expect_state(sender, "done", 10)


def test_f10_a_file_changed_on_disk_stops_with_its_name(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"changing.bin": 60 * MIB})
    sender = open_page()
    changed = False

    def change(route: Route) -> None:
        nonlocal changed
        if route.request.method == "PUT" and not changed:
            changed = True
            (tmp_path / "changing.bin").write_bytes(b"other")
        route.continue_()

    sender.route(f"{live.environ['S3_ENDPOINT_URL']}/**", change)
    choose(sender, tmp_path / "changing.bin")
    expect_state(sender, "failed", 90)
    expect(sender.locator("#trouble-title")).to_have_text("“changing.bin” can no longer be read.")
    reader = open_page(link_of(sender))
    expect(reader.locator("#transfer")).to_have_attribute("data-state", "uploading")
    expect(sender.get_by_role("button", name="Add files")).to_be_visible()
    choose(sender, tmp_path / "changing.bin")
    sender.get_by_role("button", name="Remove changing.bin", exact=True).click()
    expect_state(sender, "paused")
    expect(sender.locator("#trouble")).to_be_hidden()
    choose(sender, tmp_path / "changing.bin")
    expect(sender.locator("#files")).not_to_contain_text("Failed")
    expect(sender.locator(".file-state")).to_have_text(["Waiting", "Waiting"])
    sender.get_by_role("button", name="Continue").click()
    expect_state(sender, "done")


def test_what_is_typed_while_this_site_is_away_is_saved_when_it_is_back(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 10})
    sender = open_page()
    link = send(sender, tmp_path / "a.bin")
    lost: list[str] = []

    def lose(route: Route) -> None:
        lost.append(route.request.method)
        route.abort()

    sender.route("**/transfers/*", lose)
    said = sender.locator("#s-title")
    said.evaluate(
        "(line) => new MutationObserver((seen) => { line.times = (line.times ?? 0) + seen.length; })"
        ".observe(line, { childList: true })"
    )
    sender.get_by_label("Title").fill("Typed in a tunnel")
    expect(said).to_have_text("Not saved yet. This site cannot be reached right now.")
    expect(sender.get_by_label("Title")).not_to_have_attribute("aria-invalid", "true")
    for _ in range(100):
        if len(lost) >= 7:
            break
        sender.evaluate("dispatchEvent(new Event('online'))")  # ends each pause
        sender.wait_for_timeout(100)
    assert said.evaluate("(line) => line.times") == 1, "screen readers hear it once"
    sender.unroute_all()
    expect(said).to_have_text("Saved")
    expect(open_page(link).get_by_role("heading", level=1)).to_have_text("Typed in a tunnel")


def test_what_is_cancelled_stops_nothing_that_came_after_it(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 6 * MIB, "two.bin": 20 * MIB})
    page = open_page("/health")
    page.add_init_script(SLOW_DISK)
    page.goto("/")
    choose(page, tmp_path / "one.bin")
    link_of(page)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Stop and remove").click()
    choose(page, tmp_path / "two.bin")
    link_of(page)
    page.wait_for_timeout(4000)  # by then the first one has been read
    expect_state(page, "uploading", 0.1)
    expect(page.locator("#trouble")).to_be_hidden()
    expect_state(page, "done")


def test_a_script_for_checksums_that_did_not_come_is_asked_for_again(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"one.bin": 6 * MIB})
    page = open_page("/health")
    asked: list[str] = []

    def lose_two(route: Route) -> None:
        asked.append(route.request.url)
        route.abort() if len(asked) < 3 else route.continue_()

    page.context.route("**/checksum-worker.js", lose_two)
    page.goto("/")
    choose(page, tmp_path / "one.bin")
    expect_state(page, "done")
    assert len(asked) == 3


def test_f63_a_triple_choice_makes_one_transfer(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.bin": 10})
    sender = open_page()
    created: list[str] = []
    sender.on(
        "request",
        lambda request: (
            created.append(request.url)
            if request.method == "POST" and request.url.endswith("/transfers")
            else None
        ),
    )
    choose(sender, tmp_path / "a.bin")
    for _ in range(2):
        sender.locator("#files-input").set_input_files(str(tmp_path / "a.bin"))
    expect_state(sender, "done")
    assert len(created) == 1


def test_what_is_refused_as_it_is_can_be_chosen_anew(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"trip/a.txt": 5, "trip/bad\rname.txt": 6, "trip/Icon\r": 0})
    sender = open_page("/health")
    sender.add_init_script(PLAIN)
    sender.goto("/")
    sender.route("**/transfers", lambda route: route.fulfill(status=413, json={}))
    choose(sender, tmp_path / "trip" / "a.txt")
    expect(sender.get_by_role("alert")).to_contain_text("Send fewer files at once")
    expect_state(sender, "ready")
    sender.unroute_all()
    drop(sender, tmp_path / "trip")
    expect(sender.get_by_role("alert")).to_have_text(
        "The name “trip/bad name.txt” must not contain control characters."
        " Change it or leave it out, and choose again."
    )
    expect(sender.locator("#choose-files")).to_be_focused()
    (tmp_path / "trip" / "bad\rname.txt").unlink()
    drop(sender, tmp_path / "trip")
    expect_state(sender, "done", 60)
    expect(sender.locator("#heading")).to_have_text("Your file is ready to download")


def test_before_there_is_anything_to_add_to_it_says_what_to_do_first(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"a.txt": 5, "b.txt": 6})
    sender = open_page()
    sender.route("**/transfers", lambda route: route.fulfill(status=409, json={}))
    choose(sender, tmp_path / "a.txt")
    expect_state(sender, "failed")
    expect(sender.get_by_role("heading", name="Files")).to_be_hidden()
    drop(sender, tmp_path / "b.txt")
    expect(sender.get_by_role("alert")).to_have_text(
        "These files were not added. Try again or cancel this first."
    )
    sender.unroute_all()
    sender.get_by_role("button", name="Try again").click()
    expect_state(sender, "done")


def test_what_is_gone_is_only_begun_again(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.txt": 5})
    sender = open_page()
    held: list[Route] = []
    sender.route("**/complete", lambda route: held.append(route))
    choose(sender, tmp_path / "a.txt")
    expect_state(sender, "checking")
    sender.get_by_label("Title").focus()
    held[0].fulfill(status=404, json={})
    expect_state(sender, "failed")
    expect(sender.locator("#heading")).to_be_focused()
    expect(sender.get_by_text("Sent", exact=True)).to_be_hidden()
    expect(sender.locator("#trouble-title")).to_have_text("This upload is no longer there.")
    again = sender.get_by_role("link", name="Start again")
    expect(again).to_have_attribute("href", "/")
    expect(sender.locator("#sender .button:visible, #sender .icon-button:visible")).to_have_count(1)
    expect(sender.get_by_label("Title")).to_be_hidden()
    look(sender, "sender-gone")
    sender.unroute_all()
    choose(sender, tmp_path / "a.txt")
    expect_state(sender, "done")
    expect(again).to_be_hidden()
    expect(sender.get_by_role("button", name="Copy link")).to_be_visible()


def test_too_much_is_said_before_anything_is_sent(open_page: OpenPage, tmp_path: Path) -> None:
    make_files(tmp_path, {"a.bin": 2000})
    sender = open_page()
    limits = '{"max_file_size": 1000, "max_transfer_size": null, "max_files": 10}'
    sender.evaluate(f"document.getElementById('sender').dataset.limits = '{limits}'")
    choose(sender, tmp_path / "a.bin")
    expect(sender.get_by_role("alert")).to_have_text(
        "“a.bin” is 2.0 kB. A file may be at most 1.0 kB."
    )
    expect_state(sender, "ready")


def test_a_file_that_cannot_be_opened_is_left_out_and_named_to_the_end(
    open_page: OpenPage, live: Stack, tmp_path: Path
) -> None:
    make_files(
        tmp_path, {"trip/a.bin": 20 * MIB, "trip/b~lock": 5, "late/c.txt": 5, "late/d~lock": 5}
    )
    sender = open_page("/health")
    sender.add_init_script(VANISHING)
    sender.goto("/")
    held, puts = Hold(sender, live, after=2), Puts(sender, live)
    drop(sender, tmp_path / "trip")
    puts.wait_for(2)
    said = sender.get_by_role("alert")
    expect(said).to_have_text("“trip/b~lock” could not be read and was left out.")
    drop(sender, tmp_path / "late")
    both = "“trip/b~lock” and 1 other file could not be read and were left out."
    expect(said).to_have_text(both)
    look(sender, "left-out")
    held.release()
    expect_state(sender, "done", 60)
    expect(sender.locator("#heading")).to_have_text("Your 2 files are ready to download")
    expect(said).to_have_text(both)
    look(sender, "left-out-done")


def test_a_folder_of_which_nothing_can_be_opened_is_named(
    open_page: OpenPage, tmp_path: Path
) -> None:
    make_files(tmp_path, {"x~lock": 5})
    sender = open_page("/health")
    sender.add_init_script(KEPT + VANISHING)
    sender.goto("/")
    keep(sender, tmp_path, "x~lock")
    sender.evaluate("window.kept = ['x~lock']")
    sender.get_by_role("button", name="Choose files").click()
    expect(sender.locator("#notice")).to_have_text("“x~lock” could not be read and was left out.")
