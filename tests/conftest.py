"""Real PostgreSQL, Redis and S3 for every test; only time and the delivery of jobs are faked.

Each test runs inside one database transaction that is rolled back, although the code under test
commits. A test marked `real_commits` opts out (races, other processes); the tables are emptied
after it. If TEST_S3_ENDPOINT_URL is set, with its keys and bucket, storage tests run against that
endpoint instead of the embedded one.
"""

import gc
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy import Engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

from app import config, create_app, jobs
from app.db import db
from app.extensions import events, queue, storage
from app.gateways.s3_answers import Checksums
from embedded import services
from embedded.s3.server import Server
from embedded.s3.sigv4 import Credentials
from embedded.s3.store import Store
from tests.described import DescribedClient
from tests.factories import Machine, Program, Sender
from tests.lab.mailserver import MailServer
from tests.lab.receiver import Receiver
from tests.mail import forget_limits, turn_off, turn_on
from tests.watching import Watch

if TYPE_CHECKING:
    from tests.lab.cloud import Cloud

SECRET = "a-secret-for-tests-only-0123456789abcdef"
# The file whose tests have really committed, until the next file's tests begin.
_COMMITTED_IN = pytest.StashKey[Path]()
S3_NAMES = ("ENDPOINT_URL", "BUCKET", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")


def pytest_configure() -> None:
    """Choose a new seed for each run, inherited by all of its processes."""
    os.environ.setdefault("SEED", str(secrets.randbelow(10**6)))
    # What is loaded before the first test is never freed, as in app/__init__.py.
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long and often waits: the browser's tests, and those of faults.

    Two processes share the former, file by file, and a third begins with the latter, while others do
    what computes: they steal from the other end of a queue, so that they start a Beeline and a
    Chromium of their own late or not at all.
    """
    in_browser = [item for item in items if "tests/browser/" in item.nodeid]
    seconds = set(list(dict.fromkeys(item.path for item in in_browser))[1::2])
    heads = (
        [item for item in in_browser if item.path not in seconds],
        [item for item in in_browser if item.path in seconds],
        [item for item in items if "tests/faults/" in item.nodeid],
    )
    begun = set(itertools.chain(*heads))
    others = iter([item for item in items if item not in begun])
    # At first each process is given as many tests as the others, in this order (worksteal).
    share = len(items) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ordered: list[pytest.Item] = []
    for number, head in enumerate(heads):
        ordered += itertools.islice(others, max(number * share - len(ordered), 0))
        ordered += head
    items[:] = [*ordered, *others]


def pytest_collection_finish() -> None:
    """Enable garbage collection from here on, except for what is already loaded."""
    gc.freeze()
    gc.enable()


def pytest_report_header() -> str:
    """The variable to set to repeat the same requests (tests/api/test_description.py)."""
    return f"SEED={os.environ['SEED']}"


@pytest.fixture(scope="session")
def environ() -> Iterator[dict[str, str]]:
    """An installation's environment variables, with services started for this process."""
    elsewhere = {
        f"S3_{name}": os.environ[f"TEST_S3_{name}"]
        for name in S3_NAMES
        if f"TEST_S3_{name}" in os.environ
    }
    wanted = ["postgres", "redis"] + ([] if elsewhere else ["s3"])
    with services.started(wanted) as started:
        yield {
            "SECRET_KEY": SECRET,
            "BASE_URL": "http://localhost",
            "LOG_LEVEL": "WARNING",
            # All tests share one IP address; tests of the limits set their own.
            "MAX_CREATES_PER_HOUR": "1000000",
            "MAX_UNKNOWN_PER_MINUTE": "1000000",
            "MAX_MESSAGES_PER_HOUR": "1000000",
            "MAX_MESSAGES_PER_LINK_AND_HOUR": "1000000",
            "MAX_OPEN_TRANSFERS_PER_ADDRESS": "100000",
            **started,
            **elsewhere,
        }


@pytest.fixture(scope="session")
def app(environ: dict[str, str]) -> Flask:
    """The application, on a migrated database and a configured bucket."""
    app = create_app(environ)
    app.test_client_class = DescribedClient
    with app.app_context():
        upgrade(directory="migrations")
        storage.setup(config.settings.origins, abort_after_days=9)
    return app


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[None]:
    """One rolled-back transaction for each test, or real commits and empty tables after it."""
    if "app" not in request.fixturenames:
        yield
        return
    app: Flask = request.getfixturevalue("app")
    with app.app_context():
        engine = db.engine
    stash = request.config.stash
    # Processes that a file's tests share write until its last test is over, and after it.
    if stash.get(_COMMITTED_IN, request.path) != request.path:
        _empty(engine)
        del stash[_COMMITTED_IN]
    if request.node.get_closest_marker("real_commits"):
        stash[_COMMITTED_IN] = request.path
        yield
        _empty(engine)
        return
    connection = engine.connect()
    outer = connection.begin()
    plain, db.session = (
        db.session,
        scoped_session(
            sessionmaker(
                bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            )
        ),
    )
    yield
    db.session.remove()
    db.session = plain
    outer.rollback()
    connection.close()


def _empty(engine: Engine) -> None:
    """Delete every row, as TRUNCATE does and far sooner: that makes two hundred new files each time."""
    tables = list(db.metadata.tables)
    with engine.begin() as connection:
        # Whoever is still at work on a row is waited for. In this role no trigger fires: those of
        # foreign keys would ask for an order, that of the audit lets nothing be deleted.
        connection.execute(text(f"LOCK TABLE {', '.join(tables)}"))
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(";".join(f"DELETE FROM {table}" for table in tables)))


@pytest.fixture(autouse=True)
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The jobs put into the queue, as (job name, ids...); none is run automatically."""
    put: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "put", lambda job, *ids, attempt=0: put.append((job.name, *ids)))
    return put


@pytest.fixture(autouse=True)
def _not_asked() -> None:
    """Forget what earlier tests have found out about storage's abilities."""
    storage._answered, storage._ask_after = Checksums.UNKNOWN, 0.0


@pytest.fixture(autouse=True)
def _not_stopping() -> Iterator[None]:
    yield
    jobs.stopping.clear()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser or script, as a client of the application."""
    return app.test_client()


@pytest.fixture
def sender(client: FlaskClient) -> Sender:
    """A sender: creates transfers with the API and PUTs parts to real storage."""
    return Sender(client)


@pytest.fixture
def machine(client: FlaskClient) -> Machine:
    """A program with a write API key."""
    return Machine(client)


@pytest.fixture
def program(client: FlaskClient) -> Program:
    """A program with a write API key, for small files."""
    return Program(client)


@pytest.fixture
def inside(app: Flask) -> Iterator[None]:
    """An application context, for tests that call services themselves."""
    with app.app_context():
        yield


@pytest.fixture
def without_checksums(app: Flask, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A function that switches, for one test, to a store without checksum support."""
    yield from _another_store(tmp_path, checksums=False)


@pytest.fixture
def without_part_copies(app: Flask, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A function that switches, for one test, to a store without UploadPartCopy."""
    yield from _another_store(tmp_path, part_copies=False)


def _another_store(tmp_path: Path, **abilities: bool) -> Iterator[Callable[[], None]]:
    before = config.current()
    keys = Credentials("k", "a-secret-of-this-store")
    store = Store(tmp_path / "s3", sync=False)
    server = Server(("127.0.0.1", 0), store, keys, ["localhost"], **abilities)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    changed = replace(
        before,
        s3_endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
        s3_public_endpoint_url="",
        s3_bucket="another-store",
        s3_access_key_id=keys.access_key,
        s3_secret_access_key=keys.secret_key,
    )

    def change() -> None:
        config.bind(changed)
        storage.bind(changed)
        storage.setup(changed.origins, abort_after_days=9)

    yield change
    config.bind(before)
    storage.bind(before)
    server.stop()


@pytest.fixture
def configure(app: Flask) -> Iterator[Callable[..., None]]:
    """Change settings for one test: configure(max_files=2)."""
    before = config.current()

    def change(**changes: Any) -> None:
        config.bind(replace(config.current(), **changes))

    yield change
    config.bind(before)


@pytest.fixture
def s3_calls(app: Flask, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that boto3 has made so far in this test."""
    calls: list[str] = []
    call = BaseClient._make_api_call

    def recorded(client: Any, operation: str, given: dict[str, Any]) -> Any:
        calls.append(operation)
        return call(client, operation, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    return calls


@pytest.fixture
def watch(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Outside calls, and sessions idle in transaction meanwhile; needs `real_commits`."""
    made = Watch()
    made.begin(monkeypatch)
    yield made
    made.end()


@pytest.fixture
def receiver(configure: Callable[..., None]) -> Iterator[Receiver]:
    """A server on this machine that receives webhooks."""
    configure(webhook_allow_loopback=True)
    with Receiver() as started:
        yield started


@pytest.fixture
def mail(configure: Callable[..., None], environ: dict[str, str]) -> Iterator[MailServer]:
    """Turns mail on, to a server of this test's own; the counts of sender codes are reset."""
    forget_limits(environ)
    with MailServer() as server:
        turn_on(configure, server.url)
        yield server
    turn_off()


@pytest.fixture(scope="session")
def _cloud(app: Flask) -> Iterator["Cloud"]:
    # Imported here, because loading moto takes seconds.
    from tests.lab.cloud import Cloud

    made = Cloud()
    # It logs a line for each request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    yield made
    made.stop()


@pytest.fixture
def cloud(
    _cloud: "Cloud",
    mail: MailServer,
    configure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator["Cloud"]:
    """Shares are published to an SNS topic with an SQS queue; mail still goes to `mail`."""
    for name, value in _cloud.keys.items():
        monkeypatch.setenv(name, value)
    before = config.current()
    _cloud.begin()
    monkeypatch.setattr("app.services.event_queue.WAIT_SECONDS", 0)
    configure(sns_topic_arn=_cloud.topic, sqs_queue_url=_cloud.queue, aws_endpoint_url=_cloud.url)
    events.bind(config.current())
    yield _cloud
    events.bind(before)
