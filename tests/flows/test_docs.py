"""docs/api.md as it stands: every example is run by bash against a real Beeline, in its order."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from app import clock, description
from app.config import MIB
from app.models import Scope
from app.services import accounts
from tests.described import path_of
from tests.flows.test_wetransfer_clients import fetched
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits
PAGE = Path("docs/api.md").read_text()
OPENING, *REST = re.split(r"^(?=## /)", PAGE, flags=re.MULTILINE)
SECTIONS = {section.split(":", 1)[0].removeprefix("## "): section for section in REST}
CHUNK = 5 * MIB


def script(section: str, blocks: int | None = None) -> str:
    """What somebody would paste who reads the page's beginning and one section, or so many blocks."""
    shell = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return "\n".join(shell.findall(OPENING) + shell.findall(SECTIONS[section])[:blocks])


@pytest.fixture(scope="module")
def stack(
    app: Flask, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedStack]:
    """A web process and a worker, that hand mail over to a folder."""
    place = tmp_path_factory.mktemp("docs")
    given = {"WEB_CONCURRENCY": "1", "LOG_LEVEL": "INFO", "MAIL_URL": f"file://{place}/mail"}
    stack = LoggedStack(environ | given, place / "output")
    stack.start("web")
    stack.start("worker")
    yield stack
    stack.stop()


def run(app: Flask, stack: LoggedStack, words: str, **given: str) -> subprocess.CompletedProcess:
    with app.app_context():
        key = accounts.issue_key("Acme", "a reader's", Scope.ADMIN).text
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", words],
        env=os.environ | {"BASE": stack.url, "KEY": key, **given},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.mark.parametrize("section", SECTIONS)
def test_every_example_of_a_section_runs_and_none_is_missing(
    app: Flask, stack: LoggedStack, tmp_path: Path, section: str
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"film" * 1000)
    expires = f"{clock.now() + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
    run(app, stack, script(section), FILE=str(path), EXPIRES=expires)
    asked = set()
    for line in stack.said().splitlines():
        if '"route"' in line:
            told = json.loads(line)
            asked.add((told["method"].lower(), path_of(told["route"])))
    described = {
        (method, path)
        for path, item in description.document()["paths"].items()
        for method, told in item.items()
        if method != "parameters"
        and f"{path}/".startswith(f"{section}/")
        # Those are docs/uppy.md's, and Uppy asks them: tests/browser/test_uppy.py.
        and told.get("tags") != ["uppy"]
    }
    assert described
    assert described - asked == set(), "docs/api.md has no example of these"


@pytest.mark.parametrize("size", [1, CHUNK, 2 * CHUNK + 1])
def test_what_the_walk_sends_arrives(
    app: Flask, stack: LoggedStack, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "from the shell.bin"
    path.write_bytes(os.urandom(size))
    words = script("/v2") + '\necho "at $LINK"'
    done = run(app, stack, words, FILE=str(path))
    link = done.stdout.rpartition("at ")[2].strip()
    assert fetched(link) == [(path.name, hashlib.sha256(path.read_bytes()).hexdigest())]


def test_what_the_form_brings_is_what_was_sent(app: Flask, stack: LoggedStack) -> None:
    assert "a few words" in run(app, stack, script("/files")).stdout


def test_what_the_page_says_of_other_pages_is_there() -> None:
    for page in ("docs/api.md", "docs/from-wetransfer.md"):
        for target in re.findall(r"\]\(([\w./-]+)\)", Path(page).read_text()):
            assert Path("docs", target).exists(), (page, target)
