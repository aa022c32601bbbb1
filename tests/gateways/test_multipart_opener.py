"""Opening multipart uploads without boto3: what is asked, what is asked again, what is told."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.errors import Unavailable
from app.gateways.http_pool import Lines
from app.gateways.multipart_opener import Opener
from app.gateways.presign import Credentials, Presigner
from app.gateways.s3_answers import Away, NotOffered, StorageRefused

BEGUN = (200, b'<InitiateMultipartUploadResult xmlns="x"><UploadId>a&amp;b</UploadId></Init>')


def error(status: int, code: str) -> tuple[int, bytes]:
    return status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()


class Store(ThreadingHTTPServer):
    """Answers what it is told, one after the other; None hangs up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.answers: list[tuple[int, bytes] | None] = []
        self.asked: list[tuple[str, dict[str, str]]] = []


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.requestline, headers))
        answer = self.server.answers.pop(0)
        self.close_connection = answer is None
        if answer is not None:
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("app.gateways.multipart_opener.time.sleep", waited.append)
    return waited


def opener(port: int, token: str | None = None) -> Opener:
    presigner = Presigner(
        f"http://127.0.0.1:{port}",
        "bucket",
        "eu-west-1",
        in_path=True,
        credentials=lambda: Credentials("AK", "SK", token),
        now=lambda: datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC),
    )
    return Opener(presigner, Lines(presigner.origin, None))


def begin(store: Store, attempts: int = 2, headers: dict[str, str] | None = None) -> str:
    given = headers or {"Content-Type": "text/plain"}
    return opener(store.server_address[1]).open("beeline/a b", given, 1, attempts)


def test_what_is_asked_to_the_letter(store: Store) -> None:
    store.answers = [BEGUN]
    assert begin(store, headers={"Content-Type": "x/y", "x-amz-meta-beeline": "t"}) == "a&b"
    ((line, headers),) = store.asked
    assert line == "POST /bucket/beeline/a%20b?uploads= HTTP/1.1"
    assert (headers["content-type"], headers["x-amz-meta-beeline"]) == ("x/y", "t")
    assert headers["host"] == f"127.0.0.1:{store.server_address[1]}"
    assert headers["content-length"] == "0"
    signed = "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-beeline"
    assert f"SignedHeaders={signed}," in headers["authorization"]
    assert re.search(r"Credential=AK/20310203/eu-west-1/s3/aws4_request,", headers["authorization"])


@pytest.mark.parametrize(
    "failure",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooMany"),
        error(400, "RequestTimeout"),
        error(200, "InternalError"),
        (200, b""),
        (502, b"<html>"),
        None,
    ],
)
def test_what_passes_is_asked_again(
    store: Store, waits: list[float], failure: tuple[int, bytes] | None
) -> None:
    store.answers = [failure, failure, BEGUN]
    assert begin(store, attempts=3) == "a&b"
    assert [0 <= wait <= 2**at for at, wait in enumerate(waits)] == [True, True]
    store.answers = [failure, failure]
    with pytest.raises(Away):
        begin(store)
    assert len(store.asked) == 5


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (error(403, "AccessDenied"), StorageRefused),
        (error(404, "NoSuchBucket"), StorageRefused),
        (error(501, "NotImplemented"), NotOffered),
        (error(400, "InvalidArgument"), Unavailable),
        ((403, b""), StorageRefused),
    ],
)
def test_a_refusal_is_believed_at_once(
    store: Store, waits: list[float], answer: tuple[int, bytes], told: type[Exception]
) -> None:
    store.answers = [answer]
    with pytest.raises(told) as raised:
        begin(store)
    assert type(raised.value) is told
    # Whoever waits is told so; anything else would be a fault of ours, and a 500.
    assert isinstance(raised.value, Unavailable)
    assert len(store.asked) == 1


def test_nobody_there_is_away(waits: list[float]) -> None:
    with pytest.raises(Away):
        opener(1).open("k", {}, 1, 3)
    assert len(waits) == 2
