"""/workspace/webhooks: for people, who come in with a key; everything works without a script."""

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import clock
from app.db import transaction
from app.models import Scope, WebhookDelivery
from app.services import accounts, claims
from tests.hooks import Admin, pass_time, rows, send_webhooks
from tests.lab.receiver import Receiver

AT = "/workspace/webhooks"
URL = "https://hooks.example.org/beeline"
HTMX = {"HX-Request": "true"}


class Person:
    """Somebody at a browser."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client()

    def get(self, path: str = AT, **given: Any) -> Any:
        return self.client.get(path, **given)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        """One form of the page as it is now."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get().text)
        assert found
        data = {"csrf_token": found[1], **fields}
        return self.client.post(path, data=data, headers=headers)

    def enter(self, key: str) -> Any:
        return self.post(f"{AT}/enter", key=key)


@pytest.fixture
def admin(client: FlaskClient) -> Admin:
    return Admin(client)


@pytest.fixture
def person(app: Flask, admin: Admin) -> Person:
    """Somebody who has come in with the admin's key."""
    made = Person(app)
    assert made.enter(f" {admin.key} ").status_code == 303
    return made


def path_of(hook: Any) -> str:
    return f"{AT}/{hook['id']}"


def test_a_key_opens_it_and_is_not_what_the_cookie_holds(app: Flask, admin: Admin) -> None:
    person = Person(app)
    assert "API key" in person.get().text
    came_in = person.enter(admin.key)
    assert (came_in.status_code, came_in.location) == (303, AT)
    cookie = came_in.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Max-Age=3600" in cookie
    assert admin.key[17:] not in cookie
    assert "Acme" in person.get().text
    assert person.post(f"{AT}/leave").status_code == 303
    assert "Acme" not in person.get().text


def test_by_https_the_cookie_is_bound_to_this_host(
    app: Flask, admin: Admin, configure: Any
) -> None:
    person = Person(app)
    page = person.get()
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token
    configure(base_url="https://localhost")
    answer = person.client.post(
        f"{AT}/enter",
        data={"csrf_token": token[1], "key": admin.key},
        base_url="https://localhost",
        headers={"Referer": "https://localhost/"},
    )
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-beeline-workspace=")
    assert "Secure" in cookie
    assert "Path=/" in cookie


def test_what_is_no_key_of_scope_admin_is_told(app: Flask, admin: Admin) -> None:
    person = Person(app)
    with app.app_context():
        writes = accounts.issue_key("Acme", "w", Scope.WRITE).text
        revoked = accounts.issue_key("Acme", "r", Scope.ADMIN)
        accounts.revoke_key(revoked.row.prefix)
    for key, words in (
        ("", "no such key"),
        ("bee_x", "no such key"),
        ("a\0b", "not an API key"),
        ("x" * 300, "not an API key"),
        (admin.key[:-1] + "!", "no such key"),
        (revoked.text, "no such key"),
        (writes, "scope admin"),
    ):
        answer = person.enter(key)
        assert answer.status_code == 422
        assert words in answer.text
        assert "Set-Cookie" not in answer.headers or "workspace" not in answer.headers["Set-Cookie"]
        assert not key or key not in answer.text
    assert person.client.post(f"{AT}/enter", data={"key": admin.key}).status_code == 400


def test_it_closes_after_an_hour_and_when_the_key_is_revoked(
    app: Flask, admin: Admin, person: Person, monkeypatch: Any
) -> None:
    hook = admin.add(URL)
    assert URL in person.get().text
    with monkeypatch.context() as later:
        at = clock.now() + timedelta(hours=1, seconds=1)
        later.setattr(clock, "now", lambda: at)
        assert URL not in person.get().text
    assert URL in person.get(path_of(hook)).text
    with app.app_context():
        accounts.revoke_key(admin.key[:16])
    assert URL not in person.get().text
    assert person.get(path_of(hook)).location == AT
    # A region that asks is led there as well.
    told = person.get(path_of(hook), headers=HTMX)
    assert (told.status_code, told.headers["HX-Redirect"]) == (204, AT)


@pytest.mark.parametrize("word", ["", "x", "9999999999:" + "0" * 32, "a:b.c", "\xff"])
def test_a_cookie_that_is_made_up_opens_nothing(app: Flask, word: str) -> None:
    person = Person(app)
    person.client.set_cookie("beeline-workspace", word)
    assert "API key" in person.get().text


def test_adding_shows_the_secret_once(app: Flask, admin: Admin, person: Person) -> None:
    fields = {"transfer.ready": "1", "transfer.expired": "1"}
    answer = person.post(AT, url=f" {URL} ", **fields)
    assert answer.status_code == 201
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]{44}", answer.text)
    assert secret not in person.get().text
    (hook,) = admin.call("GET").json["webhooks"]
    assert (hook["url"], hook["events"]) == (URL, ["transfer.ready", "transfer.expired"])
    assert person.get(path_of(hook)).status_code == 200
    for more, words in (
        ({"url": "http://localhost/", **fields}, "This must begin with https://."),
        ({"url": "https://127.0.0.1/", **fields}, "This must give its host in full"),
        ({"url": URL}, "Choose at least one."),
        ({"url": "a\0b", **fields}, "control characters"),
        (fields, "This must be at most"),
    ):
        refused = person.post(AT, **more)
        assert refused.status_code == 422
        assert words in refused.text
        assert "whsec_" not in refused.text
    assert len(admin.call("GET").json["webhooks"]) == 1


def test_the_page_that_shows_the_secret_can_be_loaded_again(admin: Admin, person: Person) -> None:
    def add(**more: str) -> Any:
        answer = person.post(AT, **{"url": URL, "transfer.ready": "1", "once": once} | more)
        assert answer.status_code == 201
        return re.findall(r"whsec_[A-Za-z0-9+/=]{44}", answer.text)

    def there_are() -> int:
        return len(admin.call("GET").json["webhooks"])

    once = re.findall(r'name="once" value="([^"]{20,})"', person.get().text)[0]
    secret = add()
    assert add() == secret
    assert there_are() == 1
    # Whoever went back and changed something has another, and so has the next form.
    assert add(url=f"{URL}/2") != secret
    assert add(**{"transfer.expired": "1"}) != secret
    once = re.findall(r'name="once" value="([^"]{20,})"', person.get().text)[0]
    assert add() != secret
    assert there_are() == 4


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"url": URL}, "transfer.ready"),
        ({"url": "http://localhost/"}, "url"),
        ({"url": "http://localhost/", "transfer.expired": "1"}, "url"),
    ],
)
def test_the_first_field_that_is_wrong_has_the_focus(
    person: Person, fields: dict[str, str], first: str
) -> None:
    refused = person.post(AT, **fields).text
    assert re.findall(r'name="([^"]+)"[^>]* autofocus', refused) == [first]
    assert "autofocus" not in person.get().text


def test_what_somebody_typed_is_no_markup(admin: Admin, person: Person) -> None:
    answer = person.post(AT, url='https://x/"><script>alert(1)</script>')
    assert answer.status_code == 422
    assert "<script>alert" not in answer.text
    admin.add("https://hooks.example.org/?'<b>&amp;")
    assert "<b>" not in person.get().text


def test_test_switch_send_again_and_delete(
    app: Flask, admin: Admin, person: Person, receiver: Receiver
) -> None:
    receiver.answers = [500, 200]
    hook = admin.add(receiver.url)
    at = path_of(hook)
    assert "Nothing yet." in person.get(at).text
    assert person.post(f"{at}/test").location == at
    assert "Waiting" in person.get(at).text
    send_webhooks(app)
    shown = person.get(at).text
    assert "It answered 500." in shown
    assert "Failing" in shown
    assert 'data-says="Test: It answered 500."' in shown
    part = person.post(f"{at}/deliveries/{admin.log(hook)[0]['id']}/retry", headers=HTMX)
    assert part.status_code == 200
    assert part.text.lstrip().startswith('<section class="manage-part" id="log"')
    assert "HX-Request" in part.headers["Vary"]
    # How it is doing comes with the log.
    assert '<div id="now"' in part.text
    assert "Failing" in part.text
    send_webhooks(app)
    part = person.get(at, headers=HTMX)
    assert "Accepted" in part.text
    assert "Failing" not in part.text
    assert person.post(f"{at}/off").location == at
    off = person.get(at).text
    assert "You switched it off." in off
    assert "Send a test" not in off
    # Whoever still has the former page open is shown this one.
    assert person.post(f"{at}/test").location == at
    assert person.post(f"{at}/test", headers=HTMX).headers["HX-Redirect"] == at
    assert len(rows(app)) == 1
    person.post(f"{at}/on")
    assert "Send a test" in person.get(at).text
    assert person.post(f"{at}/delete").location == AT
    assert person.get(at).status_code == 404
    assert "No webhooks yet." in person.get().text


def test_it_is_asked_often_only_while_something_is_about_to_be_sent(
    app: Flask, admin: Admin, person: Person, receiver: Receiver
) -> None:
    def every(seconds: int) -> bool:
        page = person.get(at).text
        assert ("http-equiv" in page) == (seconds == 2)
        return f'hx-trigger="every {seconds}s"' in page

    def take() -> None:
        with app.app_context(), transaction():
            claims.take(WebhookDelivery, [one.id for one in rows(app)])

    receiver.answers = [500]
    hook = admin.add(receiver.url)
    at = path_of(hook)
    assert every(15)
    person.post(f"{at}/test")
    assert every(2)
    send_webhooks(app)
    # It rests first, and is tried again a minute after it failed.
    assert every(15)
    pass_time(app, seconds=60)
    assert every(2)
    take()
    assert every(2)
    pass_time(app, minutes=3)
    send_webhooks(app)
    pass_time(app, minutes=1)
    # The rest is over, and the next try is a quarter of an hour after the third.
    assert every(15)
    pass_time(app, minutes=14)
    assert every(2)


def test_s07_another_workspaces_are_not_there(app: Flask, admin: Admin, person: Person) -> None:
    others = Admin(admin.client, "Others")
    hook = others.add("https://others.example.org/")
    sent = others.call("POST", f"/{hook['id']}/test").json
    assert "others.example.org" not in person.get().text
    at = path_of(hook)
    assert person.get(at).status_code == 404
    for path in ("test", "off", "on", "delete", f"deliveries/{sent['id']}/retry"):
        assert person.post(f"{at}/{path}").status_code == 404
    mine = admin.add(URL)
    assert person.post(f"{path_of(mine)}/deliveries/{sent['id']}/retry").status_code == 404
    assert others.show(hook)["enabled"]


def test_s06_no_form_without_its_token_does_anything(admin: Admin, person: Person) -> None:
    hook = admin.add(URL)
    for path in ("", f"/{hook['id']}/test", f"/{hook['id']}/off", f"/{hook['id']}/delete"):
        answer = person.client.post(f"{AT}{path}", data={"url": URL, "transfer.ready": "1"})
        assert answer.status_code == 400
    assert admin.show(hook)["enabled"]
    assert len(admin.call("GET").json["webhooks"]) == 1
