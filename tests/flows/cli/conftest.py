"""A Beeline for the command line: starting one takes longer than most of its tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.flows.cli.shell import Shell
from tests.lab.s3faults import S3Faults
from tests.threats.conftest import LoggedStack


@pytest.fixture(scope="package")
def storage(environ: dict[str, str]) -> Iterator[S3Faults]:
    """What stands before storage for everybody but our own server."""
    with S3Faults(environ["S3_ENDPOINT_URL"]) as faults:
        yield faults


@pytest.fixture(scope="package")
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
