"""How `beeline` fetches: it goes on after a cut, counts once, and writes over nothing and nowhere else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.factories import Sender
from tests.flows.cli.shell import Shell, sums
from tests.lab.s3faults import SLOW_DOWN, Answer, Fault, Forward, Request, S3Faults, truncate
from tests.lab.truth import Truth

pytestmark = pytest.mark.real_commits


def test_a_download_goes_on_where_it_was_cut_and_is_the_same_download(
    shell: Shell, storage: S3Faults, environ: dict[str, str]
) -> None:
    shell.retry_at_once()
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
