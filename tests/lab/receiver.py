"""A server for webhooks: records what arrives, and answers as a test wants it to."""

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Came:
    """One request, as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Listens on loopback, with TLS if it has a certificate (`folder`/server.pem)."""

    folder: Path | None = None
    # The answers, one after the other, then the last one repeatedly: a status (int), seconds to
    # wait before a 200 (float), bytes to send as they are, or a list of bytes to send one by one.
    answers: list[int | float | bytes | list[bytes]] = field(default_factory=lambda: [200])
    came: list[Came] = field(default_factory=list)
    # The TLS server names (SNI) requested, and the number of connections.
    names: list[str | None] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> "Receiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = self.rfile.read(size)
                if len(body) < size:  # The sender has died meanwhile.
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.came.append(Came(self.path, headers, body))
                at = min(len(receiver.came), len(receiver.answers)) - 1
                with contextlib.suppress(OSError):
                    receiver._answer(self, receiver.answers[at])

            def log_message(self, *given: Any) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def get_request(self) -> Any:
                found = super().get_request()
                receiver.connections += 1
                return found

            def finish_request(self, request: Any, client: Any) -> None:
                # The TLS handshake runs in the connection's own thread.
                with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
                    if receiver._tls is not None:
                        request = receiver._tls.wrap_socket(request, server_side=True)
                        closing.enter_context(request)
                    super().finish_request(request, client)

            def handle_error(self, *given: Any) -> None:
                """Ignore errors: some tests are about aborted connections."""

        self._tls = self._context()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}/hook?a=b"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *given: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _context(self) -> ssl.SSLContext | None:
        if self.folder is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        context.sni_callback = lambda line, name, given: self.names.append(name)
        return context

    def _answer(self, handler: Any, answer: int | float | bytes | list[bytes]) -> None:
        if isinstance(answer, bytes):
            handler.wfile.write(answer)
            return
        if isinstance(answer, list):
            for piece in answer:
                handler.wfile.write(piece)
                time.sleep(0.05)
            return
        if isinstance(answer, float):
            time.sleep(answer)
            answer = 200
        handler.send_response(answer)
        if 300 <= answer < 400:
            handler.send_header("Location", self.url)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")


class Canary:
    """Listens on loopback, on this port or any, and only counts the connections."""

    def __init__(self, port: int = 0) -> None:
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self._listening.accept()
                self.visits += 1
                visitor.close()

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()


def make_certificates(folder: Path, *names: str) -> Path:
    """Create a CA of the test's own (ca.pem) and a certificate for these names (server.pem)."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A test's authority")])
    authority = _certificate(issuer, issuer, authority_key.public_key(), authority_key, None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    server = _certificate(issuer, subject, key.public_key(), authority_key, names)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + server.public_bytes(serialization.Encoding.PEM)
    )
    return folder


def _certificate(issuer: Any, subject: Any, key: Any, signer: Any, names: Any) -> Any:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
    )
    if names:
        shown = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        made = made.add_extension(x509.SubjectAlternativeName(shown), critical=False)
    return made.sign(signer, hashes.SHA256())
