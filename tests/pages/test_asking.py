"""The ended page's form: who sees it, what becomes of it, and that it works without a script."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app import clock
from app.services import extension_requests, upkeep
from tests.factories import Sender, Sent
from tests.pages.test_pages import token_in

CURL = {"User-Agent": "curl/8.5.0", "Accept": "*/*"}


@pytest.fixture
def ada(client: FlaskClient) -> FlaskClient:
    """A recipient's browser."""
    return client.application.test_client()


@pytest.fixture(params=["expired", "limit_reached"])
def ended(request: pytest.FixtureRequest, sender: Sender) -> Sent:
    """A transfer that its sender could still make available."""
    sent = sender.ready(max_downloads=1, title="Rushes")
    if request.param == "expired":
        return sent.set(expires_at=clock.now() - timedelta(seconds=1))
    return sent.set(download_count=1)


def ask(browser: FlaskClient, sent: Sent, **words: str):
    """Open the page, fill in its form, send it."""
    token = token_in(browser.get(f"/d/{sent.slug}").text)
    return browser.post(f"/d/{sent.slug}/ask", data={"csrf_token": token, **words})


def requests(sent: Sent) -> list[dict]:
    answer = sent.call("GET", "/requests")
    assert answer.status_code == 200
    return answer.json["requests"]


def test_it_is_noted_and_the_page_says_so(ended: Sent, ada: FlaskClient) -> None:
    page = ada.get(f"/d/{ended.slug}")
    assert page.status_code == 410
    assert page.text.count("button-primary") == 1
    answer = ask(ada, ended, message="Two more\r\ndays, please", contact="Ada")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{ended.slug}")
    page = ada.get(f"/d/{ended.slug}")
    assert page.status_code == 410
    assert "Your request has been passed on." in page.text
    assert "mail" not in re.sub(r"<[^>]+>", "", page.text)  # nothing that may not come is promised
    assert "<textarea" not in page.text
    assert "You have already asked today." in ada.get(f"/d/{ended.slug}").text
    (asked,) = requests(ended)
    assert (asked["message"], asked["contact"]) == ("Two more\ndays, please", "Ada")
    assert ended.show()["request_count"] == 1


def test_a_form_that_was_open_in_two_tabs_is_answered_kindly(ended: Sent, ada: FlaskClient) -> None:
    token = token_in(ada.get(f"/d/{ended.slug}").text)
    for words in ("Your request has been passed on.", "You have already asked today."):
        answer = ada.post(f"/d/{ended.slug}/ask", data={"csrf_token": token})
        assert answer.status_code == 303
        assert words in ada.get(f"/d/{ended.slug}").text
    assert len(requests(ended)) == 1


def test_everybody_else_is_still_asked(ended: Sent, ada: FlaskClient) -> None:
    ask(ada, ended)
    bob = ada.application.test_client()
    assert "<textarea" in bob.get(f"/d/{ended.slug}").text
    assert ask(bob, ended).status_code == 303
    assert len(requests(ended)) == 2


@pytest.mark.parametrize(
    ("words", "name", "said"),
    [
        ({"message": "x" * 501}, "message", "This must be at most 500 characters."),
        ({"message": "a\0b"}, "message", "This must not contain control characters."),
        ({"contact": "x" * 255}, "contact", "This must be at most 254 characters."),
        ({"contact": "a\nb"}, "contact", "This must not contain control characters."),
    ],
)
def test_what_cannot_be_used_is_told_beside_its_field(
    ended: Sent, ada: FlaskClient, words: dict[str, str], name: str, said: str
) -> None:
    kept = {"message": "<b>hello</b>", "contact": "ada@example.org"} | words
    answer = ask(ada, ended, **kept)
    assert answer.status_code == 422
    field = re.search(
        rf'<p class="said" id="ask-{name}-said" data-kind="wrong">([^<]*)', answer.text
    )
    assert field
    assert field[1] == said
    assert answer.text.count('aria-invalid="true"') == 1
    other = "ada@example.org" if name == "message" else "&lt;b&gt;hello&lt;/b&gt;"
    assert other in answer.text  # what was right is still there
    assert requests(ended) == []
    plain = ada.application.test_client(use_cookies=False)
    told = plain.post(f"/d/{ended.slug}/ask", data=words, headers=CURL)
    assert (told.status_code, told.mimetype) == (400, "text/plain")
    assert told.text.startswith(f"{name}: must")


def test_500_characters_of_any_kind_are_taken(ended: Sent, ada: FlaskClient) -> None:
    assert ask(ada, ended, message="🐝" * 499 + "\r\n.").status_code == 422
    assert ask(ada, ended, message="🐝" * 498 + "\r\n.").status_code == 303
    assert len(requests(ended)[0]["message"]) == 500


def test_a_program_without_cookies_asks_by_its_address(ended: Sent, client: FlaskClient) -> None:
    plain = client.application.test_client(use_cookies=False)
    for address, words in (
        ("203.0.113.7", "Your request has been passed on."),
        ("203.0.113.7", "You have already asked today."),
        ("203.0.113.8", "Your request has been passed on."),
    ):
        answer = plain.post(
            f"/d/{ended.slug}/ask",
            data={"message": "please"},
            headers=CURL,
            environ_base={"REMOTE_ADDR": address},
        )
        assert (answer.status_code, answer.mimetype) == (200, "text/plain")
        assert answer.text.startswith(words)
    assert len(requests(ended)) == 2


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Cookie": "beeline=x"}],
)
def test_s06_another_site_cannot_ask_for_its_visitor(
    ended: Sent, client: FlaskClient, headers: dict[str, str]
) -> None:
    plain = client.application.test_client(use_cookies=False)
    assert plain.post(f"/d/{ended.slug}/ask", headers=headers).status_code == 400
    assert requests(ended) == []


def test_what_is_here_or_gone_offers_nothing(sender: Sender, ada: FlaskClient) -> None:
    here, deleted, old = sender.ready(), sender.ready(), sender.ready()
    deleted.call("DELETE")
    old.set(expires_at=clock.now() - timedelta(days=9))
    with ada.application.app_context():
        upkeep.expire_due()
    old.set(expired_at=clock.now() - timedelta(days=4))
    token = token_in(ada.get(f"/d/{here.slug}").text)
    plain = ada.application.test_client(use_cookies=False)
    for sent, status in ((here, 409), (deleted, 410), (old, 410)):
        page = ada.get(f"/d/{sent.slug}").text
        assert "/ask" not in page
        assert ("Ask the sender to send it again." in page) == (sent is old)
        answer = ada.post(f"/d/{sent.slug}/ask", data={"csrf_token": token, "message": "x" * 501})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}")
        assert plain.post(f"/d/{sent.slug}/ask", headers=CURL).status_code == status
    assert ada.post(f"/d/{'x' * 32}/ask", data={"csrf_token": token}).status_code == 404


def test_a_protected_one_that_is_used_up_asks_for_the_password_first(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = sender.ready(max_downloads=1, password="open sesame", title="Rushes")
    sent.set(download_count=1)
    page = ada.get(f"/d/{sent.slug}")
    assert (page.status_code, "/ask" in page.text) == (401, False)
    form = {"csrf_token": token_in(page.text)}
    answer = ada.post(f"/d/{sent.slug}/ask", data=form)
    assert answer.headers["Location"] == f"/d/{sent.slug}"
    assert requests(sent) == []
    ada.post(f"/d/{sent.slug}", data=form | {"password": "open sesame"})
    assert ask(ada, sent).status_code == 303
    assert len(requests(sent)) == 1


def test_a_protected_one_that_has_expired_asks_for_none_and_tells_nothing(
    sender: Sender, ada: FlaskClient
) -> None:
    sent = sender.ready(password="open sesame", title="Rushes")
    sent.set(expires_at=clock.now() - timedelta(seconds=1))
    assert "Rushes" not in ada.get(f"/d/{sent.slug}").text
    answer = ask(ada, sent, message="x" * 501)
    assert (answer.status_code, "Rushes" in answer.text) == (422, False)
    assert ask(ada, sent).status_code == 303
    assert len(requests(sent)) == 1


def test_s31_one_address_and_one_link_have_a_limit(
    sender: Sender, client: FlaskClient, configure: Callable[..., None]
) -> None:
    past = clock.now() - timedelta(seconds=1)
    one, other = (sender.ready().set(expires_at=past) for _ in range(2))
    configure(max_messages_per_hour=2, max_messages_per_link_and_hour=3)

    def told(sent: Sent, last: int):
        address = {"REMOTE_ADDR": f"192.0.2.{last}"}
        browser = client.application.test_client()
        token = token_in(browser.get(f"/d/{sent.slug}", environ_base=address).text)
        form = {"csrf_token": token}
        return browser.post(f"/d/{sent.slug}/ask", data=form, environ_base=address)

    assert [told(one, 1).status_code for _ in range(3)] == [303, 303, 429]
    assert told(other, 1).status_code == 429
    assert told(one, 2).status_code == 303
    full = told(one, 3)
    assert full.status_code == 429
    assert "Too many messages for now" in full.text
    assert told(other, 3).status_code == 303


def test_only_its_sender_reads_them(ended: Sent, ada: FlaskClient) -> None:
    ask(ada, ended, message="for the sender only")
    assert ada.get(f"{ended.url}/requests").status_code == 401
    wrong = {"Authorization": "Bearer " + "x" * 43}
    assert ada.get(f"{ended.url}/requests", headers=wrong).status_code == 404
    for end in ("", ".json", ".sfv"):
        assert "for the sender only" not in ada.get(f"/d/{ended.slug}{end}").text
    ended.call("DELETE")
    with ada.application.app_context():
        assert extension_requests.count(ended.id) == 0
