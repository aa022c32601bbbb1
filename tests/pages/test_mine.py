"""/mine: signing in by a mailed code, and the list; everything works without a script."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app import clock
from app.db import db, transaction
from app.models import AuditEvent, NoMail, SenderCode
from app.services import news, own_transfers, senders, suppression
from tests.conftest import SECRET
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail, word_of
from tests.pages.test_pages import token_in

AT = "/mine"
COOKIE = "beeline-mine"
HTMX = {"HX-Request": "true"}
EVE = "eve@example.org"


class Person:
    """Somebody at a browser."""

    def __init__(self, app: Flask, mail: MailServer) -> None:
        self.app = app
        self.mail = mail
        self.client = app.test_client()

    def get(self, query: str = "", **given: Any) -> Any:
        return self.client.get(AT + query, **given)

    def post(self, path: str, **fields: str) -> Any:
        """One form of the page as it is now."""
        return self.client.post(f"{AT}/{path}", data={"csrf_token": self.token, **fields})

    @property
    def token(self) -> str:
        """That of the page's form."""
        return token_in(self.get().text)

    def ask(self, email: str = ADA) -> str:
        """Ask for a code; the digits in the mail."""
        answer = self.post("code", email=email)
        assert (answer.status_code, answer.location) == (303, AT), answer.text
        send_mail(self.app)
        return code_in(self.mail)

    def sign_in(self, email: str = ADA) -> Any:
        answer = self.post("enter", code=self.ask(email))
        assert (answer.status_code, answer.location) == (303, AT), answer.text
        return answer

    @property
    def is_in(self) -> bool:
        page = self.get()
        assert page.status_code == 200
        return "Sign out" in page.text

    @property
    def word(self) -> str:
        """What the cookie holds."""
        cookie = self.client.get_cookie(COOKIE)
        assert cookie
        return cookie.value


def code_in(mail: MailServer) -> str:
    found = re.fullmatch(r"(\d{8}) is your code to sign in to Beeline", mail.caught[-1].subject)
    assert found, mail.caught[-1].subject
    return found[1]


@pytest.fixture
def ada(app: Flask, mail: MailServer) -> Person:
    return Person(app, mail)


@pytest.fixture
def eve(app: Flask, mail: MailServer) -> Person:
    return Person(app, mail)


def own(sent: Sent, email: str = ADA) -> Sent:
    return sent.set(sender_email=email, sender_confirmed_at=clock.now())


def other_than(code: str, number: int = 0) -> str:
    return f"{(int(code) + number + 1) % 10**8:08}"


def grow_old(app: Flask, **ago: float) -> None:
    """As if this much time had passed since every code was asked for and used."""
    by = timedelta(**ago)
    with app.app_context(), transaction():
        db.session.execute(
            update(SenderCode).values(
                created_at=SenderCode.created_at - by, used_at=SenderCode.used_at - by
            )
        )


# -- the door ------------------------------------------------------------------------------------


def test_a_mailed_code_signs_in_until_one_signs_out(
    ada: Person, sender: Sender, mail: MailServer
) -> None:
    own(sender.ready(title="Wedding"))
    page = ada.get()
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert "Your e-mail" in page.text
    code = ada.ask("Ada@Example.org")
    assert (mail.caught[0].to, len(mail.caught)) == (ADA, 1)
    for kind in ("plain", "html"):
        text = mail.caught[0].body(kind)
        assert code in text
        assert "sign in" in text
        assert "nobody can sign in without it" in text
    asked = ada.get().text
    assert ADA in asked
    assert 'autocomplete="one-time-code"' in asked
    assert "Your e-mail" in ada.get("?other=1").text
    came_in = ada.post("enter", code=f" {code[:4]} {code[4:]} ")
    assert (came_in.status_code, came_in.location) == (303, AT)
    cookie = came_in.headers["Set-Cookie"]
    for rule in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=2592000"):
        assert rule in cookie
    page = ada.get()
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert ADA in page.text
    assert "Wedding" in page.text
    word = ada.word
    left = ada.post("leave")
    assert (left.status_code, left.location) == (303, AT)
    assert "Wedding" not in ada.get().text
    # Not only this browser has forgotten it.
    ada.client.set_cookie(COOKIE, word)
    assert not ada.is_in
    assert ada.post("leave").status_code == 303


def test_by_https_the_cookie_is_bound_to_this_host(ada: Person, configure: Any) -> None:
    code = ada.ask()
    token = ada.token
    configure(base_url="https://localhost")
    cookie = ada.client.post(
        f"{AT}/enter", data={"csrf_token": token, "code": code}, base_url="https://localhost"
    ).headers["Set-Cookie"]
    assert cookie.startswith("__Host-beeline-mine=")
    assert {"Secure", "Path=/"} <= set(cookie.split("; "))


def test_what_is_typed_wrong_is_told_beside_its_field(ada: Person, mail: MailServer) -> None:
    for email in ("ada", "", "a@b.org\r\nBcc: x@y.org", "x" * 300 + "@example.org"):
        answer = ada.post("code", email=email)
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.text
    code = ada.ask()
    for wrong in (other_than(code), "", code[:6], "x" * 30, "٣" * 8):
        answer = ada.post("enter", code=wrong)
        assert answer.status_code == 422
        assert 'id="code"' in answer.text
        assert 'aria-invalid="true"' in answer.text
    assert len(mail.caught) == 1


def test_a_code_has_five_tries_and_is_used_once(ada: Person) -> None:
    code = ada.ask()
    for number in range(5):
        answer = ada.post("enter", code=other_than(code, number))
        assert "is not the one that was mailed" in answer.text
    assert "ask for a new one" in ada.post("enter", code=code).text
    assert not ada.is_in
    code = ada.ask()
    ada.post("enter", code=code)
    assert ada.is_in
    ada.post("leave")
    assert ada.post("enter", code=code).status_code == 422


def test_of_two_requests_with_the_same_code_one_wins(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = ada.ask()
    compare = senders._is_code
    answers = []

    def compare_late(*given: Any) -> bool:
        monkeypatch.setattr(senders, "_is_code", compare)
        answers.append(ada.post("enter", code=code).status_code)
        return compare(*given)

    monkeypatch.setattr(senders, "_is_code", compare_late)
    answers.append(
        ada.client.post(f"{AT}/enter", data={"csrf_token": ada.token, "code": code}).status_code
    )
    assert answers == [303, 422]


def test_a_code_is_good_for_a_quarter_of_an_hour(app: Flask, ada: Person) -> None:
    code = ada.ask()
    grow_old(app, minutes=15, seconds=1)
    assert "Your e-mail" in ada.get().text
    answer = ada.post("enter", code=code)
    assert (answer.status_code, "ask for a new one" in answer.text) == (422, True)
    assert "Your e-mail" in answer.text


def test_each_of_several_mails_may_be_the_one_that_is_read(ada: Person) -> None:
    codes = [ada.ask() for _ in range(3)]
    assert ada.post("enter", code=codes[0]).status_code == 303
    assert ada.is_in


def test_too_many_codes_are_refused_in_words(ada: Person, mail: MailServer) -> None:
    for _ in range(5):
        ada.ask()
    answer = ada.post("code", email=ADA)
    assert (answer.status_code, "Try again in an hour" in answer.text) == (429, True)
    assert len(mail.caught) == 5


def test_whoever_bounced_can_be_reached_again(app: Flask, ada: Person) -> None:
    with app.app_context(), transaction():
        suppression.suppress(ADA, NoMail.BOUNCED)
    ada.sign_in()
    with app.app_context():
        assert suppression.reason_of(ADA) is None


def test_signing_out_everywhere_is_for_one_address_and_for_who_is_in(
    app: Flask, ada: Person, eve: Person, mail: MailServer
) -> None:
    elsewhere = Person(app, mail)
    for person, email in ((ada, ADA), (elsewhere, ADA), (eve, EVE)):
        person.sign_in(email)
    word = elsewhere.word
    assert elsewhere.post("leave").status_code == 303
    assert (ada.is_in, elsewhere.is_in) == (True, False)
    elsewhere.client.set_cookie(COOKIE, word)
    elsewhere.post("leave", everywhere="1")
    assert ada.is_in, "that cookie was signed out already"
    elsewhere.sign_in()
    elsewhere.post("leave", everywhere="1")
    assert (ada.is_in, elsewhere.is_in, eve.is_in) == (False, False, True)


# -- threats -------------------------------------------------------------------------------------


def test_s39_a_code_is_good_for_what_it_was_asked_for_and_nothing_else(
    ada: Person, client: FlaskClient, mail: MailServer
) -> None:
    code = ada.ask()
    confirm = {"email": ADA, "code": code}
    assert client.post("/senders/confirm", json=confirm).status_code == 400
    client.post("/senders/code", json={"email": ADA})
    send_mail(ada.app)
    to_send = re.match(r"\d{8}", mail.caught[-1].subject)
    assert to_send
    assert ada.post("enter", code=to_send[0]).status_code == 422
    # What was asked to send mail is no code to sign in, whatever its digits.
    with ada.app.app_context(), transaction():
        row = db.session.scalars(select(SenderCode).where(~SenderCode.signs_in)).one()
        with ada.client.session_transaction() as session:
            session["sign_in_codes"] = [row.id.hex]
    assert ada.post("enter", code=to_send[0]).status_code == 422
    assert not ada.is_in


def test_s39_a_senders_token_does_not_sign_in_nor_the_cookie_send(ada: Person) -> None:
    ada.client.set_cookie(COOKIE, word_of())
    assert not ada.is_in
    ada.client.delete_cookie(COOKIE)
    ada.sign_in()
    with ada.app.app_context():
        assert not senders.is_confirmed(ADA, ada.word)


def test_s39_only_the_browser_that_asked_can_use_a_code_or_its_tries(
    ada: Person, eve: Person
) -> None:
    code = ada.ask()
    for _ in range(6):
        assert eve.post("enter", code=code).status_code == 422
    eve.ask(EVE)
    assert eve.post("enter", code=code).status_code == 422
    assert not eve.is_in
    assert ada.post("enter", code=code).status_code == 303


def test_s39_a_code_is_guessed_25_times_an_hour_at_most_whoever_asks(
    app: Flask, mail: MailServer
) -> None:
    tried = 0
    for number in range(12):
        thief = Person(app, mail)
        thief.client.environ_base["REMOTE_ADDR"] = f"203.0.113.{number}"
        thief.post("code", email=ADA)
        for _ in range(7):
            tried += "is not the one" in thief.post("enter", code="not it").text
    assert tried == 25


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[:-1],
        lambda w: "x" + w,
        lambda w: w[1:],
        lambda w: w.rpartition(".")[0],
        lambda w: "",
    ],
)
def test_s39_a_forged_cookie_opens_nothing(ada: Person, change: Any) -> None:
    ada.sign_in()
    ada.client.set_cookie(COOKIE, change(ada.word))
    assert not ada.is_in


def test_s39_an_old_cookie_opens_nothing_and_its_row_is_swept(app: Flask, ada: Person) -> None:
    ada.sign_in()
    eve_code = Person(app, ada.mail)
    eve_code.ask(EVE)  # and never enters it
    for days, is_in in ((29, True), (1.1, False)):
        grow_old(app, days=days)
        with app.app_context():
            news.forget()
            left = db.session.scalars(select(SenderCode.email)).all()
        assert (left, ada.is_in) == ([ADA] if is_in else [], is_in)


def test_s39_signing_out_leaves_the_row_to_the_sweep(app: Flask, ada: Person) -> None:
    ada.sign_in()
    ada.post("leave")
    grow_old(app, days=2)
    with app.app_context():
        news.forget()
        assert db.session.scalars(select(SenderCode)).all() == []
        actions = db.session.scalars(select(AuditEvent.action)).all()
    assert actions == ["mail code", "sign in", "sign out"]


def test_s34_code_and_cookie_survive_a_changed_key_and_end_with_it(
    ada: Person, configure: Any
) -> None:
    new = "another-key-0123456789-abcdefghij"
    code = ada.ask()
    configure(secret_key=new, secret_key_fallbacks=(SECRET,))
    # Flask itself is configured once, so the session is one of the former key here too.
    assert ada.post("enter", code=code).status_code == 303
    configure(secret_key=SECRET, secret_key_fallbacks=())
    assert not ada.is_in
    ada.client.delete_cookie(COOKIE)
    ada.sign_in()
    configure(secret_key=new, secret_key_fallbacks=(SECRET,))
    assert ada.is_in
    configure(secret_key=new, secret_key_fallbacks=())
    assert not ada.is_in


def test_s06_no_form_without_its_token_does_anything(ada: Person, mail: MailServer) -> None:
    code = ada.ask()
    for path, fields in (("code", {"email": ADA}), ("enter", {"code": code})):
        assert ada.client.post(f"{AT}/{path}", data=fields).status_code == 400
    assert (len(mail.caught), ada.is_in) == (1, False)
    ada.post("enter", code=code)
    assert ada.client.post(f"{AT}/leave").status_code == 400
    assert ada.is_in


def test_looking_changes_nothing(ada: Person, mail: MailServer) -> None:
    ada.ask()
    for path in ("code", "enter", "leave"):
        assert ada.client.get(f"{AT}/{path}").status_code == 405
    assert len(mail.caught) == 1


def test_without_mail_there_is_nothing(client: FlaskClient, sender: Sender) -> None:
    assert client.get(AT).status_code == 404
    for path in ("code", "enter", "leave"):
        assert client.post(f"{AT}/{path}").status_code in (400, 404)
    assert AT not in client.get("/").text
    sent = sender.create()
    assert AT not in client.get(f"/m/{sent.id}.{sent.json['owner_token']}").text


# -- the list ------------------------------------------------------------------------------------


def test_the_other_pages_lead_to_it(ada: Person, sender: Sender) -> None:
    assert f'href="{AT}"' in ada.client.get("/").text
    sent = sender.create()
    assert f'href="{AT}"' in ada.client.get(f"/m/{sent.id}.{sent.json['owner_token']}").text


def test_each_row_says_what_it_is_and_leads_to_its_page(ada: Person, sender: Sender) -> None:
    own(sender.ready({"a&b.mov": b"12345", "b.txt": b"1", "c.txt": b"1"}, max_downloads=9))
    own(sender.create(title="<b>Wedding</b>"))
    own(sender.create(title="of eve"), EVE)
    ada.sign_in()
    page = ada.get().text
    assert "a&amp;b.mov" in page
    assert "and 2 more" in page
    assert "&lt;b&gt;Wedding" in page
    assert "0 downloads of 9" in page
    assert "Ready to download" in page
    assert "2 transfers, 12 bytes, 1 can be downloaded." in page
    assert "of eve" not in page
    links = re.findall(r'href="(/m/[^"]+)"', page)
    assert len(links) == 2
    for link in links:
        assert ada.client.get(link).status_code == 200


def test_nothing_yet_and_nothing_found(ada: Person, sender: Sender) -> None:
    ada.sign_in()
    assert "There are none yet." in ada.get().text
    own(sender.create(title="🧑‍🚀"))
    assert "🧑‍🚀" in ada.get("?q=🧑‍🚀").text
    assert "Nothing was found for “<bdi>&lt;b&gt;</bdi>”" in ada.get("?q=<b>").text
    assert "Nothing was found." in ada.get("?state=expired").text


def test_htmx_gets_the_list_alone_and_is_sent_to_the_door_when_it_is_over(
    ada: Person, sender: Sender
) -> None:
    own(sender.create(title="Wedding"))
    own(sender.create(title="Other"))
    ada.sign_in()
    whole, part = ada.get("?q=wed"), ada.get("?q=wed", headers=HTMX)
    for page in (whole, part):
        assert "Wedding" in page.text
        assert "Other" not in page.text
        assert page.headers["Vary"].startswith("HX-Request")
    assert ("<html" in whole.text, "<html" in part.text) == (True, False)
    assert 'value="wed"' in whole.text
    ada.client.delete_cookie(COOKIE)
    over = ada.get("?q=wed", headers=HTMX)
    assert (over.status_code, over.headers["HX-Redirect"], over.text) == (204, AT, "")


def test_pages_keep_what_was_asked(
    ada: Person, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_transfers, "PAGE_SIZE", 1)
    for name in "abc":
        own(sender.create(title=f"{name} & co"))
    ada.sign_in()
    page = ada.get("?q=%26+co&sort=name&page=2&state=uploading").text
    assert "b &amp; co" in page
    assert "Page 2 of 3" in page
    links = [unquote(one) for one in re.findall(r'href="/mine\?([^"]+)"', page)]
    assert links == [
        f"q=%26+co&amp;state=uploading&amp;sort=name&amp;page={number}".replace("%26", "&")
        for number in (1, 3)
    ]


@pytest.mark.parametrize(
    "query",
    ["?q=%00", "?state=DELETED", "?sort=id", "?page=-1", "?page=0", "?page=x", "?page=٣", "?page=" + "9" * 5000, "?q=" + "x" * 3000, "?x=1", "?q=%F0%9F%90%9D&q=2", "?q=%ff"],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_no_error(ada: Person, query: str) -> None:
    ada.sign_in()
    assert ada.get(query).status_code == 200
