"""`flask doctor` as a whole: what it prints and how it ends, and that no check holds up the others."""

import dataclasses
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask

from app import config, timeouts
from app.extensions import storage
from app.services import doctor, heartbeats
from app.services.doctor import Finding, Level
from app.services.doctor.findings import figure
from tests.lab.mailserver import MailServer
from tests.lab.proxy import Proxy
from tests.lab.stack import Stack
from tests.services.doctor.looking import SECRETS, levels_in

Configure = Callable[..., None]


@pytest.fixture
def stack(app: Flask, environ: dict[str, str]) -> Iterator[Stack]:
    """The processes of the Procfile, with a bucket and a mail server of their own."""
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()
    with MailServer() as mail:
        more = {"S3_BUCKET": f"doctor-{secrets.token_hex(4)}", "MAIL_URL": mail.url}
        made = Stack(environ | more)
        made.release()
        for name in ("worker", "maker", "clock", "web"):
            made.start(name)
        yield made
        made.stop()
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()


@pytest.mark.real_commits
def test_where_everything_is_right_every_check_is_ok_and_nothing_is_left_in_the_bucket(
    stack: Stack, configure: Configure, inside: None
) -> None:
    wait_for_first_runs()
    done = doctor_with(stack.environ, "--mail-to", "op@example.org")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nAll is well.\n")
    assert done.stderr == ""
    found = levels_in(done.stdout)
    assert set(found.values()) == {"OK"}
    assert len(found) == len([one for one in doctor.CHECKS if one.group != "Figures"]) + 1
    assert "kept in storage   0 bytes in 0 objects" in done.stdout
    assert stack.environ["S3_SECRET_ACCESS_KEY"] not in done.stdout
    held = {"Bucket": stack.environ["S3_BUCKET"]}
    assert storage._client.list_objects_v2(**held)["KeyCount"] == 0
    assert "Uploads" not in storage._client.list_multipart_uploads(**held)


def wait_for_first_runs() -> None:
    """Until each scheduled job has run once, as it does within seconds of the first start."""
    deadline = time.monotonic() + 30
    while any(one.at is None for one in heartbeats.runs()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def doctor_with(environ: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["flask", "doctor", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def test_where_nothing_answers_the_rest_is_checked_all_the_same(
    app: Flask, environ: dict[str, str]
) -> None:
    """In a moment, without a secret, and each part says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    gone = {
        "BASE_URL": f"http://{nobody}",
        "DATABASE_URL": f"postgres://beeline:{SECRETS[0]}@{nobody}/beeline",
        "REDIS_URL": f"redis://:{SECRETS[1]}@{nobody}/0",
        "S3_ENDPOINT_URL": f"http://{nobody}",
        "S3_SECRET_ACCESS_KEY": SECRETS[2],
        "MAIL_URL": f"smtp://beeline:{SECRETS[3]}@{nobody}",
    }
    done = doctor_with(Stack(environ).environ | gone)
    assert done.returncode == 1, done.stdout + done.stderr
    found = levels_in(done.stdout)
    bad = [name for name, level in found.items() if level == "failed"]
    assert bad == ["database", "Redis", "storage address", "mail server"]
    assert found["web"] == "warning"
    assert found["CORS"] == found["worker"] == found["scheduled jobs"] == "skipped"
    assert "Not tried, because of: storage address." in done.stdout
    for setting in ("DATABASE_URL", "REDIS_URL", "S3_ENDPOINT_URL", "MAIL_URL"):
        assert setting in done.stdout
    assert done.stdout.count("Connection refused") == 5
    assert not any(one in done.stdout for one in SECRETS)
    assert done.stderr == "", "the findings say what the log would"


def test_a_warning_alone_is_no_failure(app: Flask, bucket: str, monkeypatch) -> None:
    run = app.test_cli_runner().invoke
    chosen = [one for one in doctor.CHECKS if one.name in ("bucket", "lifecycle", "open reports")]
    monkeypatch.setattr(doctor, "CHECKS", chosen)
    assert run(args=["doctor"]).exit_code == 0
    storage._client.delete_bucket_lifecycle(Bucket=bucket)
    done = run(args=["doctor"])
    assert (done.exit_code, levels_in(done.output)["lifecycle"]) == (0, "warning")
    assert done.output.endswith("\n1 warning.\n")
    storage._client.delete_bucket(Bucket=bucket)
    done = run(args=["doctor"])
    assert (done.exit_code, levels_in(done.output)["lifecycle"]) == (1, "skipped")


def test_what_hangs_is_not_waited_for_nor_tried_twice(
    app: Flask, inside: None, environ: dict[str, str], configure: Configure, bound: None
) -> None:
    with Proxy.before(environ["S3_ENDPOINT_URL"]) as proxy:
        configure(s3_endpoint_url=proxy.instead(environ["S3_ENDPOINT_URL"]))
        storage.bind(config.current())
        proxy.blackhole()
        chosen = [
            dataclasses.replace(one, seconds=0.5)
            for one in doctor.CHECKS
            if one.name in ("Redis", "parts", "CORS", "lifecycle")
        ]
        began: list[str] = []
        found = list(doctor.examine(chosen, lambda check: began.append(check.name)))
    assert [finding.level for _, finding in found][1:] == [
        Level.FAILED,
        Level.SKIPPED,
        Level.SKIPPED,
    ]
    assert "S3_ENDPOINT_URL" in found[1][1].said
    assert began == ["Redis", "parts"]


def test_all_of_it_ends_in_about_half_a_minute() -> None:
    """What needs nothing else is waited for, at worst; the rest is skipped then."""
    asked = [one for one in doctor.CHECKS if not one.needs and one.name != "BASE_URL"]
    assert sum(one.seconds for one in asked) <= 35


def test_a_check_waits_no_longer_for_an_answer_than_a_request_does(
    app: Flask, inside: None
) -> None:
    check = dataclasses.replace(doctor.CHECKS[0], find=lambda: figure(str(timeouts.is_short())))
    ((_, found),) = doctor.examine([check], lambda check: None)
    assert (found.said, timeouts.is_short()) == ("True", False)


def test_what_breaks_in_a_check_is_told_without_secrets(app: Flask, inside: None) -> None:
    def breaks() -> Finding:
        raise ValueError("at redis://:a-redis-secret@host\nand more")

    check = dataclasses.replace(doctor.CHECKS[0], find=breaks)
    ((_, found),) = doctor.examine([check], lambda check: None)
    assert found.level is Level.FAILED
    assert "ValueError: at redis://...@host." in found.said
