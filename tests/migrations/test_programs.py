"""Migrations of accounts, webhooks, assets and small files: existing data stays, there and back."""

import uuid

import pytest
from sqlalchemy.exc import IntegrityError

from tests.migrations.database import UPLOADS, Old


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


def test_0028_leaves_workspaces_as_they_are_and_going_back_revokes_peoples_own_keys(
    old: Old,
) -> None:
    old.migrate("upgrade", "0027")
    workspace = "INSERT INTO workspaces (id, name{}) VALUES (gen_random_uuid(), :name{})"
    for name in ("Acme", "ada@example.org"):
        old.run(workspace.format("", ""), name=name)
    key = (
        "INSERT INTO api_keys (id, workspace_id, name, prefix, key_hash, scope)"
        " SELECT gen_random_uuid(), id, 'a', name, sha256('x'), 'write' FROM workspaces"
        " WHERE name = :name"
    )
    old.run(key, name="Acme")
    old.migrate("upgrade", "0028")
    assert old.run("SELECT DISTINCT email FROM workspaces") == [(None,)]
    own = workspace.format(", email", ", 'ada@example.org'")
    old.run(own, name="an id")
    old.run(key, name="an id")
    with pytest.raises(IntegrityError):
        old.run(own, name="another id")
    # As older code does.
    old.run(f"{workspace.format('', '')} ON CONFLICT (name) DO NOTHING", name="Acme")
    sent = (
        "INSERT INTO transfers"
        " (id, slug, owner_token_hash, state, expires_at, workspace_id, user_identifier)"
        " SELECT gen_random_uuid(), name, sha256(name::bytea), 'INIT', now(), id, 'somebody'"
        " FROM workspaces WHERE name IN ('Acme', 'an id')"
    )
    old.run(sent)
    old.migrate("downgrade", "0027")
    # Else it would count as vouched for by the operator, whoever may send.
    left = "SELECT slug, workspace_id IS NULL, user_identifier FROM transfers ORDER BY slug"
    assert old.run(left) == [("Acme", False, "somebody"), ("an id", True, None)]
    left = "SELECT prefix, revoked_at IS NULL FROM api_keys ORDER BY prefix"
    assert old.run(left) == [("Acme", True), ("an id", False)]
    old.migrate("upgrade", "0028")
