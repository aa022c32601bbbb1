"""The recipient without a browser: the real curl against a real web process and real storage."""

import hashlib
import shlex
import shutil
import subprocess
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask

from app.dispositions import saved_name
from tests.factories import Sender
from tests.test_dispositions import NAMES
from tests.threats.conftest import LoggedStack
from tests.threats.test_names import MORE_NAMES, is_taken

CURL = shutil.which("curl")
pytestmark = pytest.mark.real_commits
HOSTILE = [name for name in dict.fromkeys(NAMES + MORE_NAMES) if is_taken(name)]


@pytest.fixture(scope="module")
def web(
    app: Flask, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedStack]:
    """One web process for all of them."""
    output = tmp_path_factory.mktemp("web") / "output"
    stack = LoggedStack(environ | {"WEB_CONCURRENCY": "1"}, output)
    stack.start("web")
    yield stack
    stack.stop()


def curl(*words: str, into: Path) -> subprocess.CompletedProcess[str]:
    """As typed in a folder; without the settings of whoever runs the tests."""
    command = [CURL or "", "-q", "-sS", "--max-time", "20", *words]
    return subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)


def saved(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_s19_one_file_is_saved_under_its_right_name_whatever_it_is(
    sender: Sender, web: LoggedStack, tmp_path: Path
) -> None:
    assert len(HOSTILE) >= 56
    for number, name in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        folder.mkdir()
        body = hashlib.sha256(name.encode()).digest()
        sent = sender.ready({name: body})
        told = curl("-OJL", f"{web.url}/d/{sent.slug}", into=folder)
        assert told.returncode == 0, (name, told.stderr)
        right = saved_name(name.rpartition("/")[2])
        if {"'", '"'} <= set(right):  # curl knows no escape for the quotes around it
            right = right.replace('"', "_")
        assert saved(folder) == {right: body}, name
        assert sent.row().download_count == 1
    assert "Traceback" not in web.said()


def test_every_file_in_one_command_is_one_download(
    sender: Sender, web: LoggedStack, tmp_path: Path
) -> None:
    contents = {"a.txt": b"1", "dir/ü ☕.bin": b"2" * 100_000, "z": b""}
    sent = sender.ready(contents, verified=True, max_downloads=1)
    link = f"{web.url}/d/{sent.slug}"
    told = curl("-b", "", "-OJL", f"{link}/files/[1-3]", into=tmp_path)
    assert told.returncode == 0, told.stderr
    names = ["a.txt", "ü ☕.bin", "z"]
    assert saved(tmp_path) == dict(zip(names, contents.values(), strict=True))
    assert sent.row().download_count == 1
    refused = curl("-f", "-OJL", f"{link}/a.txt", into=tmp_path)
    assert refused.returncode == 22
    assert curl(f"{link}/a.txt", into=tmp_path).stdout == (
        "All downloads of this transfer have been used.\n"
    )


def test_all_as_one_zip_that_is_made_meanwhile(
    sender: Sender, web: LoggedStack, tmp_path: Path
) -> None:
    files = {"a b.txt": b"one", "dir/ü.bin": b"two" * 5000}
    sent = sender.ready(files, title="Fotos: März", max_downloads=1)
    web.start("maker")
    told = curl("-OJL", f"{web.url}/d/{sent.slug}/zip", into=tmp_path)
    assert told.returncode == 0, told.stderr
    (path,) = tmp_path.iterdir()
    assert path.name == "Fotos: März.zip"
    with zipfile.ZipFile(path) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
    assert sent.row().download_count == 1
    again = curl("-fOJL", f"{web.url}/d/{sent.slug}/zip", into=tmp_path)
    assert again.returncode != 0
    web.kill("maker")


def test_what_the_page_says_of_the_zip_brings_nothing_else_however_many_wait(
    sender: Sender, web: LoggedStack, tmp_path: Path
) -> None:
    sent = sender.ready({"a.txt": b"one", "b.txt": b"two"}, title="Both")
    told = curl(f"{web.url}/d/{sent.slug}", into=tmp_path).stdout
    words = shlex.split(next(line for line in told.splitlines() if line.endswith('/zip"')))
    with ExitStack() as waiting:
        folders = [tmp_path / str(number) for number in range(4)]
        several = []
        for folder in folders:
            folder.mkdir()
            command = [CURL or "", "-q", "-sS", *words[1:]]
            several.append(waiting.enter_context(subprocess.Popen(command, cwd=folder)))
        time.sleep(1)  # Two of them hold a thread by now, the others were refused.
        web.start("maker")
        codes = [one.wait(30) for one in several]
    assert codes == [0] * 4
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == ["Both.zip"]
        assert zipfile.is_zipfile(folder / "Both.zip")
    web.kill("maker")


def test_one_of_many_by_its_path(sender: Sender, web: LoggedStack, tmp_path: Path) -> None:
    sent = sender.ready({"a": b"1", "dir/50% of #1 ☕.txt": b"2"})
    told = curl("-OJL", f"{web.url}/d/{sent.slug}/dir/50%25%20of%20%231%20☕.txt", into=tmp_path)
    assert told.returncode == 0, told.stderr
    assert saved(tmp_path) == {"50% of #1 ☕.txt": b"2"}


def test_looking_counts_nothing(sender: Sender, web: LoggedStack, tmp_path: Path) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}, verified=True)
    link = f"{web.url}/d/{sent.slug}"
    assert f"{link}/files/{sent.files[0]['id']}" in curl(link, into=tmp_path).stdout
    assert '"state":"ready"' in curl(f"{link}.json", into=tmp_path).stdout
    assert curl("-I", f"{link}/a", into=tmp_path).stdout.startswith("HTTP/1.1 303")
    assert "<svg" in curl(f"{link}.svg", into=tmp_path).stdout
    assert f"a {zlib.crc32(b'1'):08X}" in curl(f"{link}.sfv", into=tmp_path).stdout.splitlines()
    assert sent.row().download_count == 0


def test_wget_keeps_cookies_by_itself(sender: Sender, web: LoggedStack, tmp_path: Path) -> None:
    sent = sender.ready({"ü ☕.bin": b"1", "b": b"2"}, max_downloads=1)
    urls = [f"{web.url}/d/{sent.slug}/files/{number}" for number in (1, 2)]
    command = ["wget", "--no-config", "-q", "--content-disposition", *urls]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    assert saved(tmp_path) == {"ü ☕.bin": b"1", "b": b"2"}
    assert sent.row().download_count == 1


# As docs/download.md has them.
WGET_JAR = ["--load-cookies", "jar", "--save-cookies", "jar", "--keep-session-cookies"]
GOING_ON = {
    "curl": ["curl", "-q", "-sS", "-b", "jar", "-c", "jar", "-C", "-", "-o", "NAME", "-L"],
    "wget": ["wget", "--no-config", "-q", *WGET_JAR, "-c", "-O", "NAME"],
}


@pytest.mark.parametrize("program", GOING_ON)
def test_what_was_interrupted_is_gone_on_with_by_its_name(
    sender: Sender, web: LoggedStack, tmp_path: Path, program: str
) -> None:
    """And with cookies that are kept it is the same download."""
    body = bytes(range(256)) * 400
    sent = sender.ready({"a.bin": body}, max_downloads=1)
    command = [*GOING_ON[program], f"{web.url}/d/{sent.slug}"]
    for has in (0, 70_000):
        (tmp_path / "NAME").write_bytes(body[:has])
        told = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
        assert told.returncode == 0, told.stderr
        assert (tmp_path / "NAME").read_bytes() == body
    assert sent.row().download_count == 1


@pytest.mark.parametrize("checker", [["cksfv", "-f"], ["rhash", "-c"]], ids=lambda one: one[0])
def test_what_arrived_is_checked_by_the_list(
    sender: Sender, web: LoggedStack, tmp_path: Path, checker: list[str]
) -> None:
    contents = {"a b.txt": b"1", "dir/ü ☕.bin": b"2" * 100_000, "; c": b"3", "# d": b"4"}
    contents |= {".env": b"5", 'it\'s "it"': b"6"}
    sent = sender.ready(contents, verified=True)
    link = f"{web.url}/d/{sent.slug}"
    curl("-b", "", "-OJL", f"{link}/files/[1-6]", into=tmp_path)
    curl("-o", "checksums.sfv", f"{link}.sfv", into=tmp_path)
    check = [*checker, "checksums.sfv"]
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / "# d").write_bytes(b"5")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode != 0
