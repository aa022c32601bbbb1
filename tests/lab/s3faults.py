"""A proxy before an S3 endpoint that knows its operations, and answers wrongly on demand.

Requests are forwarded unchanged, including Host, which the signature covers: clients simply get
this proxy's URL as their endpoint.
"""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

# The operation by method and query parameter ("": none), on an object and on the bucket.
_OF_OBJECT = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("GET", "uploadId"): "ListParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("PUT", ""): "PutObject",
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}
_OF_BUCKET = {
    ("GET", "uploads"): "ListMultipartUploads",
    ("POST", "delete"): "DeleteObjects",
    ("GET", "list-type"): "ListObjectsV2",
    ("HEAD", ""): "HeadBucket",
    ("PUT", "cors"): "PutBucketCors",
    ("PUT", "lifecycle"): "PutBucketLifecycleConfiguration",
}
_TELLING = {name for _, name in (*_OF_OBJECT, *_OF_BUCKET) if name}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}

ANY = ""


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `operation` is S3's own name for it."""

    operation: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent back. None in its place just closes the connection; `cut` does so midway."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: bool = False


Forward = Callable[[], Answer]
Fault = Callable[[Request, Forward], Answer | None]


# -- faults ------------------------------------------------------------------------------------


def error(status: int, code: str) -> Fault:
    """S3's error response; with status 200 as CompleteMultipartUpload may report an error."""

    def answer(request: Request, forward: Forward) -> Answer:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>On demand.</Message></Error>"
        )
        body = b"" if request.method == "HEAD" else text.encode()
        return Answer(status, (("Content-Type", "application/xml"),), body)

    return answer


BROKEN = error(500, "InternalError")
SLOW_DOWN = error(503, "SlowDown")
FORBIDDEN = error(403, "AccessDenied")
SKEWED = error(403, "RequestTimeTooSkewed")
OK_WITH_ERROR = error(200, "InternalError")


def lose_answer(request: Request, forward: Forward) -> None:
    """Forward the request, but lose the response."""
    forward()


def late(seconds: float) -> Fault:
    """Forward the request, and delay the response."""

    def answer(request: Request, forward: Forward) -> Answer:
        done = forward()
        time.sleep(seconds)
        return done

    return answer


def late_until(told: threading.Event) -> Fault:
    """Forward the request, and delay the response until the test sets the event (or 120 s)."""

    def answer(request: Request, forward: Forward) -> Answer:
        done = forward()
        told.wait(120)
        return done

    return answer


def truncate(request: Request, forward: Forward) -> Answer:
    """Send only half of the body, then close the connection."""
    whole = forward()
    return Answer(whole.status, whole.headers, whole.body[: len(whole.body) // 2], cut=True)


# -- the proxy ---------------------------------------------------------------------------------


@dataclass
class _Plan:
    operation: str
    key: str
    fault: Fault
    left: float


class S3Faults:
    """Forwards to an endpoint; `plan()` plans faults, `seen()` counts requests.

    With `tls` it takes only TLS, and says to whom it forwards nothing about that.
    """

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname or "", parts.port or 80)
        self._lock = threading.Lock()
        self._plans: list[_Plan] = []
        self._asked: Counter[tuple[str, str]] = Counter()
        handler = type("Handler", (_Handler,), {"faults": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def plan(
        self, operation: str, fault: Fault, times: float = float("inf"), key: str = ANY
    ) -> None:
        """Apply a fault to the next `times` requests for this operation and key (ANY: all)."""
        with self._lock:
            self._plans.append(_Plan(operation, key, fault, times))

    def heal(self) -> None:
        """Drop all planned faults."""
        with self._lock:
            self._plans.clear()

    def left(self, operation: str) -> float:
        """How often the faults planned for an operation will still apply."""
        with self._lock:
            return sum(plan.left for plan in self._plans if plan.operation == operation)

    def seen(self, operation: str, key: str = ANY) -> int:
        """The number of requests for an operation, for one key or all."""
        with self._lock:
            return sum(
                count
                for (asked, path), count in self._asked.items()
                if operation in (ANY, asked) and key in path
            )

    def close(self) -> None:
        """Stop the server; responses in progress are cut off."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "S3Faults":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def answer(self, request: Request) -> Answer | None:
        """The response to a request: the next planned fault, or the endpoint's own."""
        fault = self._take(request)
        if fault is None:
            return self._forward(request)
        return fault(request, lambda: self._forward(request))

    def _take(self, request: Request) -> Fault | None:
        with self._lock:
            self._asked[request.operation, urlsplit(request.path).path] += 1
            for plan in self._plans:
                if (
                    plan.left > 0
                    and plan.operation in (ANY, request.operation)
                    and plan.key in request.path
                ):
                    plan.left -= 1
                    return plan.fault
        return None

    def _forward(self, request: Request) -> Answer:
        connection = HTTPConnection(*self._target, timeout=60)
        try:
            connection.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            return _read(connection.getresponse())
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: aborted connections are expected here."""


class _Handler(BaseHTTPRequestHandler):
    faults: S3Faults
    protocol_version = "HTTP/1.1"
    timeout = 120
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = tuple(self.headers.items())
        request = Request(
            _operation(self.command, self.path), self.command, self.path, headers, body
        )
        try:
            answer = self.faults.answer(request)
        except OSError:  # The endpoint or the proxy before it is down.
            answer = None
        if answer is None:
            self.close_connection = True
            return
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in answer.headers):
            self.send_header("Content-Length", str(len(answer.body)))
        try:
            self.end_headers()
            self.wfile.write(answer.body)
        except OSError:  # The client has given up waiting.
            self.close_connection = True
        self.close_connection = self.close_connection or answer.cut

    def log_message(self, *args: object) -> None:
        pass

    do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = do_OPTIONS = _serve  # noqa: N815


def _operation(method: str, path: str) -> str:
    parts = urlsplit(path)
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} & _TELLING
    telling = "uploadId" if "uploadId" in names else next(iter(names), "")
    has_key = len(parts.path.strip("/").split("/", 1)) == 2
    return (_OF_OBJECT if has_key else _OF_BUCKET).get((method, telling), f"{method} {telling}")


def _read(response: HTTPResponse) -> Answer:
    return Answer(response.status, tuple(response.getheaders()), response.read())
