"""What `beeline` sends and fetches, to the byte: files, folders and names, and what comes from stdin."""

import os
import shlex
import signal
import subprocess
import unicodedata
from pathlib import Path

import pytest

from app.config import MIB
from tests.embedded.watched import until
from tests.flows.cli.shell import Shell, sums
from tests.lab.s3faults import SLOW_DOWN, Answer, Forward, Request, S3Faults
from tests.lab.truth import Truth

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
    shell.retry_at_once()
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
        until(lambda: set(spool.glob("*")) - before, "something to be kept")
        return running, (set(spool.glob("*")) - before).pop()

    shell.retry_at_once()
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
    shell.change(SPOOL_MARGIN=0.0)
    shell.run("list")
    assert set(spool.iterdir()) == {unfinished, alive}
    reading.send_signal(signal.SIGHUP)
    reading.communicate(timeout=20)
    assert reading.returncode == 130
    assert list(spool.iterdir()) == [unfinished]
    assert shell.ask("resume", kept["id"])["files"][0]["size"] == 1


def test_what_was_read_from_stdin_is_nobody_elses_while_the_server_is_asked(shell: Shell) -> None:
    """No record names it yet."""
    shell.change(SPOOL_MARGIN=0.0)

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
    until(lambda: list(spool.glob("*")), "something to be kept")
    reading.send_signal(signal.SIGHUP)
    reading.communicate("1", timeout=20)
    assert reading.returncode == 0
