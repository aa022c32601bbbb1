"""Workspaces and their keys: shown once, looked up each time, ended for good."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from app import clock
from app.db import db
from app.errors import Invalid, NotAllowed, NotFound, Unauthorized
from app.models import ApiKey, AuditEvent, Scope, Workspace
from app.services import accounts
from tests.factories import Machine

pytestmark = pytest.mark.usefixtures("inside")


def noted(subject_id: Any) -> list[str]:
    found = select(AuditEvent.action).where(AuditEvent.subject_id == subject_id)
    return list(db.session.scalars(found.order_by(AuditEvent.id)))


def test_s27_a_key_is_256_random_bits_of_which_only_the_hash_is_kept() -> None:
    made = [accounts.issue_key("Acme", "a", Scope.READ) for _ in range(20)]
    assert len({one.text for one in made}) == len({one.row.prefix for one in made}) == 20
    for one in made:
        prefix, secret = one.text[:16], one.text[17:]
        assert (one.row.prefix, one.text[16], len(secret)) == (prefix, "_", 43)
        assert one.row.key_hash == hashlib.sha256(one.text.encode()).digest()
        assert secret not in repr(vars(one.row))
        assert noted(one.row.id) == ["issue key"]
    assert len({one.row.workspace_id for one in made}) == 1
    assert noted(made[0].row.workspace_id) == ["create workspace"]


def test_a_key_is_known_by_its_text_alone() -> None:
    issued = accounts.issue_key("Acme", "a", Scope.WRITE)
    caller = accounts.authenticate(issued.text)
    assert (caller.key_id, caller.workspace_id) == (issued.row.id, issued.row.workspace_id)
    other = accounts.issue_key("Acme", "a", Scope.WRITE).text
    for wrong in (
        None,
        "",
        issued.row.prefix,
        issued.text[:-1] + "!",
        issued.text[:17] + other[17:],
    ):
        with pytest.raises(Unauthorized, match=accounts.NO_KEY):
            accounts.authenticate(wrong)


@pytest.mark.parametrize("scope", list(Scope))
def test_each_scope_includes_those_before_it(scope: Scope) -> None:
    caller = accounts.authenticate(accounts.issue_key("Acme", "a", scope).text)
    order = list(Scope)
    for wanted in order:
        if order.index(wanted) <= order.index(scope):
            caller.check_may(wanted)
        else:
            with pytest.raises(NotAllowed):
                caller.check_may(wanted)


def test_a_revoked_key_is_one_for_good() -> None:
    issued = accounts.issue_key("Acme", "a", Scope.READ)
    kept = accounts.issue_key("Acme", "a", Scope.READ)
    accounts.authenticate(issued.text)
    assert accounts.revoke_key(issued.row.prefix)
    assert not accounts.revoke_key(issued.row.prefix)
    with pytest.raises(Unauthorized, match=accounts.NO_KEY):
        accounts.authenticate(issued.text)
    accounts.authenticate(kept.text)
    assert noted(issued.row.id) == ["issue key", "revoke key"]
    with pytest.raises(NotFound):
        accounts.revoke_key("bee_nobody")


def test_the_last_use_is_written_at_most_once_a_minute() -> None:
    issued = accounts.issue_key("Acme", "a", Scope.READ)
    written: list[str] = []

    def see(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("WITH free"):
            written.append(statement)

    event.listen(db.engine, "before_cursor_execute", see)
    try:
        for _ in range(5):
            accounts.authenticate(issued.text)
        assert len(written) == 1
        row = db.session.get(ApiKey, issued.row.id, populate_existing=True)
        assert row.last_used_at is not None
        row.last_used_at -= timedelta(seconds=61)
        db.session.commit()
        accounts.authenticate(issued.text)
        assert len(written) == 2
    finally:
        event.remove(db.engine, "before_cursor_execute", see)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 201])
def test_a_name_that_nobody_could_read_is_refused(name: str) -> None:
    for names in ((name, "a"), ("a", name)):
        with pytest.raises(Invalid):
            accounts.issue_key(*names, Scope.READ)
    assert db.session.scalars(select(Workspace)).all() == []


def test_by_hand(app: Flask) -> None:
    runner = app.test_cli_runner()
    words = ["keys", "issue", "--workspace", "Acme", "--name", "render farm", "--scope", "read"]
    issued = runner.invoke(args=words)
    assert issued.exit_code == 0, issued.output
    text = issued.stdout.strip()
    assert accounts.authenticate(text).scope is Scope.READ
    listed = runner.invoke(args=["keys", "list"]).stdout
    assert text[:16] in listed
    assert text[17:] not in listed
    assert "Acme: render farm" in listed
    assert "revoked" not in listed
    # The whole key does as well as its beginning.
    assert runner.invoke(args=["keys", "revoke", text]).stdout == "Revoked.\n"
    again = runner.invoke(args=["keys", "revoke", text[:16]])
    assert again.stdout == "It was already revoked.\n"
    assert "revoked" in runner.invoke(args=["keys", "list"]).stdout
    assert runner.invoke(args=["keys", "revoke", "bee_x"]).exit_code == 1
    assert runner.invoke(args=["keys", "issue", "--workspace", "", "--name", "a"]).exit_code == 1


def test_what_a_key_did_is_on_record(machine: Machine) -> None:
    made = machine.create()
    board = machine.board()
    caller = accounts.authenticate(machine.key)
    key_id = caller.key_id
    rows = db.session.scalars(select(AuditEvent).where(AuditEvent.key_id == key_id)).all()
    assert [(row.action, str(row.transfer_id or row.subject_id)) for row in rows] == [
        ("authorize", str(caller.workspace_id)),
        ("create", made["id"]),
        ("create board", board["id"]),
    ]
    # Whoever asks next without a key has not done it.
    sent = machine.client.post("/transfers", json={})
    row = db.session.scalars(
        select(AuditEvent).where(AuditEvent.transfer_id == sent.json["id"])
    ).one()
    assert row.key_id is None


def test_a_keys_age_is_by_the_databases_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose clock is wrong neither wakes nor ends a key."""
    issued = accounts.issue_key("Acme", "a", Scope.READ)
    later = clock.now() + timedelta(days=3650)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert accounts.authenticate(issued.text).key_id == issued.row.id
