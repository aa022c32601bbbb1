"""SENDERS: only some people may send without an API key; the others do so by a file request."""

import html
import json
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import clock, config
from app.services import file_requests, senders
from tests.factories import Machine, Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail, word_of
from tests.pages.test_manage import open_page, page_of
from tests.pages.test_mine import EVE, Person, ada, code_in, eve
from tests.pages.test_pages import token_in

__all__ = ["ada", "eve"]  # fixtures
FILES = {"files": [{"path": "a", "size": 1}]}
STUDIO = "bo@studio.example"
NO = (403, "sender_not_allowed")


@pytest.fixture(autouse=True)
def only_some(configure: Any, ada: Person) -> None:
    """Ada and everybody at the studio may send."""
    configure(senders=(ADA, "@studio.example"))


def refusal(client: FlaskClient, **said: Any) -> tuple[int, str]:
    answer = client.post("/transfers", json=FILES | said)
    return answer.status_code, answer.json.get("error", {}).get("code", "")


def proof(email: str) -> dict[str, str]:
    return {"sender_email": email, "sender_token": word_of(email)}


def test_the_address_decides_and_has_to_be_proven(client: FlaskClient) -> None:
    for email in (ADA, STUDIO, "Bo@Studio.Example"):
        assert refusal(client, **proof(email.lower()) | {"sender_email": email}) == (201, "")
    assert refusal(client) == NO
    for email in (
        EVE,
        "bo@evil-studio.example",
        "bo@sub.studio.example",
        "studio.example@x.example",
        "bo@studio.example.x.example",
        "ada+bo@example.org",
        "ada@sub.example.org",
        # With a Cyrillic letter in the name, or in the domain.
        "\u0430da@example.org",
        "bo@studi\u043e.example",
    ):
        assert refusal(client, **proof(email)) == NO
    assert refusal(client, sender_email="no address") == (400, "invalid")


def test_nobody_learns_whether_an_address_may_send_without_proving_it(client: FlaskClient) -> None:
    def answer_to(email: str, **said: str) -> Any:
        answer = client.post("/transfers", json=FILES | {"sender_email": email} | said)
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid")
        return answer.json["error"]["fields"]

    for said in ({}, {"sender_token": word_of("third@example.org")}):
        assert [one["field"] for one in answer_to(ADA, **said)] == ["sender_token"]
        assert answer_to(ADA, **said) == answer_to(EVE, **said)


def test_a_key_needs_no_address(client: FlaskClient) -> None:
    assert Machine(client).make(**FILES)["id"]


def test_the_first_page_is_for_those_who_may_send(
    app: Flask, ada: Person, eve: Person, client: FlaskClient, mail: MailServer
) -> None:
    door = ada.client.get("/")
    assert "Sign in to send" in door.text
    assert 'id="sender"' not in door.text
    assert door.headers["Cache-Control"] == "no-store"
    ada.client.post("/mine/code", data={"csrf_token": ada.token, "email": ADA, "then": "send"})
    send_mail(app)
    entered = ada.post("enter", code=code_in(mail))
    assert (entered.status_code, entered.location) == (303, "/")
    page = ada.client.get("/")
    assert page.headers["Cache-Control"] == "no-store"
    wish = wish_in(page)
    assert wish["sender_email"] == ADA
    made = client.post("/transfers", json=FILES | wish)
    assert (made.status_code, made.json["sender_confirmed"]) == (201, True)
    eve.sign_in(EVE)
    refused = eve.client.get("/")
    assert refused.status_code == 403
    assert "You cannot send from here" in refused.text
    assert refused.headers["Cache-Control"] == "no-store"


def wish_in(page: Any) -> dict[str, str]:
    """What a transfer that this page begins is created with."""
    said = re.search(r'data-wish="([^"]+)"', page.text)
    assert said
    found: dict[str, str] = json.loads(html.unescape(said[1]))
    return found


def test_s39_a_page_sends_no_more_once_its_browser_has_signed_out(
    app: Flask, ada: Person, client: FlaskClient
) -> None:
    """Nor once all have; another browser's page goes on until then, and so does a script's token."""
    elsewhere = Person(app, ada.mail)
    wishes = []
    for one in (ada, elsewhere):
        one.sign_in()
        wishes.append(wish_in(one.client.get("/")))
    script = proof(ADA)
    ada.post("leave")
    assert refusal(client, **wishes[0]) == (400, "invalid")
    assert refusal(client, **wishes[1]) == (201, "")
    again = Person(app, ada.mail)
    again.sign_in()
    again.post("leave", everywhere="1")
    assert refusal(client, **wishes[1]) == (400, "invalid")
    assert refusal(client, **script) == (201, "")


def test_a_pages_token_is_good_for_its_address_and_a_week(
    ada: Person, client: FlaskClient, monkeypatch: Any
) -> None:
    ada.sign_in()
    wish = wish_in(ada.client.get("/"))
    assert refusal(client, **wish | {"sender_email": STUDIO}) == (400, "invalid")
    assert refusal(client, **wish | {"sender_token": f"x{wish['sender_token']}"}) == (
        400,
        "invalid",
    )
    for days, answer in ((6, (201, "")), (8, (400, "invalid"))):
        later = clock.now() + timedelta(days=days)
        with monkeypatch.context() as then:
            then.setattr(clock, "now", lambda later=later: later)
            assert refusal(client, **wish) == answer


def test_the_pages_where_one_signs_in_to_send_say_so(ada: Person) -> None:
    def mail_code(email: str) -> Any:
        form = {"csrf_token": ada.token, "email": email, "then": "send"}
        return ada.client.post("/mine/code", data=form)

    mistyped = mail_code("ada@")
    assert mistyped.status_code == 422
    assert 'name="then" value="send"' in mistyped.text
    assert mail_code(ADA).location == "/mine"
    for page in (mistyped, ada.get(), ada.client.get("/"), ada.post("enter", code="wrong")):
        assert '<h1 class="title" id="door-title">Sign in to send</h1>' in page.text
    assert 'href="/?other=1"' in ada.get().text
    assert "Your e-mail" in ada.client.get("/?other=1").text
    # Who asks for another address there does not come from sending.
    assert '<h1 class="title" id="door-title">My transfers</h1>' in ada.get("?other=1").text


def test_whoever_did_not_go_on_with_sending_is_led_to_their_transfers(ada: Person) -> None:
    """Once they sign in there, that is, and not where they began to sign in before."""
    ada.client.post("/mine/code", data={"csrf_token": ada.token, "email": ADA, "then": "send"})
    code = ada.ask()
    assert '<h1 class="title" id="door-title">My transfers</h1>' in ada.get().text
    assert ada.post("enter", code=code).location == "/mine"


def test_whoever_comes_by_a_link_of_another_site_gets_a_page_that_loads_once_more(
    client: FlaskClient,
) -> None:
    again = 'http-equiv="refresh"'
    assert again in client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).text
    for site in ("same-origin", "none"):
        assert again not in client.get("/", headers={"Sec-Fetch-Site": site}).text


def test_others_send_by_a_request_of_somebody_who_may(
    app: Flask, ada: Person, eve: Person, client: FlaskClient, sender: Sender, configure: Any
) -> None:
    with app.app_context():
        asked = uuid.uuid4()
        file_requests.make(asked, ADA, title="Rushes", message="", days=1)
        slug = file_requests.one_of(ADA, asked).slug
    assert sender.create(file_request=slug)
    assert refusal(client, file_request="x" * 32) == (400, "invalid")
    eve.sign_in(EVE)
    assert "/mine/requests" not in eve.get().text
    form = {"csrf_token": eve.token, "once": str(uuid.uuid4()), "title": "For me", "days": "1"}
    refused = eve.client.post("/mine/requests", data=form)
    assert refused.status_code == 403
    assert "You cannot ask for files from here" in refused.text
    assert "requests below are closed" not in refused.text
    # A permission that is taken back ends the requests too.
    configure(senders=("@studio.example",))
    assert client.get(f"/r/{slug}").status_code == 410
    assert refusal(client, file_request=slug) == (400, "invalid")
    ada.sign_in()
    assert 'href="/mine"' in ada.client.get("/").text
    assert '<a href="/mine/requests">File requests</a>' in ada.get().text
    page = ada.client.get("/mine/requests").text
    for words in (
        "You cannot ask for files from here",
        "requests below are closed",
        "Rushes",
        ">Closed<",
    ):
        assert words in page
    for words in ("Make a link", "/r/", "Open"):
        assert words not in page


def test_more_files_need_the_permission_that_the_first_ones_needed(
    app: Flask, ada: Person, client: FlaskClient, sender: Sender, configure: Any
) -> None:
    """Otherwise whoever has sent one thing, as a guest or before they left, could go on for ever."""
    with app.app_context():
        asked = uuid.uuid4()
        file_requests.make(asked, ADA, title="Rushes", message="", days=1)
        slug = file_requests.one_of(ADA, asked).slug
    by_guest = sender.ready(file_request=slug)
    by_ada, by_bo = sender.ready(**proof(ADA)), sender.ready(**proof(STUDIO))
    program = Machine(client)
    by_key = program.put_one()["id"]

    def add(sent: Sent, path: str) -> tuple[int, str]:
        answer = sent.call("POST", "/files", json={"files": [{"path": path, "size": 1}]})
        return answer.status_code, answer.json.get("error", {}).get("code", "")

    def is_offered(sent: Sent) -> bool:
        return f"{page_of(sent)}/add" in open_page(client, sent)

    assert [is_offered(one) for one in (by_guest, by_ada, by_bo)] == [True, True, True]
    assert add(by_guest, "1") == (201, "")
    with app.app_context():
        file_requests.close(ADA, asked)
    # What was begun before can be finished, but nothing is added to it.
    assert is_offered(by_guest)
    assert add(by_guest, "2") == NO
    by_guest.call("DELETE", "/batch")
    assert add(by_guest, "2") == NO
    assert not is_offered(by_guest)
    by_guest.call("PATCH", json={"sender_email": ADA})
    assert add(by_guest, "2") == NO
    configure(senders=("@studio.example",))
    assert [add(one, "1") for one in (by_ada, by_bo)] == [NO, (201, "")]
    assert [is_offered(one) for one in (by_ada, by_bo)] == [False, True]
    more = {"files": [{"path": "1", "size": 1}]}
    assert program.native("POST", f"/{by_key}/files", json=more).status_code == 201


def test_guests_mail_nobody_but_whoever_has_asked_them(
    app: Flask, client: FlaskClient, sender: Sender, mail: MailServer
) -> None:
    """Otherwise one open request would be enough to mail files to anybody from this site."""
    with app.app_context():
        asked = uuid.uuid4()
        file_requests.make(asked, ADA, title="Rushes", message="", days=1)
        slug = file_requests.one_of(ADA, asked).slug
    assert '<div class="field field-wide" hidden><label for="o-recipients">' in (
        client.get(f"/r/{slug}").text
    )
    victim = {"recipients": ["victim@example.org"]}
    assert refusal(client, file_request=slug, **victim, **proof(EVE)) == NO
    sent = sender.ready(file_request=slug, **proof(EVE))
    assert sent.call("PATCH", json=victim).status_code == 403
    # Not even if somebody who may is named first, or by the manage page.
    assert sent.call("PATCH", json=victim | {"sender_email": ADA}).status_code == 200
    assert sent.call("PATCH", json=proof(EVE)).status_code == 403
    sent.call("PATCH", json={"recipients": []} | proof(EVE))
    browser = app.test_client()
    form = {"csrf_token": token_in(open_page(browser, sent)), "recipients": "victim@example.org"}
    refused = browser.post(f"{page_of(sent)}/recipients", data=form)
    assert (refused.status_code, "were given permission" in refused.text) == (403, True)
    by_ada = sender.ready(**proof(ADA), recipients=["wanted@example.org"])
    send_mail(app)
    assert mail.to("victim@example.org") == []
    assert [one.to for one in mail.to("wanted@example.org")] == ["wanted@example.org"]
    assert by_ada.show()["recipients"][0]["state"] == "sent"


def test_unset_everybody_may_send(configure: Any, client: FlaskClient) -> None:
    configure(senders=())
    assert refusal(client) == (201, "")
    assert 'id="sender"' in client.get("/").text
    assert senders.may_send(EVE)


@pytest.mark.parametrize(
    "wrong",
    [
        "studio.example",
        "@",
        "@@x.example",
        "a b",
        "<ada@example.org>",
        "*@studio.example",
        "@*.studio.example",
        "@studio.example.",
    ],
)
def test_a_setting_that_means_nobody_is_refused(environ: dict[str, str], wrong: str) -> None:
    mail = {"MAIL_URL": "smtp://localhost:25"}
    with pytest.raises(config.ConfigError, match="SENDERS must be"):
        config.load(environ | mail | {"SENDERS": wrong})
    given = config.load(environ | mail | {"SENDERS": " Ada@Example.org  @Studio.Example "})
    assert given.senders == (ADA, "@studio.example")
    with pytest.raises(config.ConfigError, match="SENDERS needs MAIL_URL"):
        config.load(environ | {"SENDERS": ADA})
