"""What `beeline` asks, tells and remembers: exit codes, JSON, passwords, codes by mail, the terminal."""

import errno
import os
import signal
import sys
import termios
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

from app.config import MIB
from app.services import file_requests
from cli import beeline
from embedded.ports import free_port
from tests.factories import http
from tests.flows.cli.shell import Shell, Typing, code_mailed, self_signed, sums
from tests.lab.s3faults import Answer, S3Faults
from tests.lab.truth import Truth
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits


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
    shell.retry_at_once()
    said, _ = shell.run(*words, code=code)
    assert ("130  interrupted" in said) is (words == ["--help"])


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<p>Welcome to our hotel"])
def test_what_is_no_beeline_is_told_as_json_too(shell: Shell, body: bytes) -> None:
    shell.retry_at_once()
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


# -- what it remembers -------------------------------------------------------------------------


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
