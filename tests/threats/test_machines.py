"""S07, S26, S27: no key opens another's things, no token is believed but ours, a revoked key is one."""

import base64
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
import redis
from flask import Flask
from limits.storage import RedisStorage

from app import clock, config, tokens
from app.models import Scope
from app.redaction import redacted
from app.services import accounts
from tests.factories import Machine, Program, Sender, http, right_body
from tests.hooks import Admin
from tests.threats.conftest import LoggedStack
from tests.threats.test_owners import owner_routes

Configure = Callable[..., None]


# -- somebody else's things ----------------------------------------------------------------------


def keyed_routes(app: Flask) -> list[tuple[str, str]]:
    """Every route that wants a key and names a thing: also those that are written tomorrow."""
    found = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", "").startswith(("key:", "member:"))
        # Assets are tests/threats/test_strangers.py's.
        and rule.arguments
        and not rule.rule.startswith("/s3")
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})
    ]
    assert len(found) >= 9
    return found


@pytest.mark.parametrize("who", ["another workspace", "another user", "no user", "an admin"])
def test_s07_no_stranger_gets_at_anything_by_any_route(
    app: Flask, machine: Machine, who: str
) -> None:
    mine = Machine(machine.client, "Acme", "somebody")
    shown = mine.ready({"secret name": b"1"})
    board = mine.board("secret board")
    at = f"/boards/{board['id']}"
    file = mine.call("POST", f"{at}/files", json=[{"name": "secret name", "size": 1}]).json[0]
    mine.call("POST", f"{at}/links", json=[{"url": "https://secret.example/"}])
    admin = Admin(machine.client)
    hook = admin.add("https://secret.example/")
    sent = admin.call("POST", f"/{hook['id']}/test").json
    before = mine.call("GET", f"/transfers/{shown['id']}").json, mine.call("GET", at).json
    stranger = {
        "another workspace": lambda: Machine(machine.client, "Other", "somebody"),
        "another user": lambda: Machine(machine.client, "Acme", "somebody else"),
        "no user": lambda: Machine(machine.client, "Acme"),
        "an admin": lambda: Machine(machine.client, "Other", "somebody", scope=Scope.ADMIN),
    }[who]()
    small = Program(machine.client, "Acme").file(b"1", "secret name")
    for method, rule in keyed_routes(app):
        if rule.startswith("/files"):
            # No token of a user's is wanted there: files are the workspace's.
            if who in ("another workspace", "an admin"):
                url = rule.replace("<path:file_key>", small["key"])
                url = url.replace("<uuid:file_id>", small["file_id"])
                answer = machine.client.open(url, method=method, headers=stranger.headers, json={})
                assert (answer.status_code, "secret" in answer.text) == (404, False), rule
            continue
        file_id = file["id"] if "board_id" in rule else shown["files"][0]["id"]
        url = rule.replace("<transfer_id>", shown["id"]).replace("<board_id>", board["id"])
        url = url.replace("<file_id>", file_id).replace("<part>", "1")
        url = url.replace("<multipart_id>", file["multipart"]["id"])
        url = url.replace("<uuid:webhook_id>", hook["id"]).replace("<uuid:delivery_id>", sent["id"])
        assert "<" not in url, "tell this test how to fill it in"
        answer = machine.client.open(url, method=method, headers=stranger.headers, json={})
        assert answer.status_code in (403, 404), (method, rule, answer.text)
        assert "secret" not in answer.text
        if "board_id" in rule:
            assert answer.json["message"] == f"You're not a member of this board ({board['id']})"
    assert (mine.call("GET", f"/transfers/{shown['id']}").json, mine.call("GET", at).json) == before
    assert admin.show(hook)["enabled"]
    assert len(admin.log(hook)) == 1


def test_s07_a_strangers_and_an_unknown_transfer_are_told_alike(machine: Machine) -> None:
    made = machine.create()
    stranger = Machine(machine.client, "Other")
    answers = [stranger.call("GET", f"/transfers/{one}") for one in (made["id"], str(uuid.uuid4()))]
    assert answers[0].data == answers[1].data


def test_s07_a_key_is_not_the_owner_token_of_anything(
    app: Flask, machine: Machine, configure: Configure
) -> None:
    """A key opens nothing that has a token of its own, and a token for /v2 nothing here."""
    configure(mail_url="file:///nobody/sends/it")
    made, sent = machine.create(), Sender(machine.client).create()
    for transfer_id, token in ((str(sent.id), machine.key), (made["id"], machine.token)):
        for method, rule in owner_routes(app):
            url = rule.replace("<uuid:transfer_id>", transfer_id)
            url = url.replace("<uuid:file_id>", made["files"][0]["id"])
            headers = {"Authorization": f"Bearer {token}"}
            body = right_body(rule)
            answer = machine.client.open(url, method=method, headers=headers, json=body)
            assert answer.status_code == 404, (method, rule)


# -- tokens --------------------------------------------------------------------------------------


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Any, claims: Any, key: bytes, digest: str = "sha256") -> str:
    """A token of whatever form, signed as if by HS256 and its sisters."""
    body = f"{encoded(header)}.{encoded(claims)}"
    return f"{body}.{encoded(hmac.digest(key, body.encode(), digest))}"


def ours() -> bytes:
    """The key that tokens are really signed with: a forger who has it still gets nowhere."""
    return tokens._keys()[0]


def header(token: str, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (jwt.get_unverified_header(token) | changes).items() if v is not None}


def claims(token: str, **changes: Any) -> dict[str, Any]:
    said = jwt.decode(token, options={"verify_signature": False})
    return {name: value for name, value in (said | changes).items() if value is not ...}


def again(token: str, key: bytes | None = None, **changes: Any) -> str:
    return signed(header(token), claims(token, **changes), key or ours())


def cut(token: str, at: int) -> str:
    return ".".join(part for index, part in enumerate(token.split(".")) if index != at)


PUBLIC = (
    b"-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK\n-----END PUBLIC KEY-----\n"
)
# What a forger makes of a good token; `other` is one that was made for another key.
FORGERIES: dict[str, Callable[[str, str], str]] = {
    "no algorithm": lambda t, o: f"{encoded(header(t, alg='none'))}.{t.split('.')[1]}.",
    "no algorithm, in capitals": lambda t, o: f"{encoded(header(t, alg='NONE'))}.{t.split('.')[1]}.",
    "no signature": lambda t, o: t.rpartition(".")[0] + ".",
    "two parts": lambda t, o: cut(t, 2),
    "another signature": lambda t, o: t.rpartition(".")[0] + "." + encoded(bytes(32)),
    "another's signature": lambda t, o: t.rpartition(".")[0] + "." + o.rpartition(".")[2],
    "claims changed": lambda t, o: f"{t.split('.')[0]}.{encoded(claims(t, user='root'))}.{t.split('.')[2]}",
    "HS512 by the right key": lambda t, o: signed(header(t, alg="HS512"), claims(t), ours(), "sha512"),
    "RS256 named, signed by HMAC": lambda t, o: signed(header(t, alg="RS256"), claims(t), PUBLIC),
    "signed by SECRET_KEY itself": lambda t, o: again(t, config.settings.secret_key.encode()),
    "signed by nothing": lambda t, o: again(t, b"\0"),
    "a key id": lambda t, o: signed(header(t, kid="../../dev/null"), claims(t), ours()),
    "a key's address": lambda t, o: signed(header(t, jku="https://evil.example/"), claims(t), ours()),
    "a key of its own": lambda t, o: signed(header(t, jwk={"kty": "oct", "k": "AA"}), claims(t), ours()),
    "something critical": lambda t, o: signed(header(t, crit=["b64"], b64=False), claims(t), ours()),
    "another issuer": lambda t, o: again(t, iss="https://evil.example"),
    "another audience": lambda t, o: again(t, aud="beeline/s3"),
    "several audiences": lambda t, o: again(t, aud=[tokens.AUDIENCE, "x"]),
    "another kind": lambda t, o: again(t, typ="refresh"),
    "no subject": lambda t, o: again(t, sub=...),
    "a subject that is none": lambda t, o: again(t, sub="x"),
    "no end": lambda t, o: again(t, exp=...),
    "an end that is over": lambda t, o: again(t, iat=1, exp=2),
    "an end in words": lambda t, o: again(t, exp="2099-01-01"),
    "an end too far off": lambda t, o: again(t, exp=claims(t)["iat"] + 86400 * 365),
    "an endless end": lambda t, o: again(t, exp=float("inf")),
    "from the future": lambda t, o: again(t, iat=claims(t)["iat"] + 600, exp=claims(t)["exp"]),
    "a claim more": lambda t, o: again(t, scope="admin"),
    "a user that is no text": lambda t, o: again(t, user={"name": "x"}),
    "a list for claims": lambda t, o: signed(header(t), [], ours()),
    "deep claims": lambda t, o: signed(header(t), b"[" * 100_000, ours()),
    "made for another key": lambda t, o: o,
    "an API key for a token": lambda t, o: "bee_" + "a" * 12 + "_" + "b" * 43,
    "of other letters": lambda t, o: t.swapcase(),
    "with a space": lambda t, o: t.replace(".", ". ", 1),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_s26_no_forgery_is_believed(machine: Machine, forgery: str) -> None:
    other = Machine(machine.client)
    forged = FORGERIES[forgery](machine.token, other.token)
    assert forged != machine.token
    path = f"/v2/transfers/{machine.create()['id']}"
    headers = {"x-api-key": machine.key, "Authorization": f"Bearer {forged}"}
    answer = machine.client.get(path, headers=headers)
    assert (answer.status_code, answer.json["message"]) == (
        403,
        "Forbidden: invalid or expired token",
    )
    assert machine.client.get(path, headers=machine.headers).status_code == 200


def test_s26_there_are_enough_of_them() -> None:
    assert len(FORGERIES) >= 22


def test_s26_a_token_says_what_it_must_and_nothing_of_how_to_check_it(machine: Machine) -> None:
    token = machine.authorize("somebody")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    said = claims(token)
    assert said == {
        "iss": "http://localhost",
        "aud": "beeline/v2",
        "sub": said["sub"],
        "typ": "access",
        "iat": said["iat"],
        "exp": said["iat"] + 15 * 60,
        "user": "somebody",
    }
    assert again(token) != token  # the forgeries above are well made, but for what is wrong
    assert tokens.read(again(token)) == tokens.read(token)


def test_s26_a_token_ends(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine.create()
    now = clock.now()
    for minutes, status in ((14, 200), (15, 403)):
        later = now + timedelta(minutes=minutes, seconds=1 if minutes == 15 else 0)
        monkeypatch.setattr(clock, "now", lambda at=later: at)
        assert machine.call("GET", f"/transfers/{made['id']}").status_code == status


def test_s26_a_token_is_worth_nothing_without_its_key(machine: Machine) -> None:
    made = machine.create()
    headers = {"Authorization": f"Bearer {machine.token}"}
    assert machine.client.get(f"/v2/transfers/{made['id']}", headers=headers).status_code == 403


def test_s26_keys_can_be_changed_without_cutting_anybody_off(
    machine: Machine, configure: Configure
) -> None:
    first = "the-first-secret-for-tokens-0123456789"
    before = config.settings.secret_key
    made = machine.create()
    path = f"/transfers/{made['id']}"
    steps: list[tuple[dict[str, Any], int]] = [
        ({"jwt_secret": first}, 200),
        ({"secret_key": "x" * 40, "secret_key_fallbacks": (before,)}, 200),
        ({"secret_key_fallbacks": ()}, 403),
    ]
    for change, status in steps:
        configure(**change)
        assert machine.call("GET", path).status_code == status
    machine.token = machine.authorize()
    configure(jwt_secret="another-secret-for-tokens-0123456789", jwt_secret_fallbacks=(first,))
    assert machine.call("GET", path).status_code == 200
    configure(jwt_secret_fallbacks=())
    assert machine.call("GET", path).status_code == 403


def test_s26_its_key_is_not_what_signs_anything_else() -> None:
    settings = config.current()
    assert settings.secret_key.encode() not in tokens._keys()
    assert all(len(key) == 32 for key in tokens._keys())
    config.bind(replace(settings, jwt_secret="a-secret-of-its-own-for-tokens-only!"))
    try:
        assert tokens._keys()[0] == hashlib.sha256(b"a-secret-of-its-own-for-tokens-only!").digest()
    finally:
        config.bind(settings)


# -- keys ----------------------------------------------------------------------------------------


def test_s27_a_revoked_key_is_refused_with_its_tokens(machine: Machine, inside: None) -> None:
    made = machine.create()
    other = Machine(machine.client)
    accounts.revoke_key(machine.key[:16])
    assert machine.call("GET", f"/transfers/{made['id']}").status_code == 403
    assert machine.client.post("/v2/authorize", headers=machine.headers).status_code == 403
    assert other.call("GET", f"/transfers/{made['id']}").status_code == 200
    # Nor does its token go with another key of the same workspace.
    mixed = {"x-api-key": other.key, "Authorization": f"Bearer {machine.token}"}
    path = f"/v2/transfers/{made['id']}"
    assert machine.client.get(path, headers=mixed).status_code == 403


@pytest.mark.real_commits
def test_s27_a_revoked_key_is_refused_at_once_by_every_process(
    app: Flask, environ: dict[str, str], tmp_path: Any
) -> None:
    stack = LoggedStack(environ | {"WEB_CONCURRENCY": "3"}, tmp_path / "output")
    stack.start("web")
    try:
        with app.app_context():
            key = accounts.issue_key("Acme", "a", Scope.READ).text

        def ask() -> int:
            url = f"{stack.url}/v2/authorize"
            return http.request("POST", url, headers={"x-api-key": key}).status

        assert {ask() for _ in range(30)} == {200}
        with app.app_context():
            accounts.revoke_key(key[:16])
        assert {ask() for _ in range(60)} == {403}
    finally:
        stack.stop()


def test_s27_a_key_is_in_no_route_but_its_own_header(machine: Machine) -> None:
    """Not in the address, where it would be logged, nor in a cookie, which is sent unasked."""
    for given in (
        {"query_string": {"x-api-key": machine.key}},
        {"headers": {"Cookie": f"x-api-key={machine.key}"}},
        {"json": {"x-api-key": machine.key}},
    ):
        assert machine.client.post("/v2/authorize", **given).status_code == 403
    bearer = {"Authorization": f"Bearer {machine.key}"}
    assert machine.client.post("/v2/authorize", headers=bearer).status_code == 200


def test_a_key_is_good_while_redis_is_away_and_its_calls_are_still_counted(
    machine: Machine, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process then counts for itself, from zero: Redis knows of the calls before."""
    configure(max_calls_per_key_and_day=3)
    made = machine.create()

    def away(*given: Any, **named: Any) -> None:
        raise redis.ConnectionError

    for verb in ("incr", "get", "get_expiry"):
        monkeypatch.setattr(RedisStorage, verb, away)
    answers = [machine.call("GET", f"/transfers/{made['id']}").status_code for _ in range(4)]
    assert answers == [200, 200, 200, 429]


def test_a_call_without_tls_is_refused_and_not_led_on(
    app: Flask, machine: Machine, configure: Configure
) -> None:
    """It has told its key already; whoever wrote that program must notice."""
    configure(base_url="https://localhost")
    answer = machine.client.get(f"/v2/transfers/{uuid.uuid4()}", headers=machine.headers)
    assert (answer.status_code, answer.json["message"]) == (403, "Use https for this.")


def test_s32_keys_and_tokens_are_cut_from_what_is_logged(machine: Machine) -> None:
    for said in (
        f"x {machine.key} y",
        f"{{'x-api-key': '{machine.key}'}}",
        f"Authorization: Bearer {machine.token}",
        f"decode of {machine.token} failed",
        "x-api-key: whatever-else",
        "GET /b/abcdefghijklmnop 200",
    ):
        kept = redacted(said)
        assert machine.key[17:] not in kept
        assert machine.token.rpartition(".")[2] not in kept
        assert not re.search("whatever|abcdefgh", kept)
