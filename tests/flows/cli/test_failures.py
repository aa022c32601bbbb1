"""`beeline`, downloaded from /cli and run as it is, against a real server, worker and storage."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from app.config import MIB
from app.services import file_requests
from cli import beeline
from embedded.ports import free_port
from tests.factories import Sender, http
from tests.flows.shell import Shell, Typing, code_mailed, self_signed, sums
from tests.lab.s3faults import (
    FORBIDDEN,
    SLOW_DOWN,
    Answer,
    Fault,
    Forward,
    Request,
    S3Faults,
    error,
    lose_answer,
    truncate,
)
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
    "unicode": {"Füße 日本語 — ñ.txt": b"u", NFD: b"nfd", "q\"u'o t&e.txt": b"q"},
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


@pytest.fixture
def shell(web: LoggedStack, storage: S3Faults, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(web.url, tmp_path)
    storage.heal()
    assert "Traceback" not in web.said()


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


def test_files_are_named_before_between_and_after_what_is_said_of_them(shell: Shell) -> None:
    shell.write({"a": b"1", "b": b"2", "-c": b"3"})
    shell.run("list", "src/a", code=2)
    shell.run("send", "src/a", "--titel", "Rushes", code=2)
    words = ("send", "src/a", "--title", "Rushes", "src/b", "-", "--name", "d", "src/-c")
    sent = shell.ask(*words, stdin="4")
    assert sent["title"] == "Rushes"
    assert [one["path"] for one in sent["files"]] == ["a", "b", "d", "-c"]
    shell.run("get", sent["link"], "a", "-o", "got", "b", "--", "-c")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def test_what_is_to_be_said_is_what_was_meant_and_not_what_it_looks_like(shell: Shell) -> None:
    shell.write({"--json": b"1"})
    link, told = shell.run("send", "--", "src/--json")
    assert link.startswith(f"{shell.url}/d/")
    assert "Done." in told
    said, told = shell.run("get", link.strip(), "-qogot", "--", "--json")
    assert (said, told) == ("got/--json\n", "")
    _, told = shell.run("list", "--js", code=2)
    assert "unrecognized arguments: --js" in told


def test_an_empty_word_is_never_taken_for_this_folder(shell: Shell) -> None:
    """As a script types it whose variable is not set."""
    words = shell.write({"a": b"1"})
    link = shell.ask("send", *words)["link"]
    for wrong in (
        ["send", ""],
        ["send", *words, "--title", "Rushes", ""],
        ["send", *words, "--password-file", ""],
        ["send", *words, "--to", ""],
        ["get", link, ""],
        ["get", link, "-o", ""],
        ["resume", ""],
    ):
        told = shell.ask(*wrong, code=2)
        assert "must not be empty" in told["error"]["message"], wrong
    assert len(shell.ask("list")["items"]) == 1
    assert not (shell.home / "a").exists()


def test_how_to_go_on_says_what_was_allowed(shell: Shell, storage: S3Faults) -> None:
    patience = ("--patience", "1s", "--allow-http")
    storage.plan("PutObject", SLOW_DOWN)
    told = shell.ask("send", *shell.write({"a b": b"new"}), *patience, code=4)
    storage.heal()
    assert told["resume"].endswith(" --allow-http")
    link = shell.ask(*shlex.split(told["resume"])[1:])["link"]
    for name, text in (("a b", "old"), ("secret", "none is asked for")):
        (shell.home / name).write_text(text)
    storage.plan("GetObject", SLOW_DOWN)
    given = ("--force", "--password-file", "secret")
    told = shell.ask("get", link, "a b", *given, *patience, code=4)
    storage.heal()
    assert told["resume"] == (
        f"beeline get {link} 'a b' -o . --allow-http --force --password-file secret"
    )
    shell.run(*shlex.split(told["resume"])[1:])
    assert (shell.home / "a b").read_text() == "new"


def test_stdin_is_sent_under_a_name_and_leaves_nothing_behind(shell: Shell) -> None:
    link, _ = shell.run("send", "-", "--name", "dump.sql", stdin="SELECT 1;")
    shell.run("get", link.strip(), "-o", "got")
    assert (shell.home / "got/dump.sql").read_text() == "SELECT 1;"
    assert not list((shell.home / ".local/state/beeline/spool").iterdir())
    shell.run("send", "-", code=2)


def test_what_a_killed_run_has_read_from_stdin_goes_with_the_next_one(
    shell: Shell, storage: S3Faults
) -> None:
    """But not what another is reading just now, and not what can be gone on with."""
    spool = shell.home / ".local/state/beeline/spool"

    def begin(name: str) -> tuple[subprocess.Popen[str], Path]:
        running, before = shell.begin("send", "-", "--name", name), set(spool.glob("*"))
        deadline = time.monotonic() + 20
        while not (new := set(spool.glob("*")) - before):
            assert time.monotonic() < deadline, "nothing is kept"
            time.sleep(0.02)
        return running, new.pop()

    storage.plan("PutObject", SLOW_DOWN)
    kept = shell.ask("send", "-", "--name", "kept", "--patience", "1s", code=4, stdin="1")
    storage.heal()
    (unfinished,) = spool.iterdir()
    killed, dead = begin("killed")
    reading, alive = begin("reading")
    killed.kill()
    killed.communicate()
    shell.run("list")
    assert dead.exists(), "it could be so new that it has no lock yet"
    text = shell.program.read_text()
    shell.program.write_text(text.replace("\nSPOOL_MARGIN = 60.0\n", "\nSPOOL_MARGIN = 0.0\n"))
    shell.run("list")
    assert set(spool.iterdir()) == {unfinished, alive}
    reading.send_signal(signal.SIGHUP)
    reading.communicate(timeout=20)
    assert reading.returncode == 130
    assert list(spool.iterdir()) == [unfinished]
    assert shell.ask("resume", kept["id"])["files"][0]["size"] == 1


def test_what_was_read_from_stdin_is_nobody_elses_while_the_server_is_asked(shell: Shell) -> None:
    """No record names it yet."""
    text = shell.program.read_text()
    shell.program.write_text(text.replace("\nSPOOL_MARGIN = 60.0\n", "\nSPOOL_MARGIN = 0.0\n"))

    def sweep(request: Request, forward: Forward) -> Answer:
        shell.run("list")
        return forward()

    with S3Faults(shell.url) as before:
        before.plan("POST ", sweep, 1)
        sent = shell.ask("send", "-", "--name", "a", "--server", before.url, stdin="1")
    assert sent["files"][0]["size"] == 1


def test_what_nohup_has_started_stays_when_the_terminal_goes(shell: Shell) -> None:
    reading = shell.begin("send", "-", "--name", "a", start=("nohup",))
    spool = shell.home / ".local/state/beeline/spool"
    while not list(spool.glob("*")):
        time.sleep(0.02)
    reading.send_signal(signal.SIGHUP)
    reading.communicate("1", timeout=20)
    assert reading.returncode == 0


# -- what goes wrong on the way ----------------------------------------------------------------


class Cut:
    """Lets so many parts through and keeps all others waiting, until it is opened."""

    def __init__(self, storage: S3Faults, through: int) -> None:
        self._open = threading.Event()
        storage.plan("UploadPart", lambda request, forward: forward(), through)
        storage.plan("UploadPart", self._keep)
        self._storage, self._before = storage, storage.seen("UploadPart")

    def _keep(self, request: Request, forward: Forward) -> Answer | None:
        self._open.wait(60)
        return None

    def wait_until_seen(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self._storage.seen("UploadPart") - self._before < count:
            assert time.monotonic() < deadline, "the parts did not come"
            time.sleep(0.02)

    def open(self) -> None:
        self._open.set()
        self._storage.heal()


def test_after_ctrl_c_only_what_is_missing_is_sent(shell: Shell, storage: S3Faults) -> None:
    words = shell.write({"film.mov": os.urandom(4 * 8 * MIB)})
    cut = Cut(storage, through=2)
    running = shell.begin("send", *words, "--parallel", "2")
    cut.wait_until_seen(4)
    assert shell.ask("resume", code=1)["error"]["code"] == "busy"
    running.send_signal(signal.SIGINT)
    link, told = running.communicate(timeout=20)
    cut.open()
    assert running.returncode == 130
    assert "50 % is safe. Continue with: beeline resume " in told
    (record,) = (shell.home / ".local/state/beeline/transfers").glob("*.json")
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(record.read_text())["owner_token"] not in link + told
    assert shell.ask("list")["items"][0]["status"] == "INIT"
    before = storage.seen("UploadPart")
    again = shell.ask("resume", told.rsplit(maxsplit=1)[1])
    assert storage.seen("UploadPart") - before == 2
    assert again["link"] == link.strip()
    shell.run("get", link.strip(), "-o", "got")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def lie(request: Request, forward: Forward) -> Answer:
    """It is said to be there, and is not."""
    return Answer(200, (), b"")


FAULTS: dict[str, tuple[Fault, int]] = {
    "busy": (SLOW_DOWN, 2),
    "an address too old": (FORBIDDEN, 2),
    "the answer is lost": (lose_answer, 1),
    "damaged on the way": (error(400, "BadDigest"), 1),
    "it was not there when it was checked": (lie, 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_sent_again(shell: Shell, storage: S3Faults, fault: str) -> None:
    words = shell.write({"a.bin": os.urandom(100_000)})
    storage.plan("PutObject", *FAULTS[fault])
    link, _ = shell.run("send", *words)
    assert storage.left("PutObject") == 0
    shell.run("get", link.strip(), "-o", "got")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def test_nobody_is_waited_for_for_ever_and_nothing_is_lost(shell: Shell, storage: S3Faults) -> None:
    """What came from stdin is kept, too."""
    words = [*shell.write({"a": b"1"}), "-", "--name", "b"]
    storage.plan("PutObject", SLOW_DOWN)
    told = shell.ask("send", *words, "--patience", "1s", code=4, stdin="2")
    assert told["error"]["code"] == "unreachable"
    assert told["resume"] == f"beeline resume {told['id'][:8]}"
    assert told["safe_size"] == 0
    storage.heal()
    storage.plan("PutObject", FORBIDDEN)
    assert shell.ask("resume", code=1)["error"]["code"] == "storage_refused"
    storage.heal()
    storage.plan("PutObject", lie, 4)
    assert "has not arrived" in shell.ask("resume", code=1)["error"]["message"]
    storage.heal()
    again = shell.ask("resume", told["link"])
    assert [(one["path"], one["size"]) for one in again["files"]] == [("a", 1), ("b", 1)]
    assert not list((shell.home / ".local/state/beeline/spool").iterdir())
    assert shell.ask("resume", code=5)["error"]["code"] == "nothing"


NOT_OURS: dict[str, Answer] = {
    "a page": Answer(404, (("Content-Type", "text/plain"),), b"404 page not found\n"),
    "another program's": Answer(404, (), b'{"error": {"code": 404, "message": "Not Found"}}'),
    "a site that was taken down": Answer(410, (), b""),
}


@pytest.mark.parametrize("answer", NOT_OURS)
def test_only_beeline_itself_can_say_that_a_transfer_is_gone(
    shell: Shell, storage: S3Faults, answer: str
) -> None:
    """And what was read from stdin is nowhere else."""
    with S3Faults(shell.url) as before:
        words = ("-", "--name", "b", "--server", before.url, "--patience", "1s")
        storage.plan("PutObject", SLOW_DOWN)
        sent = shell.ask("send", *words, code=4, stdin="2")
        storage.heal()
        before.plan("", lambda request, forward: NOT_OURS[answer])
        (listed,) = shell.ask("list", "--patience", "1s")["items"]
        assert (listed["id"], listed["status"]) == (sent["id"], "UNKNOWN")
        for command in ("resume", "rm"):
            told = shell.ask(command, sent["id"], "--patience", "1s", code=4)
            assert told["error"]["message"] == "The server that answered is not Beeline."
        before.heal()
        assert shell.ask("resume")["files"][0]["size"] == 1
        shell.ask("rm", sent["id"])
    assert shell.ask("list")["items"] == []


def test_a_file_that_changes_meanwhile_is_refused_by_name(shell: Shell, storage: S3Faults) -> None:
    words = shell.write({"a.bin": b"before"})

    def change(request: Request, forward: Forward) -> Answer | None:
        shell.write({"a.bin": b"another"})
        return SLOW_DOWN(request, forward)

    storage.plan("PutObject", change, 1)
    told = shell.ask("send", *words, code=3)
    assert (told["error"]["code"], told["error"]["path"]) == ("changed", "a.bin")
    assert shell.ask("resume", code=3)["error"]["code"] == "changed"


def test_a_server_that_is_busy_says_when_to_come_again(shell: Shell) -> None:
    busy = Answer(503, (("Retry-After", "2"), ("Content-Type", "text/html")), b"<p>Busy")
    asked: list[float] = []

    def note(request: Request, forward: Forward) -> Answer:
        asked.append(time.monotonic())
        return forward() if len(asked) > 1 else busy

    with S3Faults(shell.url) as before:
        before.plan("POST ", note, 2)
        link, told = shell.run("send", *shell.write({"a": b"1"}), "--server", before.url)
    assert asked[1] - asked[0] >= 2
    assert "It continues by itself" in told
    assert link.startswith(f"{shell.url}/d/")


def test_more_files_than_one_request_takes(shell: Shell) -> None:
    """And the answer to one of them is lost."""
    text = shell.program.read_text()
    shell.program.write_text(text.replace("\nFILES_AT_ONCE = 1000\n", "\nFILES_AT_ONCE = 2\n"))
    words = shell.write({f"Many/{n}": f"{n}".encode() for n in range(7)})
    with S3Faults(shell.url) as before:
        before.plan("POST ", lose_answer, 1, key="/files")
        sent = shell.ask("send", *words, "--server", before.url)
        assert before.seen("POST ", "/files") == 4
    assert [one["path"] for one in sent["files"]] == [f"Many/{n}" for n in range(7)]
    shell.run("get", sent["link"], "-o", "got")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def test_of_files_that_are_not_all_taken_nothing_stays(
    shell: Shell, environ: dict[str, str]
) -> None:
    text = shell.program.read_text()
    shell.program.write_text(text.replace("\nFILES_AT_ONCE = 1000\n", "\nFILES_AT_ONCE = 2\n"))
    words = shell.write({f"Many/{n}": b"" for n in range(3)})
    refusal = b'{"error": {"code": "invalid", "message": "files: a transfer holds at most 2"}}'
    with S3Faults(shell.url) as before:
        before.plan("POST ", lambda request, forward: Answer(400, (), refusal), key="/files")
        told = shell.ask("send", *words, "--server", before.url, code=1)
    assert told["error"]["message"] == "files: a transfer holds at most 2"
    assert Truth(environ).rows("SELECT state FROM transfers") == [("DELETED",)]
    assert shell.ask("list")["items"] == []


class Spoiled:
    """A state folder in which, once the server has been asked for so much, nothing can be kept."""

    def __init__(self, shell: Shell) -> None:
        self.folder = shell.home / ".local/state/beeline/transfers"
        self.kept = shell.home / "kept"

    def __call__(self, request: Request, forward: Forward) -> Answer:
        answer = forward()
        self.folder.rename(self.kept)
        self.folder.write_text("no folder")
        return answer


def test_of_what_cannot_be_remembered_nothing_stays(shell: Shell, environ: dict[str, str]) -> None:
    """Nobody would have what it takes to go on with it, or to end it."""
    words = shell.write({"a": b"1"})
    with S3Faults(shell.url) as before:
        before.plan("POST ", Spoiled(shell), 1)
        told = shell.ask("send", *words, "--server", before.url, code=3)
        assert "beeline/transfers" in told["error"]["message"]
        assert Truth(environ).rows("SELECT state FROM transfers") == [("DELETED",)]
        asked = before.seen("POST ")
        shell.ask("send", *words, "--server", before.url, code=3)
        assert before.seen("POST ") == asked


def test_what_has_arrived_is_sent_though_it_cannot_be_remembered(shell: Shell) -> None:
    """And it is found out again once it can."""
    spoiled = Spoiled(shell)
    with S3Faults(shell.url) as before:
        before.plan("POST ", spoiled, 1, key="/complete")
        words = (*shell.write({"a": b"1"}), "--server", before.url)
        link, told = shell.run("send", *words)
        assert "Everything has arrived, but this could not be recorded here: " in told
        spoiled.folder.unlink()
        spoiled.kept.rename(spoiled.folder)
        assert shell.ask("resume")["link"] == link.strip()
    assert shell.ask("resume", code=5)["error"]["code"] == "nothing"


# -- fetching ----------------------------------------------------------------------------------


def test_a_download_goes_on_where_it_was_cut_and_is_the_same_download(
    shell: Shell, storage: S3Faults, environ: dict[str, str]
) -> None:
    words = shell.write({"a.bin": os.urandom(3_000_000)})
    link = shell.ask("send", *words, "--max-downloads", "1")["link"]
    ranges: list[str | None] = []

    def note(request: Request, forward: Forward) -> Answer:
        ranges.append(dict(request.headers).get("Range"))
        return forward()

    storage.plan("GetObject", truncate, 1)
    storage.plan("GetObject", SLOW_DOWN)
    told = shell.ask("get", link, "--patience", "1s", code=4)
    assert told["resume"] == f"beeline get {link} -o ."
    storage.heal()
    (part,) = shell.home.glob(".beeline-*.part")
    has = part.stat().st_size
    assert 0 < has < 3_000_000
    storage.plan("GetObject", note)
    (got,) = shell.ask("get", link)["files"]
    assert ranges == [f"bytes={has}-"]
    assert (got["state"], got["saved_as"]) == ("saved", "a.bin")
    assert sums(shell.home / "src") == {"a.bin": sums(shell.home)["a.bin"]}
    assert Truth(environ).rows("SELECT download_count FROM transfers") == [(1,)]


def test_what_cannot_be_remembered_is_fetched_all_the_same(shell: Shell) -> None:
    """It has been counted by then, and nobody could ask for it again."""
    link = shell.ask("send", *shell.write({"a": b"1", "b": b"2"}), "--max-downloads", "1")["link"]
    (shell.home / "full").write_text("no folder")
    _, told = shell.run("get", link, "-o", "got", XDG_STATE_HOME=str(shell.home / "full"))
    assert sums(shell.home / "got") == sums(shell.home / "src")
    assert told.count("The counted download could not be recorded here: ") == 1


def test_a_second_run_does_not_fetch_into_the_same_file(
    shell: Shell, storage: S3Faults, environ: dict[str, str]
) -> None:
    """And is not counted for it."""
    link = shell.ask("send", *shell.write({"a": b"1" * 5000}))["link"]
    told: list[dict[str, Any]] = []

    def again(request: Request, forward: Forward) -> Answer:
        told.append(shell.ask("get", link, code=1))
        return forward()

    storage.plan("GetObject", again, 1)
    shell.run("get", link)
    assert told[0]["error"]["code"] == "busy"
    assert sums(shell.home)["a"] == sums(shell.home / "src")["a"]
    assert not list(shell.home.glob(".beeline-*"))
    assert Truth(environ).rows("SELECT download_count FROM transfers") == [(1,)]


def test_what_many_runs_remember_at_once_is_all_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def remember(name: str) -> None:
        with beeline.Memory().changing("visits.json") as table:
            time.sleep(0.02)
            table[name] = 1

    runs = [threading.Thread(target=remember, args=(f"{number}",)) for number in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(beeline.Memory().read("visits.json")) == 8


def test_an_address_that_is_confirmed_while_another_is_forgets_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = SimpleNamespace(url="http://beeline.test")

    def ours() -> beeline.Senders:
        return beeline.Senders(SimpleNamespace(), beeline.Memory(), server)

    def confirmed(senders: beeline.Senders, email: str) -> str:
        # While somebody looks for the code, another run comes to its end.
        if email == "ada@example.org":
            ours().token("bob@example.org")
        return f"proof of {email}"

    monkeypatch.setattr(beeline.Senders, "_confirmed", confirmed)
    assert ours().token("ada@example.org") == "proof of ada@example.org"
    (kept,) = beeline.Memory().read("senders.json").values()
    assert set(kept["tokens"]) == {"ada@example.org", "bob@example.org"}
    assert kept["last"] == "ada@example.org"


def test_of_what_cannot_be_written_whole_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is told where, though a full disk does not say it of itself."""

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(beeline.json, "dumps", fill)
    with pytest.raises(OSError, match="No space") as told:
        beeline.Memory().write("visits.json", {})
    assert told.value.filename == str(tmp_path / "beeline")
    assert list((tmp_path / "beeline").iterdir()) == []


def test_who_was_counted_is_remembered_for_as_long_as_the_server_may(
    shell: Shell, sender: Sender
) -> None:
    """While files are on their way, and for as long after that as its operator has chosen."""
    sent = sender.create({"a": b"1", "b": b"2"}, max_downloads=1)
    sent.upload(without=(("b", 1),)).name("a").unlock()
    link = f"{shell.url}/d/{sent.slug}"
    shell.ask("get", link, code=8)
    visits = shell.home / ".local/state/beeline/visits.json"
    kept = json.loads(visits.read_text())
    kept[link]["at"] -= 30 * 86400
    visits.write_text(json.dumps(kept))
    (shell.home / "a").unlink()
    told = shell.ask("get", link, code=8)
    assert [one["state"] for one in told["files"]] == ["saved", "not_yet"]


def test_what_is_damaged_is_fetched_once_more_and_then_refused(
    shell: Shell, storage: S3Faults
) -> None:
    link = shell.ask("send", *shell.write({"a.bin": b"a" * 5000}))["link"]

    def flip(request: Request, forward: Forward) -> Answer:
        right = forward()
        return Answer(right.status, right.headers, b"b" + right.body[1:])

    storage.plan("GetObject", flip)
    assert shell.ask("get", link, "-o", "got", code=7)["error"]["path"] == "a.bin"
    assert sums(shell.home / "got") == {}
    storage.heal()
    storage.plan("GetObject", flip, 1)
    shell.run("get", link, "-o", "got")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def test_nothing_that_is_there_is_written_over_unless_forced(shell: Shell) -> None:
    link = shell.ask("send", *shell.write({"a": b"new", "b": b"same"}))["link"]
    (shell.home / "b").write_bytes(b"same")
    (shell.home / "a").write_bytes(b"old")
    told = shell.ask("get", link, code=3)
    assert (told["error"]["code"], told["error"]["path"]) == ("exists", "a")
    assert (shell.home / "a").read_bytes() == b"old"
    files = shell.ask("get", link, "--force")["files"]
    assert [one["state"] for one in files] == ["saved", "already_here"]
    assert (shell.home / "a").read_bytes() == b"new"


def test_a_folder_in_a_files_way_and_a_file_in_a_folders_are_called_by_their_names(
    shell: Shell,
) -> None:
    """And neither is written over."""
    sent = shell.ask("send", *shell.write({"a": b"1", "d/b": b"2"}), "--max-downloads", "1")
    (shell.home / "a").mkdir()
    for more in ((), ("--force",)):
        told = shell.ask("get", sent["link"], *more, code=3)["error"]
        assert told["message"].startswith("a is a folder. Move it,")
    (shell.home / "d").write_text("mine")
    for place in ("d/b", "d/e/f/b"):
        folder = str(Path(place).parent)
        told = shell.ask("get", sent["link"], "d/b", "-o", folder, "--force", code=3)["error"]
        assert told["message"].startswith("d is not a folder. Move it,")
        assert (told["code"], told["path"]) == ("exists", "d")
    shell.ask("get", sent["link"], "-o", "got")
    assert sums(shell.home / "got") == sums(shell.home / "src")


def test_a_password_is_never_typed_where_others_see_it(shell: Shell) -> None:
    words = shell.write({"a": b"1"})
    shell.run("send", *words, "--password", code=2)
    link = shell.ask("send", *words, "--password", BEELINE_PASSWORD="red fox ☕")["link"]
    assert shell.ask("get", link, code=6)["error"]["code"] == "password_needed"
    told = shell.ask("get", link, code=6, BEELINE_PASSWORD="blue fox")
    assert told["error"]["code"] == "password_wrong"
    (shell.home / "secret").write_text("red fox ☕\n")
    assert shell.ask("get", link, "--password-file", "secret")["files"][0]["state"] == "saved"


def test_a_password_is_asked_for_in_a_terminal(shell: Shell) -> None:
    """And a program that waits for it ends when it is told to."""
    sending = Typing(shell, "send", *shell.write({"a": b"1"}), "--password")
    for prompt in ("for the link: ", "Repeat the password: "):
        sending.wait_for(prompt)
        sending.type("red fox")
    assert sending.end() == 0
    assert "red fox" not in sending.seen
    getting = Typing(shell, "get", shell.ask("list")["items"][0]["link"])
    getting.wait_for("Password: ")
    getting.type("blue fox")
    getting.wait_for("That password is not right.")
    getting.wait_for("Password: ")
    getting.process.send_signal(signal.SIGTERM)
    assert getting.end() == 130


def test_files_that_are_still_on_their_way(shell: Shell, sender: Sender) -> None:
    """And a link that is over, and one that never was."""
    sent = sender.create({"a": b"1", "b": b"2"})
    sent.upload(without=(("b", 1),)).name("a").unlock()
    link = f"{shell.url}/d/{sent.slug}"
    _, told = shell.run("get", link, code=8)
    assert told.splitlines()[-1] == f"Continue with: beeline get {link} -o ."
    (shell.home / "a").unlink()
    told = shell.ask("get", link, code=8)
    assert [one["state"] for one in told["files"]] == ["saved", "not_yet"]
    assert (shell.home / "a").read_bytes() == b"1"
    sent.call("DELETE")
    assert shell.ask("get", link, code=5)["error"]["code"] == "gone"
    assert shell.ask("get", f"{shell.url}/d/{'x' * 32}", code=5)["error"]["code"] == "not_found"


HOSTILE = [
    "../../above", "/etc/root", "a/../../b", "..\\..\\c", ".bashrc", ".ssh/authorized_keys", "..", "",
    "\x1b]0;title\x07name", "gpj.\u202eexe", "d/./e", "same", "same", "~/home", "-rf",
]  # fmt: skip


def named(names: list[str]) -> Fault:
    """As a server would say it that is not ours, or not ours any more."""

    def rename(request: Request, forward: Forward) -> Answer:
        right = forward()
        if not request.path.endswith(".json"):
            return right
        told = json.loads(right.body)
        for number, file in enumerate(told["files"]):
            file["path"] = names[number]
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(told).encode())

    return rename


def test_no_name_leads_out_of_the_folder_or_into_the_terminal(shell: Shell, sender: Sender) -> None:
    sent = sender.ready({f"{n}": f"{n}".encode() for n in range(len(HOSTILE))})
    link = f"/d/{sent.slug}"
    with S3Faults(shell.url) as before:
        before.plan("", named(HOSTILE))
        said, told = shell.run("get", before.url + link, "-o", "deep/er/got")
    got = shell.home / "deep/er/got"
    saved = {str(path.relative_to(got)) for path in got.rglob("*") if path.is_file()}
    assert saved == {
        "above", "etc/root", "a/b", "c", "_.bashrc", "_.ssh/authorized_keys", "file", "file (2)",
        "]0;titlename", "gpj.exe", "d/e", "same", "same (2)", "~/home", "-rf",
    }  # fmt: skip
    assert {path.name for path in shell.home.iterdir()} <= {"beeline", "deep", ".local"}
    assert not {"\x1b", "\x07", "\u202e"} & set(said + told)
    assert (got / "_.bashrc").stat().st_mode & 0o111 == 0


# What some file system refuses, or takes for the same; and what becomes of it.
PHOTOS = "写真" * 60
UNLIKELY = {
    "Readme.txt": "Readme.txt",
    "README.TXT": "README (2).TXT",
    "\u00e9.txt": "\u00e9.txt",
    "e\u0301.txt": "e\u0301 (2).txt",
    "a": "a (2)",
    "a/b": "a/b",
    f"{PHOTOS}.jpg": f"{PHOTOS[:83]}.jpg",
    f"{PHOTOS}, too.jpg": f"{PHOTOS[:82]} (2).jpg",
    f"{PHOTOS}/.{'x' * 254}": f"{PHOTOS[:85]}/.{'x' * 254}",
    f".{'x' * 254}": f"_.{'x' * 253}",
}


def test_names_are_such_as_every_system_has_and_none_is_there_twice(
    shell: Shell, sender: Sender
) -> None:
    """Else one of them would be written over another, or nothing of the link could be fetched."""
    sent = sender.ready({f"{n}": f"{n}".encode() for n in range(len(UNLIKELY))})
    with S3Faults(shell.url) as before:
        before.plan("", named(list(UNLIKELY)))
        told = shell.ask("get", f"{before.url}/d/{sent.slug}", "-o", "got", "--force")
    saved = [one["saved_as"] for one in told["files"]]
    assert saved == [f"got/{name}" for name in UNLIKELY.values()]
    for number, name in enumerate(UNLIKELY.values()):
        assert (shell.home / "got" / name).read_text() == str(number)


# -- the rest of it ----------------------------------------------------------------------------


def test_what_scripts_read(shell: Shell) -> None:
    words = shell.write({"a.txt": b"hello"})
    sent = shell.ask("send", *words, "--title", "Rushes", "--expires", "2d")
    manage, token = sent["manage_link"], sent["owner_token"]
    assert http.request("GET", manage).status == 200
    assert manage == f"{shell.url}/m/{sent['id']}.{token}"
    (file,) = sent.pop("files")
    assert set(sent) == {
        "ok", "command", "id", "link", "owner_token", "manage_link", "status", "title",
        "expires_at", "total_size",
    }  # fmt: skip
    assert (file["path"], file["size"], file["crc32"]) == ("a.txt", 5, "3610a686")
    (item,) = shell.ask("list")["items"]
    assert (item["status"], item["title"], item["file_count"]) == ("READY", "Rushes", 1)
    assert item["link"] in shell.run("list")[0]
    assert shell.ask("rm", sent["id"][:8])["link"] == sent["link"]
    assert http.request("GET", f"{sent['link']}.json").status == 410
    assert shell.ask("list")["items"] == []
    assert shell.ask("rm", sent["link"], code=5)["error"]["code"] == "unknown"
    assert shell.ask("send", "nothing", code=3)["error"]["path"] == "nothing"
    refused = shell.ask("send", *words, "--expires", "9999d", code=1)
    assert refused["error"]["fields"][0]["field"] == "expires_at"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["get", "http://send.example.org/d/" + "x" * 32], 2),
        (["send", "beeline", "--server", "http://send.example.org"], 2),
        (["get", "https://send.example.org/about"], 2),
        (["send", "beeline", "--expires", "soon"], 2),
        (["send", "beeline", "beeline"], 2),
        (["send", "beeline", "--to", "a@example.org"], 2),
        (["send", "beeline", "--server", f"http://127.0.0.1:{free_port()}", "--patience", "1s"], 4),
        ([], 2),
        (["--help"], 0),
    ],
)
def test_exit_codes(shell: Shell, words: list[str], code: int) -> None:
    said, _ = shell.run(*words, code=code)
    assert ("130  interrupted" in said) is (words == ["--help"])


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<p>Welcome to our hotel"])
def test_what_is_no_beeline_is_told_as_json_too(shell: Shell, body: bytes) -> None:
    with S3Faults(shell.url) as before:
        before.plan("POST ", lambda request, forward: Answer(200, (), body))
        given = ("--server", before.url, "--patience", "1s")
        told = shell.ask("send", "beeline", *given, code=1 if body[0] != ord("<") else 4)
    assert "not" in told["error"]["message"]


def test_a_failure_without_words_is_told_by_its_name() -> None:
    told = str(beeline._away("example.org", ConnectionResetError()))
    assert told == "example.org cannot be reached: ConnectionResetError."


def test_a_certificate_that_nobody_vouches_for_is_refused(shell: Shell, tmp_path: Path) -> None:
    with self_signed(tmp_path) as port:
        told = shell.ask("send", "beeline", "--server", f"https://localhost:{port}", code=4)
    assert "certificate" in told["error"]["message"]


def test_mail_by_a_code_that_is_asked_for_once(shell: Shell, web: LoggedStack) -> None:
    words = shell.write({"a": b"1"})
    mail = ["--to", "bob@example.org, eve@example.org", "--from", "ada@example.org"]
    running = Typing(shell, "send", *words, *mail)
    running.wait_for("Code: ")
    running.type(code_mailed(web, "ada@example.org"))
    assert running.end() == 0
    sent = shell.ask("send", *words, "--to", "bob@example.org")
    shown = http.request(
        "GET",
        f"{shell.url}/transfers/{sent['id']}",
        headers={"Authorization": f"Bearer {sent['owner_token']}"},
    ).json()
    assert (shown["sender_email"], shown["sender_confirmed"]) == ("ada@example.org", True)
    assert [one["email"] for one in shown["recipients"]] == ["bob@example.org"]
    before = len(shell.ask("list")["items"])
    refused = shell.ask("send", *words, "--to", "nobody", code=1)
    assert refused["error"]["fields"][0]["field"] == "recipients.0"
    assert len(shell.ask("list")["items"]) == before


def test_where_only_some_may_send_the_address_is_proven_once(
    shell: Shell, web: LoggedStack
) -> None:
    web.start("web.2", SENDERS="@studio.example")
    try:
        strict = ["--server", web.addresses()[-1]]
        words = [*shell.write({"a": b"1"}), *strict]
        told = shell.ask("send", *words, code=2)
        assert "--from you@example.org" in told["error"]["message"]
        running = Typing(shell, "send", *words, "--from", "cy@studio.example")
        running.wait_for("Code: ")
        running.type(code_mailed(web, "cy@studio.example"))
        assert running.end() == 0
        # From now on it knows.
        assert shell.ask("send", *words)["link"]
        running = Typing(shell, "send", *words, "--from", "dee@example.org")
        running.wait_for("Code: ")
        running.type(code_mailed(web, "dee@example.org"))
        assert running.end() == 1
    finally:
        web.kill("web.2")


def test_files_are_sent_to_whoever_asked_for_them(
    shell: Shell, app: Flask, environ: dict[str, str]
) -> None:
    asked, email = uuid.uuid4(), "studio@example.org"
    with app.app_context():
        file_requests.make(asked, email, title="Rushes", message="", days=1)
        slug = file_requests.one_of(email, asked).slug
    files = shell.write({"a.mov": b"1"})
    # Not where the command line was downloaded: where the link leads.
    link = f"{shell.url}/r/{slug}"
    shell.run("send", *files, "--request", link, "--server", "http://127.0.0.1:9")
    told = (
        "SELECT count(*) FROM outbox_mails WHERE kind = 'received' AND email = 'studio@example.org'"
    )
    assert Truth(environ).rows(told) == [(1,)]
    assert shell.ask("send", *files, "--request", f"{shell.url}/d/{slug}", code=2)
    with app.app_context():
        file_requests.close(email, asked)
    refused = shell.ask("send", *files, "--request", link, code=1)
    assert "is not open" in refused["error"]["message"]


def test_who_no_longer_reads_is_told_nothing_and_everything_is_done(shell: Shell) -> None:
    link = shell.ask("send", *shell.write({"a": b"1", "b": b"2"}))["link"]
    for words in (["list"], ["list", "--json"], ["get", link, "-o", "got"], ["send", "src/a"]):
        with shell.begin(*words) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.close()
            assert "Broken pipe" not in running.stderr.read()
        assert running.returncode == 0
    assert sums(shell.home / "got") == sums(shell.home / "src")
    assert [one["status"] for one in shell.ask("list")["items"]] == ["READY", "READY"]


def test_what_is_drawn_is_as_wide_as_the_terminal_it_is_drawn_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """stdout is a file, where the link goes."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 132))
    with open(theirs, "w") as terminal, open(ours, "rb"):
        monkeypatch.setattr(sys, "stderr", terminal)
        assert beeline._width() == 132
    monkeypatch.undo()


def test_a_terminal_sees_how_far_it_is(shell: Shell) -> None:
    running = Typing(shell, "send", *shell.write({"a.bin": os.urandom(9 * MIB)}))
    assert running.end() == 0, running.seen
    assert "●" in running.seen
    assert "100%  9.4 MB of 9.4 MB" in running.seen
