"""S37, S33: bodies of every malformed kind against the real web server; none does any harm.

Not one answer is a 5xx, none tells how we are made, and the transfer they are aimed at is as it
was. Slow ones end, and meanwhile others are served.
"""

import contextlib
import gzip
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from urllib3.exceptions import HTTPError

from app import request_guards
from app.errors import TooSlow
from app.request_guards import BODY_SECONDS, DRAINED_SIZE
from tests.factories import Sender, Sent, http
from tests.lab.stack import family
from tests.threats.conftest import LoggedStack
from web import HEAD_SECONDS, LINGER_SECONDS

pytestmark = pytest.mark.real_commits

MIB = 1024**2
JSON = "Content-Type: application/json\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture(scope="module")
def web(app: Flask, environ: dict[str, str], tmp_path_factory: Any) -> Iterator[LoggedStack]:
    """gunicorn as the Procfile starts it."""
    stack = LoggedStack(environ | {"LOG_LEVEL": "INFO"}, tmp_path_factory.mktemp("web") / "output")
    stack.start("web")
    yield stack
    stack.stop()


@dataclass
class Answer:
    """A status, or None when the connection ended without one; all that came; and how late."""

    status: int | None
    raw: bytes
    seconds: float


def say(
    port: int,
    raw: bytes,
    *,
    drip: bytes = b"",
    every: float = 0.5,
    hang_up: bool = False,
    then: bytes = b"",
) -> Answer:
    """Send these bytes, then `drip` byte by byte, and read until the server ends or has answered."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=BODY_SECONDS + 10) as connection:
        # Whoever is hung up on while sending still has the answer that came before.
        with contextlib.suppress(OSError):
            connection.sendall(raw)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            for byte in drip:
                connection.settimeout(every)
                try:
                    received += connection.recv(65536)
                    break
                except TimeoutError:
                    connection.sendall(bytes([byte]))
            connection.settimeout(BODY_SECONDS + 10)
            while b"\r\n\r\n" not in received and (piece := connection.recv(65536)):
                received += piece
            if then:
                connection.sendall(then)
                while piece := connection.recv(65536):
                    received += piece
    line = received.split(b"\r\n", 1)[0].split()
    status = int(line[1]) if len(line) > 1 else None
    return Answer(status, received, time.monotonic() - began)


def request(sent: Sent, target: str, headers: str, body: bytes, length: int | None = None) -> bytes:
    """A request's bytes with the owner's key; its length as it is, unless said otherwise."""
    if "Transfer-Encoding" not in headers and "Content-Length" not in headers:
        headers += f"Content-Length: {len(body) if length is None else length}\r\n"
    key = f"Authorization: {sent.headers['Authorization']}\r\n"
    return f"{target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}{headers}\r\n".encode() + body


def bodies() -> list[tuple[str, str, bytes, set[int | None]]]:
    """(what, headers, body, the statuses that are right), each for a PATCH of a transfer."""
    text = json.dumps({"title": "changed"}).encode()
    chunked = JSON + "Transfer-Encoding: chunked\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nchanged\r\n--x--\r\n'
    return [
        ("nothing", JSON, b"", {400}),
        ("no JSON", JSON, b"title=changed", {400}),
        ("half of it", JSON, text[:-1], {400}),
        ("two values", JSON, text + text, {400}),
        ("deep lists", JSON, b"[" * 200_000, {400}),
        ("deep lists that end", JSON, b"[" * 100_000 + b"]" * 100_000, {400}),
        ("deep objects", JSON, b'{"a":' * 100_000, {400}),
        ("deep in a field", JSON, b'{"title":' + b"[" * 50_000 + b"]" * 50_000 + b"}", {400}),
        ("escaped NUL", JSON, b'{"title": "a\\u0000b"}', {400}),
        ("raw NUL", JSON, b'{"title": "a\x00b"}', {400}),
        ("lone surrogate", JSON, b'{"title": "\\ud800"}', {400}),
        ("lone surrogate for a name", JSON, b'{"\\udfff": 1}', {400}),
        ("no UTF-8", JSON, b'{"title": "\xff\xfe"}', {400}),
        ("an overlong NUL", JSON, b'{"title": "\xc0\x80"}', {400}),
        ("number of 10,000 digits", JSON, b'{"max_downloads": ' + b"9" * 10_000 + b"}", {400}),
        ("number of a huge power", JSON, b'{"max_downloads": 1e999999999}', {400}),
        ("no number", JSON, b'{"max_downloads": NaN}', {400}),
        ("minus infinity", JSON, b'{"max_downloads": -Infinity}', {400}),
        ("the same key twice", JSON, b'{"title": 1, "title": "' + b"x" * 201 + b'"}', {400}),
        ("100,000 unknown fields", JSON, json.dumps({str(n): 1 for n in range(100_000)}).encode(), {400}),
        ("zipped", JSON + "Content-Encoding: gzip\r\n", gzip.compress(text), {400}),
        ("a bomb", JSON + "Content-Encoding: gzip\r\n", gzip.compress(b" " * 64 * MIB), {400}),
        ("unknown charset", "Content-Type: application/json; charset=nope\r\n", b"\xff", {400}),
        ("type of a form", FORM, text, {415}),
        ("parts of a form", "Content-Type: multipart/form-data; boundary=x\r\n", part, {415}),
        ("no type", "", text, {415}),
        ("one byte too many", JSON, b" " * (2 * MIB + 1), {413}),
        ("a length of 10 GiB", JSON + "Content-Length: 10737418240\r\n", b"{", {413}),
        ("negative length", JSON + "Content-Length: -1\r\n", text, {400}),
        ("length in words", JSON + "Content-Length: many\r\n", text, {400}),
        ("two lengths", JSON + "Content-Length: 3\r\nContent-Length: 21\r\n", text, {400}),
        ("length and chunks", chunked + "Content-Length: 3\r\n", b"0\r\n\r\n", {400}),
        ("unknown coding", JSON + "Transfer-Encoding: wat\r\n", text, {400, 501}),
        ("chunks that are none", chunked, b"zz\r\n{}\r\n0\r\n\r\n", {400}),
        ("negative chunk", chunked, b"-5\r\n{}\r\n0\r\n\r\n", {400}),
        ("chunk of 2**64", chunked, b"10000000000000000\r\n{}", {400}),
        ("too many chunks", chunked, b"10000\r\n" + b" " * 65536 + b"\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 33, {400, 413}),
        ("chunks that end early", chunked, b"5\r\n{}", {400, None}),
        ("head without end", "X: " + "y" * 200_000, b"", {400, 431, None}),
    ]  # fmt: skip


def test_s37_no_body_does_any_harm(web: LoggedStack, sender: Sender) -> None:
    sent = sender.create(title="as it was")
    before = sent.show()
    for what, headers, body, right in bodies():
        answer = say(web.port, request(sent, f"PATCH {sent.url}", headers, body), hang_up=True)
        assert answer.status in right, (what, answer)
        assert_tells_nothing(answer.raw)
        assert sent.show() == before, what
    changed = say(web.port, request(sent, f"PATCH {sent.url}", JSON, b'{"title": "new"}'))
    assert changed.status == 200
    assert_quiet(web)


def test_s37_lengths_that_are_lies_end_with_the_connection(
    web: LoggedStack, sender: Sender
) -> None:
    """What comes late is never taken for a request that no router in front has seen."""
    sent = sender.create(title="as it was")
    text = b'{"title": "changed"}'
    smuggled = request(sent, f"DELETE {sent.url}", "", b"")
    longer = request(sent, f"PATCH {sent.url}", JSON, text, length=len(text) + 1)
    assert say(web.port, longer, hang_up=True).status == 400
    shorter = request(sent, f"PATCH {sent.url}", JSON, text, length=len(text) - 1)
    assert say(web.port, shorter, hang_up=True).status == 400
    # Refused before its body was read: the rest of the body must not be run.
    unread = request(sent, "PATCH /transfers/none", JSON, b"", length=10_000_000)
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        connection.sendall(unread)
        assert b" 404 " in connection.recv(65536)
        connection.sendall(smuggled)
        while connection.recv(65536):
            pass
    assert sent.show()["title"] == "as it was"
    assert_quiet(web)


def test_an_answer_says_whether_its_connection_goes_on(web: LoggedStack, sender: Sender) -> None:
    """A program that keeps it would lose its next request; a router, that of somebody else."""
    sent = sender.create()
    none, chunked = "PATCH /transfers/none", JSON + "Transfer-Encoding: chunked\r\n"
    ending = (
        request(sent, none, JSON, b" " * (DRAINED_SIZE + 1)),
        request(sent, none, chunked, b""),
        request(sent, f"PATCH {sent.url}", JSON, b" " * (2 * MIB + 1)),
    )
    for raw in ending:
        assert b"\r\nConnection: close\r\n" in say(web.port, raw).raw
    last = request(sent, f"GET {sent.url}", "Connection: close\r\n", b"")
    going_on = (
        request(sent, none, JSON, b" " * DRAINED_SIZE),
        request(sent, f"PATCH {sent.url}", JSON, b"{}"),
        request(sent, f"PATCH {sent.url}", chunked, b"2\r\n{}\r\n0\r\n\r\n"),
    )
    for raw in going_on:
        answers = say(web.port, raw, then=last).raw
        assert b"\r\nConnection: keep-alive\r\n" in answers
        assert answers.count(b"HTTP/1.1 ") == 2


def test_s37_clients_that_do_not_close_their_end_keep_nobody_waiting(web: LoggedStack) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        for _ in range(40):
            one = held.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=10))
            one.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert one.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < 10
        # Nor are they kept for ever.
        time.sleep(LINGER_SECONDS + 1)
        one.sendall(b"x")
        time.sleep(0.5)
        with pytest.raises(ConnectionError):
            one.sendall(b"x")


def test_s37_half_a_head_occupies_no_thread_wherever_it_ends(web: LoggedStack) -> None:
    """Behind a whole request, which gunicorn reads ahead of, or before the client's own end."""
    whole, half = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /health HT"
    before = cpu_seconds(web)
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        for _ in range(24):
            behind, ended = (
                held.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=10))
                for _ in range(2)
            )
            behind.sendall(whole + half)
            ended.sendall(half)
            ended.shutdown(socket.SHUT_WR)
        assert max(served(web) for _ in range(20)) < 2
        assert behind.recv(65536).startswith(b"HTTP/1.1 200 OK")
        behind.sendall(whole[len(half) :])
        assert behind.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert ended.recv(65536) == b""
        time.sleep(1)
        share = (cpu_seconds(web) - before) / (time.monotonic() - began)
    assert share < 0.5, "it waits for them in vain, and at full speed"
    assert_quiet(web)


def test_s37_a_head_that_drips_ends_in_time_whoever_else_drips(web: LoggedStack) -> None:
    stop = threading.Event()

    def begin_others() -> None:
        while not stop.wait(1):
            held.append(socket.create_connection(("127.0.0.1", web.port), timeout=10))
            held[-1].sendall(b"GE")

    held: list[socket.socket] = []
    others = threading.Thread(target=begin_others)
    others.start()
    try:
        time.sleep(2)
        slow = say(web.port, b"GET / HTTP/1.1\r\nX-Slow: ", drip=b"x" * 40)
    finally:
        stop.set()
        others.join()
        for one in held:
            one.close()
    assert slow.status is None
    assert HEAD_SECONDS - 1 < slow.seconds < HEAD_SECONDS + 4


def test_s14_no_header_chooses_a_prefix_for_paths(web: LoggedStack) -> None:
    """gunicorn's SCRIPT_NAME: it would hide the path from a proxy, and lead redirects elsewhere."""
    for path in ("/health", "/here/health", "//evil.example/webhooks"):
        prefix = path.rpartition("/")[0] or "/elsewhere"
        said = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nSCRIPT_NAME: {prefix}\r\n\r\n"
        assert say(web.port, said.encode()).status == (200 if path == "/health" else 404)


def test_s37_more_connections_than_files_may_be_open_end_no_worker(
    app: Flask, environ: dict[str, str], tmp_path: Path
) -> None:
    """systemd allows 1,024 open files by default, and gunicorn 1,000 connections."""
    web = LoggedStack(environ | {"WEB_CONCURRENCY": "1"}, tmp_path / "output")
    web._commands["web"] = f"sh -c 'ulimit -n 256; exec {web._commands['web']}'"
    web.start("web")
    try:
        processes = set(family(web.running["web"].pid))
        with contextlib.ExitStack() as held:
            for _ in range(300):
                held.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=10))
            time.sleep(1)
        assert served(web) < 2
        assert set(family(web.running["web"].pid)) == processes
        assert_quiet(web)
    finally:
        web.stop()


def test_s37_a_head_that_is_too_large_is_answered(web: LoggedStack) -> None:
    """And its connection is not reset, with which a client may lose the answer."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 60_000)
        assert b" 431 " in one.recv(65536)
        assert one.recv(65536) == b""


def test_s37_clients_that_do_not_read_occupy_no_thread_for_ever(
    app: Flask, environ: dict[str, str], tmp_path: Path
) -> None:
    few = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "2", "LOG_LEVEL": "INFO"}
    web = LoggedStack(environ | few, tmp_path / "output")
    web._commands["web"] = web._commands["web"].replace("--timeout 30", "--timeout 8")
    web.start("web")
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 60
    try:
        with contextlib.ExitStack() as held:
            for _ in range(2):
                one = held.enter_context(socket.socket())
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.connect(("127.0.0.1", web.port))
                one.sendall(asked)
            wait_until(web, is_served=False)
            wait_until(web, is_served=True)
            assert max(served(web) for _ in range(5)) < 4
        assert_quiet(web)
    finally:
        web.stop()


def test_uppys_longest_names_fit_into_an_address(web: LoggedStack) -> None:
    """It says the name of a file in a folder three times, and a browser cannot read gunicorn's 414."""
    name = "漢" * 251 + ".png"
    said = {"filename": name, "metadata[name]": name, "metadata[relativePath]": f"Photos/{name}"}
    session = "x" * 200
    answer = http.request("GET", f"{web.url}/s3/as/{session}/s3/params", fields=said)
    assert answer.status == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_s37_slow_ones_end_and_others_are_served_meanwhile(
    web: LoggedStack, sender: Sender
) -> None:
    """40 dripping heads, and as many dripping bodies as all threads but two can take."""
    sent = sender.create(title="as it was")
    drip = b"x" * 80
    heads = [(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", drip, 0.5)] * 30
    heads += [(b"", drip, 0.5)] * 5
    heads += [(b"GET / HTTP/1.1\r\nX: " + b"y" * 30_000, drip, 0.5)] * 5
    # What comes after the answer is still the body, and never a request of its own.
    smuggled = request(sent, f"DELETE {sent.url}", "", b"")
    length = {"length": 1000}
    chunked = JSON + "Transfer-Encoding: chunked\r\n"
    patch = f"PATCH {sent.url}"
    slow_bodies = [
        (request(sent, patch, JSON, b"", **length), drip, 0.5),
        (request(sent, patch, JSON, b"", **length), b"", 0.5),
        (request(sent, patch, JSON, b" " * 100_000, length=MIB), drip, 0.5),
        (request(sent, patch, chunked, b"3e8\r\n"), drip, 0.5),
        (request(sent, f"POST {sent.url}/nope", JSON, b"", **length), drip, 0.5),
        (request(sent, "POST /transfers", FORM, b"", length=60_000), drip, 0.5),
    ]
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(say, web.port, raw, drip=d, every=e) for raw, d, e in heads]
        slow = [
            pool.submit(say, web.port, raw, drip=d, every=e, then=smuggled)
            for raw, d, e in slow_bodies
        ]
        time.sleep(1)
        slowest = max(served(web) for _ in range(40))
        ended = [one.result() for one in waiting]
        late = [one.result() for one in slow]
    assert slowest < 2
    assert {one.status for one in ended} <= {None, 400, 431}
    assert max(one.seconds for one in ended) < HEAD_SECONDS + 6
    assert [one.status for one in late] == [408, 408, 408, 408, 404, 415]
    assert max(one.seconds for one in late) < BODY_SECONDS + 3
    assert sent.show()["title"] == "as it was"
    assert_quiet(web)


def test_s37_all_of_a_body_has_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is read: each read may be quick, and the whole still take for ever."""
    monkeypatch.setattr(request_guards, "BODY_SECONDS", 0.4)
    near, far = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(OSError):
                far.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    began = time.monotonic()
    received = Received(near)
    body = request_guards._TimedBody(received, near, length=1000)
    try:
        with pytest.raises(TooSlow):
            all(body.read(1) for _ in range(100))
        # So that gunicorn ends the connection: the rest of the body is no request.
        assert not received.failed
        body.close()
        assert received.failed
    finally:
        stop.set()
        thread.join()
        near.close()
        far.close()
    assert 0.3 < time.monotonic() - began < 3


class Received:
    """What gunicorn gives for a body, in short."""

    failed = False

    def __init__(self, connection: socket.socket) -> None:
        self.read = connection.recv


def served(web: LoggedStack) -> float:
    """The seconds that an ordinary visitor waits for the first page."""
    began = time.monotonic()
    answer = http.request("GET", web.url, timeout=10, headers={"Connection": "close"})
    assert answer.status == 200
    time.sleep(0.05)
    return time.monotonic() - began


def wait_until(web: LoggedStack, *, is_served: bool) -> None:
    """Wait until a visitor is answered within three seconds, or is not."""
    deadline, found = time.monotonic() + 30, not is_served
    while found != is_served:
        assert time.monotonic() < deadline
        try:
            http.request("GET", f"{web.url}/health", timeout=3, headers={"Connection": "close"})
            found = True
        except HTTPError:
            found = False


def cpu_seconds(web: LoggedStack) -> float:
    """The processor time that the web server has used so far."""
    ticks = 0
    for pid in family(web.running["web"].pid):
        # The fields after the name, which is in brackets: user and system time are the 12th and 13th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def assert_tells_nothing(raw: bytes) -> None:
    for word in (b"Traceback", b"File &#34;", b'File "', b"psycopg2", b"sqlalchemy", b"werkzeug"):
        assert word not in raw


def assert_quiet(web: LoggedStack) -> None:
    """Nothing that any of this did was unexpected."""
    assert "Traceback" not in web.said()
    assert "unexpected" not in web.said()


# -- every route, anything ----------------------------------------------------------------------

SEED = 20_260_101
WORDS = [
    "files", "path", "size", "content_type", "title", "message", "expires_at", "max_downloads",
    "wanted", "file", "numbers", "sent_size", "state", "id", "__class__", "", "\0", "\ud800", "é" * 300,
]  # fmt: skip
ATOMS: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1.5, 1e308, -0.0, "", "a", "\0", "\ud800",
    "x" * 5001, "../a", "/a", "2030-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59",
    "00000000-0000-0000-0000-000000000000", "𝟙", "'; DROP TABLE transfers; --", "%s%n", "{}", "${x}",
]  # fmt: skip


def anything(dice: random.Random, depth: int = 0) -> Any:
    """Some JSON, more often near what is expected than not."""
    kind = dice.random()
    if depth > 4 or kind < 0.4:
        return dice.choice(ATOMS)
    if kind < 0.6:
        return [anything(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(WORDS): anything(dice, depth + 1) for _ in range(dice.randrange(5))}


def test_s33_s37_random_requests_to_every_route_are_never_a_500(
    app: Flask, sender: Sender, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    configure(mail_url="file:///nobody/sends/it")
    dice = random.Random(SEED)
    client: FlaskClient = sender.client
    rules = sorted(
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
    )
    sent = sender.create()
    for turn in range(900):
        if turn % 50 == 0:
            sent = sender.create({"a": b"1", "b/c": b"2"})
        method, rule = dice.choice(rules)
        ids = [
            str(sent.id),
            sent.files[0]["id"],
            "00000000-0000-0000-0000-000000000000",
            "%00",
            "x",
            "é",
        ]
        url = rule.replace(
            "<uuid:transfer_id>", str(sent.id) if dice.random() < 0.9 else dice.choice(ids)
        )
        url = url.replace("<uuid:file_id>", dice.choice(ids)).replace(
            "<slug:slug>", dice.choice([sent.slug, "x" * 32])
        )
        body = json.dumps(anything(dice)).encode("utf-8", "surrogatepass")
        if dice.random() < 0.2:
            cut = dice.randrange(len(body) + 1)
            body = body[:cut] + dice.randbytes(dice.randrange(4)) + body[cut + 1 :]
        headers = (
            dict(sent.headers)
            if dice.random() < 0.9
            else {"Authorization": dice.choice(["", "Bearer", "Bearer  ", "Basic eDp5", "é"])}
        )
        if dice.random() < 0.1:
            headers["Idempotency-Key"] = "".join(dice.choices("ab\x7f é", k=25))
        kind = (
            "application/json"
            if dice.random() < 0.95
            else dice.choice(["text/plain", "multipart/form-data", ";"])
        )
        answer = client.open(
            url, method=method, data=body, content_type=kind, headers=headers,
            query_string={"q": dice.choice(["%00", "x", "\ud800".encode("utf-8", "surrogatepass")])},
        )  # fmt: skip
        assert answer.status_code < 500, (SEED, turn, method, url, body)
        assert_tells_nothing(answer.data)


def test_s33_an_error_that_nobody_expected_tells_only_its_number(
    app: Flask, client: FlaskClient, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.create()
    secret = "what-only-we-know"

    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError(f'File "{secret}"')

    monkeypatch.setattr("app.services.transfers.owned", broken)
    monkeypatch.setattr("app.services.transfer_view.view", broken)
    assert not app.debug
    for url in (sent.url, f"/d/{sent.slug}"):
        answer = client.get(url, headers=sent.headers)
        assert answer.status_code == 500
        assert answer.headers["X-Request-ID"] in answer.text
        assert secret not in answer.text
        assert "RuntimeError" not in answer.text
