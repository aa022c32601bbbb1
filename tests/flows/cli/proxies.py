"""An HTTP proxy, as a company has one between its people and the internet."""

import contextlib
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """One request to the proxy itself; all that it may read of what goes through a tunnel."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class ForwardProxy:
    """Listens on loopback. Only it knows where the names in `routes` lead, as "host:port"."""

    routes: Mapping[str, str]
    # What it must be shown as Proxy-Authorization, if anything.
    wants: str | None = None
    # How it answers, if it lets nothing through.
    refusal: int = 0
    asked: list[Asked] = field(default_factory=list)
    # Every byte that came through tunnels, in both directions.
    passed: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> "ForwardProxy":
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def status_for(self, asked: Asked, place: str) -> int:
        """How it answers: 200 if it lets the request through to this place."""
        self.asked.append(asked)
        if self.wants is not None and asked.headers.get("Proxy-Authorization") != self.wants:
            return 407
        return self.refusal or (200 if place in self.routes else 502)


class _Handler(BaseHTTPRequestHandler):
    proxy: ForwardProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_CONNECT(self) -> None:
        self.close_connection = True
        if not self._lets_through(self.path):
            return
        host, _, port = self.proxy.routes[self.path].rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response_only(200)
            self.end_headers()
            back = threading.Thread(target=self._pass, args=(there, self.connection), daemon=True)
            back.start()
            self._pass(self.connection, there)
            back.join(10)

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        scheme, _, rest = self.path.partition("://")
        place, slash, path = rest.partition("/")
        assert (scheme, self.headers["Host"]) == ("http", place)
        if not self._lets_through(place if ":" in place else f"{place}:80"):
            return
        there = HTTPConnection(self.proxy.routes[place if ":" in place else f"{place}:80"])
        there.putrequest(self.command, slash + path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name != "Proxy-Authorization":
                there.putheader(name, value)
        there.endheaders(body)
        with contextlib.closing(there.getresponse()) as answer:
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name not in ("Connection", "Content-Length", "Transfer-Encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        there.close()

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815

    def _lets_through(self, place: str) -> bool:
        asked = Asked(self.command, self.path, dict(self.headers.items()))
        status = self.proxy.status_for(asked, place)
        if status != 200:
            self.close_connection = True
            self.send_error(status)
        return status == 200

    def _pass(self, start: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := start.recv(65536):
                self.proxy.passed += block
                end.sendall(block)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_WR)

    def log_message(self, *args: object) -> None:
        """Log nothing."""
