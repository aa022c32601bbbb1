"""What goes wrong while `beeline` sends: it goes on, waits, or says why it cannot, and loses nothing."""

import json
import os
import signal
import threading
import time

import pytest

from app.config import MIB
from tests.embedded.watched import until
from tests.flows.cli.shell import Shell, sums
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
)
from tests.lab.truth import Truth

pytestmark = pytest.mark.real_commits


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
        until(lambda: self._storage.seen("UploadPart") - self._before >= count, "the parts to come")

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
    shell.retry_at_once()
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
    shell.retry_at_once()
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
    # Without being told, it would come again after half a second at most.
    busy = Answer(503, (("Retry-After", "1"), ("Content-Type", "text/html")), b"<p>Busy")
    asked: list[float] = []

    def note(request: Request, forward: Forward) -> Answer:
        asked.append(time.monotonic())
        return forward() if len(asked) > 1 else busy

    with S3Faults(shell.url) as before:
        before.plan("POST ", note, 2)
        link, told = shell.run("send", *shell.write({"a": b"1"}), "--server", before.url)
    assert asked[1] - asked[0] >= 1
    assert "It continues by itself" in told
    assert link.startswith(f"{shell.url}/d/")


def test_more_files_than_one_request_takes(shell: Shell) -> None:
    """And the answer to one of them is lost."""
    shell.change(FILES_AT_ONCE=2)
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
    shell.change(FILES_AT_ONCE=2)
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
