"""S03, S04, S05, S14, S38: what every answer says, cookies, TLS and hosts, as behind a router."""

import json
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Sender
from tests.threats.conftest import MakeApp, through_router

TLS = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
HERE = "https://send.example.org"
PAGES = Path("templates/pages")


@pytest.fixture
def behind(make_app: MakeApp) -> Flask:
    """An installation behind one router that ends TLS."""
    return make_app(BASE_URL=HERE, TRUSTED_PROXIES="1")


@pytest.fixture
def browser(behind: Flask) -> FlaskClient:
    """A browser that comes through the router."""
    through_router(
        behind,
        HTTP_HOST="send.example.org",
        HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_FOR="203.0.113.9",
    )
    return behind.test_client()


def urls(slug: str) -> list[tuple[str, str]]:
    """A page, an end, an error of each shape, an API answer and a file of ours."""
    return [
        ("GET", "/"),
        ("GET", f"/d/{slug}"),
        ("GET", "/d/" + "x" * 32),
        ("POST", f"/d/{slug}"),
        ("GET", "/nope"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("POST", "/transfers"),
        ("GET", "/transfers/x"),
        ("OPTIONS", "/transfers"),
    ]


def test_s04_every_answer_has_the_headers_and_hsts_for_a_year(browser: FlaskClient) -> None:
    slug = Sender(browser).create().slug
    for method, url in urls(slug):
        headers = browser.open(url, method=method).headers
        assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains", url
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        assert "camera=()" in headers["Permissions-Policy"]
        assert (headers.get("Cache-Control") == "no-store") == (url != "/"), url
        assert (headers.get("X-Robots-Tag") == "noindex, nofollow") == (url != "/"), url
        assert not re.search(r"\d", headers.get("Server", ""))
        names = [name for name, _ in headers]
        assert len(set(names)) == len(names), url


def test_s03_the_policy_lets_nothing_in_but_ours_and_storage(browser: FlaskClient) -> None:
    slug = Sender(browser).create().slug
    for method, url in urls(slug):
        policy = browser.open(url, method=method).headers["Content-Security-Policy"]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        store = re.search(r"https?://\S+", rules["connect-src"])
        assert store
        assert rules == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": f"'self' data: {store[0]}",
            "media-src": f"'self' {store[0]}",
            "connect-src": f"'self' {store[0]}",
            "form-action": f"'self' {store[0]}",
            "base-uri": "'none'",
            "object-src": "'none'",
            "frame-ancestors": "'none'",
        }, url


def test_s03_no_page_holds_a_script_or_style_of_its_own(browser: FlaskClient) -> None:
    slug = Sender(browser).ready().slug
    for _, url in urls(slug)[:3]:
        page = browser.get(url).text
        assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|hx-on|hx-vals=.js:", page) == []


@pytest.mark.parametrize(
    "page", [page.name for page in PAGES.glob("*.html") if "htmx.min.js" in page.read_text()]
)
def test_s03_htmx_evaluates_nothing_and_asks_no_other_site(page: str) -> None:
    """Otherwise an hx- attribute injected into a page could run code or load from another site."""
    (said,) = re.findall(
        r"<meta name=\"htmx-config\" content='([^']+)'>", (PAGES / page).read_text()
    )
    config = json.loads(said)
    assert [config[name] for name in ("allowEval", "allowScriptTags")] == [False, False]
    assert config["selfRequestsOnly"] is True
    # The policy would refuse htmx's style element; and no page may stay in the browser's storage.
    assert (config["includeIndicatorStyles"], config["historyCacheSize"]) == (False, 0)


def test_s05_the_cookie_is_ours_alone(browser: FlaskClient) -> None:
    """`__Host-` makes browsers refuse it from a subdomain, without TLS, and for a part of us."""
    slug = Sender(browser).ready().slug
    cookie = browser.get(f"/d/{slug}").headers["Set-Cookie"]
    name, *rest = [piece.strip() for piece in cookie.split(";")]
    assert name.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(rest)
    assert not [piece for piece in rest if piece.startswith("Domain")]


def test_s05_who_only_looks_around_gets_no_cookie(browser: FlaskClient) -> None:
    sent = Sender(browser).create()
    for url in ("/", f"/d/{sent.slug}", "/nope", "/health"):
        assert "Set-Cookie" not in browser.get(url).headers
    assert "Set-Cookie" not in sent.call("GET").headers


# -- TLS ---------------------------------------------------------------------------------------


def test_s38_a_page_asked_for_without_tls_leads_to_it(behind: Flask) -> None:
    headers = {"Host": "send.example.org", "X-Forwarded-Proto": "http"}
    for url, leads_to in (
        ("/", "/"),
        ("/d/" + "x" * 32, "/d/" + "x" * 32),
        ("/d/x?a=b", "/d/x?a=b"),
        ("/mine?q=100%25&r=a+b%3F?", "/mine?q=100%25&r=a+b%3F?"),
        # A file's name as it is, whatever a URL makes of its characters.
        ("/d/x/%23%3F50%25%20o%C3%BC.txt", "/d/x/%23%3F50%25%20o%C3%BC.txt"),
        ("/d/x/100%2541.txt", "/d/x/100%2541.txt"),
        ("/.//evil.example/", "/.//evil.example/"),
        ("/\\evil.example", "/%5Cevil.example"),
    ):
        for method in ("GET", "HEAD"):
            answer = behind.test_client().open(url, method=method, headers=headers)
            assert answer.status_code == 308
            assert answer.headers["Location"] == HERE + leads_to
            assert "Set-Cookie" not in answer.headers


def test_s38_what_has_already_told_its_key_is_refused(behind: Flask) -> None:
    headers = {"Host": "send.example.org", "X-Forwarded-Proto": "http"}
    for method, url in (
        ("POST", "/transfers"),
        ("GET", "/transfers/00000000-0000-0000-0000-000000000000"),
        ("POST", "/d/" + "x" * 32 + "/files/00000000-0000-0000-0000-000000000000"),
        ("DELETE", "/"),
    ):
        answer = behind.test_client().open(url, method=method, headers=headers, json={})
        assert answer.status_code == 403, url
        assert "Location" not in answer.headers


def test_s38_probes_ask_from_inside_without_tls_and_by_address(behind: Flask) -> None:
    for url in ("/health", "/ready"):
        answer = behind.test_client().get(url, headers={"Host": "10.1.2.3:8000"})
        assert answer.status_code == 200


@pytest.mark.parametrize("said", ["https", "http, https"])
def test_s38_of_several_routers_the_nearest_says_how_it_was_asked(
    make_app: MakeApp, said: str
) -> None:
    """Routers add to the list of addresses, and most of them replace what was said of TLS."""
    client = make_app(BASE_URL=HERE, TRUSTED_PROXIES="2").test_client()
    headers = {"Host": "send.example.org", "X-Forwarded-For": "203.0.113.1, 198.51.100.7"}
    assert client.get("/", headers=headers | {"X-Forwarded-Proto": said}).status_code == 200
    assert client.get("/", headers=headers | {"X-Forwarded-Proto": "http"}).status_code == 308


def test_s38_without_a_router_nobody_can_claim_tls(make_app: MakeApp) -> None:
    """With TRUSTED_PROXIES=0 the header is only what the client says."""
    client = make_app(BASE_URL=HERE).test_client()
    answer = client.get("/", headers={"Host": "send.example.org"} | TLS)
    assert answer.status_code == 308


# -- hosts -------------------------------------------------------------------------------------


OTHER_HOSTS = [
    "evil.example", "send.example.org.evil.example", "evil-send.example.org", "send.example.orgx",
    "127.0.0.1", "localhost", "send.example.org@evil.example", "evil.example#send.example.org",
    "[::1", "[send.example.org]", "send.example.org/evil", "send.example.org\\evil", "a b",
    "é.example", "sub.send.example.org", ".", "",
]  # fmt: skip


def test_s14_another_host_is_answered_with_421_and_never_repeated(behind: Flask) -> None:
    for host in OTHER_HOSTS:
        for url in ("/", "/d/" + "x" * 32, "/transfers", "/nope"):
            answer = behind.test_client().get(url, headers={"Host": host} | TLS)
            assert answer.status_code == 421, (host, answer.data)
            assert "evil" not in answer.text + str(answer.headers)


def test_s14_further_hosts_can_be_named(make_app: MakeApp) -> None:
    app = make_app(
        BASE_URL=HERE, TRUSTED_PROXIES="1", ALLOWED_HOSTS="files.example.net WWW.example.net"
    )
    for host, status in (
        ("send.example.org", 200),
        ("SEND.example.org", 200),
        ("send.example.org:443", 200),
        ("files.example.net", 200),
        ("www.example.net", 200),
        ("example.net", 421),
    ):
        answer = app.test_client().get("/", headers={"Host": host} | TLS)
        assert answer.status_code == status, host


def test_s14_links_come_from_the_setting_whatever_a_client_says(make_app: MakeApp) -> None:
    app = make_app(BASE_URL=HERE, TRUSTED_PROXIES="1", ALLOWED_HOSTS="files.example.net")
    client = app.test_client()
    said = {"Host": "files.example.net", "X-Forwarded-Host": "evil.example"} | TLS
    answer = client.post("/transfers", json={}, headers=said | {"Forwarded": "host=evil.example"})
    assert answer.json["link"] == f"{HERE}/d/{answer.json['slug']}"
    page = client.get(f"/d/{answer.json['slug']}", headers=said)
    assert page.status_code == 200
    assert "evil.example" not in page.text + str(page.headers)
