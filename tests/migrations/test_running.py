"""Migrations beside running processes and each other, and after an interruption."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from tests.embedded.watched import until
from tests.lab.crasher import Crasher
from tests.migrations.database import NAME, Old


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
