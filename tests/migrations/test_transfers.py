"""Migrations of a database with rows: existing data stays, and old code keeps working."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from flask import Flask
from sqlalchemy import Engine, create_engine, make_url, select, text
from sqlalchemy.exc import IntegrityError

from app.config import settings
from app.models import ExtensionRequest
from tests.embedded.watched import until
from tests.lab.crasher import Crasher

MIB = 2**20
NAME = "as_it_was"


@dataclass
class Old:
    """A separate database, for `flask db upgrade` and `downgrade`."""

    engine: Engine
    process: Crasher

    def migrate(self, verb: str, to: str = "head") -> None:
        """Upgrade or downgrade in another process, as a deployment does."""
        assert self.process.run(verb, to) == 0

    def run(self, statement: str, **given: object) -> list[tuple[object, ...]]:
        """Run one statement and commit it; returns its rows."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), given)
            return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture(scope="module")
def migrator_environ(environ: dict[str, str], app: Flask) -> dict[str, str]:
    """The environment with the separate database in place of the usual one."""
    url = make_url(settings.database_url).set(database=NAME)
    shown = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return {**environ, "DATABASE_URL": shown}


@pytest.fixture(scope="module")
def migrator(migrator_environ: dict[str, str]) -> Iterator[Crasher]:
    """The process that migrates; one for all tests, because starting it takes longest."""
    process = Crasher(migrator_environ)
    yield process
    process.close()


@pytest.fixture
def old(migrator: Crasher) -> Iterator[Old]:
    """The separate database, newly created and without tables."""
    server = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {NAME}"))
    engine = create_engine(make_url(settings.database_url).set(database=NAME))
    yield Old(engine, migrator)
    engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {NAME} WITH (FORCE)"))
    server.dispose()


def test_f44_two_releases_at_once_migrate_once(
    old: Old, migrator: Crasher, migrator_environ: dict[str, str]
) -> None:
    """A platform may start a second deployment before the first has finished."""
    releases = (migrator, Crasher(migrator_environ))
    for one in releases:  # both have started
        assert one.run("upgrade", "0001") == 0
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.run("upgrade", "head"), releases)) == [0, 0]
    releases[1].close()


UPLOADS = "SELECT key, state::text, etag FROM uploads ORDER BY key"


def test_0003_adds_checksums_to_a_database_with_rows_and_can_be_taken_back(old: Old) -> None:
    old.migrate("upgrade", "0002")
    add = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state, etag)"
        " VALUES (gen_random_uuid(), :key, 't', 'multipart', :size, :part, :state, :etag)"
    )
    part = {"size": 9 * MIB, "part": 8 * MIB}
    old.run(add, key="open", state="OPEN", etag=None, **part)
    old.run(add, key="complete", state="COMPLETE", etag='"e"', **part)
    old.run(add, key="aborted", state="ABORTED", etag=None, **part)
    before = old.run(UPLOADS)
    old.migrate("upgrade", "0003")
    assert old.run(UPLOADS) == before
    news = "SELECT DISTINCT checksum_algorithm::text, crc32 FROM uploads"
    assert old.run(news) == [(None, None)]
    # Old code, without checksums, still writes rows and completes them.
    old.run(add, key="written by old code", state="OPEN", etag=None, **part)
    old.run("UPDATE uploads SET state = 'COMPLETE', etag = 'e' WHERE key = 'open'")
    _new_code(old)
    old.migrate("downgrade", "0002")
    assert {row[0] for row in old.run(UPLOADS)} >= {row[0] for row in before}
    old.migrate("upgrade", "0003")
    assert old.run(news) == [(None, None)]


def test_0004_adds_passwords_and_going_back_opens_nothing(old: Old) -> None:
    old.migrate("upgrade", "0003")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), :state, now() + interval '1 day', now())"
    )
    old.run(add, slug="before", state="READY")
    old.migrate("upgrade")
    # Old code, without passwords, still writes rows.
    old.run(add, slug="written by old code", state="INIT")
    assert old.run("SELECT DISTINCT password_hash FROM transfers") == [(None,)]
    change = "UPDATE transfers SET password_hash = :word WHERE slug = :slug"
    for word in ("word", "$2b$12$word", ""):
        with pytest.raises(IntegrityError):
            old.run(change, slug="before", word=word)
    for slug, state in (("open", "INIT"), ("locked", "READY"), ("gone", "EXPIRED")):
        old.run(add, slug=slug, state=state)
        old.run(change, slug=slug, word="$argon2id$v=19$...")
    tries = (
        "INSERT INTO unlock_tries SELECT id, decode(:hash, 'hex'), :count, now() FROM transfers"
        " WHERE slug = 'locked'"
    )
    old.run(tries, hash="", count=1)
    old.run(tries, hash="00" * 32, count=1)
    for hash_, count in (("00", 1), ("01" * 32, 0)):
        with pytest.raises(IntegrityError):
            old.run(tries, hash=hash_, count=count)
    old.run("DELETE FROM transfers WHERE slug = 'gone'")
    old.migrate("downgrade", "0003")
    left = dict(old.run("SELECT slug, state::text FROM transfers"))
    assert left == {
        "before": "READY",
        "written by old code": "INIT",
        "open": "EXPIRED",
        "locked": "EXPIRED",
    }
    old.migrate("upgrade")


def test_0005_adds_zips_and_going_back_leaves_their_bytes_to_the_sweep(old: Old) -> None:
    old.migrate("upgrade", "0004")
    add_transfer = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (:id, 's', sha256('s'), 'READY', now() + interval '1 day', now())"
    )
    add_upload = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state, etag)"
        " VALUES (:id, :key, 't', 'multipart', 9, 8388608, 'COMPLETE', 'e')"
    )
    transfer, upload = uuid.uuid4(), uuid.uuid4()
    old.run(add_transfer, id=transfer)
    old.run(add_upload, id=upload, key="file")
    old.run(
        "INSERT INTO files (id, transfer_id, upload_id, position, path)"
        " VALUES (gen_random_uuid(), :transfer, :upload, 0, 'a')",
        transfer=transfer,
        upload=upload,
    )
    old.migrate("upgrade", "0005")
    assert old.run("SELECT path, modified_at FROM files") == [("a", None)]
    old.run("UPDATE uploads SET crc32 = :crc32", crc32=b"1234")
    made = uuid.uuid4()
    old.run(add_upload, id=made, key="zip")
    add = (
        "INSERT INTO archives (transfer_id, upload_id, ready_at, failed_at, failure)"
        " VALUES (:transfer, :made, :ready, :failed, :failure)"
    )
    now = datetime.now(UTC)
    for ready, failed, failure in (
        (now, now, "storage"),
        (None, now, None),
        (None, None, "storage"),
        (now, None, "internal"),
    ):
        with pytest.raises(IntegrityError):
            old.run(add, transfer=transfer, made=made, ready=ready, failed=failed, failure=failure)
    old.run(add, transfer=transfer, made=made, ready=now, failed=None, failure=None)
    old.migrate("downgrade", "0004")
    assert old.run("SELECT key, state::text, crc32 FROM uploads ORDER BY key") == [
        ("file", "COMPLETE", None),
        ("zip", "ABORTED", None),
    ]
    old.migrate("upgrade", "0005")


def test_0006_adds_previews_and_going_back_leaves_no_picture(old: Old) -> None:
    old.migrate("upgrade", "0005")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'READY', now() + interval '1 day', now())"
    )
    for key in ("file", "small", "large"):
        old.run(
            "INSERT INTO uploads (id, key, token, method, size, part_size, state, etag)"
            " VALUES (gen_random_uuid(), :key, 't', 'single', 1, 8388608, 'COMPLETE', 'e')",
            key=key,
        )
    old.run(
        "INSERT INTO files (id, transfer_id, upload_id, position, path) SELECT gen_random_uuid(),"
        " t.id, u.id, 0, 'a.jpg' FROM transfers t, uploads u WHERE u.key = 'file'"
    )
    old.migrate("upgrade")
    old.run(
        "INSERT INTO previews (file_id, state, sight, thumbnail_id, picture_id, width, height)"
        " SELECT f.id, 'MADE', 'image', s.id, l.id, 4, 3 FROM files f, uploads s, uploads l"
        " WHERE s.key = 'small' AND l.key = 'large'"
    )
    for wrong in ("width = 0", "excerpt = repeat('x', 8193)", "claim_token = gen_random_uuid()"):
        with pytest.raises(IntegrityError):
            old.run(f"UPDATE previews SET {wrong}")
    # Old code, without previews, deletes a transfer.
    old.run("UPDATE transfers SET state = 'DELETED', deleted_at = now()")
    old.migrate("downgrade", "0005")
    states = [("file", "COMPLETE", "e"), ("large", "ABORTED", "e"), ("small", "ABORTED", "e")]
    assert old.run(UPLOADS) == states
    old.migrate("upgrade")
    assert old.run("SELECT count(*) FROM previews") == [(0,)]


def test_0007_adds_requests_and_reports_and_going_back_opens_nothing(old: Old) -> None:
    old.migrate("upgrade", "0006")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), :state, now() + interval '1 day', now())"
    )
    old.run(add, slug="before", state="READY")
    old.migrate("upgrade")
    # Old code, without quarantine, still writes rows.
    for slug, state in (("blocked", "READY"), ("moving", "INIT"), ("gone", "EXPIRED")):
        old.run(add, slug=slug, state=state)
    assert old.run("SELECT DISTINCT quarantined_at FROM transfers") == [(None,)]
    ask = (
        "INSERT INTO extension_requests (id, transfer_id, reason, asker_hash, day, message)"
        " SELECT gen_random_uuid(), id, 'expired', sha256(:who), '2030-01-01', :message"
        " FROM transfers WHERE slug = 'gone'"
    )
    old.run(ask, who=b"ada", message="")
    for who, message in ((b"ada", "again"), (b"bob", "x" * 501)):
        with pytest.raises(IntegrityError):
            old.run(ask, who=who, message=message)
    report = (
        "INSERT INTO abuse_reports (transfer_id, reason, message)"
        " SELECT id, 'malware', :message FROM transfers WHERE slug = 'blocked' RETURNING id"
    )
    assert old.run(report, message="x" * 2000) == [(1,)]
    with pytest.raises(IntegrityError):
        old.run(report, message="x" * 2001)
    old.run("UPDATE transfers SET quarantined_at = now() WHERE slug IN ('blocked', 'moving')")
    old.run("DELETE FROM transfers WHERE slug = 'gone'")
    assert old.run("SELECT count(*) FROM extension_requests") == [(0,)]
    old.migrate("downgrade", "0006")
    left = dict(old.run("SELECT slug, state::text FROM transfers"))
    assert left == {"before": "READY", "blocked": "EXPIRED", "moving": "EXPIRED"}
    old.migrate("upgrade")


def test_0009_adds_mail_and_going_back_leaves_the_transfers(old: Old) -> None:
    old.migrate("upgrade", "0008")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), 'INIT', now() + interval '1 day')"
    )
    old.run(add, slug="before")
    old.migrate("upgrade")
    # Old code, without mail, still writes rows and counts downloads.
    old.run(add, slug="written by old code")
    old.run("INSERT INTO downloads (id, transfer_id) SELECT gen_random_uuid(), id FROM transfers")
    news = "SELECT DISTINCT sender_email, sender_confirmed_at, muted FROM transfers"
    assert old.run(news) == [(None, None, [])]
    with pytest.raises(IntegrityError):
        old.run("UPDATE transfers SET sender_confirmed_at = now()")
    name = (
        "INSERT INTO recipients (id, transfer_id, email, slug)"
        " SELECT gen_random_uuid(), id, 'bo@example.org', :slug FROM transfers WHERE slug = 'before'"
    )
    old.run(name, slug="own")
    for slug in ("own", "another"):
        with pytest.raises(IntegrityError):
            old.run(name, slug=slug)
    mail = (
        "INSERT INTO outbox_mails (id, kind, email, about_id, n)"
        " SELECT gen_random_uuid(), 'reminder', email, id, :n FROM recipients"
    )
    old.run(mail, n=1)
    old.run(mail, n=2)
    with pytest.raises(IntegrityError):
        old.run(mail, n=1)
    old.migrate("downgrade", "0008")
    assert old.run("SELECT slug FROM transfers ORDER BY slug") == [
        ("before",),
        ("written by old code",),
    ]
    old.migrate("upgrade")


def test_0010_adds_accounts_to_a_database_with_rows_and_can_be_taken_back(old: Old) -> None:
    old.migrate("upgrade", "0009")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), 'READY', now(), now())"
    )
    old.run(add, slug="before")
    old.run("INSERT INTO audit_events (action) VALUES ('before')")
    old.migrate("upgrade", "0010")
    # Old code, without accounts, still writes rows.
    old.run(add, slug="written by old code")
    whose = "SELECT DISTINCT workspace_id, user_identifier FROM transfers"
    assert old.run(whose) == [(None, None)]
    assert old.run("SELECT subject_id, key_id FROM audit_events") == [(None, None)]
    workspace = uuid.uuid4()
    old.run("INSERT INTO workspaces (id, name) VALUES (:id, 'Acme')", id=workspace)
    key = (
        "INSERT INTO api_keys (id, workspace_id, name, prefix, key_hash, scope)"
        " VALUES (gen_random_uuid(), :workspace, 'a', :prefix, sha256(:prefix), 'read')"
    )
    old.run(key, workspace=workspace, prefix="bee_a")
    change = "UPDATE transfers SET workspace_id = :workspace, user_identifier = :user"
    for statement, given in (
        (key, {"workspace": workspace, "prefix": "bee_a"}),
        (key, {"workspace": uuid.uuid4(), "prefix": "bee_b"}),
        ("UPDATE api_keys SET key_hash = 'short'", {}),
        ("INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'Acme')", {}),
        ("DELETE FROM workspaces", {}),
        (change, {"workspace": None, "user": "nobody's"}),
    ):
        with pytest.raises(IntegrityError):
            old.run(statement, **given)
    old.run(change, workspace=workspace, user="somebody")
    old.migrate("downgrade", "0009")
    assert old.run("SELECT count(*) FROM transfers") == [(2,)]
    old.migrate("upgrade", "0010")
    assert old.run(whose) == [(None, None)]


def test_0011_keeps_heartbeats_and_forgets_what_was_deleted_before(old: Old) -> None:
    old.migrate("upgrade", "0010")
    beat = "INSERT INTO heartbeats (name, at) VALUES (:name, now())"
    old.run(beat, name="expire_due")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, deleted_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'DELETED', now(), now())"
    )
    old.migrate("upgrade")
    old.run(beat, name="delete_expired")  # as older code still does
    told = "SELECT name, last_count, seconds, failure_count FROM heartbeats ORDER BY name"
    assert old.run(told) == [("delete_expired", None, None, 0), ("expire_due", None, None, 0)]
    to_forget = "SELECT slug FROM transfers WHERE state = 'DELETED' AND forgotten_at IS NULL"
    assert old.run(to_forget) == [("s",)]
    old.run("INSERT INTO heartbeats (name, at, failure_count) VALUES ('x', to_timestamp(0), 3)")
    old.migrate("downgrade", "0010")
    # A sweep that has only failed loses its row: older code would take it for a finished run.
    assert old.run("SELECT name FROM heartbeats ORDER BY name") == [
        ("delete_expired",),
        ("expire_due",),
    ]
    old.migrate("upgrade")


def test_0012_adds_a_block_list_and_can_be_taken_back(old: Old) -> None:
    old.migrate("upgrade", "0011")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'PROCESSING', now())"
    )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0012")
    old.run(report)  # as older code still does
    assert old.run("SELECT DISTINCT file_sha256 FROM abuse_reports") == [(None,)]
    add = "INSERT INTO blocked_files (sha256, size, crc32, reason) VALUES (%s, %s, %s, 'malware')"
    good = ("sha256('x')", "1", "NULL")
    old.run(add % good)
    for wrong in (good, ("'short'", "1", "NULL"), ("sha256('y')", "0", "NULL"),
                  ("sha256('y')", "1", "'123'")):  # fmt: skip
        with pytest.raises(IntegrityError):
            old.run(add % wrong)
    old.migrate("downgrade", "0011")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    old.migrate("upgrade")


def test_0013_adds_webhooks_which_go_with_their_workspaces_transfers(old: Old) -> None:
    old.migrate("upgrade", "0011")
    workspace, transfer, hook = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    old.run("INSERT INTO workspaces (id, name) VALUES (:id, 'Acme')", id=workspace)
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, workspace_id)"
        " VALUES (:id, 's', sha256('s'), 'INIT', now(), :workspace)",
        id=transfer,
        workspace=workspace,
    )
    old.migrate("upgrade", "0013")
    add = (
        "INSERT INTO webhooks (id, workspace_id, url, events, secret)"
        " VALUES (:id, :workspace, :url, CAST(:events AS text[]), sha256('s'))"
    )
    right = {"workspace": workspace, "url": "https://a.example", "events": "{transfer.ready}"}
    for wrong in ({"url": ""}, {"events": "{}"}, {"workspace": uuid.uuid4()}):
        with pytest.raises(IntegrityError):
            old.run(add, id=uuid.uuid4(), **{**right, **wrong})
    old.run(add, id=hook, **right)
    with pytest.raises(IntegrityError):
        old.run("UPDATE webhooks SET disabled_at = now()")
    tell = (
        "INSERT INTO webhook_deliveries (id, webhook_id, transfer_id, event_id, event, payload,"
        " ends_at) VALUES (gen_random_uuid(), :hook, :transfer, :event, 'transfer.ready', '', now())"
    )
    for event in (hook, transfer):
        old.run(tell, hook=hook, transfer=transfer, event=event)
    with pytest.raises(IntegrityError):
        old.run(tell, hook=hook, transfer=transfer, event=hook)
    assert old.run("SELECT DISTINCT state::text, attempt_count FROM webhook_deliveries") == [
        ("WAITING", 0)
    ]
    old.run("DELETE FROM transfers")
    assert old.run("SELECT count(*) FROM webhook_deliveries") == [(0,)]
    old.run(tell, hook=hook, transfer=None, event=hook)
    old.run("DELETE FROM webhooks")
    assert old.run("SELECT count(*) FROM webhook_deliveries") == [(0,)]
    old.migrate("downgrade", "0011")
    old.migrate("upgrade", "0013")


def test_0016_knows_sizes_of_workspaces_and_going_back_leaves_bytes_to_the_sweep(old: Old) -> None:
    old.migrate("upgrade", "0011")
    old.run("INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'Acme')")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, workspace_id)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), 'INIT', now() + interval '1 day',"
        " (SELECT id FROM workspaces WHERE name = :of))"
    )
    upload = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state)"
        " VALUES (gen_random_uuid(), :key, 't', 'single', :size, 8388608, 'OPEN')"
    )
    for slug, workspace in (("with", "Acme"), ("empty", "Acme"), ("nobody's", "")):
        old.run(add, slug=slug, of=workspace)
    for number, slug in enumerate(("with", "with", "nobody's")):
        old.run(upload, key=f"file {number}", size=5 + number)
        old.run(
            "INSERT INTO files (id, transfer_id, upload_id, position, path) SELECT"
            " gen_random_uuid(), t.id, u.id, :number, u.key FROM transfers t, uploads u"
            " WHERE t.slug = :slug AND u.key = :key",
            number=number,
            slug=slug,
            key=f"file {number}",
        )
    old.migrate("upgrade")
    sizes = "SELECT slug, total_size FROM transfers ORDER BY slug"
    assert old.run(sizes) == [("empty", 0), ("nobody's", 0), ("with", 11)]
    # Old code, without any of this, still writes rows.
    old.run(add, slug="written by old code", of="Acme")
    for key in ("put", "copy"):
        old.run(upload, key=key, size=0)
    old.run(
        "INSERT INTO stagings (transfer_id, upload_id, copy_id, filename) SELECT t.id, u.id, c.id, 'a'"
        " FROM transfers t, uploads u, uploads c"
        " WHERE t.slug = 'empty' AND u.key = 'put' AND c.key = 'copy'"
    )
    remember = (
        "INSERT INTO idempotency_keys (key_hash, request_hash, made_ids)"
        " VALUES (sha256(:key), sha256('r'), '{}')"
    )
    old.run(remember, key="k")
    for wrong, given in (
        (remember, {"key": "k"}),
        ("UPDATE idempotency_keys SET key_hash = 'short'", {}),
        ("UPDATE stagings SET filename = ''", {}),
        ("DELETE FROM uploads WHERE key = 'put'", {}),
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong, **given)
    old.migrate("downgrade", "0011")
    states = dict(old.run("SELECT key, state::text FROM uploads"))
    assert (states["put"], states["copy"], states["file 0"]) == ("ABORTED", "ABORTED", "OPEN")
    old.migrate("upgrade")


def test_0018_takes_small_files_and_gives_their_bytes_up_again(old: Old) -> None:
    old.migrate("upgrade", "0011")
    upload = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state, etag) VALUES"
        " (gen_random_uuid(), :key, 't', :method, 1, 8388608, :state, 'e') RETURNING id"
    )
    old.run(upload, key="before", method="single", state="COMPLETE")
    old.migrate("upgrade", "0018")
    ((workspace,),) = old.run(
        "INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'Acme') RETURNING id"
    )
    ((posted,),) = old.run(upload, key="posted", method="post", state="ABORTED")
    ((kept,),) = old.run(upload, key="kept", method="single", state="COMPLETE")
    old.run(upload, key="under way", method="post", state="OPEN")
    row = (
        "INSERT INTO small_files (id, workspace_id, key, posted_id, kept_id, name, content_type,"
        " max_size, metadata, etag, confirmed_at) VALUES (gen_random_uuid(), :workspace, 'posted',"
        " :posted, :kept, :name, 'a/b', 1, '{}', :etag, now())"
    )
    right = {"workspace": workspace, "posted": posted, "kept": kept, "name": "a", "etag": "e"}
    for wrong in ({"name": ""}, {"etag": None}, {"kept": uuid.uuid4()}):
        with pytest.raises(IntegrityError):
            old.run(row, **right | wrong)
    old.run(row, **right)
    with pytest.raises(IntegrityError):
        old.run("DELETE FROM uploads WHERE key = 'kept'")
    old.run("DELETE FROM uploads WHERE key = 'posted'")
    assert old.run("SELECT posted_id FROM small_files") == [(None,)]
    old.migrate("downgrade", "0011")
    states = "SELECT key, method::text, state::text FROM uploads ORDER BY key"
    assert old.run(states) == [
        ("before", "single", "COMPLETE"),
        ("kept", "single", "ABORTED"),
        ("under way", "single", "ABORTED"),
    ]
    old.migrate("upgrade", "0018")


def test_0019_lets_sweeps_take_turns_and_keeps_when_they_came(old: Old) -> None:
    old.migrate("upgrade", "0018")
    old.run("INSERT INTO heartbeats (name, at, last_count) VALUES ('before', now(), 7)")
    old.migrate("upgrade", "0019")
    assert old.run("SELECT name, last_count, busy_until FROM heartbeats") == [("before", 7, None)]
    # Older code that is still running does not set it.
    old.run("INSERT INTO heartbeats (name, at) VALUES ('older', now())")
    old.run("UPDATE heartbeats SET busy_until = now()")
    old.migrate("downgrade", "0018")
    assert old.run("SELECT name FROM heartbeats ORDER BY name") == [("before",), ("older",)]
    old.migrate("upgrade", "0019")


def test_0020_knows_whose_a_kept_zip_is_and_forgets_it_with_its_transfer(old: Old) -> None:
    old.migrate("upgrade", "0019")
    add = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state)"
        " VALUES (gen_random_uuid(), :key, 't', 'multipart', 1, 8388608, 'ABORTED')"
    )
    old.run(add, key="before")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    old.migrate("upgrade", "0020")
    old.run(add, key="written by old code")
    assert old.run("SELECT DISTINCT kept_for FROM uploads") == [(None,)]
    with pytest.raises(IntegrityError):
        old.run("UPDATE uploads SET kept_for = :nobody", nobody=uuid.uuid4())
    old.run("UPDATE uploads SET kept_for = (SELECT id FROM transfers)")
    old.run("DELETE FROM transfers")
    assert old.run("SELECT key, kept_for FROM uploads ORDER BY key") == [
        ("before", None),
        ("written by old code", None),
    ]
    old.migrate("downgrade", "0019")
    assert [row[0] for row in old.run(UPLOADS)] == ["before", "written by old code"]
    old.migrate("upgrade", "0020")


def test_0020_does_not_deadlock_with_running_processes(old: Old) -> None:
    """Web processes and workers keep running meanwhile: they lock transfers, then uploads."""
    old.migrate("upgrade", "0019")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE wait_event_type = 'Lock' AND datname = '{NAME}'"
    )
    with old.engine.begin() as working, ThreadPoolExecutor(1) as pool:
        working.execute(text("UPDATE transfers SET title = 'a'"))
        migrated = pool.submit(old.migrate, "upgrade", "0020")
        until(lambda: old.run(waiting) == [(1,)], "the migration to wait")
        working.execute(text("UPDATE uploads SET etag = NULL"))
        working.commit()
        migrated.result()


def test_0020_can_be_repeated_after_an_interruption(old: Old) -> None:
    old.migrate("upgrade", "0020")
    old.run("DROP INDEX ix_uploads_kept_for")
    # Like the remains of an interrupted CREATE INDEX CONCURRENTLY: useless, but in the way.
    old.run("CREATE INDEX ix_uploads_kept_for ON uploads (key)")
    old.run("UPDATE alembic_version SET version_num = '0019'")
    old.migrate("upgrade", "0020")
    told = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_uploads_kept_for'"
    assert "(kept_for) WHERE" in str(old.run(told))
    valid = "SELECT convalidated FROM pg_constraint WHERE conrelid = 'uploads'::regclass"
    assert old.run(f"{valid} AND contype = 'f'") == [(True,)]


def test_0021_takes_reports_of_boards_and_going_back_hides_what_is_blocked(old: Old) -> None:
    old.migrate("upgrade", "0020")
    old.run("INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'Acme')")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    for slug in ("good", "evil"):
        old.run(
            "INSERT INTO boards (id, slug, workspace_id, name)"
            " SELECT gen_random_uuid(), :slug, id, 'b' FROM workspaces",
            slug=slug,
        )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0021")
    old.run(report)  # as older code still does
    old.run("INSERT INTO abuse_reports (board_id, reason) SELECT id, 'other' FROM boards")
    for wrong in (
        "INSERT INTO abuse_reports (reason) VALUES ('other')",
        "UPDATE abuse_reports SET board_id = (SELECT id FROM boards LIMIT 1)",
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong)
    old.run("UPDATE boards SET quarantined_at = now() WHERE slug = 'evil'")
    old.migrate("downgrade", "0020")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    assert old.run("SELECT count(*), count(*) FILTER (WHERE slug = 'good') FROM boards") == [(2, 1)]
    assert old.run("SELECT slug FROM boards WHERE slug = 'evil'") == []
    old.migrate("upgrade", "0021")


def test_0022_drops_an_index_and_older_code_still_announces(old: Old) -> None:
    indexes = "SELECT indexname FROM pg_indexes WHERE indexname LIKE '%to_announce'"
    old.migrate("upgrade", "0021")
    assert len(old.run(indexes)) == 1
    old.migrate("upgrade", "0022")
    assert old.run(indexes) == []
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, expired_at, ready_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'EXPIRED', now(), now(), now())"
    )
    old.run(
        "INSERT INTO extension_requests (id, transfer_id, reason, asker_hash, day)"
        " SELECT gen_random_uuid(), id, 'expired', sha256('a'), now() FROM transfers"
    )
    old.run("UPDATE extension_requests SET announced_at = now()")
    # The current code does not name it, so that the next release may drop it.
    assert "announced_at" not in str(select(ExtensionRequest))
    old.migrate("downgrade", "0021")
    assert len(old.run(indexes)) == 1
    old.migrate("upgrade", "0022")


def test_0023_lists_one_senders_transfers_without_blocking_writes(old: Old) -> None:
    """It waits for those who write already; others write on meanwhile."""
    old.migrate("upgrade", "0022")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, sender_email)"
        " VALUES (gen_random_uuid(), :slug, sha256('s'), 'INIT', now(), 'ada@example.org')"
    )
    ask = "INSERT INTO sender_codes (id, email) VALUES (gen_random_uuid(), 'ada@example.org')"
    old.run(add, slug="before")
    old.run(ask)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE wait_event_type = 'Lock' AND datname = '{NAME}'"
    )
    with old.engine.begin() as working, ThreadPoolExecutor(1) as pool:
        working.execute(text("UPDATE transfers SET title = 'a' WHERE slug = 'before'"))
        migrated = pool.submit(old.migrate, "upgrade", "0023")
        until(lambda: old.run(waiting) == [(1,)], "the migration to wait")
        old.run(f"SET LOCAL lock_timeout = '1s'; {add}", slug="meanwhile")
        working.commit()
        migrated.result()
    indexes = "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'ix_transfers_%sender%'"
    assert old.run(indexes) == [("ix_transfers_of_sender",)]
    # As older code still does: such a code does not sign in.
    old.run(ask)
    assert old.run("SELECT DISTINCT signs_in, signed_out_at FROM sender_codes") == [(False, None)]
    old.migrate("downgrade", "0022")
    assert old.run(indexes) == [("ix_transfers_sender_email",)]
    old.run(f"{add}; {ask}", slug="written by older code")
    # The remains of an interruption are in the way.
    old.run("ALTER TABLE sender_codes ADD signs_in boolean NOT NULL DEFAULT false")
    old.run("CREATE INDEX ix_transfers_of_sender ON transfers (slug)")
    old.migrate("upgrade", "0023")
    assert old.run(indexes) == [("ix_transfers_of_sender",)]
    told = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_transfers_of_sender'"
    assert "(sender_email, created_at, id) WHERE" in str(old.run(told))


def test_0025_goes_back_without_the_mails_that_older_code_does_not_know(old: Old) -> None:
    old.migrate("upgrade", "0025")
    old.run(
        "INSERT INTO outbox_mails (id, kind, email, about_id) VALUES"
        " (gen_random_uuid(), 'received', 'ada@example.org', gen_random_uuid()),"
        " (gen_random_uuid(), 'code', 'ada@example.org', gen_random_uuid())"
    )
    old.migrate("downgrade", "0024")
    assert old.run("SELECT kind::text FROM outbox_mails") == [("code",)]
    old.migrate("upgrade", "0025")


def test_0026_takes_reports_of_file_requests_and_going_back_closes_what_is_blocked(
    old: Old,
) -> None:
    old.migrate("upgrade", "0025")
    for slug in ("good", "evil"):
        old.run(
            "INSERT INTO file_requests (id, slug, email, title, ends_at)"
            " VALUES (gen_random_uuid(), :slug, 'ada@example.org', 't', now() + interval '1 day')",
            slug=slug,
        )
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0026")
    old.run(report)  # as older code still does
    old.run(
        "INSERT INTO abuse_reports (file_request_id, reason) SELECT id, 'other' FROM file_requests"
    )
    for wrong in (
        "INSERT INTO abuse_reports (reason) VALUES ('other')",
        "UPDATE abuse_reports SET file_request_id = (SELECT id FROM file_requests LIMIT 1)",
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong)
    old.run("UPDATE file_requests SET quarantined_at = now() WHERE slug = 'evil'")
    old.migrate("downgrade", "0025")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    assert old.run("SELECT slug FROM file_requests WHERE ends_at > now()") == [("good",)]
    old.migrate("upgrade", "0026")


def test_0014_keeps_opt_outs_and_going_back_forgets_only_what_bounced(old: Old) -> None:
    old.migrate("upgrade", "0011")
    added = "INSERT INTO opt_outs (email_hash{}) VALUES (sha256('{}'){})"
    old.run(added.format("", "asked", ""))
    old.migrate("upgrade")
    old.run(added.format("", "older code", ""))
    for reason in ("bounced", "complained"):
        old.run(added.format(", reason", reason, f", '{reason}'"))
    told = "SELECT reason::text FROM opt_outs ORDER BY reason"
    assert old.run(told) == [("asked",), ("asked",), ("bounced",), ("complained",)]
    old.migrate("downgrade", "0011")
    assert old.run("SELECT count(*) FROM opt_outs") == [(3,)]
    old.migrate("upgrade")


def test_0017_sorts_keys_by_bytes_and_leaves_no_object_behind(old: Old) -> None:
    old.migrate("upgrade", "0011")
    add = (
        "INSERT INTO uploads (id, key, token, method, size, part_size, state, etag)"
        " VALUES (gen_random_uuid(), :key, 't', 'single', 1, 1, 'COMPLETE', 'e') RETURNING id"
    )
    keys = ["p/b-1", "p/B.1", "p/b/2", "p/b.3"]
    for key in keys[:2]:
        old.run(add, key=key)
    old.migrate("upgrade", "0017")
    ids = [old.run(add, key=key)[0][0] for key in keys[2:]]
    assert [row[0] for row in old.run(UPLOADS)] == sorted(keys)
    workspace, asset = uuid.uuid4(), uuid.uuid4()
    old.run("INSERT INTO workspaces (id, name) VALUES (:id, 'Acme')", id=workspace)
    old.run(
        "INSERT INTO assets (id, workspace_id, name, content_type, last_number, search)"
        " VALUES (:id, :workspace, 'a', 'a/b', 1, array_to_tsvector('{a}'))",
        id=asset,
        workspace=workspace,
    )
    version = (
        "INSERT INTO asset_versions (id, asset_id, number, upload_id, name, content_type)"
        " VALUES (gen_random_uuid(), :asset, :number, :upload, 'a', 'a/b')"
    )
    old.run(version, asset=asset, number=1, upload=ids[0])
    for number, upload in ((0, ids[1]), (1, ids[1]), (2, ids[0]), (2, asset)):
        with pytest.raises(IntegrityError):
            old.run(version, asset=asset, number=number, upload=upload)
    with pytest.raises(IntegrityError):
        old.run("UPDATE assets SET shown_number = 2")
    old.migrate("downgrade", "0011")
    states = "SELECT key, state::text FROM uploads WHERE state = 'ABORTED'"
    assert old.run(states) == [("p/b/2", "ABORTED")]
    old.migrate("upgrade", "0017")


def test_0015_keeps_files_and_going_back_leaves_only_what_is_there(old: Old) -> None:
    old.migrate("upgrade", "0011")
    sent, uploads = uuid.uuid4(), {name: uuid.uuid4() for name in ("there", "coming")}
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (:id, 's', sha256('s'), 'READY', now(), now())",
        id=sent,
    )

    def add(name: str) -> None:
        old.run(
            "INSERT INTO uploads (id, key, token, method, size, part_size, state)"
            " VALUES (:id, :name, 't', 'single', 1, 8388608, 'OPEN')",
            id=uploads[name],
            name=name,
        )
        old.run(
            "INSERT INTO files (id, transfer_id, upload_id, position, path)"
            " VALUES (gen_random_uuid(), :sent, :upload, 0, :name)",
            sent=sent,
            upload=uploads[name],
            name=name,
        )

    add("there")
    old.migrate("upgrade", "0015")
    add("coming")  # as older code still does
    shown = "SELECT path, batch FROM files ORDER BY path"
    assert old.run(shown) == [("coming", 0), ("there", 0)]
    old.run("INSERT INTO batches (transfer_id) VALUES (:id)", id=sent)
    old.run("UPDATE files SET batch = NULL WHERE path = 'coming'")
    for wrong in (
        "UPDATE files SET batch = -1",
        "UPDATE transfers SET batch_count = -1",
        "UPDATE batches SET lease_token = gen_random_uuid()",
        "INSERT INTO batches (transfer_id) SELECT transfer_id FROM batches",
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong)
    old.run(
        "INSERT INTO outbox_mails (id, kind, email, about_id)"
        " VALUES (gen_random_uuid(), 'new_files', 'a@example.org', gen_random_uuid())"
    )
    old.migrate("downgrade", "0011")
    assert old.run("SELECT path FROM files") == [("there",)]
    assert old.run(UPLOADS) == [("coming", "ABORTED", None), ("there", "OPEN", None)]
    assert old.run("SELECT count(*) FROM outbox_mails") == [(0,)]
    old.migrate("upgrade", "0015")
    assert old.run(shown) == [("there", 0)]


def _new_code(old: Old) -> None:
    """New code's checksums: 4 bytes, only for complete uploads with a checksum algorithm."""
    change = "UPDATE uploads SET checksum_algorithm = 'CRC32', crc32 = :crc32 WHERE key = :key"
    old.run(change, key="complete", crc32=b"1234")
    for key, crc32 in (("complete", b"123"), ("complete", b"12345"), ("aborted", b"1234")):
        with pytest.raises(IntegrityError):
            old.run(change, key=key, crc32=crc32)
    with pytest.raises(IntegrityError):
        old.run("UPDATE uploads SET checksum_algorithm = NULL WHERE key = 'complete'")
    old.run("SELECT 'damaged'::file_problem")
