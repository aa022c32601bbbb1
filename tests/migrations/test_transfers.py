"""Migrations of transfers, their files and zips, and of sweeps: data stays, and old code still works."""

import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from tests.migrations.database import UPLOADS, Old

MIB = 2**20


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
