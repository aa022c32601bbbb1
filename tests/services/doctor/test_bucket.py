"""Does the installation work: `flask doctor`, sweeps that come round, connections that suffice."""

import dataclasses
import re
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis
from aiosmtpd.smtp import AuthResult
from botocore.stub import Stubber
from flask import Flask
from flask.testing import FlaskClient
from rq import Queue
from sqlalchemy import text, update

from app import clock, config, jobs, timeouts
from app.db import db, transaction
from app.extensions import events, queue, storage
from app.gateways import plain_http
from app.gateways.queue import BeelineWorker
from app.gateways.s3_answers import TOKEN_HEADER
from app.models import Archive, Harm, Heartbeat, MailKind, MailState, OutboxMail
from app.services import abuse, archives, bucket_rules, doctor, heartbeats, upkeep
from app.services.doctor import Check, Finding, Level, processes
from app.services.doctor.findings import figure
from tests.factories import Sender
from tests.lab.mailserver import MailServer
from tests.lab.proxy import Proxy
from tests.lab.stack import Stack
from tests.mail import ADA, turn_off, turn_on

Configure = Callable[..., None]
SECRETS = ("a-database-secret", "a-redis-secret", "a-storage-secret", "a-mail-secret")


def look(name: str) -> Finding:
    """What one check finds."""
    chosen = [one for one in doctor.checks() if one.name == name]
    ((_, found),) = doctor.examine(chosen, lambda check: None)
    return found


def assert_found(name: str, level: Level, *words: str) -> None:
    """That a check finds this, in a sentence with these words."""
    found = look(name)
    assert found.level is level, found
    for one in words:
        assert one in found.said


def levels_in(output: str) -> dict[str, str]:
    """The level of each check, by its name, as the command has printed them."""
    lines = re.findall(r"^  (OK|warning|failed|skipped) +(\S.{15})  \S", output, re.MULTILINE)
    return {name.strip(): level for level, name in lines}


# -- the whole command -------------------------------------------------------------------------


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
    assert done.stdout.count("Connection refused") == 4
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


# -- settings and the way to the site ----------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "level"),
    [
        ("http://localhost:8000", Level.OK),
        ("http://127.0.0.1:8000", Level.OK),
        ("https://send.example.org", Level.OK),
        ("http://send.example.org", Level.WARNING),
        ("http://192.0.2.7", Level.WARNING),
    ],
)
def test_an_address_without_tls_is_only_for_this_machine(
    app: Flask, inside: None, configure: Configure, base_url: str, level: Level
) -> None:
    configure(base_url=base_url)
    assert_found("BASE_URL", level, base_url)


@contextmanager
def site(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that answers each request like this; yields its URL."""
    methods = dict.fromkeys(("do_GET", "do_PUT", "do_OPTIONS"), answer)
    kind = type("Site", (BaseHTTPRequestHandler,), methods | {"log_message": print})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def sends(status: int, body: bytes = b"", **headers: str) -> Callable[[Any], None]:
    """For site(): answers every request with this; /health as we do."""

    def answer(request: Any) -> None:
        is_health = request.path == "/health"
        request.send_response(200 if is_health and not body else status)
        for name, value in headers.items():
            request.send_header(name, value.format(host=request.headers["Host"]))
        request.end_headers()
        request.wfile.write(body or (b'{"status": "OK"}' if is_health else b""))

    return answer


@pytest.mark.parametrize(
    ("answer", "level", "remedy"),
    [
        (sends(200), Level.OK, "answers"),
        (sends(308, Location="http://{host}/"), Level.FAILED, "TRUSTED_PROXIES"),
        (sends(421), Level.FAILED, "Host header"),
        (sends(502), Level.FAILED, "BASE_URL"),
        (sends(200, b"Welcome to nginx!"), Level.FAILED, "BASE_URL"),
    ],
)
def test_what_is_in_front_of_the_web_process_passes_requests_on_as_it_should(
    app: Flask, inside: None, configure: Configure, answer: Any, level: Level, remedy: str
) -> None:
    with site(answer) as url:
        configure(base_url=url)
        assert_found("web", level, remedy)
    assert_found("web", Level.WARNING, "Connection refused", "`web`")


def test_a_page_that_redirects_to_itself_is_what_web_does_without_its_proxies(
    app: Flask, configure: Configure
) -> None:
    """What the check above recognises."""
    configure(base_url="https://localhost")
    answer = app.test_client().get("/", base_url="http://localhost")
    assert (answer.status_code, answer.location) == (308, "https://localhost/")


# -- database ----------------------------------------------------------------------------------


def test_f40_the_default_fits_and_too_much_is_refused(app: Flask, configure: Configure) -> None:
    runner = app.test_cli_runner()
    assert runner.invoke(args=["database", "check"]).exit_code == 0
    configure(web_concurrency=50, database_pool_size=20)
    refused = runner.invoke(args=["database", "check"])
    assert refused.exit_code == 1
    assert "1008" in refused.output
    assert "DATABASE_POOL_SIZE" in refused.output


@pytest.mark.parametrize("whose", ["ROLE SESSION_USER", "DATABASE"])
def test_f40_a_plan_that_limits_the_role_or_the_database_is_believed(
    app: Flask, inside: None, whose: str
) -> None:
    """As hosted PostgreSQL does, whatever max_connections says."""
    name = db.session.execute(text("SELECT quote_ident(current_database())")).scalar_one()
    whose = f"DATABASE {name}" if whose == "DATABASE" else whose
    db.session.execute(text(f"ALTER {whose} CONNECTION LIMIT 20"))
    db.session.commit()
    assert_found(
        "connections",
        Level.FAILED,
        "may open 24 database",
        "PostgreSQL allows 20",
        "DATABASE_POOL_SIZE",
    )


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ("UPDATE alembic_version SET version_num = '0020'", Level.FAILED, " migrations (0021, "),
        ("DROP TABLE alembic_version", Level.FAILED, "`flask release`"),
        ("UPDATE alembic_version SET version_num = '9999'", Level.WARNING, "newer release (9999)"),
    ],
)
def test_a_database_that_is_behind_or_ahead_is_told(
    app: Flask, inside: None, change: str, level: Level, words: str
) -> None:
    assert look("migrations").level is Level.OK
    with transaction():
        db.session.execute(text(change))
    assert_found("migrations", level, words)


@pytest.mark.parametrize(
    ("seconds", "of_database", "of_storage"),
    [
        (20, Level.OK, Level.OK),
        (300, Level.WARNING, Level.WARNING),
        (-300, Level.WARNING, Level.WARNING),
        (1200, Level.WARNING, Level.FAILED),
        # Storage is so far ahead of us that it finds every download's URL expired.
        (-310, Level.WARNING, Level.FAILED),
    ],
)
def test_f66_a_clock_that_is_wrong_is_told(
    app: Flask,
    inside: None,
    monkeypatch,
    seconds: int,
    of_database: Level,
    of_storage: Level,
) -> None:
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + timedelta(seconds=seconds))
    way = "behind" if seconds > 0 else "ahead of"
    assert_found("database clock", of_database, way)
    assert_found("storage clock", of_storage, way)
    if abs(seconds) > 60:
        assert_found("storage clock", of_storage, "NTP")


# -- Redis -------------------------------------------------------------------------------------


@pytest.fixture
def server(environ: dict[str, str]) -> Iterator[redis.Redis]:
    """Redis, empty before and after, with its own settings afterwards."""
    client = redis.Redis.from_url(environ["REDIS_URL"])
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    client.replicaof("NO", "ONE")
    client.flushall()
    client.close()


def test_a_redis_that_may_drop_jobs_or_is_nearly_full_is_told(
    app: Flask, inside: None, server: redis.Redis
) -> None:
    assert_found("memory", Level.OK, "no limit")
    server.config_set("maxmemory", 10**9)
    assert_found("memory", Level.OK, "% of Redis's memory")
    server.config_set("maxmemory-policy", "allkeys-lru")
    assert_found("memory", Level.WARNING, "allkeys-lru", "noeviction")
    server.config_set("maxmemory-policy", "volatile-lru")
    assert_found("memory", Level.OK)
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.05))
    assert_found("memory", Level.WARNING, "raise maxmemory")


def test_a_redis_that_does_not_let_us_ask_about_it_is_used_all_the_same(
    app: Flask, inside: None, server: redis.Redis, monkeypatch
) -> None:
    """As a user of Redis Cloud, who has no right to dangerous commands."""
    allowed = ["+@all", "-@dangerous"]
    server.acl_setuser("bee", enabled=True, passwords=["+x"], keys=["*"], categories=allowed)
    place = server.get_connection_kwargs()
    client = redis.Redis(place["host"], place["port"], place["db"], username="bee", password="x")
    monkeypatch.setattr(queue, "_redis", client)
    try:
        assert_found("Redis", Level.OK, "accepts jobs")
        assert_found("memory", Level.OK, "INFO")
        assert_found("failed jobs", Level.FIGURE, "ten minutes")
    finally:
        client.close()
        server.acl_deluser("bee")


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (lambda server: server.config_set("maxmemory", 1), "Raise its maxmemory"),
        (lambda server: server.replicaof("127.0.0.1", 1), "REDIS_URL name the primary"),
    ],
)
def test_a_redis_that_accepts_no_jobs_is_told(
    app: Flask, inside: None, server: redis.Redis, spoil: Any, remedy: str
) -> None:
    assert_found("Redis", Level.OK, "accepts jobs")
    spoil(server)
    try:
        assert_found("Redis", Level.FAILED, remedy)
    finally:
        queue.circuit._set(0.0)


# -- storage -----------------------------------------------------------------------------------


@pytest.fixture
def bound(app: Flask, configure: Configure) -> Iterator[None]:
    """The gateways have their own settings again after the test."""
    before = config.current()
    yield
    storage.bind(before)
    events.bind(before)


@pytest.fixture
def bucket(app: Flask, inside: None, configure: Configure, bound: None) -> str:
    """A bucket of the test's own, set up as a release does; its name."""
    name = f"doctor-{secrets.token_hex(4)}"
    configure(s3_bucket=name)
    storage.bind(config.current())
    storage.setup(config.settings.origins, bucket_rules.ABORT_AFTER_DAYS)
    return name


OF_STORAGE = (
    "bucket", "parts", "whole files", "checksums", "small files", "signed URLs", "forms",
    "downloads", "CORS", "lifecycle",
)  # fmt: skip


def test_what_is_tried_in_the_bucket_works_and_leaves_nothing(bucket: str) -> None:
    for name in ("storage address", "storage clock", *OF_STORAGE):
        assert_found(name, Level.OK)
    assert storage._client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert "Uploads" not in storage._client.list_multipart_uploads(Bucket=bucket)


def test_what_cannot_be_removed_from_the_bucket_is_told_and_found_by_the_sweeps(
    bucket: str, monkeypatch
) -> None:
    """As is what a command leaves that was killed."""
    monkeypatch.setattr(storage, "delete", lambda keys: keys)
    assert_found("small files", Level.FAILED, "AccessDenied", 'under "The bucket"')
    monkeypatch.setattr(storage, "abort_upload", lambda key, s3_upload_id: None)
    assert_found("parts", Level.OK)
    monkeypatch.setattr(upkeep, "ORPHAN_FOR", timedelta(seconds=-2))
    monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(seconds=-2))
    assert upkeep.find_orphans().orphan_count == 1
    assert len(upkeep.find_unknown_uploads().unknown) == 1


def test_a_store_that_browsers_cannot_reach_or_use_is_told(
    app: Flask, inside: None, configure: Configure, bound: None
) -> None:
    configure(base_url="https://send.example.org")
    assert_found("storage address", Level.FAILED, "their own machine", "S3_PUBLIC_ENDPOINT_URL")
    configure(s3_public_endpoint_url="http://s3.example.org")
    storage.bind(config.current())
    assert_found("storage address", Level.FAILED, "begin with https://")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"s3_secret_access_key": "a-wrong-secret"}, "S3_SECRET_ACCESS_KEY"),
        ({"s3_access_key_id": "nobody"}, "S3_ACCESS_KEY_ID"),
        ({"s3_bucket": "nobody-has-made-this"}, "`flask storage setup`"),
    ],
)
def test_a_store_that_refuses_us_is_told(
    app: Flask, inside: None, configure: Configure, bound: None, changes: Any, remedy: str
) -> None:
    configure(**changes)
    storage.bind(config.current())
    assert_found("bucket", Level.FAILED, remedy)
    assert "a-wrong-secret" not in look("bucket").said
    assert_found("parts", Level.FAILED)


def pass_on(request: Any, target: str, without: set[str]) -> None:
    """Send the request to `target` without these headers, and its answer back."""
    headers = {name: value for name, value in request.headers.items() if name not in without}
    body = request.rfile.read(int(headers.get("Content-Length", 0)))
    reply = plain_http.send(request.command, target + request.path, headers, body)
    request.send_response(reply.status)
    request.send_header("Content-Length", str(len(reply.body)))
    request.end_headers()
    request.wfile.write(reply.body)


@pytest.mark.parametrize(
    ("obeyed", "has_others", "level", "words"),
    [
        ("x-amz-copy-source", True, Level.FAILED, "an access key of its own"),
        ("x-amz-copy-source", False, Level.OK, ""),
        ("x-amz-acl", True, Level.WARNING, "IgnorePublicAcls"),
        ("nothing", True, Level.FAILED, "Make it private"),
    ],
)
def test_s15_a_store_that_obeys_what_was_not_signed_is_told(
    bucket: str, configure: Configure, monkeypatch, obeyed: str, has_others: bool, level: Level,
    words: str,
) -> None:  # fmt: skip
    """As Ceph's does."""
    target = config.settings.s3_endpoint_url
    client = storage._client

    def obey(request: Any) -> None:
        path = request.path.partition("?")[0]
        key = path.removeprefix(f"/{bucket}/")
        given = request.headers.get(obeyed)
        if given is not None and obeyed == "x-amz-acl":
            public.add(path)
        if given is not None and obeyed == "x-amz-copy-source":
            client.copy_object(Bucket=bucket, Key=key, CopySource=given.lstrip("/"))
        is_open = obeyed == "nothing" and request.path == path
        if given is not None or request.path in public or is_open:
            sends(200)(request)
        else:
            pass_on(request, target, without=set())

    public: set[str] = set()
    monkeypatch.setattr(storage, "has_other_buckets", lambda: has_others)
    with site(obey) as url:
        configure(s3_public_endpoint_url=url)
        storage.bind(config.current())
        assert_found("signed URLs", level, words)


def test_a_proxy_that_breaks_signatures_is_blamed_and_not_the_key(
    bucket: str, configure: Configure
) -> None:
    """One that names storage to itself, as proxies do by default: the host is signed."""
    target = config.settings.s3_endpoint_url

    with site(lambda request: pass_on(request, target, without={"Host"})) as url:
        configure(s3_public_endpoint_url=url)
        storage.bind(config.current())
        for name in ("parts", "small files", "downloads"):
            assert_found(name, Level.FAILED, "SignatureDoesNotMatch", "Host header")
            assert "S3_SECRET_ACCESS_KEY" not in look(name).said
        chosen = [one for one in doctor.CHECKS if one.name in ("parts", "checksums", "CORS")]
        found = [one.level for _, one in doctor.examine(chosen, lambda check: None)]
    assert found == [Level.FAILED, Level.SKIPPED, Level.SKIPPED]


@pytest.mark.parametrize(
    ("rule", "level", "words"),
    [
        (None, Level.FAILED, "does not admit our pages"),
        (
            {"AllowedOrigins": ["https://elsewhere.example"]},
            Level.FAILED,
            "does not admit our pages",
        ),
        ({"AllowedMethods": ["GET"]}, Level.FAILED, "does not admit our pages"),
        ({"AllowedHeaders": ["content-type"]}, Level.FAILED, "does not admit our pages"),
        ({"ExposeHeaders": []}, Level.WARNING, "ETag"),
        ({"AllowedOrigins": ["*"], "ExposeHeaders": ["etag"]}, Level.OK, ""),
    ],
)
def test_f05_a_cors_rule_that_keeps_pages_from_sending_is_told(
    bucket: str, rule: Any, level: Level, words: str
) -> None:
    (ours,) = storage.cors_rules()
    storage._client.delete_bucket_cors(Bucket=bucket)
    if rule is not None:
        given = {"CORSRules": [ours | rule]}
        storage._client.put_bucket_cors(Bucket=bucket, CORSConfiguration=given)
    assert_found("CORS", level, words)
    if level is not Level.OK:
        assert_found("CORS", level, "`flask storage setup`")


def lifecycle_of(bucket: str, *rules: dict[str, Any]) -> None:
    given = [{"ID": str(at), "Status": "Enabled", **one} for at, one in enumerate(rules)]
    storage._client.delete_bucket_lifecycle(Bucket=bucket)
    if given:
        storage._client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": given}
        )


ALL: dict[str, Any] = {"Filter": {"Prefix": ""}}
YEAR = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 365}}
WEEK = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}


@pytest.mark.parametrize(
    ("rules", "level", "words"),
    [
        ([], Level.WARNING, "no lifecycle rule"),
        ([ALL | YEAR], Level.OK, ""),
        ([ALL | YEAR | {"Status": "Disabled"}], Level.WARNING, "no lifecycle rule"),
        ([ALL | YEAR, ALL | WEEK], Level.WARNING, "after 7 days"),
        ([ALL | YEAR, {"Filter": {"Prefix": "logs/"}} | WEEK], Level.OK, ""),
        ([ALL | YEAR, ALL | {"Expiration": {"Days": 30}}], Level.FAILED, "MAX_EXPIRES_IN_DAYS"),
        ([ALL | YEAR, ALL | {"Expiration": {"Days": 400}}], Level.OK, ""),
        (
            [
                ALL | YEAR,
                {"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 1}},
            ],
            Level.OK,
            "",
        ),
    ],
)
def test_f26_lifecycle_rules_that_end_uploads_or_remove_files_are_told(
    bucket: str, rules: list[dict[str, Any]], level: Level, words: str
) -> None:
    lifecycle_of(bucket, *rules)
    assert_found("lifecycle", level, words)


@pytest.mark.parametrize(
    ("move", "level", "words"),
    [
        ({"Days": 30, "StorageClass": "GLACIER"}, Level.FAILED, "into an archive"),
        ({"Date": "2026-01-01", "StorageClass": "DEEP_ARCHIVE"}, Level.FAILED, "into an archive"),
        ({"Days": 0, "StorageClass": "GLACIER_IR"}, Level.OK, ""),
        ({"Days": 400, "StorageClass": "GLACIER"}, Level.OK, ""),
    ],
)
def test_a_lifecycle_rule_that_archives_files_is_told(
    bucket: str, monkeypatch, move: Any, level: Level, words: str
) -> None:
    rules = [ALL | YEAR | {"Status": "Enabled", "Transitions": [move]}]
    monkeypatch.setattr(storage, "lifecycle_rules", lambda: rules)
    assert_found("lifecycle", level, words)


@pytest.mark.parametrize(
    ("code", "level", "words"),
    [
        ("AccessDenied", Level.WARNING, "s3:GetLifecycleConfiguration"),
        ("NotImplemented", Level.OK, "no lifecycle rules"),
        ("InternalError", Level.FAILED, "InternalError"),
    ],
)
def test_lifecycle_rules_that_cannot_be_read_are_told(
    bucket: str, code: str, level: Level, words: str
) -> None:
    status = 500 if code == "InternalError" else 403
    with Stubber(storage._clients.quick) as stub:
        for _ in range(2):  # as often as it is tried
            stub.add_client_error("get_bucket_lifecycle_configuration", code, "", status)
        assert_found("lifecycle", level, words)


def test_a_store_that_only_claims_to_verify_checksums_is_found_out(
    app: Flask,
    inside: None,
    without_checksums: Callable[[], None],
    configure: Configure,
    bound: None,
) -> None:
    without_checksums()
    assert_found("checksums", Level.OK, "verifies no checksums")
    configure(s3_checksums="off")
    storage.bind(config.current())
    assert_found("checksums", Level.OK, "S3_CHECKSUMS is off")
    configure(s3_checksums="on")
    storage.bind(config.current())
    assert_found("checksums", Level.FAILED, "S3_CHECKSUMS=off")


def test_a_store_without_forms_can_be_used_and_one_that_ignores_their_limits_cannot(
    bucket: str, monkeypatch
) -> None:
    """The first as OpenStack Swift: to it, that is another kind of form."""
    with monkeypatch.context() as swift:
        reply = plain_http.Reply(412, {}, b"Bad URL")
        swift.setattr(plain_http, "post_form", lambda *given: reply)
        assert_found("forms", Level.WARNING, "/files", "status 412")
    post_form = storage.urls.post_form
    monkeypatch.setattr(storage.urls, "post_form", lambda *given: post_form(*given[:2], 99, 60))
    assert_found("forms", Level.FAILED, "any size")


def test_a_store_that_keeps_no_metadata_is_found_out(bucket: str, monkeypatch) -> None:
    """As JuiceFS, unless its gateway has --object-meta."""
    head = storage.head
    monkeypatch.setattr(storage, "head", lambda key: dataclasses.replace(head(key), token=None))
    assert_found("whole files", Level.FAILED, "metadata")


def test_a_store_that_lets_files_be_overwritten_is_found_out(
    bucket: str, configure: Configure, monkeypatch
) -> None:
    def put(key: str, token: str, size: int, seconds: int) -> tuple[str, dict[str, str]]:
        """As if storage did not know If-None-Match."""
        headers = {TOKEN_HEADER: token}
        url = storage.urls._presigner.url("PUT", key, headers=headers, expires_in=seconds)
        return url, headers

    monkeypatch.setattr(storage.urls, "put", put)
    assert_found("small files", Level.FAILED, "S3_CONDITIONAL_WRITES=false")
    configure(s3_conditional_writes=False)
    assert_found("small files", Level.OK)
    assert storage._client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_download_without_ranges_or_without_its_name_is_told(bucket: str, monkeypatch) -> None:
    send, get = plain_http.send, storage.urls.get
    monkeypatch.setattr(plain_http, "send", lambda method, url, headers: send(method, url))
    assert_found("downloads", Level.FAILED, "ignores ranges")
    monkeypatch.setattr(plain_http, "send", send)
    monkeypatch.setattr(
        storage.urls, "get", lambda key, name, seconds: get(key, "attachment", seconds)
    )
    assert_found("downloads", Level.FAILED, "CloudFront")


def test_files_that_are_lost_are_told(app: Flask, inside: None) -> None:
    assert_found("lost files", Level.OK, "not been compared")
    heartbeats.note_run(upkeep.LOST_OBJECTS, 0)
    assert_found("lost files", Level.OK)
    heartbeats.note_run(upkeep.LOST_OBJECTS, 2)
    assert_found("lost files", Level.FAILED, "2 files", "Backup and restore")


# -- mail and events ---------------------------------------------------------------------------


@pytest.fixture
def off_afterwards() -> Iterator[None]:
    yield
    turn_off()


def test_a_mail_server_is_connected_to_and_sent_nothing(
    app: Flask, inside: None, configure: Configure, off_afterwards: None
) -> None:
    assert_found("mail server", Level.OK, "MAIL_URL is empty")
    with MailServer() as server:
        turn_on(configure, server.url)
        assert_found("mail server", Level.OK)
        assert (server.connections, server.caught) == (1, [])
    assert_found("mail server", Level.FAILED, "ConnectionRefusedError", "MAIL_URL")
    turn_on(configure, "ses://eu-west-1")
    assert_found("mail server", Level.OK, "SES, which is only asked when mail is sent")


def test_a_mail_server_that_does_not_let_us_in_is_told(
    app: Flask, inside: None, configure: Configure, off_afterwards: None
) -> None:
    def refusing(*given: Any) -> AuthResult:
        return AuthResult(success=False, handled=False)

    with MailServer(auth_require_tls=False, authenticator=refusing) as server:
        turn_on(configure, server.url.replace("//", f"//beeline:{SECRETS[3]}@"))
        found = look("mail server")
    assert found.level is Level.FAILED
    assert "does not let us in (535). Correct MAIL_URL" in found.said
    assert SECRETS[3] not in found.said


def test_a_test_mail_is_handed_over_or_its_refusal_told(
    app: Flask, mail: MailServer, monkeypatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", [one for one in doctor.CHECKS if one.group == "Mail"])
    run = app.test_cli_runner().invoke
    done = run(args=["doctor", "--mail-to", "Op@Example.org"])
    assert (done.exit_code, levels_in(done.output)["test mail"]) == (0, "OK")
    (caught,) = mail.to("op@example.org")
    assert caught.subject == "Beeline can send mail"
    assert caught.message["From"] == "Beeline <bee@send.example.org>"
    mail.answers["op@example.org"] = ["550 nobody here"]
    done = run(args=["doctor", "--mail-to", "op@example.org"])
    assert (done.exit_code, levels_in(done.output)["test mail"]) == (1, "failed")
    assert "550 nobody here. Look at MAIL_URL and MAIL_FROM." in done.output
    assert run(args=["doctor", "--mail-to", "nobody"]).exit_code == 2
    assert len(mail.caught) == 1


def test_a_queue_of_events_that_nobody_reads_or_that_does_not_answer_is_told(
    app: Flask, inside: None, configure: Configure, bound: None, monkeypatch
) -> None:
    assert not {"event queue", "sqs"} & {one.name for one in doctor.checks()}
    configure(sqs_queue_url="http://127.0.0.1:1/1/events", s3_endpoint_url="")
    events.bind(config.current())
    assert_found("event queue", Level.FAILED, "SQS_QUEUE_URL")
    assert_found("sqs", Level.FAILED, "`python worker.py sqs`")
    heartbeats.note_run(processes.LISTENER)
    assert_found("sqs", Level.OK, "0 s ago")
    for has_dead_letters, level in ((True, Level.OK), (False, Level.WARNING)):
        monkeypatch.setattr(events, "has_dead_letters", lambda: has_dead_letters)  # noqa: B023
        assert_found("event queue", level, "dead-letter queue")


# -- processes and their work ------------------------------------------------------------------


@contextmanager
def taking(server: redis.Redis, *names: str) -> Iterator[BeelineWorker]:
    """A process that takes jobs from these queues, as far as Redis knows."""
    made = BeelineWorker([Queue(name, connection=server) for name in names], connection=server)
    made.register_birth()
    made.heartbeat()
    yield made
    made.register_death()


def test_processes_that_do_not_run_are_named(app: Flask, inside: None, server: redis.Redis) -> None:
    assert_found("clock", Level.FAILED, "No clock runs", "`python worker.py clock`")
    assert_found("worker", Level.FAILED, "No worker runs", "`python worker.py sweep default early")
    assert_found("maker", Level.FAILED, "No maker runs", "`python worker.py inspections webhooks")
    queue.put_once(jobs.REQUEUE_STUCK, 0, 5)
    assert_found("clock", Level.FAILED)
    queue.put_once(jobs.REQUEUE_STUCK, int(clock.now().timestamp() // 5), 5)
    assert_found("clock", Level.OK)
    with taking(server, *jobs.QUICK_QUEUES) as worker, taking(server, "archives"):
        assert_found("worker", Level.OK, "1 process takes these jobs, last heard of 0 s ago")
        remedy = "Start `python worker.py inspections webhooks previews`"
        assert_found("maker", Level.FAILED, "Nobody takes jobs from inspections, webhooks", remedy)
        long_ago = clock.now() - timedelta(seconds=70)
        server.hset(worker.key, "last_heartbeat", f"{long_ago:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert_found("worker", Level.FAILED, "No worker runs")
    with taking(server, *jobs.QUEUES), taking(server, *jobs.QUEUES):
        assert_found("maker", Level.OK, "2 processes take")


def late_sweeps() -> list[str]:
    return [run.name for run in heartbeats.runs() if processes.is_late(run)]


def test_f52_a_sweep_that_stopped_coming_is_seen(client: FlaskClient, inside: None) -> None:
    sweeps = [heartbeats.name_of(job) for _, job in jobs.SCHEDULE]
    assert late_sweeps() == sweeps
    assert_found("scheduled jobs", Level.FAILED, "expire_due, due every 30 s, has never run")
    for name in sweeps:
        heartbeats.note_run(name)
    assert late_sweeps() == []
    assert_found("scheduled jobs", Level.OK, "All 17", "the last 0 s ago")
    assert client.get("/ready").json["checks"]["sweeps"] == "OK"
    with transaction():
        row = db.session.get(Heartbeat, "expire_due")
        assert row is not None
        row.at = clock.now() - timedelta(minutes=10)
    assert late_sweeps() == ["expire_due"]
    assert_found("scheduled jobs", Level.FAILED, "expire_due, due every 30 s, ran 10 min ago")
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["sweeps"]) == (200, "late")


def test_zips_that_wait_are_told(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    archives.request(sent.id)
    assert_found("long work", Level.OK)
    with transaction():
        db.session.execute(update(Archive).values(created_at=clock.now() - timedelta(minutes=9)))
    assert_found("long work", Level.FAILED, "Zips have waited for 9 min", "Start a maker")


@pytest.mark.real_commits
def test_a_figure_that_takes_too_long_to_count_is_left_out(
    app: Flask, inside: None, monkeypatch
) -> None:
    monkeypatch.setattr(timeouts, "QUERY_SECONDS", 0.2)
    with db.engine.connect() as other:
        other.execute(text("LOCK TABLE abuse_reports"))
        assert_found("open reports", Level.FIGURE, "not counted")
    assert_found("open reports", Level.FIGURE, "0")


def test_a_page_does_not_wait_for_what_is_slow(app: Flask, inside: None, monkeypatch) -> None:
    def counted(name: str, seconds: float) -> Check:
        return Check("Figures", name, lambda: time.sleep(seconds) or figure("1"), ("Redis",))

    slow, quick = counted("slow", 0.6), counted("quick", 0)
    monkeypatch.setattr(doctor, "CHECKS", [slow, quick, slow, slow, quick])
    monkeypatch.setattr(doctor, "PAGE_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "PAGE_SECONDS", 0.5)
    began = time.monotonic()
    too_slow = "not counted: too slow"
    assert doctor.figures_in_time() == [
        ("slow", too_slow),
        ("quick", "1"),
        ("slow", too_slow),
        ("slow", too_slow),
        ("quick", too_slow),
    ]
    assert time.monotonic() - began < 1.2


def test_a_page_runs_the_checks_that_ask_only_database_and_redis(
    app: Flask, inside: None, server: redis.Redis, monkeypatch
) -> None:
    found = [check.name for check, _ in doctor.quick_look()]
    assert found == [
        "database",
        "migrations",
        "connections",
        "database clock",
        "Redis",
        "memory",
        "lost files",
        "clock",
        "worker",
        "maker",
        "scheduled jobs",
        "long work",
    ]
    monkeypatch.setattr(doctor, "PAGE_SECONDS", 0.0)
    assert {finding.level for _, finding in doctor.quick_look()} == {Level.SKIPPED}


def test_the_figures_are_those_of_the_rows_and_of_the_queue(
    sender: Sender, inside: None, server: redis.Redis
) -> None:
    sent = sender.ready({"a": b"12345", "b": b"1"})
    sender.create()
    abuse.report(sent.slug, Harm.OTHER)
    with transaction():
        kinds = (MailKind.CODE, MailKind.SENT)
        db.session.add_all(
            OutboxMail(kind=kind, email=ADA, about_id=sent.id, state=MailState.WAITING)
            for kind in kinds
        )
        db.session.add(
            OutboxMail(kind=MailKind.REMINDER, email=ADA, about_id=sent.id, state=MailState.FAILED)
        )
    held = Queue("mail", connection=server)
    held.failed_job_registry.add(held.enqueue("app.services.outbox.send_due"), ttl=600)
    found = {one.name: look(one.name).said for one in doctor.CHECKS if one.group == "Figures"}
    assert found == {
        "kept in storage": "6 bytes in 2 objects",
        "transfers": "1 INIT, 0 PROCESSING, 1 READY, 0 EXPIRED, 0 DELETED",
        "files": "2",
        "mails": "2 waiting, 1 failed",
        "webhooks waiting": "0",
        "waiting jobs": "1 mail",
        "failed jobs": "1 mail within the last ten minutes",
        "open reports": "1",
    }
