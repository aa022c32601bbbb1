"""F44: during a release old and new processes work side by side on the new schema.

The schema comes first (`release` in the Procfile), then the processes change one by one. So each
migration may only add what the code before it can do without; rows of the old kind are taken to
their end by the code of today, and rows of today by what the code before it does to them.
"""

import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import psycopg2
import pytest
import redis
from alembic.script import ScriptDirectory
from botocore.exceptions import ClientError
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import Column, Enum, MetaData, event, insert, select, update
from sqlalchemy.dialects import postgresql

from app import clock, config, create_app, timeouts
from app.db import db, transaction
from app.extensions import queue, storage
from app.models import State, UploadState
from app.services import checking, downloads, options, transfers, upkeep
from tests.factories import Sender

pytestmark = pytest.mark.real_commits
REVISIONS = [one.revision for one in ScriptDirectory("migrations").walk_revisions()][::-1]
PART = 8 * config.MIB
LOCK = 6_237_411  # as in migrations/env.py
# A process that does not know an enum's value cannot read a row with it: such a value is added by
# one release and written by the next. Those here are fine for the reason given.
FINE_VALUES = dict.fromkeys(
    ("damaged", "new_files", "post", "received"),
    "nobody runs what was before it: there has been no release yet",
)


def at_the_server(environ: dict[str, str], statement: str) -> None:
    with closing(psycopg2.connect(environ["DATABASE_URL"])) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture
def today(app: Flask, environ: dict[str, str], monkeypatch) -> Iterator[Flask]:
    """The application of today, inside it, on an empty database of its own."""
    before = config.current()
    name = f"release_{secrets.token_hex(4)}"
    at_the_server(environ, f"CREATE DATABASE {name}")
    for bound in (storage, queue):  # to the same services already
        monkeypatch.setattr(bound, "bind", lambda settings: None)
    url = environ["DATABASE_URL"].rpartition("/")[0]
    made = create_app(environ | {"DATABASE_URL": f"{url}/{name}"})
    with made.app_context():
        yield made
        db.session.remove()
        db.engine.dispose()
    config.bind(before)
    at_the_server(environ, f"DROP DATABASE {name} WITH (FORCE)")


def schema_at(revision: str) -> MetaData:
    """Migrate to a revision; the tables as it leaves them."""
    upgrade(directory="migrations", revision=revision)
    found = MetaData()
    found.reflect(db.engine)
    return found


# -- only adding -------------------------------------------------------------------------------


def _type(column: Column[Any]) -> str:
    # In which order they are sorted is nothing that code would stumble over.
    return column.type.compile(postgresql.dialect()).partition(" COLLATE ")[0]


def _values(column: Column[Any]) -> set[str]:
    return set(column.type.enums) if isinstance(column.type, Enum) else set()


def _needs_a_value(column: Column[Any]) -> bool:
    return not (column.nullable or column.server_default or column.identity)


def what_breaks(before: MetaData, after: MetaData) -> list[str]:
    """What the code of `before` would stumble over on the schema of `after`."""
    found = []
    for name, table in before.tables.items():
        if name not in after.tables:
            found.append(f"{name} is gone")
            continue
        old, new = table.columns, after.tables[name].columns
        found += [f"{name}.{one.name} is gone" for one in old if one.name not in new]
        for column in new:
            what = f"{name}.{column.name}"
            if column.name not in old:
                found += [f"{what} is new and needs a value"] * _needs_a_value(column)
                continue
            was = old[column.name]
            if _type(was) != _type(column):
                found.append(f"{what} was {_type(was)}")
            if _needs_a_value(column) and not _needs_a_value(was):
                found.append(f"{what} needs a value now")
            changed = _values(was) ^ _values(column)
            found += [f"{what}: {value}" for value in sorted(changed - set(FINE_VALUES))]
    return found


def test_f44_a_migration_only_adds(today: Flask) -> None:
    schemas = [schema_at(revision) for revision in REVISIONS]
    for before, after in pairwise(schemas):
        assert what_breaks(before, after) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP TABLE heartbeats", "heartbeats is gone"),
        ("ALTER TABLE files RENAME COLUMN path TO name", "files.path is gone"),
        ("ALTER TABLE files ADD COLUMN hash text NOT NULL", "files.hash is new and needs a value"),
        ("ALTER TABLE uploads ALTER COLUMN etag SET NOT NULL", "uploads.etag needs a value now"),
        ("ALTER TABLE transfers ALTER COLUMN title DROP DEFAULT", "transfers.title needs a value"),
        ("ALTER TABLE uploads ALTER COLUMN token TYPE varchar(9)", "uploads.token was TEXT"),
        ("ALTER TYPE file_problem ADD VALUE 'odd'", "files.problem: odd"),
        ("ALTER TYPE upload_state RENAME VALUE 'OPEN' TO 'BEGUN'", "uploads.state: BEGUN"),
    ],
)
def test_f44_whatever_else_a_migration_does_is_told(
    today: Flask, environ: dict[str, str], change: str, told: str
) -> None:
    before = schema_at("head")
    with db.engine.begin() as connection:
        connection.exec_driver_sql(change)
    after = MetaData()
    after.reflect(db.engine)
    assert [one for one in what_breaks(before, after) if one.startswith(told)]


def test_f44_one_command_migrates_checks_and_sets_up(app: Flask, configure) -> None:
    """And it ends where the check does, before the bucket is touched."""
    runner = app.test_cli_runner()
    done = runner.invoke(args=["release"])
    assert done.exit_code == 0, done.output
    assert "database connections" in done.output
    assert "is ready for" in done.output
    configure(web_concurrency=50, database_pool_size=20)
    refused = runner.invoke(args=["release"])
    assert refused.exit_code == 1
    assert "DATABASE_POOL_SIZE" in refused.output
    assert "is ready for" not in refused.output


@contextmanager
def held_for(seconds: float, statement: str) -> Iterator[None]:
    """What another session does in a transaction, and ends so much later."""
    url = db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg2.connect(url)) as other:
        with other.cursor() as cursor:
            cursor.execute(statement)
        end = threading.Timer(seconds, other.close)
        end.start()
        yield
        end.join()


def test_f44_a_migration_may_take_longer_than_a_jobs_query(today: Flask, monkeypatch) -> None:
    """As it does on a large table; here it waits for a lock."""
    schema_at(REVISIONS[0])
    monkeypatch.setattr(timeouts, "JOB_QUERY_SECONDS", 0.5)
    with held_for(1.5, "LOCK TABLE uploads"):
        upgrade(directory="migrations")


def test_f44_whoever_comes_second_says_so_and_waits_for_the_first(
    today: Flask, monkeypatch, capsys
) -> None:
    """However long that takes."""
    monkeypatch.setattr(timeouts, "JOB_QUERY_SECONDS", 0.5)
    with held_for(2.5, f"SELECT pg_advisory_lock({LOCK})"):
        upgrade(directory="migrations")
        assert capsys.readouterr().err.count("Waiting for another release to end.") == 1
    upgrade(directory="migrations")
    assert "Waiting" not in capsys.readouterr().err


@pytest.mark.parametrize("revision", ["head", "no such revision"])
def test_f44_whoever_has_migrated_or_failed_leaves_nothing_to_wait_for(
    today: Flask, revision: str
) -> None:
    """A pooler may keep the session that ends here, with whatever is still locked in it."""
    left = []

    @event.listens_for(db.engine, "invalidate")
    def look(line: Any, *_: object) -> None:
        with line.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
            left.append(cursor.fetchall())

    with suppress(SystemExit):  # as Flask-Migrate ends where a revision is not known
        upgrade(directory="migrations", revision=revision)
    assert left == [[]]


def test_f26_the_buckets_own_rule_outlasts_any_upload_that_still_moves(app: Flask) -> None:
    """The largest file takes 249 days at 20 Mbit/s, and a rule counts from its beginning."""
    assert app.test_cli_runner().invoke(args=["storage", "setup"]).exit_code == 0
    held = storage._client.get_bucket_lifecycle_configuration(Bucket=storage.bucket)
    (rule,) = held["Rules"]
    days = config.S3_MAX_OBJECT_SIZE * 8 / 20e6 / 86400
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] > days


def _answering(code: str) -> Callable[..., None]:
    """A call of storage's that ends with this code."""

    def answer(**given: Any) -> None:
        said = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        raise ClientError(said, "PutBucketCors")

    return answer


def test_a_release_goes_on_where_the_store_takes_no_cors_rule_and_says_what_is_to_be_done(
    app: Flask, monkeypatch
) -> None:
    """Such as MinIO, which admits browsers by a setting of its own."""
    monkeypatch.setattr(storage._client, "put_bucket_cors", _answering("NotImplemented"))
    done = app.test_cli_runner().invoke(args=["release"])
    assert done.exit_code == 0, done.output
    assert "must admit browsers from http://localhost" in done.output
    assert "is ready for" in done.output


def test_a_release_that_storage_refuses_names_the_call(app: Flask, monkeypatch) -> None:
    monkeypatch.setattr(storage._client, "put_bucket_cors", _answering("AccessDenied"))
    refused = app.test_cli_runner().invoke(args=["release"])
    assert refused.exit_code == 1
    assert "(AccessDenied) when calling the PutBucketCors operation" in refused.output


def test_f31_a_release_says_that_redis_does_not_answer_and_goes_on(app: Flask, monkeypatch) -> None:
    def check() -> None:
        raise redis.ConnectionError("at redis://:a-secret@h: CERTIFICATE_VERIFY_FAILED")

    monkeypatch.setattr(queue, "check", check)
    done = app.test_cli_runner().invoke(args=["release"])
    assert done.exit_code == 0, done.output
    assert "Redis does not answer" in done.output
    assert "REDIS_TLS_VERIFY" in done.output
    assert "a-secret" not in done.output


# -- side by side ------------------------------------------------------------------------------


@pytest.fixture
def old(today: Flask) -> MetaData:
    """The tables as the release before this one knew them; the database is that of today."""
    known = schema_at(REVISIONS[-2])
    upgrade(directory="migrations")
    return known


def sent_by_old_web(old: MetaData, bodies: list[bytes]) -> uuid.UUID:
    """A transfer as a web process of the release before leaves it: the bytes stored, PROCESSING."""
    transfer_id = uuid.uuid4()
    given: list[tuple[str, dict[str, Any]]] = [
        (
            "transfers",
            {
                "id": transfer_id,
                "slug": secrets.token_urlsafe(24),
                "owner_token_hash": transfers.hash_token("owner"),
                "state": "PROCESSING",
                "title": "",
                "message": "",
                "expires_at": clock.now() + timedelta(days=1),
                "sent_size": 1,
                "queued_at": clock.now(),
            },
        )
    ]
    for position, body in enumerate(bodies):
        upload_id, key, token = (
            uuid.uuid4(),
            f"beeline/{secrets.token_hex(20)}",
            secrets.token_hex(),
        )
        s3_id = _store(key, token, body)
        plan = {"size": len(body), "part_size": PART, "state": "OPEN", "s3_upload_id": s3_id}
        method = "multipart" if s3_id else "single"
        ids = {"id": upload_id, "key": key, "token": token, "method": method}
        of = {"transfer_id": transfer_id, "upload_id": upload_id}
        given.append(("uploads", ids | plan))
        given.append(
            ("files", of | {"id": uuid.uuid4(), "position": position, "path": f"{position}"})
        )
    with transaction():
        for table, row in given:
            db.session.execute(insert(old.tables[table]).values(**row))
    return transfer_id


def _store(key: str, token: str, body: bytes) -> str | None:
    """Put the bytes as they went before checksums; the id of the multipart if they needed one."""
    at = {"Bucket": config.settings.s3_bucket, "Key": key}
    client, told = storage._clients.patient, {"Metadata": {"beeline": token}}
    if len(body) <= PART:
        client.put_object(**at, **told, Body=body)
        return None
    s3_id = client.create_multipart_upload(**at, **told)["UploadId"]
    for number, start in enumerate(range(0, len(body), PART), start=1):
        part = body[start : start + PART]
        client.upload_part(**at, UploadId=s3_id, PartNumber=number, Body=part)
    return s3_id


def test_f44_what_an_old_web_process_wrote_is_taken_to_its_end(old: MetaData) -> None:
    """By a worker, a web process and the sweeps of today."""
    transfer_id = sent_by_old_web(old, [b"small", b"", b"b" * (PART + 1)])
    checking.process(str(transfer_id))
    transfer = transfers.of_id(transfer_id)
    assert transfer.state is State.READY
    assert transfers.owned(transfer_id, "owner").id == transfer_id
    file = transfers.files_of(transfer_id)[2]
    assert downloads.file_url(transfer.slug, file.id, "somebody")
    options.edit(transfer, {"title": "t"})
    transfers.delete(transfer_id)
    upkeep.remove_bytes()
    assert {one.upload.state for one in transfers.files_of(transfer_id)} == {UploadState.ABORTED}
    assert storage.head(file.upload.key) is None


def test_f44_what_a_web_process_of_today_wrote_is_finished_by_an_old_worker(
    today: Flask, old: MetaData
) -> None:
    """By the statements that it makes: it claims, reads, completes and settles what it knows."""
    sent = (
        Sender(today.test_client()).create({"a": b"1", "b": b"b" * (PART + 1)}).upload().complete()
    )
    known_transfers, files, known_uploads = (
        old.tables[name] for name in ("transfers", "files", "uploads")
    )
    mine = known_transfers.c.id == sent.id
    with transaction():
        lease = {"lease_token": uuid.uuid4(), "lease_until": clock.now(), "attempt_count": 1}
        assert db.session.execute(update(known_transfers).where(mine).values(lease)).rowcount == 1
        of = known_uploads.c.id.in_(select(files.c.upload_id).where(files.c.transfer_id == sent.id))
        waiting = db.session.execute(select(known_uploads).where(of)).mappings().all()
        assert {one["state"] for one in waiting} == {"OPEN"}
        for one in waiting:
            etag = _complete(one["key"], one["s3_upload_id"])
            done = {"state": "COMPLETE", "etag": etag}
            which = known_uploads.c.id == one["id"]
            db.session.execute(update(known_uploads).where(which).values(done))
        ready = {"state": "READY", "ready_at": clock.now(), "lease_token": None}
        db.session.execute(update(known_transfers).where(mine).values(ready))
    assert sent.show()["status"] == "READY"
    agent = {"User-Agent": "curl/8"}
    url = f"/d/{sent.slug}/files/{sent.files[1]['id']}"
    assert sent.client.get(url, headers=agent).status_code == 303


def _complete(key: str, s3_id: str | None) -> str:
    at = {"Bucket": config.settings.s3_bucket, "Key": key}
    client = storage._clients.patient
    if s3_id:
        held = client.list_parts(**at, UploadId=s3_id)["Parts"]
        parts = [{name: part[name] for name in ("PartNumber", "ETag")} for part in held]
        client.complete_multipart_upload(**at, UploadId=s3_id, MultipartUpload={"Parts": parts})
    return client.head_object(**at)["ETag"]
