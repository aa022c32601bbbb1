"""The document's own commands for /s3: a real server, curl, and what arrives is compared."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app.config import MIB
from app.models import Scope
from app.services import accounts
from tests.factories import http
from tests.flows.test_docs import script
from tests.lab.stack import Stack

pytestmark = pytest.mark.real_commits


@pytest.fixture
def web(app: Flask, environ: dict[str, str]) -> Iterator[Stack]:
    stack = Stack(environ | {"WEB_CONCURRENCY": "1"})
    stack.start("web")
    yield stack
    stack.stop()


def test_the_documents_walk_by_curl(app: Flask, web: Stack, tmp_path: Path) -> None:
    with app.app_context():
        key = accounts.issue_key("Acme", "a document's", Scope.WRITE).text
    walk = script("/s3", blocks=1)
    for size in (1, 12 * MIB):
        path = tmp_path / "from the shell & co.bin"
        path.write_bytes(os.urandom(size))
        given = os.environ | {"BASE": web.url, "KEY": key, "FILE": str(path)}
        done = subprocess.run(
            ["bash", "-euc", walk], env=given, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr + done.stdout
        answer = http.request("GET", done.stdout.strip())
        assert answer.data == path.read_bytes()
        assert 'filename="from the shell & co.bin"' in answer.headers["Content-Disposition"]
