"""One thread per connection: read a request, authenticate it, act, answer, and stop in time."""

import contextlib
import ipaddress
import logging
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from embedded.s3 import cors, forms, multipart, routes, sigv4, xml
from embedded.s3.buckets import no_such_bucket
from embedded.s3.call import Call
from embedded.s3.errors import NotModified, S3Error
from embedded.s3.sigv4 import Credentials
from embedded.s3.store import Bucket, Store
from embedded.s3.wire import (
    DRAIN_LIMIT,
    Request,
    Response,
    check_header_value,
    decode,
    linger,
    read_request,
    send_response,
)

log = logging.getLogger(__name__)
IDLE_SECONDS = 60
STOP_SECONDS = 1.5
CONNECTION_LIMIT = 512
KEY_LIMIT = 1024
# socketserver's type, which covers UDP too.
Accepted = socket.socket | tuple[bytes, socket.socket]
CHECKSUM_HEADERS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")


class Server(socketserver.ThreadingTCPServer):
    """The endpoint; `domains` are the names whose subdomains are buckets.

    Without `checksums` it acts like a store from before objects had any: checksum headers are
    ignored, neither verified nor stored. Without `part_copies` it does not know UploadPartCopy.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        store: Store,
        credentials: Credentials,
        domains: list[str],
        *,
        checksums: bool = True,
        part_copies: bool = True,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.store = store
        self.credentials = credentials
        self.domains = domains
        self.checksums = checksums
        self.part_copies = part_copies
        self.stopping = False
        self._running = 0
        self._idle = threading.Condition()
        self._slots = threading.BoundedSemaphore(CONNECTION_LIMIT)
        super().__init__(address, Connection)

    def stop(self) -> None:
        """Stop accepting, give running requests a moment to finish, close the store."""
        self.stopping = True
        self.shutdown()
        self.server_close()
        deadline = time.monotonic() + STOP_SECONDS
        with self._idle:
            while self._running and (left := deadline - time.monotonic()) > 0:
                self._idle.wait(left)
            # Requests still running are cut off as by kill -9, which the store survives.
            if not self._running:
                self.store.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts a request while the block runs, so that stop() can wait for it."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def process_request(self, request: Accepted, client_address: Any) -> None:
        """Serve a connection; beyond the limit it is dropped, for its client to retry."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Accepted, client_address: Any) -> None:
        """Serve a connection in its thread, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log the exception; the other connections go on."""
        log.exception("connection failed")


class Connection(socketserver.StreamRequestHandler):
    """Serves the requests of one client, one after the other."""

    server: Server
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    rbufsize = 64 * 1024

    def handle(self) -> None:
        """Serve requests until either side ends the connection."""
        # A client that disconnects or times out is not an error.
        with contextlib.suppress(ConnectionError, TimeoutError):
            while self._serve_one():
                pass

    def _serve_one(self) -> bool:
        """Serve one request; returns whether the connection can serve another."""
        try:
            request = read_request(self.rfile, self.connection)
        except S3Error as error:
            send_response(self.connection, None, error_response(error, "/", new_request_id()))
            linger(self.connection)
            return False
        if request is None:
            return False
        with self.server.running():
            response = answer(request, self.server)
            try:
                self._finish_body(request)
                send_response(self.connection, request, response)
            finally:
                if not isinstance(response.body, bytes):
                    response.body.close()
        if request.body.left and request.body.invited:
            linger(self.connection)
        return request.keep_alive

    def _finish_body(self, request: Request) -> None:
        """Read what the action left unread: a client that is still sending may miss the answer."""
        if self.server.stopping:
            request.keep_alive = False
        if not request.body.left:
            return
        if request.body.invited and request.keep_alive and request.body.left <= DRAIN_LIMIT:
            with contextlib.suppress(S3Error):
                request.body.drain()
        if request.body.left:
            request.keep_alive = False


def answer(request: Request, server: Server) -> Response:
    """The response to a request; errors become error documents, only ConnectionError is raised."""
    request_id = new_request_id()
    bucket: Bucket | None = None
    try:
        locate(request, server.domains)
        bucket = server.store.find_bucket(request.bucket) if request.bucket else None
        response = _act(request, bucket, server)
    except NotModified as unchanged:
        response = Response(304, unchanged.headers)
    except S3Error as error:
        request.keep_alive = request.keep_alive and error.code != "IncompleteBody"
        response = error_response(error, request.path, request_id)
    except TimeoutError:
        request.keep_alive = False
        message = "Your socket connection to the server was not read from or written to in time."
        response = error_response(S3Error("RequestTimeout", message), request.path, request_id)
    except ConnectionError:
        raise
    except Exception:
        log.exception("%s %s failed, request %s", request.method, request.path, request_id)
        message = "We encountered an internal error. Please try again."
        response = error_response(S3Error("InternalError", message), request.path, request_id)
    response.headers.update(cors.response_headers(request, bucket))
    response.headers["x-amz-request-id"] = request_id
    return response


def locate(request: Request, domains: list[str]) -> None:
    """Set the request's bucket and key: both from the path, or the bucket from the host name."""
    path = decode(request.path)[1:]
    bucket = _bucket_of_host(request.headers.get("host"), domains)
    if bucket:
        request.bucket, request.key = bucket, path
    else:
        request.bucket, _, request.key = path.partition("/")
    if request.key and not request.bucket:
        raise S3Error("InvalidBucketName", "The specified bucket is not valid.", BucketName="")
    if len(request.key.encode()) > KEY_LIMIT:
        message = "Your key is too long"
        size = len(request.key.encode())
        raise S3Error("KeyTooLongError", message, Size=size, MaxSizeAllowed=KEY_LIMIT)


def error_response(error: S3Error, resource: str, request_id: str) -> Response:
    """S3's error document, with the error's HTTP status."""
    nodes: list[xml.Node] = [
        ("Code", error.code),
        ("Message", error.message),
        *error.facts.items(),
        ("Resource", resource),
        ("RequestId", request_id),
    ]
    body = xml.write("Error", nodes, namespace="")
    return Response(error.status, {"Content-Type": "application/xml"}, body)


def new_request_id() -> str:
    return secrets.token_hex(8).upper()


def _act(request: Request, bucket: Bucket | None, server: Server) -> Response:
    if request.method == "OPTIONS":
        return cors.preflight(request, bucket)
    now = datetime.now(UTC)
    if bucket and not request.key and forms.is_form(request):
        return forms.post_object(request, server.store, server.credentials, now)
    signature = sigv4.verify(request, server.credentials, now)
    _hoist(request)
    if request.key and not server.checksums:
        request.headers.forget(CHECKSUM_HEADERS)
    action = routes.find_action(request)
    if action is multipart.copy_part and not server.part_copies:
        raise S3Error("NotImplemented", "This store does not know UploadPartCopy.")
    if request.bucket and bucket is None and action is not routes.BUCKET["PUT", ""]:
        raise no_such_bucket(request.bucket)
    return action(Call(request, signature, server.store))


def _hoist(request: Request) -> None:
    """Add the x-amz-* arguments of a presigned URL to the headers: S3 treats them alike."""
    for name, value in request.query:
        lower = name.lower()
        if not lower.startswith("x-amz-") or lower in request.headers:
            continue
        if not check_header_value(value):
            message = "Header value cannot be represented using ISO-8859-1."
            raise S3Error("InvalidArgument", message, ArgumentName=name)
        request.headers.add(lower, value)


def _bucket_of_host(host: str, domains: list[str]) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name.strip("[]"))
        return ""
    name = name.lower().rstrip(".")
    endings = (f".{domain}" for domain in domains)
    return next((name.removesuffix(end) for end in endings if name.endswith(end)), "")
