"""/transfers by the real curl, as docs/api.md has it, against real processes and real storage."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from app import clock
from app.config import MIB
from app.db import db
from app.models import MailState, OutboxMail, Scope
from app.services import accounts
from tests.factories import http
from tests.flows.test_docs import script
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits


@pytest.fixture(scope="module")
def stack(
    app: Flask, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedStack]:
    """A web process and a worker, that hand mail over to a folder."""
    place = tmp_path_factory.mktemp("web")
    mail = {"MAIL_URL": f"file://{place}/mail", "WEB_CONCURRENCY": "1"}
    stack = LoggedStack(environ | mail, place / "output")
    stack.start("web")
    stack.start("worker")
    yield stack
    stack.stop()


@pytest.fixture
def given(app: Flask, stack: LoggedStack, tmp_path: Path) -> dict[str, str]:
    """What the document says is set."""
    with app.app_context():
        key = accounts.issue_key("Acme", "a script's", Scope.WRITE).text
    expires = f"{clock.now() + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
    return {"BASE": stack.url, "KEY": key, "FILE": f"{tmp_path}/video.mp4", "EXPIRES": expires}


def run(script: str, given: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["bash", "-euc", script],
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.splitlines()


def wait_for_mail(app: Flask) -> None:
    """Until the worker has sent all of it: after the test its rows are gone, and it would say so."""
    waiting = select(func.count()).where(OutboxMail.state == MailState.WAITING)
    deadline = time.monotonic() + 30
    while True:
        with app.app_context():
            if not db.session.scalar(waiting):
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("size", [200_000, 8 * MIB + 1])
def test_the_documents_examples_as_they_stand(
    app: Flask, stack: LoggedStack, given: dict[str, str], size: int
) -> None:
    body = os.urandom(size)
    Path(given["FILE"]).write_bytes(body)
    told = run(script("/transfers"), given)
    count = -(-size // (8 * MIB))
    assert told[0] == "READY"
    assert told[1] == str(list(range(1, count + 1)))
    assert re.fullmatch(r"http://\S+/d/[\w-]{32}", told[2])
    assert told[3] in ("1", "2")  # the other one may be ready by now
    assert told[4:] == ["9", "accepted", "[]", "EXPIRED", "READY"]
    assert Path(f"{given['FILE']}.again").read_bytes() == body
    wait_for_mail(app)
    assert "Traceback" not in stack.said()


def test_a_script_that_knows_the_flow_of_one_file_needs_only_its_key(
    stack: LoggedStack, given: dict[str, str]
) -> None:
    """Each step as such scripts have it: no header that it would not send, answers word for word."""
    body = b"film" * 1000
    Path(given["FILE"]).write_bytes(body)
    at, auth = "$BASE/transfers", '-H "Authorization: Bearer $KEY"'
    js = "-H 'Content-Type: application/json'"

    def step(words: str) -> dict[str, object]:
        (line,) = run(f"curl -sS {words} {auth}", given)
        return json.loads(line)

    asked = '{"expires_at":"\'$EXPIRES\'", "max_downloads": 5}'
    made = step(f"-X POST {at} {js} -d '{asked}'")
    assert made["status"] == "INIT"
    one = f"{at}/{made['id']}"
    asked = '{"filename":"video.mp4","content_type":"video/mp4"}'
    told = step(f"-X POST {one}/upload-url {js} -d '{asked}'")
    assert {"upload_url", "object_key"} <= told.keys()
    given = given | {"URL": str(told["upload_url"])}
    assert (
        run('curl -sS -f -X PUT "$URL" -H "Content-Type: video/mp4" --upload-file $FILE', given)
        == []
    )
    done = step(f"-X POST {one}/complete")
    wanted = {"id", "status", "filename", "file_type", "file_size"}
    assert {name: done[name] for name in wanted} == {
        "id": made["id"],
        "status": "READY",
        "filename": "video.mp4",
        "file_type": "video/mp4",
        "file_size": len(body),
    }
    url = step(f"-X GET {one}/download-url")["download_url"]
    assert http.request("GET", str(url)).data == body
    shown = step(f"-X GET {one}/")
    assert (shown["download_count"], shown["max_downloads"]) == (1, 5)
    assert step(f"-X GET {at}/")["total_count"] == 1
