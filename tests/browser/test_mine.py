"""Signing in and "My transfers" in a real browser: each state, the list that follows its form, no script."""

import re
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import call, code_to, look
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

OpenPage = Callable[..., Page]
AT = "/mine"
LONG = "A title as long as people write them when they describe each of the many things inside"


@pytest.fixture
def live(mailing: Stack) -> Stack:
    return mailing


def enter_code(page: Page, post: MailServer, email: str) -> None:
    """From the form that asks for an address to whatever comes after signing in."""
    before = len(post.to(email))
    page.get_by_label("Your e-mail").fill(email)
    page.get_by_role("button", name="Mail me a code").click()
    page.get_by_label("Code from the mail").fill(code_to(post, email, before))
    page.get_by_role("button", name="Sign in").click()


def sign_in(page: Page, post: MailServer, email: str) -> None:
    enter_code(page, post, email)
    expect(page.get_by_role("button", name="Sign out", exact=True)).to_be_visible()


def make(live: Stack, post: MailServer, email: str, *wanted: dict[str, Any]) -> list[Any]:
    """Transfers of this address, which is confirmed as a sender's browser does."""
    before = len(post.to(email))
    call(live, "POST", "/senders/code", body={"email": email})
    code = code_to(post, email, before)
    proof = call(live, "POST", "/senders/confirm", body={"email": email, "code": code})
    token = {"sender_email": email, "sender_token": proof["sender_token"]}
    return [call(live, "POST", "/transfers", body=one | token) for one in wanted]


def run(live: Stack, statement: str, **given: object) -> None:
    connection = psycopg2.connect(live.environ["DATABASE_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, given)
    connection.close()


def test_from_the_door_to_the_list_and_out_again(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    def seen(name: str) -> None:
        look(page, f"mine-{name}")

    page = open_page("/")
    page.get_by_role("link", name="My transfers").click()
    seen("door")
    page.get_by_label("Your e-mail").fill("ada@nowhere")
    page.get_by_role("button", name="Mail me a code").click()
    expect(page.get_by_text("This is not an e-mail address.")).to_be_visible()
    expect(page.get_by_label("Your e-mail")).to_be_focused()
    seen("door-wrong")
    page.get_by_label("Your e-mail").fill("mine@example.org")
    page.get_by_label("Your e-mail").press("Enter")
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    seen("code")
    code = code_to(post, "mine@example.org")
    assert len(code) == 8
    page.get_by_label("Code from the mail").fill("12")
    page.get_by_label("Code from the mail").press("Enter")
    expect(page.get_by_text("The code is not the one that was mailed.")).to_be_visible()
    expect(page.get_by_label("Code from the mail")).to_be_focused()
    seen("code-wrong")
    page.get_by_label("Code from the mail").fill(f"{code[:4]} {code[4:]}")
    page.get_by_label("Code from the mail").press("Enter")
    expect(page.get_by_text("There are none yet.")).to_be_visible()
    seen("none")
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("Your e-mail")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Your e-mail")).to_be_visible()


def test_the_list_follows_its_form(open_page: OpenPage, live: Stack, post: MailServer) -> None:
    def seen(name: str) -> None:
        look(page, f"mine-{name}")

    def file(path: str, size: int = 1_234_567) -> dict[str, Any]:
        return {"path": path, "size": size}

    made = make(
        live,
        post,
        "list@example.org",
        {"files": [file("Wedding.zip", 34_000_000_000)], "title": "Wedding of Ada & Bo"},
        {"files": [file("a-file-name-that-is-much-longer-than-any-row-could-show-it-final-2.mov")]},
        {"files": [file("Rushes/day 1/a.mov"), file("b.mov"), file("c.mov")], "max_downloads": 3},
        {"files": [file("report.pdf")], "title": LONG},
        {"files": [file("old.zip")], "title": "Expired one"},
        {"files": [file("x.exe")], "title": "Blocked one"},
    )
    states = ("READY", "INIT", "READY", "PROCESSING", "EXPIRED", "READY")
    for age, (one, state) in enumerate(zip(made, states, strict=True)):
        run(
            live,
            "UPDATE transfers SET state = %(state)s, ready_at = now(), expired_at = now(),"
            " lease_until = now() + interval '1 hour', lease_token = gen_random_uuid(),"
            " created_at = now() - %(age)s * interval '1 day', download_count = coalesce(max_downloads, 12),"
            " expires_at = now() + CASE %(state)s WHEN 'EXPIRED' THEN -1 ELSE 7 END * interval '1 day',"
            " quarantined_at = CASE WHEN title = 'Blocked one' THEN now() END WHERE id = %(id)s",
            id=one["id"],
            state=state,
            age=age,
        )
    page = open_page(AT)
    sign_in(page, post, "list@example.org")
    rows = page.locator("#mine-list .person")
    expect(rows).to_have_count(6)
    expect(page.get_by_text("6 transfers, 34 GB, 1 can be downloaded.")).to_be_visible()
    seen("list")
    search = page.get_by_label("Search")
    search.press_sequentially("rushes")
    expect(rows).to_have_count(1)
    expect(rows.get_by_role("link")).to_have_text(re.compile("a.mov"))
    expect(page).to_have_url(re.compile(r"\?q=rushes&"))
    expect(page.locator("#live")).to_have_text(re.compile("1 transfer, 3.7 MB"))
    expect(search).to_be_focused()
    page.reload()
    expect(search).to_have_value("rushes")
    expect(rows).to_have_count(1)
    search.fill("nothing like it")
    expect(page.get_by_text("Nothing was found for")).to_be_visible()
    seen("nothing-found")
    page.go_back()
    expect(rows).to_have_count(1)
    expect(search).to_have_value("rushes")
    page.get_by_role("searchbox").fill("")
    expect(rows).to_have_count(6)
    page.get_by_label("Sort by").select_option("Largest")
    expect(rows.first).to_contain_text("Wedding")
    page.get_by_label("Show").select_option("Blocked")
    expect(rows).to_have_count(1)
    page.route("**/mine?*", lambda route: route.abort())
    page.get_by_label("Show").select_option("Expired")
    expect(page.get_by_role("alert")).to_have_text(
        "The list could not be loaded. Try again in a moment."
    )
    seen("not-loaded")
    page.unroute("**/mine?*")
    page.get_by_label("Show").select_option("Ready to download")
    expect(page.get_by_role("alert")).to_have_count(0)
    rows.get_by_role("link", name="Wedding").click()
    expect(page.get_by_role("heading", name="Wedding of Ada & Bo")).to_be_visible()
    page.get_by_role("link", name="All my transfers").click()
    expect(rows).to_have_count(6)


def test_without_a_script_everything_works(
    open_page: OpenPage, live: Stack, post: MailServer
) -> None:
    email = "plain@example.org"
    make(live, post, email, {"files": [{"path": "a.txt", "size": 1}], "title": "The oldest"})
    run(
        live,
        "INSERT INTO transfers (id, slug, owner_token_hash, expires_at, sender_email, sender_confirmed_at,"
        " title, state) SELECT gen_random_uuid(), gen_random_uuid(), sha256('x'), now() + interval '7 days',"
        " %(email)s, now(), 'Number ' || n, 'INIT' FROM generate_series(1, 60) n",
        email=email,
    )
    run(
        live,
        "UPDATE transfers SET created_at = now() - interval '9 days' WHERE title = 'The oldest'",
    )
    page = open_page(AT, java_script_enabled=False)
    sign_in(page, post, email)
    rows = page.locator("#mine-list .person")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Next").click()
    expect(rows).to_have_count(11)
    expect(rows.last).to_contain_text("The oldest")
    page.get_by_label("Search").fill("number 60")
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(1)
    rows.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Number 60")).to_be_visible()
    page.get_by_role("link", name="All my transfers").click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("Your e-mail")).to_be_visible()
