"""Kept connections to storage, and what the gateway makes of each way in which one ends."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from app import config
from app.errors import Outage, Unavailable
from app.gateways import http_pool
from app.gateways.http_pool import BROKEN, Answer, Lines
from app.gateways.s3_answers import NoSuchUpload, Source, SourceLost, StorageRefused
from app.gateways.storage import Storage

HEADERS = {"Range": "bytes=0-4"}
WHOLE = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello"
SENT = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Scripted:
    """A server that answers each request of each connection as it is told, and then hangs up."""

    def __init__(self, connections: list[list[bytes]]) -> None:
        self._connections = connections
        self.requests: list[bytes] = []
        # Whether it waits for the other end to hang up.
        self.holds = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for answers in self._connections:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with near, near.makefile("rb") as source:
                for answer in answers:
                    self.requests.append(self._read(source))
                    near.sendall(answer)
                if self.holds.is_set():
                    source.read(1)

    def _read(self, source: io.BufferedReader) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += source.readline()
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return head + source.read(int(length or 0))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*connections: list[bytes]) -> Scripted:
        started.append(Scripted(list(connections)))
        return started[-1]

    yield start
    for one in started:
        one.close()


def get(line: Lines, server: Scripted, size: int = 5) -> tuple[Answer, bytes]:
    place = bytearray(size)
    answer = line.get(f"{server.url}/k?signed", HEADERS, memoryview(place))
    return answer, bytes(place)


def refused(code: str, status: int) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>"
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


# -- one connection ------------------------------------------------------------------------------


def test_bytes_are_put_into_their_place_and_the_connection_is_kept(serving) -> None:
    server = serving([WHOLE, WHOLE, SENT, WHOLE])
    line = Lines(server.url, None)
    for _ in range(2):
        assert get(line, server) == (Answer(206, 5), b"hello")
    assert line.put(f"{server.url}/k?part", memoryview(b"x" * 700_000), 15).status == 200
    assert get(line, server) == (Answer(206, 5), b"hello")
    assert server.requests[0].startswith(b"GET /k?signed HTTP/1.1\r\n")
    assert server.requests[2].endswith(b"\r\n\r\n" + b"x" * 700_000)
    # As it was signed, with the port.
    assert f"Host: {server.url.removeprefix('http://')}\r\n".encode() in server.requests[0]


def test_one_that_was_closed_while_it_lay_idle_says_nothing(serving) -> None:
    server = serving([WHOLE], [WHOLE])
    line = Lines(server.url, None)
    assert get(line, server)[0].status == get(line, server)[0].status == 206


def test_a_new_one_that_breaks_is_told(serving) -> None:
    server = serving([b""], [WHOLE])
    line = Lines(server.url, None)
    assert get(line, server)[0] == Answer(BROKEN)
    assert get(line, server)[0].status == 206
    server.close()
    assert Lines("http://127.0.0.1:1", None).get("/", {}, memoryview(b"")).status == BROKEN


def test_one_that_is_silent_is_given_up_and_not_asked_twice(serving, monkeypatch) -> None:
    server = serving([WHOLE, WHOLE[:20]], [WHOLE])
    line = Lines(server.url, None)
    assert get(line, server)[0].status == 206
    monkeypatch.setattr(http_pool, "READ_SECONDS", 0.2)
    # The server has sent a beginning, and holds the connection open until it is closed here.
    server.holds.set()
    assert get(line, server)[0] == Answer(BROKEN)
    assert len(server.requests) == 2


def test_one_that_went_silent_speaks_for_all_that_rest(monkeypatch) -> None:
    """As when a firewall between has forgotten all of them: only one of them is waited for."""
    both = threading.Barrier(2)

    def answer(near: socket.socket, is_old: bool) -> None:
        with near, near.makefile("rb") as source:
            while source.readline() != b"\r\n":
                pass
            if is_old:
                both.wait(5)
            near.sendall(WHOLE)
            source.read()  # Whatever comes later is never answered.

    def serve(listener: socket.socket) -> None:
        for number in range(3):
            near, _ = listener.accept()
            threading.Thread(target=answer, args=(near, number < 2), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        line = Lines(url, None)
        ask = partial(line.get, f"{url}/k?signed", HEADERS)
        asking = [threading.Thread(target=ask, args=(memoryview(bytearray(5)),)) for _ in "ab"]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        monkeypatch.setattr(http_pool, "READ_SECONDS", 0.2)
        told = [ask(memoryview(bytearray(5))).status for _ in range(2)]
        assert told == [BROKEN, 206]


def test_less_and_more_than_was_asked_for_is_told_and_never_left_on_the_line(serving) -> None:
    longer = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 9\r\n\r\nhello, you"
    cut = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhel"
    server = serving([longer], [cut], [WHOLE])
    line = Lines(server.url, None)
    assert get(line, server)[0].size == 6
    assert get(line, server)[0].size == 3
    assert get(line, server) == (Answer(206, 5), b"hello")


def test_chunks_are_bytes_like_any_other(serving) -> None:
    chunks = (
        b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    )
    server = serving([chunks, WHOLE])
    line = Lines(server.url, None)
    assert get(line, server) == get(line, server) == (Answer(206, 5), b"hello")


def test_a_file_is_sent_from_its_beginning(serving) -> None:
    server = serving([SENT])
    file = io.BytesIO(b"from the beginning")
    file.read(5)
    assert Lines(server.url, None).put(f"{server.url}/k", file, 15).status == 200
    assert server.requests[0].endswith(b"\r\n\r\nfrom the beginning")


# -- what storage's gateway makes of it ------------------------------------------------------------


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Storage]:
    monkeypatch.setattr("app.gateways.storage.WAITS", (0.0, 0.0, 0.0))

    def bound(endpoint_url: str, **more: str) -> Storage:
        made = Storage()
        given = {
            "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
            "BASE_URL": "https://send.example",
            "DATABASE_URL": "postgres://x",
            "REDIS_URL": "redis://x",
            "S3_BUCKET": "b",
            "S3_ENDPOINT_URL": endpoint_url,
            "S3_ACCESS_KEY_ID": "k",
            "S3_SECRET_ACCESS_KEY": "s",
        }
        made.bind(config.load(given | more))
        return made

    return bound


def put(gateway: Storage) -> None:
    gateway.put_part("beeline/k", "id", 7, memoryview(b"bytes"))


def test_a_part_is_sent_by_an_address_of_our_own(serving, gateway) -> None:
    server = serving([SENT])
    put(gateway(server.url))
    line = server.requests[0].partition(b" HTTP/1.1")[0].decode()
    assert line.startswith("PUT /b/beeline/k?")
    assert "&partNumber=7&uploadId=id&X-Amz-Signature=" in line


@pytest.mark.parametrize(
    ("code", "status", "failure"),
    [
        ("NoSuchUpload", 404, NoSuchUpload),
        ("SignatureDoesNotMatch", 403, StorageRefused),
        ("EntityTooLarge", 400, Unavailable),
    ],
)
def test_a_refused_part_says_why(serving, gateway, code, status, failure) -> None:
    server = serving([refused(code, status)])
    with pytest.raises(failure):
        put(gateway(server.url))


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("RequestTimeout", 400)])
def test_what_is_over_in_a_moment_is_tried_again(serving, gateway, code, status) -> None:
    server = serving([refused(code, status), b""], [SENT])
    put(gateway(server.url))
    assert len(server.requests) == 3


def test_what_stays_so_is_an_outage(serving, gateway) -> None:
    server = serving(*[[refused("InternalError", 500)]] * 3)
    with pytest.raises(Outage):
        put(gateway(server.url))
    assert len(server.requests) == 3


def test_a_read_refused_for_good_is_not_tried_again(serving, gateway) -> None:
    server = serving([refused("NoSuchKey", 404)], [refused("AccessDenied", 403)])
    made = gateway(server.url)
    with pytest.raises(SourceLost):
        made.read(Source("beeline/k", '"e"'), 0, 5)
    with pytest.raises(StorageRefused):
        made.read(Source("beeline/k", '"e"'), 0, 5)
    assert b'If-Match: "e"\r\n' in server.requests[0]


def test_which_stores_want_equal_parts(gateway) -> None:
    r2 = "https://0123abcd.eu.r2.cloudflarestorage.com"
    assert gateway(r2).wants_equal_parts
    assert not gateway("https://s3.example.com").wants_equal_parts
    assert gateway("https://s3.example.com", S3_EQUAL_PARTS="on").wants_equal_parts
    assert not gateway(r2, S3_EQUAL_PARTS="off").wants_equal_parts
