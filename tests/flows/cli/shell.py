"""A terminal of somebody who has downloaded `beeline`, and what is around it."""

import contextlib
import hashlib
import json
import os
import pty
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.factories import http
from tests.lab.s3faults import Answer, Forward, Request, S3Faults
from tests.threats.conftest import LoggedStack


class Shell:
    """A terminal of somebody who has downloaded the program."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        self.program = home / "beeline"
        self.program.write_bytes(http.request("GET", f"{url}/cli").data)
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}

    def change(self, **constants: float) -> None:
        """Give constants of the program other values, so that less is sent, or waited for."""
        text = self.program.read_text()
        for name, value in constants.items():
            text, count = re.subn(rf"^{name} = .+$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert count == 1, name
        self.program.write_text(text)

    def retry_at_once(self) -> None:
        """Let the program try again without growing pauses: it gives up when its patience ends."""
        self.change(LONGEST_PAUSE=0.2, LONGEST_PAUSE_UNANSWERED=0.2)

    def begin(
        self, *words: str, start: tuple[str, ...] = (), **given: str
    ) -> subprocess.Popen[str]:
        """Type a command; it runs with nothing but the standard library."""
        return subprocess.Popen(
            [*start, sys.executable, "-I", "-S", str(self.program), *words],
            cwd=self.home,
            env=self.environ | given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, code: int = 0, stdin: str = "", **given: str) -> tuple[str, str]:
        """What a command said on stdout and on stderr, once it has ended as it should."""
        running = self.begin(*words, **given)
        said, told = running.communicate(stdin, timeout=60)
        assert running.returncode == code, (words, said, told)
        assert "Traceback" not in told
        return said, told

    def ask(self, *words: str, code: int = 0, **given: str) -> dict[str, Any]:
        """The object that a command prints for scripts."""
        said, told = self.run(*words, "--json", code=code, **given)
        assert told == ""
        answer = json.loads(said)
        assert answer["ok"] is (code == 0)
        assert answer.get("exit_code", 0) == code
        return answer

    def write(self, contents: dict[str, bytes]) -> list[str]:
        """Have these files; what is to be typed to send them, folders as a whole."""
        for path, body in contents.items():
            place = self.home / "src" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
        return list(dict.fromkeys(f"src/{path.partition('/')[0]}" for path in contents))


class Typing:
    """Somebody at a terminal: the program asks on its stdin, and draws its progress."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(shell.program), *words],
            cwd=shell.home,
            env=shell.environ | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""
        self._read = 0

    def wait_for(self, words: str) -> None:
        """Until it has said so, after whatever was waited for before."""
        while words not in self.seen[self._read :]:
            self.seen += os.read(self._ours, 4096).decode(errors="replace")
        self._read = self.seen.index(words, self._read) + len(words)

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def end(self) -> int:
        with contextlib.suppress(OSError):
            while read := os.read(self._ours, 4096):
                self.seen += read.decode(errors="replace")
        os.close(self._ours)
        return self.process.wait(timeout=20)


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def heard(server: S3Faults) -> list[Request]:
    """What a server is asked from now on."""
    came: list[Request] = []

    def note(request: Request, forward: Forward) -> Answer:
        came.append(request)
        return forward()

    server.plan("", note)
    return came


def names(request: Request) -> set[str]:
    """The names of its headers, in lower case."""
    return {name.lower() for name, _ in request.headers}


def code_mailed(web: LoggedStack, email: str) -> str:
    """The code, once it has come."""
    folder = Path(web.environ["MAIL_URL"].removeprefix("file://"))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in folder.iterdir():
            text = path.read_text(errors="replace")
            if email in text and (found := re.search(r"\b(\d{8})\b", text)):
                return found[1]
        time.sleep(0.1)
    raise AssertionError("no code came")


@contextlib.contextmanager
def self_signed(folder: Path) -> Iterator[int]:
    """The port of a TLS server that has made its certificate itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (folder / "pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listening.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(line, server_side=True):
                        pass

        threading.Thread(target=answer, daemon=True).start()
        yield listening.getsockname()[1]
