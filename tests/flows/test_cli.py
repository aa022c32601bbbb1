"""`beeline`, downloaded from /cli and run as it is, against a real server, worker and storage."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.config import MIB
from embedded.ports import free_port
from tests.factories import Sender, http
from tests.lab.s3faults import FORBIDDEN, SLOW_DOWN, Answer, Fault, Forward, Request, S3Faults
from tests.lab.truth import Truth
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits
NFD = unicodedata.normalize("NFD", "Zoë é.txt")
SENDINGS: dict[str, dict[str, bytes]] = {
    "nothing at all": {"empty": b""},
    "one byte": {"a": b"1"},
    "200 KB": {"photo.jpg": os.urandom(200_000)},
    "12 MiB": {"film.mov": os.urandom(12 * MIB)},
    "two files": {"b.txt": b"second", "a.bin": os.urandom(8 * MIB + 7)},
    "unicode": {"Füße 日本語 — ñ.txt": b"u", NFD: b"nfd", 'q"u\'o t&e.txt': b"q"},
    "a folder": {"Photos/a.txt": b"1", "Photos/2026/ü ☕.bin": b"2" * 5000, "Photos/empty": b""},
}


@pytest.fixture(scope="module")
def storage(environ: dict[str, str]) -> Iterator[S3Faults]:
    """What stands before storage for everybody but our own server."""
    with S3Faults(environ["S3_ENDPOINT_URL"]) as faults:
        yield faults


@pytest.fixture(scope="module")
def web(
    app: Flask,
    environ: dict[str, str],
    storage: S3Faults,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LoggedStack]:
    """A web process and a worker."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "mail").mkdir()
    settings = {
        "WEB_CONCURRENCY": "1",
        "S3_PUBLIC_ENDPOINT_URL": storage.url,
        "MAIL_URL": f"file://{folder / 'mail'}",
    }
    stack = LoggedStack(environ | settings, folder / "output")
    stack.start("web")
    stack.start("worker")
    yield stack
    stack.stop()


class Shell:
    """A terminal of somebody who has downloaded the program."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        self.program = home / "beeline"
        self.program.write_bytes(http.request("GET", f"{url}/cli").data)
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}

    def begin(self, *words: str, **given: str) -> subprocess.Popen[str]:
        """Type a command; it runs with nothing but the standard library."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(self.program), *words],
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


@pytest.fixture
def shell(web: LoggedStack, storage: S3Faults, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(web.url, tmp_path)
    storage.heal()
    assert "Traceback" not in web.said()


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def slowly(seconds: float) -> Fault:
    """Storage takes its time."""

    def answer(request: Request, forward: Forward) -> Answer:
        time.sleep(seconds)
        return forward()

    return answer


# -- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("sending", SENDINGS)
def test_what_is_sent_is_fetched_to_the_byte(
    shell: Shell, environ: dict[str, str], sending: str
) -> None:
    contents = SENDINGS[sending]
    link, told = shell.run("send", *shell.write(contents), "--max-downloads", "1")
    assert link.startswith(f"{shell.url}/d/")
    assert "Done." in told
    said, _ = shell.run("get", link.strip(), "-o", "got")
    assert said.splitlines() == [f"got/{path}" for path in sorted(contents, key=said.index)]
    assert sums(shell.home / "got") == sums(shell.home / "src")
    count = Truth(environ).rows("SELECT download_count FROM transfers")
    assert count == [(1,)]


def test_one_file_of_many_by_its_name_and_by_a_pattern(shell: Shell) -> None:
    link = shell.ask("send", *shell.write({"a.txt": b"1", "b.txt": b"2", "d/c.bin": b"3"}))["link"]
    shell.run("get", link, "d/c.bin", "-o", "one")
    shell.run("get", link, "*.txt", "-o", "some")
    assert list(sums(shell.home / "one")) == ["d/c.bin"]
    assert sorted(sums(shell.home / "some")) == ["a.txt", "b.txt"]
    told = shell.ask("get", link, "z", code=5)
    assert told["error"]["code"] == "no_such_file"


def test_stdin_is_sent_under_a_name_and_leaves_nothing_behind(shell: Shell) -> None:
    link, _ = shell.run("send", "-", "--name", "dump.sql", stdin="SELECT 1;")
    shell.run("get", link.strip(), "-o", "got")
    assert (shell.home / "got/dump.sql").read_text() == "SELECT 1;"
    assert not list((shell.home / ".local/state/beeline/spool").iterdir())
    shell.run("send", "-", code=2)
