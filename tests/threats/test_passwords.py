"""S10, S16: a transfer's password is not found by trying, from however many addresses one claims."""

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from sqlalchemy import create_engine, text

from app.config import settings
from tests.factories import Sender, http
from tests.lab.proxy import Proxy
from tests.pages.test_pages import token_in
from tests.threats.conftest import LoggedStack, MakeApp, through_router
from tests.threats.test_limits import forged

GUESSES = 150
# What docs promise: of so many guesses at once no more are really tried.
MOST_TRIED = 12


def guess(stack: LoggedStack, slug: str, number: int) -> int:
    """One guess, as from an address of its own."""
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Connection": "close",
        "User-Agent": f"Mozilla/5.{number}",
    } | forged(number)
    body = urlencode({"password": f"guess {number}"})
    url = f"{stack.url}/d/{slug}"
    return http.request("POST", url, body=body, headers=headers, timeout=30).status


def locked(stack: LoggedStack) -> dict[str, Any]:
    wish = {"password": "open sesame", "files": [{"path": "a", "size": 1}]}
    return http.request("POST", f"{stack.url}/transfers", json=wish).json()


@pytest.mark.real_commits
def test_s10_150_guesses_of_150_addresses_over_3_processes(
    app: Flask, environ: dict[str, str], tmp_path: Any
) -> None:
    """With Redis there, away, and silent: it makes no difference to guessing."""
    watcher = create_engine(settings.database_url)
    with Proxy.before(environ["REDIS_URL"]) as between:
        given = environ | {
            "REDIS_URL": between.instead(environ["REDIS_URL"]),
            "WEB_CONCURRENCY": "3",
        }
        stack = LoggedStack(given, tmp_path / "output")
        stack.start("web")
        sent = [locked(stack) for _ in range(3)]
        try:
            for one, happens in zip(
                sent, (between.up, between.down, between.blackhole), strict=True
            ):
                happens()
                began = time.monotonic()
                with ThreadPoolExecutor(12) as pool:
                    told = Counter(
                        pool.map(lambda n, s=one: guess(stack, s["slug"], n), range(GUESSES))
                    )
                took = time.monotonic() - began
                assert set(told) == {401, 429}, told
                assert 5 <= told[401] <= MOST_TRIED, (told, took)
                with watcher.connect() as connection:
                    query = (
                        "SELECT action, count(*) FROM audit_events WHERE transfer_id = :id"
                        " AND action LIKE '%unlock' GROUP BY action"
                    )
                    rows = connection.execute(text(query), {"id": one["id"]}).all()
                assert [tuple(row) for row in rows] == [("refuse unlock", told[401])]
                assert guess(stack, one["slug"], 0) == 429
        finally:
            stack.stop()
            watcher.dispose()


@pytest.mark.parametrize(("proxies", "last"), [("0", ""), ("1", ", 198.51.100.7")])
def test_s10_s13_forged_addresses_are_one(
    make_app: MakeApp, proxies: str, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.locks.FIRST_WAIT_SECONDS", 60)
    client = make_app(TRUSTED_PROXIES=proxies).test_client(use_cookies=False)
    sent = Sender(client).create(password="open sesame")
    told = [
        client.post(
            f"/d/{sent.slug}", data={"password": str(n)}, headers=forged(n, last)
        ).status_code
        for n in range(30)
    ]
    assert told == [401] * 5 + [429] * 25


def test_s10_a_try_counts_though_its_hashing_fails(sender: Sender, monkeypatch) -> None:
    """Counted before, and not after: who breaks off in between has not had a try for nothing."""
    sent = sender.create(password="open sesame")

    def fails(*given: str) -> bool:
        raise MemoryError

    monkeypatch.setattr("app.passwords.matches", fails)
    monkeypatch.setattr("app.services.locks.FIRST_WAIT_SECONDS", 60)
    guesser = sender.client.application.test_client(use_cookies=False)
    told = [guesser.post(f"/d/{sent.slug}", data={"password": "x"}).status_code for _ in range(8)]
    assert told == [500] * 5 + [429] * 3


@pytest.mark.parametrize(
    "given", ["\0", "\ud83d", "a" * 100_000, "%", "<script>", "' OR ''='", "é" * 1024]
)
def test_s10_no_password_is_too_odd_to_be_wrong(sender: Sender, given: str) -> None:
    sent = sender.create(password="open sesame")
    body = urlencode({"password": given.encode("utf-8", "surrogatepass")})
    kind = "application/x-www-form-urlencoded"
    answer = sender.client.post(f"/d/{sent.slug}", data=body, content_type=kind)
    assert answer.status_code == 401
    assert "not right" in answer.text
    assert "<script>" not in answer.text


def test_s05_the_cookie_of_an_opened_transfer_is_ours_alone(make_app: MakeApp) -> None:
    app = make_app(BASE_URL="https://send.example.org", TRUSTED_PROXIES="1")
    through_router(app, HTTP_HOST="send.example.org", HTTP_X_FORWARDED_PROTO="https")
    browser = app.test_client()
    sent = Sender(browser).create(password="open sesame")
    token = token_in(browser.get(f"/d/{sent.slug}").text)
    form = {"csrf_token": token, "password": "open sesame"}
    headers = {"Origin": "https://send.example.org"}
    answer = browser.post(f"/d/{sent.slug}", data=form, headers=headers)
    assert answer.status_code == 303
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if "beeline-open-" in one]
    name, *rest = [piece.strip() for piece in cookie.split(";")]
    assert re.fullmatch(r"__Host-beeline-open-[0-9a-f]{16}=[\w.-]{40,90}", name)
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax", f"Max-Age={12 * 3600}"} <= set(rest)
    assert not [piece for piece in rest if piece.startswith("Domain")]
    assert sent.slug not in cookie


STOLEN: list[tuple[str, Callable[[str, str], str]]] = [
    ("another transfer's", lambda mine, other: other),
    ("without its signature", lambda mine, other: mine.rpartition(".")[0]),
    ("signature of another", lambda mine, other: mine.rpartition(".")[0] + "." + other.rpartition(".")[2]),
    ("a later date", lambda mine, other: re.sub(r"\.(\w)", lambda m: "." + chr(ord(m[1]) + 1), mine, count=1)),
    ("the hash of nothing", lambda mine, other: ""),
]  # fmt: skip


@pytest.mark.parametrize("forge", [one[1] for one in STOLEN], ids=[one[0] for one in STOLEN])
def test_s16_a_proof_that_is_not_this_ones_opens_nothing(
    sender: Sender, forge: Callable[[str, str], str]
) -> None:
    proofs, names, sent = [], [], [sender.ready(password="open sesame") for _ in range(2)]
    for one in sent:
        plain = sender.client.application.test_client(use_cookies=False)
        answer = plain.post(f"/d/{one.slug}", data={"password": "open sesame"})
        name, _, value = answer.headers["Set-Cookie"].partition(";")[0].partition("=")
        names.append(name)
        proofs.append(value)
    thief = sender.client.application.test_client()
    thief.set_cookie(names[0], forge(*proofs))
    assert thief.get(f"/d/{sent[0].slug}").status_code == 401
    thief.set_cookie(names[0], proofs[0])
    assert thief.get(f"/d/{sent[0].slug}").status_code == 200
    assert thief.get(f"/d/{sent[1].slug}").status_code == 401
