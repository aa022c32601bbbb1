"""What `flask` says where a service that a command needs is away: one line, without secrets."""

import subprocess

import pytest
from flask import Flask

from app.commands import Command
from app.services import accounts
from tests.lab.stack import Stack

SECRET = "not-to-be-shown"
NOBODY = "127.0.0.1:9"
NO_DATABASE = {"DATABASE_URL": f"postgres://beeline:{SECRET}@{NOBODY}/beeline"}
NO_STORAGE = {"S3_ENDPOINT_URL": f"http://{NOBODY}", "S3_SECRET_ACCESS_KEY": SECRET}
DATABASE_SAID = (
    "Error: The database does not answer: Connection refused. Start it, or correct DATABASE_URL.\n"
)


@pytest.mark.parametrize(
    "words", ["keys list", "reports show 3", "blocklist list", "db current", "release"]
)
def test_f39_a_command_without_its_database_says_so_in_one_line(
    environ: dict[str, str], words: str
) -> None:
    done = flask(words, environ, NO_DATABASE)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", DATABASE_SAID)


def test_f39_a_sweep_without_its_database_ends_at_once(environ: dict[str, str]) -> None:
    done = flask("sweep --dry-run", environ, NO_DATABASE)
    assert done.returncode == 1
    assert done.stderr.endswith(DATABASE_SAID)
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_command_that_storage_does_not_answer_says_so_in_one_line(
    environ: dict[str, str],
) -> None:
    done = flask("storage setup", environ, NO_STORAGE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("Error: Could not connect to the endpoint URL")
    assert "Look at the S3_* settings" in done.stderr
    assert SECRET not in done.stderr


def flask(
    words: str, environ: dict[str, str], but: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    command = ["flask", *words.split()]
    known = Stack(environ).environ | but
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60)


def test_a_fault_of_our_own_is_not_told_as_an_outage(app: Flask, monkeypatch) -> None:
    def breaks() -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(accounts, "all_keys", breaks)
    done = app.test_cli_runner().invoke(args=["keys", "list"])
    assert isinstance(done.exception, ValueError)


def test_every_command_tells_of_outages(app: Flask) -> None:
    # Flask-Migrate has put its own group in the place of ours when the tests' tables were made.
    ours = [one for name, one in app.cli.commands.items() if name != "db"]
    assert ours
    assert [one.name for one in ours if not isinstance(one, Command)] == []
