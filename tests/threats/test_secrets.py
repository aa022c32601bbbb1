"""S28, S32: what opens somebody's files, and what they are about, is written down nowhere else.

Real processes at LOG_LEVEL=DEBUG, with everything going wrong that makes libraries talk; then
all that they said, all that Redis holds and all that the database holds is searched.
"""

import base64
import binascii
import contextlib
import json
import re
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
import urllib3
from flask import Flask
from sqlalchemy import create_engine, text

from app.config import settings
from app.models import Scope
from app.redaction import redacted
from app.services import accounts
from tests.lab.proxy import Proxy
from tests.mail import word_of
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits

http = urllib3.PoolManager(retries=False)


def canary(what: str) -> str:
    """A word that is found again wherever it went, and looks like a token of ours."""
    return f"canary-{what}-{secrets.token_hex(8)}"


class World:
    """A stack at its most talkative, and what it must keep to itself."""

    def __init__(self, stack: LoggedStack, store: Proxy, environ: dict[str, str]) -> None:
        self.stack = stack
        self.store = store
        self.redis = redis.Redis.from_url(environ["REDIS_URL"])
        self.database = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
        self.secrets: dict[str, str] = {}

    def keep(self, what: str, secret: str | None = None) -> str:
        """Remember something that must not be found; made up unless given."""
        self.secrets[what] = secret or canary(what)
        return self.secrets[what]

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """One request; its answer's JSON where there is one."""
        url = path if "://" in path else self.stack.url + path
        return http.request(method, url, timeout=20, redirect=False, **given)

    def do(self, statement: str) -> Any:
        """One statement in the database."""
        with self.database.connect() as connection:
            return connection.execute(text(statement))

    @contextlib.contextmanager
    def refusing(self, table: str, condition: str) -> Iterator[None]:
        """The database refuses rows, and repeats them in its error."""
        self.do(f"ALTER TABLE {table} ADD CONSTRAINT test_refuses CHECK ({condition}) NOT VALID")
        try:
            yield
        finally:
            self.do(f"ALTER TABLE {table} DROP CONSTRAINT test_refuses")

    def in_redis(self) -> str:
        """Every key and value, unpacked."""
        found: list[bytes] = []
        for key in self.redis.keys("*"):
            found.append(key)
            kind = self.redis.type(key).decode()
            if kind == "none":  # It has just ended.
                continue
            value: Any = {
                "string": lambda key: [self.redis.get(key)],
                "hash": lambda key: [v for pair in self.redis.hgetall(key).items() for v in pair],
                "list": lambda key: self.redis.lrange(key, 0, -1),
                "set": self.redis.smembers,
                "zset": lambda key: self.redis.zrange(key, 0, -1),
                "stream": lambda key: [v for _, one in self.redis.xrange(key) for p in one.items() for v in p],
            }[kind](key)  # fmt: skip
            found += [value for value in value if value is not None]
        return "\n".join(unpacked(one) for one in found)

    def in_database(self) -> str:
        """Every row of every table."""
        names = self.do(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).scalars()
        rows = [self.do(f'SELECT json_agg(t)::text FROM "{name}" t').scalar() for name in names]
        return "\n".join(str(row) for row in rows)


def unpacked(value: bytes) -> str:
    """As it is, and unzipped, as RQ zips it."""
    shown = [value]
    with contextlib.suppress(zlib.error):
        shown.append(zlib.decompress(value))
    with contextlib.suppress(zlib.error, binascii.Error):
        shown.append(zlib.decompress(base64.b64decode(value)))
    return "\n".join(one.decode(errors="replace") for one in shown)


@pytest.fixture
def world(app: Flask, environ: dict[str, str], tmp_path: Any) -> Iterator[World]:
    """Web and worker, with a proxy before storage."""
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()
    store = Proxy.before(environ["S3_ENDPOINT_URL"])
    given = environ | {
        "S3_ENDPOINT_URL": store.instead(environ["S3_ENDPOINT_URL"]),
        "LOG_LEVEL": "DEBUG",
        "WEB_CONCURRENCY": "1",
        "MAX_UNKNOWN_PER_MINUTE": "30",
        "MAIL_URL": f"smtp://bee:{(mail_password := canary('mail'))}@127.0.0.1:9",
    }
    stack = LoggedStack(given, tmp_path / "output")
    made = World(stack, store, environ)
    made.keep("mail password", mail_password)
    try:
        stack.start("web")
        stack.start("worker")
        yield made
    finally:
        made.database.dispose()
        stack.stop()
        store.close()


def test_s28_s32_no_canary_is_found_where_it_must_not_be(world: World, app: Flask) -> None:
    title, message, name = (world.keep(what) for what in ("title", "message", "name"))
    key = world.keep("idempotency")
    body = {"title": title, "message": message, "files": [{"path": name, "size": 4}]}
    created = world.ask("POST", "/transfers", json=body, headers={"Idempotency-Key": key}).json()
    token, slug = world.keep("owner", created["owner_token"]), world.keep("slug", created["slug"])
    mine = {"Authorization": f"Bearer {token}"}
    url, page = f"/transfers/{created['id']}", f"/d/{slug}"
    file = created["files"][0]["id"]

    wanted = {"wanted": [{"file": file, "numbers": [1]}]}
    part = world.ask("POST", f"{url}/parts", json=wanted, headers=mine).json()["parts"][0]
    world.keep("upload signature", re.search(r"X-Amz-Signature=(\w+)", part["url"])[1])
    assert world.ask("PUT", part["url"], body=b"data", headers=part["headers"]).status == 200
    everything_goes_wrong(world, url, page, file, mine, body)
    assert world.ask("POST", f"{url}/complete", headers=mine).status == 202
    wait_for(world, url, mine, "READY")
    location = world.ask("GET", f"{page}/files/{file}", headers={"User-Agent": "curl/8"})
    leads = location.headers["Location"]
    world.keep("download signature", re.search(r"X-Amz-Signature=(\w+)", leads)[1])
    cookie = world.ask("GET", page).headers["Set-Cookie"]
    world.keep("session", cookie.partition("=")[2].partition(";")[0])
    passwords_are_tried(world)
    people_write(world, created["id"], page)
    a_program_is_at_work(world, app)
    the_worker_fails(world, mine, body)
    no_mail_gets_through(world)
    many_strangers(world)

    said = world.stack.said()
    # It did talk, and of what went wrong.
    for word in ("request", "Traceback", "IntegrityError", "does not exist", "test_refuses"):
        assert word in said, word
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    quiet = {line["name"].split(".")[0] for line in lines if line["level"] in ("DEBUG", "INFO")}
    assert quiet <= {"app", "beeline", "gunicorn"}  # libraries tell what they were given
    assert_absent(world, said, set(world.secrets))
    assert_absent(world, world.in_redis(), set(world.secrets))
    known = {
        "title",
        "message",
        "name",
        "slug",
        "refused title",
        "password hash",
        "request",
        "report",
        "user",
        "board",
    }
    known |= {"recipient", "sender", "recipient's slug"}
    assert_absent(world, world.in_database(), set(world.secrets) - known)


def assert_absent(world: World, where: str, what: set[str]) -> None:
    assert len(where) > 1000
    assert [one for one in sorted(what) if world.secrets[one] in where] == []


def everything_goes_wrong(
    world: World, url: str, page: str, file: str, mine: dict[str, str], body: dict[str, Any]
) -> None:
    """Each way in which a library could repeat what it was given."""
    bearer, cookie = world.keep("wrong bearer"), world.keep("cookie")
    words = world.keep("query")
    wrong = {"Authorization": f"Bearer {bearer}", "Cookie": f"beeline={cookie}"}
    assert world.ask("GET", f"{url}?token={words}", headers=wrong).status == 404
    assert world.ask("GET", f"{page}?{words}={words}&q={words}", headers=wrong).status == 200
    assert world.ask("POST", f"{page}/files/{file}", headers=wrong).status == 400
    assert world.ask("GET", f"/{words}", headers={"Referer": f"http://x/?{words}"}).status == 404
    assert world.ask("POST", "/transfers", body=f'{{"{words}"'.encode(), headers={"Content-Type": "application/json"}).status == 400  # fmt: skip
    for raw in (
        f"GET /{words} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization : Bearer {bearer}\r\n\r\n",
        f"GET /{words} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer\0{bearer}\r\n\r\n",
        f"GET /{words} HTTP/9.9\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n",
        f"{words} /{words}\r\n\r\n",
        f"G\0T /{words} HTTP/1.1\r\n{bearer}\r\n\r\n",
        f"POST /{words} HTTP/1.1\r\nContent-Length: {words}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", world.stack.port), timeout=5) as connection:
            connection.sendall(raw.encode())
            connection.recv(1000)
    # Storage away: botocore's own errors hold the address that it asked.
    world.store.down()
    assert world.ask("GET", f"{url}/parts", headers=mine).status == 503
    big = {"files": [{"path": "big", "size": 9 * 1024 * 1024}]}
    other = world.ask("POST", "/transfers", json=big).json()
    world.keep("another owner", other["owner_token"])
    theirs = {"Authorization": f"Bearer {other['owner_token']}"}
    wanted = {"wanted": [{"file": other["files"][0]["id"], "numbers": [1]}]}
    signing = f"/transfers/{other['id']}/parts"
    assert world.ask("POST", signing, json=wanted, headers=theirs).status == 503
    world.store.up()
    time.sleep(3.2)
    # The database refuses: once with the whole row, once with the statement.
    refused = body | {"title": world.keep("refused title")}
    with world.refusing("transfers", "title !~ 'refused'"):
        assert world.ask("POST", "/transfers", json=refused).status == 500
        told = world.ask("PATCH", url, json={"title": refused["title"]}, headers=mine)
        assert (told.status, b"Traceback" in told.data) == (500, False)
    world.do("ALTER TABLE transfers RENAME TO transfers_away")
    try:
        assert world.ask("GET", page).status == 500
        assert world.ask("GET", url, headers=mine).status == 500
    finally:
        world.do("ALTER TABLE transfers_away RENAME TO transfers")


def passwords_are_tried(world: World) -> None:
    """Set, refused by the database, changed, guessed, and right."""
    secret, guess = world.keep("password"), world.keep("wrong password")
    key = {"Idempotency-Key": secrets.token_urlsafe(24)}
    sent = world.ask(
        "POST", "/transfers", json={"password": secret, "files": []}, headers=key
    ).json()
    mine = {"Authorization": f"Bearer {world.keep('locked owner', sent['owner_token'])}"}
    with world.refusing("transfers", "password_hash IS NULL"):
        change = {"password": world.keep("refused password")}
        told = world.ask("PATCH", f"/transfers/{sent['id']}", json=change, headers=mine)
        assert told.status == 500
    row = f"SELECT password_hash FROM transfers WHERE id = '{sent['id']}'"
    world.keep("password hash", world.do(row).scalar())
    for given, status in ((guess, 401), (secret, 303)):
        form = urlencode({"password": given})
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = world.ask("POST", f"/d/{sent['slug']}", body=form, headers=kind)
        assert answer.status == status
        assert given.encode() not in answer.data
    world.keep("proof", answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0])


def people_write(world: World, transfer_id: str, page: str) -> None:
    """A report and a request to the sender: refused by the database, and taken."""
    said, form = world.keep("report"), {"Content-Type": "application/x-www-form-urlencoded"}
    shown = world.ask("GET", f"{page}/report")
    cookie = shown.headers["Set-Cookie"].partition(";")[0]
    token = re.search(rb'name="csrf_token" value="([^"]+)"', shown.data)[1].decode()
    words = {"csrf_token": token, "reason": "other", "message": said, "contact": said}
    for refused, status in ((True, 500), (False, 303)):
        with (
            world.refusing("abuse_reports", "message = ''") if refused else contextlib.nullcontext()
        ):
            given = {"body": urlencode(words), "headers": form | {"Cookie": cookie}}
            assert world.ask("POST", f"{page}/report", **given).status == status
    asked = world.keep("request")
    world.do(f"UPDATE transfers SET expires_at = now() WHERE id = '{transfer_id}'")
    words = {"message": asked, "contact": asked}
    for refused, status in ((True, 500), (False, 200)):
        table = "extension_requests"
        with world.refusing(table, "message = ''") if refused else contextlib.nullcontext():
            given = {"body": urlencode(words), "headers": form}
            assert world.ask("POST", f"{page}/ask", **given).status == status


def a_program_is_at_work(world: World, app: Flask) -> None:
    """With its key and token, rightly, wrongly, and while the database refuses."""
    with app.app_context():
        key = world.keep("API key", accounts.issue_key("Acme", "a", Scope.WRITE).text)
    world.keep("the key's secret", key[17:])
    mine = {"x-api-key": key}
    user, wrong = world.keep("user"), world.keep("wrong API key")
    body = {"user_identifier": user}
    token = world.ask("POST", "/v2/authorize", json=body, headers=mine).json()["token"]
    world.keep("the token's signature", token.rpartition(".")[2])
    both = mine | {"Authorization": f"Bearer {token}"}
    files = {"files": [{"name": "a", "size": 1}]}
    made = world.ask("POST", "/v2/transfers", json=files, headers=both).json()
    at = f"/v2/transfers/{made['id']}"
    url = f"{at}/files/{made['files'][0]['id']}/upload-url/1"
    told = world.ask("GET", url, headers=both).json()["url"]
    world.keep("chunk signature", re.search(r"X-Amz-Signature=(\w+)", told)[1])
    board = world.keep("board")
    assert world.ask("POST", "/v2/boards", json={"name": board}, headers=both).status == 201
    assert world.ask("GET", at, headers=both | {"x-api-key": wrong}).status == 403
    assert world.ask("GET", at, headers=mine | {"Authorization": f"Bearer {wrong}"}).status == 403
    with world.refusing("transfers", "workspace_id IS NULL"):
        assert world.ask("POST", "/v2/transfers", json=files, headers=both).status == 500
    with world.refusing("api_keys", "last_used_at IS NULL"):
        world.do("UPDATE api_keys SET name = 'b', last_used_at = NULL")
        assert world.ask("POST", "/v2/authorize", headers=mine).status == 500


def the_worker_fails(world: World, mine: dict[str, str], body: dict[str, Any]) -> None:
    """A job dies of a row that is repeated; RQ keeps the traceback."""
    files = {"files": [{"path": "empty", "size": 0}]}
    created = world.ask("POST", "/transfers", json=body | files).json()
    token = world.keep("third owner", created["owner_token"])
    world.keep("third slug", created["slug"])
    mine = {"Authorization": f"Bearer {token}"}
    url = f"/transfers/{created['id']}"
    wanted = {"wanted": [{"file": created["files"][0]["id"], "numbers": [1]}]}
    part = world.ask("POST", f"{url}/parts", json=wanted, headers=mine).json()["parts"][0]
    assert world.ask("PUT", part["url"], body=b"", headers=part["headers"]).status == 200
    with world.refusing("transfers", "state <> 'READY'"):
        assert world.ask("POST", f"{url}/complete", headers=mine).status == 202
        deadline = time.monotonic() + 15
        while "test_refuses" not in world.in_redis() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "test_refuses" in world.in_redis()
    del world.secrets["third slug"]


def no_mail_gets_through(world: World) -> None:
    """Addresses, links and words of senders, while the mail server is away."""
    sender, reader = (
        world.keep(who, f"{canary(who)}@example.org") for who in ("sender", "recipient")
    )
    sent = world.ask("POST", "/transfers", json={"files": [{"path": "x", "size": 1}]}).json()
    mine = {"Authorization": f"Bearer {world.keep('mailing owner', sent['owner_token'])}"}
    url = f"/transfers/{sent['id']}"
    wish = {"recipients": [reader], "sender_email": sender}
    wish["sender_token"] = world.keep("sender token", word_of(sender))
    with world.refusing("recipients", "email !~ 'canary'"):
        assert world.ask("PATCH", url, json=wish, headers=mine).status == 500
    assert world.ask("PATCH", url, json=wish, headers=mine).status == 200
    row = f"SELECT slug FROM recipients WHERE email = '{reader}'"
    world.keep("recipient's slug", world.do(row).scalar())
    assert world.ask("POST", "/senders/code", json={"email": sender}).status == 202
    wrong = {"email": sender, "code": world.keep("wrong code", canary("c")[:20])}
    assert world.ask("POST", "/senders/confirm", json=wrong).status == 400
    deadline = time.monotonic() + 20
    while "mail cannot be handed over" not in world.stack.said():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def many_strangers(world: World) -> None:
    """Who tries links gets 429, and flask-limiter would say from where and what."""
    guess = world.keep("guess", secrets.token_urlsafe(24))
    told = [world.ask("GET", f"/d/{guess}").status for _ in range(40)]
    assert told[-1] == 429


def wait_for(world: World, url: str, mine: dict[str, str], status: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if world.ask("GET", url, headers=mine).json()["status"] == status:
            return
        time.sleep(0.1)
    raise AssertionError(f"it did not become {status}")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("https://s3/b/k?X-Amz-Signature=ab&X-Amz-Date=1 failed", "https://s3/b/k?... failed"),
        ('GET "/d/abcdefghijklmnop" 500', 'GET "/d/..." 500'),
        (
            "x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\ny",
            "x a private key ...\ny",
        ),
        ("'-----BEGIN PRIVATE KEY-----\\nabc", "'a private key ..."),
        ("GET /m/extend/1b2c3d4e-5f.AbC-_d 409", "GET /m/extend/... 409"),
        ("GET /r/AbCdEfGh0123_-x 410", "GET /r/... 410"),
        ("GET /m/1b2c3d4e-5f.AbC-_d", "GET /m/..."),
        ("POST /u/626f406578.AbC-_d", "POST /u/..."),
        ("smtp://who:password@h:587 refused", "smtp://...@h:587 refused"),
        ("bee_abcdefghij12_se-c_ret", "bee_abcdefghij12_..."),
        ("a eyJhbGciOi.eyJpc3M.c-ret b", "a eyJ... b"),
        ("redis://:password@h:1/0 refused", "redis://...@h:1/0 refused"),
        ("{'Authorization': 'Bearer abc-def'}", "{'Authorization': 'Bearer ...'}"),
        ("violates check\nDETAIL:  Failing row (a,\nb).\n", "violates check\nDETAIL: ..."),
        ("x\nDETAIL:  row\nof two\n\n[SQL: SELECT 1]", "x\nDETAIL: ...\n[SQL: SELECT 1]"),
        ("Is it well? a = b", "Is it well? a = b"),
        ("GET /transfers/<uuid:transfer_id> 200", "GET /transfers/<uuid:transfer_id> 200"),
    ],
)
def test_s32_what_is_cut_and_what_is_left(said: str, kept: str) -> None:
    assert redacted(said) == kept
