"""The sender's page: every form with and without htmx, hostile input, and words that open nothing."""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from app import clock, lifecycle
from app.db import db, transaction
from app.models import Recipient, State
from app.redaction import redacted
from app.services import mail_links, managing, upkeep
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail
from tests.pages.test_pages import token_in

HTMX = {"HX-Request": "true"}
BOB, EVE = "bob@example.org", "eve@example.org"


@pytest.fixture
def browser(client: FlaskClient) -> FlaskClient:
    """The sender's browser, with cookies of its own."""
    return client.application.test_client()


def page_of(sent: Sent) -> str:
    return f"/m/{sent.id}.{sent.json['owner_token']}"


def open_page(browser: FlaskClient, sent: Sent) -> str:
    answer = browser.get(page_of(sent))
    assert answer.status_code == 200, answer.text
    return answer.text


def form_in(page: str) -> dict[str, str]:
    """The edit form as a browser would send it untouched."""
    marks = dict(re.findall(r'name="(was_\w+)" value="(\w+)"', page))
    title = re.search(r'name="title" maxlength="200" value="([^"]*)"', page)
    message = re.search(r'name="message"[^>]*>\n([^<]*)</textarea>', page)
    limit = re.search(r'name="max_downloads"[^>]* value="([^"]*)"', page)
    assert title
    assert message
    assert limit
    return marks | {
        "csrf_token": token_in(page),
        "title": title[1],
        "message": message[1],
        "max_downloads": limit[1],
        "expires_in_days": "",
        "password": "",
    }


def press(browser: FlaskClient, its: Sent, path: str, htmx: bool = False, /, **words: str) -> Any:
    """Open the page and send one of its forms."""
    data = {"csrf_token": token_in(open_page(browser, its)), **words}
    return browser.post(f"{page_of(its)}{path}", data=data, headers=HTMX if htmx else {})


def edit(browser: FlaskClient, sent: Sent, htmx: bool = False, **words: str) -> Any:
    data = form_in(open_page(browser, sent)) | words
    url = f"{page_of(sent)}/details"
    return browser.post(url, data=data, headers=HTMX if htmx else {})


def block(sent: Sent) -> Sent:
    return sent.set(quarantined_at=clock.now())


# -- whose it is ---------------------------------------------------------------------------------


def test_the_owner_and_whoever_was_mailed_see_the_same(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes")
    with sender.client.application.app_context():
        mailed = mail_links.manage_token(sent.row().id)
    for path in (page_of(sent), f"/m/{mailed}"):
        answer = browser.get(path)
        assert answer.status_code == 200
        assert "Rushes" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "noindex" in answer.headers["X-Robots-Tag"]
        assert answer.text.count("button-primary") == 1
        assert sent.json["owner_token"] not in answer.text or path == page_of(sent)


def words_that_open_nothing(sent: Sent, other: Sent, mailed: str) -> list[str]:
    token = sent.json["owner_token"]
    return [
        f"{sent.id}.{other.json['owner_token']}", f"{sent.id}.{token[:-1]}", f"{sent.id}.{token}A",
        f"{sent.id}.{token.swapcase()}", f"{sent.id}.", f"{sent.id}", f".{token}", token,
        f"{uuid.uuid4()}.{token}", f"{sent.slug}.{token}", sent.slug, mailed[:-1], mailed + "A",
        mailed.replace(str(sent.id), str(other.id)), mailed.swapcase(), "%00", "x" * 3000,
        f"{sent.id.hex}.{token}", f"{{{sent.id}}}.{token}", "é" * 40, "..", "extend",
    ]  # fmt: skip


def test_no_other_word_opens_any_of_it_and_all_look_like_an_unknown_one(
    sender: Sender, browser: FlaskClient
) -> None:
    sent, other = sender.ready(title="Rushes"), sender.ready()
    with sender.client.application.app_context():
        mailed = mail_links.manage_token(sent.row().id)
        extend = mail_links.extend_seal(sent.row().id)
    csrf = token_in(open_page(browser, sent))
    paths = [("GET", ""), ("GET", "/now"), ("POST", "/details"), ("POST", "/extend")]
    paths += [("POST", "/delete"), ("POST", "/news"), ("POST", "/recipients"), ("POST", "/sender")]
    paths += [("POST", "/confirm"), ("POST", f"/files/{sent.files[0]['id']}/remove")]
    before = sent.show()
    told = set()
    for wrong in [extend, *words_that_open_nothing(sent, other, mailed)]:
        for method, path in paths:
            given = {"data": {"csrf_token": csrf}} if method == "POST" else {}
            answer = browser.open(f"/m/{wrong}{path}", method=method, **given)
            if wrong in ("..", "") and method == "GET":
                continue  # another address altogether
            assert answer.status_code in (404, 405), (wrong, path)
            if answer.status_code == 404:
                told.add(re.sub(r"<code>\w+</code>", "", answer.text))
    unknown = browser.get(f"/m/{uuid.uuid4()}.{'x' * 43}").text
    assert told == {re.sub(r"<code>\w+</code>", "", unknown)}
    assert sent.show() == before


def test_the_word_is_in_no_log(sender: Sender) -> None:
    sent = sender.create()
    for path in (page_of(sent), f"{page_of(sent)}/recipients/{sent.id}/mail"):
        assert sent.json["owner_token"] not in redacted(f"GET {path} HTTP/1.1")


def test_guessing_is_limited(
    sender: Sender, browser: FlaskClient, configure: Callable[..., None]
) -> None:
    configure(max_unknown_per_minute=3)
    sent = sender.create()
    address = {"REMOTE_ADDR": "198.51.100.77"}
    told = [
        browser.get(f"/m/{sent.id}.{number:043}", environ_base=address).status_code
        for number in range(5)
    ]
    assert told == [404, 404, 404, 429, 429]


def test_once_deleted_it_says_so_and_only_to_its_sender(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes")
    answer = press(browser, sent, "/delete")
    assert (answer.status_code, answer.headers["Location"]) == (303, page_of(sent))
    page = browser.get(page_of(sent))
    assert page.status_code == 410
    assert "This was deleted" in page.text
    assert "Rushes" not in page.text
    assert browser.get(f"{page_of(sent)}/now", headers=HTMX).status_code == 410
    assert browser.get(f"/d/{sent.slug}").status_code == 410
    assert browser.get(f"/m/{sent.id}.{'x' * 43}").status_code == 404


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_s06_no_form_works_without_its_token(
    sender: Sender, browser: FlaskClient, headers: dict[str, str]
) -> None:
    sent = sender.ready()
    token = token_in(open_page(browser, sent)) if headers else "made up"
    before = sent.show()
    for path in ("/details", "/extend", "/delete", "/news", "/recipients", "/sender", "/confirm"):
        data = {"csrf_token": token, "title": "Taken over"}
        answer = browser.post(f"{page_of(sent)}{path}", data=data, headers=headers)
        assert answer.status_code == 400, path
    assert sent.show() == before


# -- what is shown -------------------------------------------------------------------------------


def test_each_state_says_what_it_is(sender: Sender, browser: FlaskClient) -> None:
    past = clock.now() - timedelta(minutes=1)
    for sent, words in (
        (sender.create(), "It is being sent from the browser where it was started"),
        (sender.create().upload().complete(), "Being checked"),
        (sender.ready(), "Ready to download"),
        (sender.ready(max_downloads=1).set(download_count=1), "The only download has been used"),
        (sender.ready().set(expires_at=past), "Nobody can download it now"),
        (block(sender.ready()), "has blocked this transfer"),
    ):
        page = open_page(browser, sent)
        assert words in page
        assert page.count("button-primary") == (0 if "blocked" in words else 1)
        region = browser.get(f"{page_of(sent)}/now", headers=HTMX)
        assert words in region.text
        assert "<html" not in region.text
        assert ("every 2s" in region.text) == (sent.row().state in ("INIT", "PROCESSING"))
        assert browser.get(f"{page_of(sent)}/now").status_code == 303


def test_a_date_that_passes_while_files_are_sent_is_not_told(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.create()
    assert "<li>Expires" in open_page(browser, sent)
    sent.set(expires_at=clock.now() - timedelta(minutes=1))
    assert "<li>Expires" not in open_page(browser, sent)


def test_the_poll_that_finds_it_ready_brings_the_rest_along(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.create()
    poll = f"{page_of(sent)}/now"
    assert "hx-swap-oob" not in browser.get(poll, headers=HTMX).text
    sent.upload().complete().process()
    told = browser.get(poll, headers=HTMX).text
    assert re.findall(r'id="manage-(\w+)" hx-swap-oob', told) == ["people", "files"]
    assert "Ready to download" in told


def test_names_are_text(sender: Sender, browser: FlaskClient) -> None:
    evil = '"><script>alert(1)</script>'
    page = open_page(
        browser, sender.ready({evil.replace("/", "_"): b"1"}, title=evil, message=evil)
    )
    assert "<script>alert" not in page


def test_downloads_by_the_link_are_told_by_the_day_and_of_nobody(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready()
    for _ in range(2):
        reader = browser.application.test_client()
        token = token_in(reader.get(f"/d/{sent.slug}").text)
        url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
        assert reader.post(url, data={"csrf_token": token}).status_code == 303
    people = browser.get(f"{page_of(sent)}/people", headers=HTMX).text
    assert re.findall(r"</time>: (\d+ downloads)", people) == ["2 downloads"]
    assert "127.0.0.1" not in people


# -- editing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True])
def test_what_was_touched_is_changed_and_nothing_else(
    sender: Sender, browser: FlaskClient, htmx: bool
) -> None:
    sent = sender.ready(title="Rushes", message="a\nb", max_downloads=5)
    answer = edit(browser, sent, htmx, title=" Day two ", expires_in_days="30", password="open it")
    assert answer.status_code == (200 if htmx else 303)
    row = sent.row()
    assert (row.title, row.message, row.max_downloads) == ("Day two", "a\nb", 5)
    assert row.password_hash
    assert row.expires_at > clock.now() + timedelta(days=29)
    page = answer.text if htmx else browser.get(answer.headers["Location"]).text
    assert "Saved." in page
    assert "Day two" in page
    if htmx:
        assert re.findall(r'<section[^>]* id="manage-(\w+)"', page) == ["details", "now"]
    else:
        assert "Saved." not in browser.get(answer.headers["Location"]).text
    assert edit(browser, sent, max_downloads="", remove_password="1").status_code == 303
    assert (sent.row().max_downloads, sent.row().password_hash) == (None, None)


def test_an_untouched_form_changes_nothing(sender: Sender, browser: FlaskClient) -> None:
    sent = sender.ready(title="Rushes", password="open it", max_downloads=3)
    before = sent.show(), sent.row().password_hash
    assert edit(browser, sent).status_code == 303
    assert (sent.show(), sent.row().password_hash) == before


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"title": "x" * 201}, "title"),
        ({"title": "a\x1bb"}, "title"),
        ({"message": "x" * 5001}, "message"),
        ({"max_downloads": "none"}, "max_downloads"),
        ({"max_downloads": "0"}, "max_downloads"),
        ({"max_downloads": "9" * 40}, "max_downloads"),
        ({"max_downloads": "²"}, "max_downloads"),
        ({"expires_in_days": "91"}, "expires_in_days"),
        ({"expires_in_days": "-1"}, "expires_in_days"),
        ({"password": "~?~"}, "password"),
        ({"password": "x" * 5000}, "password"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_what_cannot_be_used_is_told_beside_its_field(
    sender: Sender, browser: FlaskClient, words: dict[str, str], name: str, htmx: bool
) -> None:
    sent = sender.ready(title="Rushes")
    before = sent.show()
    given = {"message": "<b>typed</b>"} | words
    answer = edit(browser, sent, htmx, **given)
    assert answer.status_code == 422
    field = "expires" if name == "expires_in_days" else name.removeprefix("max_")
    assert re.findall(r'id="m-(\w+)-said" data-kind="wrong"', answer.text) == [field]
    assert "<html" in answer.text or htmx
    if name != "message":
        assert "&lt;b&gt;typed&lt;/b&gt;" in answer.text
    assert words.get("password", "~") not in answer.text
    assert sent.show() == before


def test_a_limit_below_what_has_happened_is_refused_by_its_field(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(max_downloads=5).set(download_count=3)
    answer = edit(browser, sent, max_downloads="2")
    assert answer.status_code == 422
    assert "This must be at least 3" in answer.text


def test_a_form_made_up_by_hand_is_answered_and_changes_nothing(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes")
    assert press(browser, sent, "/details").status_code == 303
    assert press(browser, sent, "/details", title="Taken over").status_code == 409
    answer = press(browser, sent, "/details", title="x", was_title="~", unheard="of")
    assert answer.status_code == 409
    assert sent.row().title == "Rushes"


# -- two at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True])
def test_nobody_writes_over_what_somebody_else_has_changed(
    sender: Sender, browser: FlaskClient, htmx: bool
) -> None:
    sent = sender.ready(title="Rushes", message="Hello")
    mine = form_in(open_page(browser, sent)) | {"title": "Mine"}
    assert edit(browser.application.test_client(), sent, title="Theirs").status_code == 303
    url, headers = f"{page_of(sent)}/details", HTMX if htmx else {}
    answer = browser.post(url, data=mine, headers=headers)
    assert answer.status_code == 409
    assert sent.row().title == "Theirs"
    assert "It is now “<bdi>Theirs</bdi>”." in answer.text
    assert 'value="Mine"' in answer.text
    # Having seen it, and pressed again, they may.
    again = form_in(answer.text)
    assert again["title"] == "Mine"
    assert browser.post(url, data=again, headers=headers).status_code in (200, 303)
    assert (sent.row().title, sent.row().message) == ("Mine", "Hello")


def test_what_two_people_change_of_different_fields_is_both_kept(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes", message="Hello")
    mine = form_in(open_page(browser, sent)) | {"title": "Mine"}
    edit(browser.application.test_client(), sent, message="Theirs", password="open it")
    assert browser.post(f"{page_of(sent)}/details", data=mine).status_code == 303
    row = sent.row()
    assert (row.title, row.message) == ("Mine", "Theirs")
    assert row.password_hash


def test_a_mistake_in_one_field_does_not_forget_what_the_others_were_made_from(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes", message="Hello")
    mine = form_in(open_page(browser, sent)) | {"title": "Mine", "max_downloads": "many"}
    edit(browser.application.test_client(), sent, title="Theirs", message="Theirs")
    url = f"{page_of(sent)}/details"
    answer = browser.post(url, data=mine)
    assert answer.status_code == 422
    again = form_in(answer.text)
    # What was not touched is shown as it is now, so that sending it again puts nothing back.
    assert again["was_message"] != mine["was_message"]
    for kept in ("was_title", "was_expires_at", "was_password_hash"):
        assert again[kept] == mine[kept]
    assert (again["title"], again["message"]) == ("Mine", "Theirs")
    assert browser.post(url, data=again | {"max_downloads": ""}).status_code == 409
    assert (sent.row().title, sent.row().message) == ("Theirs", "Theirs")


def test_two_who_change_the_password_do_not_lock_each_other_out(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready()
    mine = form_in(open_page(browser, sent)) | {"password": "mine mine"}
    edit(browser.application.test_client(), sent, password="theirs")
    theirs = sent.row().password_hash
    answer = browser.post(f"{page_of(sent)}/details", data=mine)
    assert answer.status_code == 409
    assert "There is now a different one." in answer.text
    assert "mine mine" not in answer.text
    assert sent.row().password_hash == theirs


def test_a_date_that_somebody_else_has_changed_is_not_written_over_after_a_mistake(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready()
    days = {"expires_in_days": "30", "password": "new one", "title": "x" * 201}
    mine = form_in(open_page(browser, sent)) | days
    edit(browser.application.test_client(), sent, expires_in_days="14", password="theirs")
    before = sent.row().expires_at, sent.row().password_hash
    url = f"{page_of(sent)}/details"
    answer = browser.post(url, data=mine)
    assert answer.status_code == 422
    assert '<option value="30" selected>' in answer.text
    again = form_in(answer.text) | {"expires_in_days": "30", "password": "new one", "title": "x"}
    answer = browser.post(url, data=again)
    assert answer.status_code == 409
    assert answer.text.count('class="meanwhile"') == 2
    assert (sent.row().expires_at, sent.row().password_hash) == before
    # One of them is let go, the other is meant.
    again = form_in(answer.text) | {"expires_in_days": "30", "title": "x"}
    assert browser.post(url, data=again).status_code == 303
    assert sent.row().expires_at > clock.now() + timedelta(days=29)
    assert sent.row().password_hash == before[1]


# -- more time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True])
def test_one_click_brings_back_what_has_expired(
    sender: Sender, browser: FlaskClient, htmx: bool
) -> None:
    sent = sender.ready().set(expires_at=clock.now() - timedelta(hours=1))
    with browser.application.app_context():
        upkeep.expire_due()
    assert sent.row().state == "EXPIRED"
    page = open_page(browser, sent)
    assert re.search(r'id="manage-extend">7 more days</button>', page)
    assert "Make it available again" in page
    answer = press(browser, sent, "/extend", htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert sent.row().state == "READY"
    # What is being typed is not taken away by more time for what had not ended.
    more = press(browser, sent, "/extend", True)
    assert re.findall(r'<section[^>]* id="manage-(\w+)"', more.text) == ["now"]
    assert 'id="m-title"' in (answer.text if htmx else open_page(browser, sent))


@pytest.mark.parametrize("grace", [0, 3])
def test_what_is_being_removed_offers_no_more_time_and_says_why(
    sender: Sender, browser: FlaskClient, configure: Callable[..., None], grace: int
) -> None:
    configure(grace_in_days=grace)
    just_kept = clock.now() - lifecycle.kept_for() + timedelta(minutes=1)
    kept = sender.ready().set(state=State.EXPIRED, expires_at=just_kept, expired_at=just_kept)
    assert 'id="manage-extend"' in open_page(browser, kept)
    assert press(browser, kept, "/extend", True).status_code == 200
    long_ago = clock.now() - lifecycle.kept_for() - timedelta(seconds=1)
    sent = sender.ready().set(state=State.EXPIRED, expires_at=long_ago, expired_at=long_ago)
    page = open_page(browser, sent)
    assert "The files are being removed." in page
    assert 'id="manage-extend"' not in page
    # Whoever had the button before is not told to press it.
    late = press(browser, sent, "/extend", True)
    assert late.status_code == 409
    assert "This has expired, and its files are being removed." in late.text


def test_what_has_expired_is_mailed_to_nobody_before_it_has_more_time(
    sender: Sender, browser: FlaskClient, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BOB).set(expires_at=clock.now() - timedelta(hours=1))
    page = open_page(browser, sent)
    assert "Extend the transfer first. Then you can send it to more people." in page
    assert 'id="m-recipients"' not in page
    # Whoever had the form before keeps what was typed in it.
    late = press(browser, sent, "/recipients", True, recipients=EVE)
    assert late.status_code == 409
    assert re.search(rf'id="m-recipients"[^>]*>\s*{EVE}<', late.text)
    answer = press(browser, sent, "/extend", True)
    assert 'id="m-recipients"' in answer.text
    assert "Extend the transfer first" not in answer.text


def test_questions_are_shown_and_answered_with_one_click(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(max_downloads=1).set(download_count=1)
    reader = browser.application.test_client()
    token = token_in(reader.get(f"/d/{sent.slug}").text)
    words = {"csrf_token": token, "message": "<i>One</i> more", "contact": "Bob"}
    assert reader.post(f"/d/{sent.slug}/ask", data=words).status_code == 303
    page = open_page(browser, sent)
    assert "&lt;i&gt;One&lt;/i&gt; more" in page
    assert re.search(r'id="manage-extend">[^<]*5 (more )?downloads</button>', page)
    assert press(browser, sent, "/extend").status_code == 303
    assert sent.row().max_downloads == 6
    assert "equests</h2>" not in open_page(browser, sent)  # it was given


def test_before_everything_has_arrived_there_is_nothing_to_extend(
    sender: Sender, browser: FlaskClient
) -> None:
    answer = press(browser, sender.create(), "/extend")
    assert answer.status_code == 409
    assert "have not fully arrived" in answer.text


def test_an_edit_that_comes_after_the_end_says_so(sender: Sender, browser: FlaskClient) -> None:
    sent = sender.ready(title="Rushes")
    late = form_in(open_page(browser, sent)) | {"title": "Late"}
    sent.set(expires_at=clock.now() - timedelta(seconds=1))
    answer = browser.post(f"{page_of(sent)}/details", data=late)
    assert answer.status_code == 409
    assert sent.row().title == "Rushes"


# -- files, blocking -----------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True])
def test_a_file_is_removed_while_it_is_being_sent(
    sender: Sender, browser: FlaskClient, htmx: bool
) -> None:
    sent = sender.create({"a": b"1", "b": b"22"})
    path = f"/files/{sent.files[0]['id']}/remove"
    assert press(browser, sent, path, htmx).status_code == (200 if htmx else 303)
    assert [file["path"] for file in sent.show()["files"]] == ["b"]
    assert press(browser, sent, path).status_code == 404
    ready = sender.ready({"a": b"1", "b": b"2"})
    assert "Remove a" not in open_page(browser, ready)
    answer = press(browser, ready, f"/files/{ready.files[0]['id']}/remove")
    assert answer.status_code == 409
    assert len(ready.show()["files"]) == 2


def test_what_is_blocked_can_be_looked_at_and_deleted_and_nothing_else(
    sender: Sender, browser: FlaskClient
) -> None:
    sent = sender.ready(title="Rushes")
    page = open_page(browser, sent)
    block(sent)
    before = sent.show()
    data = form_in(page) | {"title": "Other", "recipients": BOB, "sender_email": ADA, "code": "1"}
    for path in ("/details", "/extend", "/recipients", "/sender", "/confirm", "/news"):
        answer = browser.post(f"{page_of(sent)}{path}", data=data)
        assert answer.status_code == 403, path
        assert "blocked this transfer" in answer.text
    assert sent.show() == before
    assert press(browser, sent, "/delete").status_code == 303
    assert sent.row().state == "DELETED"


# -- mail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True])
def test_a_sender_is_confirmed_by_a_code_and_mails_people(
    sender: Sender, browser: FlaskClient, mail: MailServer, htmx: bool
) -> None:
    sent = sender.ready(title="Rushes")
    fine = 200 if htmx else 303
    assert press(browser, sent, "/recipients", recipients=BOB).status_code == 409
    named = press(browser, sent, "/sender", htmx, sender_email=ADA)
    assert named.status_code == fine
    told = named.text if htmx else open_page(browser, sent)
    assert f"A code was mailed to {ADA}." in told
    assert re.search(r'id="m-code"[^>]* autofocus', told)
    assert "autofocus" not in open_page(browser, sent)
    send_mail(browser.application)
    code = re.search(r"\b\d{8}\b", mail.caught[-1].body("plain"))
    assert code
    assert "Code from the mail" in open_page(browser, sent)
    wrong = press(browser, sent, "/confirm", htmx, code="000000" if code[0] != "000000" else "1")
    assert wrong.status_code == 422
    assert "The code is not the one that was mailed." in wrong.text
    assert press(browser, sent, "/confirm", htmx, code=code[0]).status_code == fine
    answer = press(browser, sent, "/recipients", htmx, recipients=f"{BOB}, <{EVE}")
    assert answer.status_code == 422
    assert "“&lt;eve@example.org” is not an e-mail address." in answer.text
    answer = press(browser, sent, "/recipients", htmx, recipients=f"{BOB}, {EVE};\r\n")
    assert answer.status_code == fine
    assert {one["email"] for one in sent.show()["recipients"]} == {BOB, EVE}


def test_people_who_were_added_meanwhile_stay(
    sender: Sender, browser: FlaskClient, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BOB)
    for _ in range(2):
        assert press(browser, sent, "/recipients", recipients=EVE).status_code == 303
    shown = {one["email"]: one["state"] for one in sent.show()["recipients"]}
    assert shown == {BOB: "waiting", EVE: "waiting"}


def test_it_says_to_how_many_it_is_sent_and_nobody_gets_it_twice(
    sender: Sender, browser: FlaskClient, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BOB)
    for typed, said in (
        (f"{BOB} {EVE} {EVE.upper()}", "It is being sent to 1 person."),
        (f"{BOB} {EVE}", "It was sent there before, and is not sent again."),
        ("x@example.org, y@example.org", "It is being sent to 2 people."),
    ):
        assert said in press(browser, sent, "/recipients", True, recipients=typed).text


def test_a_recipient_is_taken_back_and_mailed_again(
    sender: Sender, browser: FlaskClient, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BOB, EVE)
    send_mail(browser.application)
    bob, _ = sent.show()["recipients"]
    page = open_page(browser, sent)
    assert page.count("Mailed <time") == 2
    assert "Send again" not in page
    again = press(browser, sent, f"/recipients/{bob['id']}/mail")
    assert again.status_code == 409
    assert "within the last hour" in again.text
    with browser.application.app_context(), transaction():
        ago = clock.now() - timedelta(hours=2)
        db.session.execute(update(Recipient).values(asked_at=ago, sent_at=ago))
    assert open_page(browser, sent).count(">Send again</button>") == 2
    assert press(browser, sent, f"/recipients/{bob['id']}/mail", True).status_code == 200
    send_mail(browser.application)
    assert len(mail.to(BOB)) == 2
    answer = press(browser, sent, f"/recipients/{bob['id']}/revoke", True)
    assert answer.status_code == 200
    assert "Taken back" in answer.text
    assert press(browser, sent, f"/recipients/{uuid.uuid4()}/revoke").status_code == 404
    states = [one["state"] for one in sent.show()["recipients"]]
    assert states == ["revoked", "sent"]


def test_whose_mail_failed_is_told_with_what_to_do(
    sender: Sender, browser: FlaskClient, mail: MailServer
) -> None:
    mail.answers[EVE] = ["550 5.1.1 no such user"]
    sent = addressed(sender.ready(), BOB, EVE)
    send_mail(browser.application)
    page = open_page(browser, sent)
    assert page.count("take the link back and send to the right one below") == 1
    pass_time(browser.application, minutes=3)
    send_mail(browser.application)
    told = mail.to(ADA)[-1]
    assert told.subject.startswith("Not delivered")
    for kind in ("plain", "html"):
        assert "send to the right one from the manage page" in told.body(kind)


@pytest.mark.parametrize("htmx", [False, True])
def test_mails_are_switched_off_by_kind_and_not_behind_ones_back(
    sender: Sender, browser: FlaskClient, mail: MailServer, htmx: bool
) -> None:
    sent = addressed(sender.ready())
    page = open_page(browser, sent)
    mark = re.search(r'name="was_muted" value="(\w+)"', page)
    assert mark
    form = {"was_muted": mark[1], "sent": "1", "downloaded": "1"}
    assert press(browser, sent, "/news", htmx, **form).status_code == (200 if htmx else 303)
    assert sent.show()["notifications"] == ["sent", "downloaded"]
    late = press(browser, sent, "/news", htmx, was_muted=mark[1])
    assert late.status_code == 409
    assert "someone else has changed this" in late.text
    assert sent.show()["notifications"] == ["sent", "downloaded"]


def test_where_no_mail_is_sent_nothing_speaks_of_it(sender: Sender, browser: FlaskClient) -> None:
    sent = sender.ready()
    page = re.sub(r"<[^>]+>", "", open_page(browser, sent))
    assert "mail" not in page.lower()
    assert press(browser, sent, "/sender", sender_email=ADA).status_code == 422


def test_of_very_many_files_the_first_are_listed(
    sender: Sender, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "MOST_FILES_SHOWN", 2)
    page = open_page(browser, sender.ready({f"{n}.txt": b"x" * n for n in range(1, 6)}))
    assert re.findall(r'title="(\d).txt"', page) == ["1", "2"]
    assert "And 3 more files." in page
    assert "5 files, 15 bytes" in page
