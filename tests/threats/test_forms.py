"""S06, S34: another site can do nothing in its visitor's name, also while the key is changed."""

import json
import uuid
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from tests.conftest import SECRET
from tests.factories import Sender, Sent
from tests.pages.test_pages import token_in
from tests.threats.conftest import MakeApp, through_router

NEW_SECRET = "another-secret-for-tests-9876543210-zyxwv"


def opened(client: FlaskClient, sent: Sent) -> str:
    """Open the transfer's page as a browser does; the token of its form."""
    return token_in(client.get(f"/d/{sent.slug}").text)


def click(
    client: FlaskClient, sent: Sent, token: str | None, headers: dict[str, str] | None = None
) -> int:
    """Send the download form with this token and these headers; the status."""
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    form = {} if token is None else {"csrf_token": token}
    return client.post(url, data=form, headers=headers or {}).status_code


# What is wrong, the token that is sent (of the right one and of another session's), the headers.
WRONG: list[tuple[str, Callable[[str, str], str | None], dict[str, str]]] = [
    ("no token", lambda right, other: None, {}),
    ("an empty token", lambda right, other: "", {}),
    ("another session's", lambda right, other: other, {}),
    ("cut short", lambda right, other: right[:-4], {}),
    ("one letter changed", lambda right, other: right[:3] + "~" + right[4:], {}),
    ("signature of another", lambda right, other: right.split(".")[0] + "." + other.partition(".")[2], {}),
    ("right, by another site", lambda right, other: right, {"Sec-Fetch-Site": "cross-site"}),
    ("right, by a sibling", lambda right, other: right, {"Sec-Fetch-Site": "same-site"}),
    ("right, by nobody", lambda right, other: right, {"Sec-Fetch-Site": "none"}),
    ("right, of another origin", lambda right, other: right, {"Origin": "https://evil.example"}),
    ("right, of another port", lambda right, other: right, {"Origin": "http://localhost:8080"}),
    ("right, of another scheme", lambda right, other: right, {"Origin": "https://localhost"}),
    ("right, of a hidden origin", lambda right, other: right, {"Origin": "null"}),
    ("htmx alone", lambda right, other: None, {"HX-Request": "true"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("token", "headers"), [one[1:] for one in WRONG], ids=[w[0] for w in WRONG]
)
def test_s06_a_form_that_is_not_ours_is_refused(
    sender: Sender, token: Callable[[str, str], str | None], headers: dict[str, str]
) -> None:
    sent = sender.ready()
    other = opened(sender.client.application.test_client(), sent)
    right = opened(sender.client, sent)
    assert right != other
    assert click(sender.client, sent, token(right, other), headers) == 400
    assert sent.row().download_count == 0
    assert click(sender.client, sent, right) == 303


def test_s06_a_token_without_its_cookie_is_refused(sender: Sender) -> None:
    sent = sender.ready()
    right = opened(sender.client, sent)
    thief = sender.client.application.test_client()
    assert click(thief, sent, right, {"Origin": "http://localhost"}) == 400
    thief.set_cookie("beeline", "forged")
    assert click(thief, sent, right) == 400
    assert sent.row().download_count == 0


def test_s06_what_browsers_say_of_our_own_form_is_right(sender: Sender) -> None:
    sent = sender.ready()
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert click(sender.client, sent, opened(sender.client, sent), headers) == 303


def test_s06_behind_a_router_no_referrer_is_needed(make_app: MakeApp) -> None:
    """Some browsers and add-ons never send one; flask-wtf's own check would lock them out."""
    app = make_app(BASE_URL="https://send.example.org", TRUSTED_PROXIES="1")
    through_router(app, HTTP_HOST="send.example.org", HTTP_X_FORWARDED_PROTO="https")
    client = app.test_client()
    sent = Sender(client).ready()
    token = opened(client, sent)
    assert click(client, sent, token, {"Origin": "https://send.example.org"}) == 303
    assert click(client, sent, token, {"Origin": "http://send.example.org"}) == 400


def test_s06_our_own_form_is_right_though_a_proxy_changes_the_host(make_app: MakeApp) -> None:
    app = make_app(
        BASE_URL="https://send.example.org:8443", TRUSTED_PROXIES="1", ALLOWED_HOSTS="inside"
    )
    for host in ("send.example.org", "inside"):
        through_router(app, HTTP_HOST=host, HTTP_X_FORWARDED_PROTO="https")
        client = app.test_client()
        sent = Sender(client).ready()
        token = opened(client, sent)
        assert click(client, sent, token, {"Origin": "https://send.example.org:8443"}) == 303
        assert click(client, sent, token, {"Origin": "https://send.example.org:9443"}) == 400


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
        "text/plain; application/json", "application/jsonx", "image/svg+xml",
    ],
)  # fmt: skip
def test_s06_the_api_takes_no_type_that_a_form_can_send(sender: Sender, kind: str) -> None:
    sent = sender.create()
    for url, method in (("/transfers", "POST"), (sent.url, "PATCH"), (f"{sent.url}/files", "POST")):
        answer = sender.client.open(
            url, method=method, headers=sent.headers, data=json.dumps({}), content_type=kind
        )
        assert answer.status_code == 415, answer.json


def test_s06_the_api_looks_at_no_cookie(sender: Sender) -> None:
    sent = sender.ready()
    opened(sender.client, sent)
    for name in ("beeline", "__Host-beeline", "owner_token", "Authorization"):
        sender.client.set_cookie(name, sent.json["owner_token"])
    for method in ("GET", "PATCH", "DELETE"):
        assert sender.client.open(sent.url, method=method, json={}).status_code == 401
    assert sent.show()["status"] == "READY"


# -- two keys ----------------------------------------------------------------------------------


def test_s34_a_page_that_was_open_while_the_key_changed_still_works(
    sender: Sender, make_app: MakeApp
) -> None:
    sent = sender.ready(max_downloads=1)
    token = opened(sender.client, sent)
    cookie = sender.client.get_cookie("beeline")
    assert cookie

    def after(**changes: str) -> FlaskClient:
        client = make_app(**changes).test_client()
        client.set_cookie("beeline", cookie.value)
        return client

    forgotten = after(SECRET_KEY=NEW_SECRET)
    assert click(forgotten, sent, token) == 400
    rotated = after(SECRET_KEY=NEW_SECRET, SECRET_KEY_FALLBACKS=f"{uuid.uuid4().hex * 2} {SECRET}")
    assert click(rotated, sent, token) == 303
    # A page opened now is signed with the new key, and is the same visitor's.
    assert click(rotated, sent, opened(rotated, sent)) == 303
    assert sent.row().download_count == 1
