"""S09, S12, S13, S18: one address has a share, counted once however many processes and headers."""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from app import request_guards
from app.services import accounts
from tests.factories import Machine, Sender, Sent, http
from tests.threats.conftest import LoggedStack, MakeApp

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def _nothing_counted(app: Flask, environ: dict[str, str]) -> Iterator[None]:
    """Each test begins with a full share, and leaves none behind that is used up."""
    known = redis.Redis.from_url(environ["REDIS_URL"])
    for _ in range(2):
        for key in known.scan_iter("LIMITS:*"):
            known.delete(key)
        if _ == 0:
            yield


def statuses(client: FlaskClient, count: int, **given: Any) -> list[int]:
    """What so many unknown links are answered with."""
    return [client.get(f"/d/{n:032}", **given).status_code for n in range(count)]


def test_s09_unknown_links_end_in_429_within_400_tries(
    client: FlaskClient, sender: Sender, configure: Configure
) -> None:
    sent = sender.create()
    configure(max_unknown_per_minute=100)
    assert Counter(statuses(client, 400)) == {404: 100, 429: 300}
    # A link that is right is no better: otherwise the answer would tell.
    refused = client.get(f"/d/{sent.slug}")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 61
    assert "too much at once" in refused.text
    assert refused.mimetype == "text/html"
    somebody = {"environ_base": {"REMOTE_ADDR": "203.0.113.8"}}
    assert client.get(f"/d/{sent.slug}", **somebody).status_code == 200


def test_s09_whoever_has_the_link_may_look_as_often_as_he_likes(
    client: FlaskClient, sender: Sender, configure: Configure
) -> None:
    """A page that refreshes itself for an hour is nobody guessing."""
    sent = sender.create()
    configure(max_unknown_per_minute=3)
    assert {client.get(f"/d/{sent.slug}").status_code for _ in range(50)} == {200}


def test_s09_guessing_files_of_a_link_counts_too(
    client: FlaskClient, sender: Sender, configure: Configure
) -> None:
    sent = sender.ready()
    configure(max_unknown_per_minute=5)
    headers = {"User-Agent": "curl/8"}
    url = f"/d/{sent.slug}/files/00000000-0000-4000-8000-%012d"
    told = [client.get(url % n, headers=headers).status_code for n in range(10)]
    assert told == [404] * 5 + [429] * 5


def test_s09_every_route_of_a_link_counts_unknown_links(
    app: Flask, client: FlaskClient, configure: Configure
) -> None:
    """They accept the same secrets, so one route without the limit would let any link be guessed.

    The limit is set for whole blueprints; their GET routes stand for the others.
    """
    configure(max_unknown_per_minute=2)
    told, blueprints = {}, set()
    for number, rule in enumerate(app.url_map.iter_rules()):
        if not rule.rule.startswith(("/d/", "/b/", "/m/", "/u/")) or "GET" not in rule.methods:
            continue
        url = unknown_url(rule)
        # Some routes would redirect a browser to the link's page without looking the link up.
        tool = {"headers": {"User-Agent": "curl/8", "HX-Request": "true"}}
        somebody = {"environ_base": {"REMOTE_ADDR": f"203.0.113.{number}"}}
        told[url] = [client.get(url, **tool, **somebody).status_code for _ in range(3)]
        blueprints.add(rule.endpoint.partition(".")[0])
    assert all(one == [404, 404, 429] for one in told.values()), told
    assert len(blueprints) == 9


def unknown_url(rule: Rule) -> str:
    """A path of this route whose arguments have the right form and name nothing that exists."""
    known = {"file_id": "00000000-0000-4000-8000-000000000000", "at": "1", "region": "now"}
    given = {name: known.get(name, "x" * 32) for name in rule.arguments}
    built = rule.build(given | (rule.defaults or {}))
    assert built is not None, rule
    return built[1]


@pytest.mark.real_commits
def test_s09_three_processes_count_as_one(
    app: Flask, environ: dict[str, str], tmp_path: Any
) -> None:
    limits = {"MAX_UNKNOWN_PER_MINUTE": "30", "WEB_CONCURRENCY": "3"}
    stack = LoggedStack(environ | limits, tmp_path / "output")
    stack.start("web")
    try:
        with ThreadPoolExecutor(6) as pool:
            told = Counter(pool.map(lambda n: _look(stack, n), range(150)))
    finally:
        stack.stop()
    # Several at the same moment may slip by together, but not once for each process.
    assert 30 <= told[404] <= 36
    assert told[429] == 150 - told[404]


def _look(stack: LoggedStack, number: int) -> int:
    headers = {"Connection": "close", "X-Forwarded-For": f"203.0.113.{number}"}
    return http.request("GET", f"{stack.url}/d/{number:032}", headers=headers).status


# -- whose address -----------------------------------------------------------------------------


def forged(number: int, last: str = "") -> dict[str, str]:
    """What a client can claim; `last` is what a router would add."""
    return {
        "X-Forwarded-For": f"203.0.113.{number}{last}",
        "X-Real-IP": f"203.0.113.{number}",
        "Forwarded": f"for=203.0.113.{number}",
        "Client-IP": f"203.0.113.{number}",
    }


@pytest.mark.parametrize(("proxies", "last"), [("0", ""), ("1", ", 198.51.100.7")])
def test_s13_150_forged_addresses_are_one(make_app: MakeApp, proxies: str, last: str) -> None:
    """Without a router the header is only what the client says; with one, its last word counts."""
    client = make_app(TRUSTED_PROXIES=proxies, MAX_UNKNOWN_PER_MINUTE="20").test_client()
    told = [client.get(f"/d/{n:032}", headers=forged(n, last)).status_code for n in range(150)]
    assert Counter(told) == {404: 20, 429: 130}


def test_s13_behind_a_router_each_visitor_has_his_own_share(make_app: MakeApp) -> None:
    client = make_app(TRUSTED_PROXIES="1", MAX_UNKNOWN_PER_MINUTE="5").test_client()
    for last in ("198.51.100.1", "198.51.100.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        headers = {"X-Forwarded-For": f"203.0.113.1, {last}"}
        assert statuses(client, 6, headers=headers) == [404] * 5 + [429]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1", "203.0.113.2", False),
        ("203.0.113.1", "::ffff:203.0.113.1", True),
        ("::ffff:203.0.113.1", "::ffff:203.0.113.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        # As some proxies write them.
        ("203.0.113.1:51234", "203.0.113.2:51234", False),
        ("203.0.113.1:51234", "203.0.113.1:51235", True),
        ("203.0.113.1:51234", "203.0.113.1", True),
        ("[2001:db8:0:1::1]:443", "[2001:db8:0:2::1]:443", False),
        ("[2001:db8::1]:443", "2001:db8::2", True),
        ("[2001:db8::1]", "2001:db8::2", True),
    ],
)
def test_s13_an_ipv6_customer_is_one_and_ipv4_stays_itself(
    client: FlaskClient, configure: Configure, one: str, other: str, same: bool
) -> None:
    configure(max_unknown_per_minute=5)
    statuses(client, 6, environ_base={"REMOTE_ADDR": one})
    (told,) = statuses(client, 1, environ_base={"REMOTE_ADDR": other})
    assert told == (429 if same else 404)


def test_s13_that_addresses_cannot_be_read_is_told_once_and_not_which(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    request_guards._warn_of_unknown.cache_clear()
    for address in ("unix-socket", "unknown:80", ":", ""):
        statuses(client, 2, environ_base={"REMOTE_ADDR": address})
    told = [one.getMessage() for one in caplog.records if one.name == "app.request_guards"]
    assert len(told) == 1
    assert "TRUSTED_PROXIES" in told[0]
    assert "unix-socket" not in caplog.text


@pytest.mark.parametrize(
    ("proxies", "forwarded_for", "count"),
    [
        ("0", "192.88.1.7", 1),
        ("1", "192.88.1.7, 10.0.0.3", 1),
        ("3", "192.88.1.7, 192.88.1.8", 1),
        ("1", "192.88.1.7", 0),
        ("0", "10.0.0.3, what", 0),
        ("0", "", 0),
    ],
)
def test_s13_that_a_proxy_is_counted_instead_of_visitors_is_told_once(
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    proxies: str,
    forwarded_for: str,
    count: int,
) -> None:
    request_guards._warn_of_proxies.cache_clear()
    client = make_app(TRUSTED_PROXIES=proxies).test_client()
    logging.getLogger().addHandler(caplog.handler)  # which a new application has removed
    statuses(client, 3, headers={"X-Forwarded-For": forwarded_for} if forwarded_for else {})
    told = [one.getMessage() for one in caplog.records if one.name == "app.request_guards"]
    assert len(told) == count
    assert all("set TRUSTED_PROXIES" in one for one in told)
    assert "192.88" not in caplog.text


def test_s13_redis_holds_no_address(
    client: FlaskClient, configure: Configure, environ: dict[str, str]
) -> None:
    configure(max_unknown_per_minute=5)
    statuses(client, 3, environ_base={"REMOTE_ADDR": "203.0.113.99"})
    keys = redis.Redis.from_url(environ["REDIS_URL"]).keys("*")
    assert keys
    assert not [key for key in keys if b"203.0.113" in key]


# -- creating ----------------------------------------------------------------------------------


def wrong(prefix: str | None = None) -> str:
    """A key that nobody has; with `prefix` it begins as one that somebody may have."""
    return f"{prefix or f'bee_{secrets.token_hex(6)}'}_{secrets.token_urlsafe(32)}"


def tried(client: FlaskClient, key: str, address: str = "203.0.113.7") -> int:
    """What a call by this key is answered with."""
    answer = client.get(
        "/transfers",
        headers={"Authorization": f"Bearer {key}"},
        environ_base={"REMOTE_ADDR": address},
    )
    if answer.status_code == 429:
        assert answer.json["error"]["code"] == "too_many"
        assert 0 < int(answer.headers["Retry-After"]) <= 60
    return answer.status_code


def test_s12_wrong_keys_of_one_address_end_in_429(
    client: FlaskClient, machine: Machine, configure: Configure
) -> None:
    configure(max_unknown_per_minute=20)
    keys = [key for _ in range(10) for key in (wrong(), "bee_", "x" * 40)]
    assert [tried(client, key) for key in keys] == [401] * 20 + [429] * 10
    # Not for others, nor for who has a good key; and no key at all is nobody trying.
    assert tried(client, wrong(), "203.0.113.8") == 401
    assert tried(client, machine.key) == 200
    assert {client.get("/transfers").status_code for _ in range(30)} == {401}
    assert tried(client, machine.key) == 200


@pytest.mark.parametrize("whose", ["nobody's", "somebody's", "a revoked one's"])
def test_s12_one_key_is_tried_ten_times_a_minute_whoever_tries(
    client: FlaskClient, machine: Machine, configure: Configure, whose: str
) -> None:
    """And all of them are told alike: no answer says which keys there are."""
    configure(max_unknown_per_minute=100)
    prefix = {"nobody's": f"bee_{secrets.token_hex(6)}"}.get(whose, machine.key[:16])
    if whose == "a revoked one's":
        with client.application.app_context():
            assert accounts.revoke_key(prefix)
    told = [tried(client, wrong(prefix), f"203.0.113.{n}") for n in range(15)]
    assert told == [401] * 10 + [429] * 5
    if whose == "somebody's":
        assert tried(client, machine.key, "203.0.113.3") == 200


def test_s18_creating_without_end_is_429_within_600(
    client: FlaskClient, configure: Configure
) -> None:
    """Failed attempts count: they cost as much."""
    configure(max_creates_per_hour=400)
    told = [client.post("/transfers", json=[] if n % 8 else {}) for n in range(600)]
    assert [one.status_code == 429 for one in told] == [False] * 400 + [True] * 200
    assert told[-1].json["error"]["code"] == "too_many"
    # Of an hour that began with the first of these.
    assert 3000 < int(told[-1].headers["Retry-After"]) <= 3601
    somebody = {"REMOTE_ADDR": "203.0.113.8"}
    assert client.post("/transfers", json={}, environ_base=somebody).status_code == 201


def test_s18_one_address_may_hold_so_many_open(sender: Sender, configure: Configure) -> None:
    configure(max_open_transfers_per_address=3)
    held = [sender.create() for _ in range(3)]
    refused = sender.client.post("/transfers", json={})
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "too_many")
    somebody = {"REMOTE_ADDR": "203.0.113.8"}
    assert sender.client.post("/transfers", json={}, environ_base=somebody).status_code == 201
    held[0].call("DELETE")
    held[1].upload().complete()
    assert [sender.client.post("/transfers", json={}).status_code for _ in range(3)] == [
        201,
        201,
        429,
    ]


def test_s18_what_one_address_has_announced_together_has_a_limit(
    sender: Sender, configure: Configure
) -> None:
    """One alone may be as large as a transfer may be; others besides only up to the limit."""
    configure(max_open_bytes_per_address=100)

    def announce(path: str, size: int) -> dict[str, Any]:
        return {"files": [{"path": path, "size": size}]}

    def status(answer: Any) -> tuple[int, str]:
        return answer.status_code, (answer.json or {}).get("error", {}).get("code", "")

    large = sender.create({"large": b"x" * 150})
    assert status(large.call("POST", "/files", json=announce("more", 50)))[0] == 201
    assert status(sender.client.post("/transfers", json=announce("a", 1))) == (429, "too_many")
    assert large.call("DELETE").status_code == 204
    first, second = sender.create({"a": b"x" * 60}), sender.create({"b": b"x" * 40})
    assert status(sender.client.post("/transfers", json=announce("c", 1))) == (429, "too_many")
    # Nor bit by bit, nor by what is added to one that is there already.
    more = announce("c", 1)
    assert status(second.call("POST", "/files", json=more)) == (429, "too_many")
    assert {file["path"] for file in second.show()["files"]} == {"b"}
    somebody = {"REMOTE_ADDR": "203.0.113.8"}
    answer = sender.client.post("/transfers", json=announce("c", 90), environ_base=somebody)
    assert answer.status_code == 201
    # Nor by one PUT whose size is told.
    made = Sent(sender.client, sender.client.post("/transfers", json={}).json)
    by_one_put = {"filename": "c", "file_size": 1}
    assert status(made.call("POST", "/upload-url", json=by_one_put)) == (429, "too_many")
    assert made.call("DELETE").status_code == 204
    # What has arrived is not open any more; what is to be added to it is.
    first.upload().complete().process()
    assert status(first.call("POST", "/files", json=announce("c", 61))) == (429, "too_many")
    assert status(first.call("POST", "/files", json=announce("c", 60)))[0] == 201
    assert status(second.call("POST", "/files", json=announce("c", 60)))[0] == 201


def test_s18_what_comes_by_one_put_counts_by_the_size_that_was_told_last(
    sender: Sender, configure: Configure
) -> None:
    configure(max_open_bytes_per_address=100)

    def ask(made: Sent, **size: int) -> int:
        body = {"filename": "c", **size}
        return made.call("POST", "/upload-url", json=body).status_code

    first = Sent(sender.client, sender.client.post("/transfers", json={}).json)
    assert ask(first, file_size=150) == 200
    assert sender.client.post("/transfers", json={}).status_code == 429
    assert ask(first, file_size=60) == 200
    second = Sent(sender.client, sender.client.post("/transfers", json={}).json)
    assert [ask(second, file_size=size) for size in (41, 40)] == [429, 200]
    assert first.show()["total_size"] == 0
    # Without a size nothing is known of it.
    assert ask(first) == 200
    assert ask(second, file_size=100) == 200
