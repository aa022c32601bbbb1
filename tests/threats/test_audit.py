"""S36: who did what is written down once, in the act's own transaction, and never changed."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError

from app import clock
from app.db import db
from app.models import ApiKey, AuditEvent
from app.services import upkeep
from tests.factories import Machine, Sender

pytestmark = pytest.mark.usefixtures("inside")


def noted(transfer_id: uuid.UUID) -> list[str]:
    found = select(AuditEvent).where(AuditEvent.transfer_id == transfer_id)
    return [event.action for event in db.session.scalars(found.order_by(AuditEvent.id))]


def test_s36_each_act_is_one_row(sender: Sender) -> None:
    sent = sender.create()
    assert noted(sent.id) == ["create"]
    sent.upload().complete().complete().process().process()
    assert noted(sent.id) == ["create", "complete"]
    curl = sender.client.application.test_client(use_cookies=False)
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    for _ in range(2):
        assert curl.get(url, headers={"User-Agent": "curl/8"}).status_code == 303
    sent.call("DELETE")
    sent.call("DELETE")
    assert noted(sent.id) == ["create", "complete", "download", "download", "delete"]


def test_s36_who_comes_in_by_a_key_is_written_down(machine: Machine) -> None:
    key = db.session.scalars(select(ApiKey)).one()
    came = select(AuditEvent).where(AuditEvent.key_id == key.id)
    machine.authorize("one of its users")
    wrong = {"x-api-key": machine.key[:-1] + "-"}
    assert machine.client.post("/v2/authorize", headers=wrong).status_code == 403
    found = db.session.scalars(came).all()
    # Once by the fixture and once here; no word of the user, who is a person.
    assert [one.action for one in found] == ["authorize"] * 2
    assert {one.subject_id for one in found} == {key.workspace_id}


def test_s36_changes_by_its_sender_are_acts_too(sender: Sender) -> None:
    sent = sender.create()
    added = sent.call("POST", "/files", json={"files": [{"path": "b", "size": 1}]})
    sent.call("DELETE", f"/files/{added.json['files'][0]['id']}")
    assert sent.call("PATCH", json={"title": "t", "message": "m"}).status_code == 200
    assert noted(sent.id) == ["create", "add files", "remove file", "edit"]
    assert (
        sent.call("POST", "/files", json={"files": [{"path": "b", "size": -1}]}).status_code == 400
    )
    assert sent.call("DELETE", f"/files/{uuid.uuid4()}").status_code == 404
    assert sent.call("PATCH", json={"max_downloads": 0}).status_code == 400
    assert sent.call("PATCH", json={}).status_code == 200
    assert noted(sent.id) == ["create", "add files", "remove file", "edit"]


def test_s36_what_time_does_is_written_down_in_one_statement_for_all(sender: Sender) -> None:
    past = clock.now() - timedelta(days=30)
    sent = [sender.ready().set(expires_at=past) for _ in range(3)]
    alive, idle = sender.ready(), sender.create().set(last_activity_at=past)
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        # The last of a sweep finds nothing more, and so writes nothing.
        is_written = "INSERT INTO audit_events" in statement and cursor.rowcount > 0
        asked.extend([statement] * is_written)

    event.listen(db.engine, "after_cursor_execute", note)
    try:
        upkeep.expire_due()
        upkeep.delete_expired()
        assert len(asked) == 1
        for one in sent:
            one.set(expired_at=past)
        upkeep.delete_expired()
        upkeep.delete_abandoned()
        assert len(asked) == 3
    finally:
        event.remove(db.engine, "after_cursor_execute", note)
    for one in sent:
        assert noted(one.id) == ["create", "complete", "expire", "delete"]
    assert noted(alive.id) == ["create", "complete"]
    assert noted(idle.id) == ["create", "delete"]


def test_s36_what_was_refused_or_only_looked_at_is_no_act(sender: Sender) -> None:
    sent = sender.ready(max_downloads=1)
    stranger: FlaskClient = sender.client.application.test_client(use_cookies=False)
    assert stranger.delete(sent.url, headers={"Authorization": "Bearer x"}).status_code == 404
    assert stranger.get(f"/d/{sent.slug}").status_code == 200
    sent.set(download_count=1)
    curl = {"User-Agent": "curl/8"}
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert stranger.get(url, headers=curl).status_code == 410
    sender.client.post("/transfers", json={"files": "wrong"})
    assert noted(sent.id) == ["create", "complete"]


def test_s36_the_same_create_sent_twice_is_one_act(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    made = {client.post("/transfers", json={}, headers=headers).json["id"] for _ in range(3)}
    assert [noted(uuid.UUID(one)) for one in made] == [["create"]]


def test_s36_a_row_tells_who_by_a_keyed_hash_and_nothing_else(sender: Sender) -> None:
    sent = sender.create()
    row = db.session.scalar(select(AuditEvent).where(AuditEvent.transfer_id == sent.id))
    assert row is not None
    assert len(row.address_hash or b"") == 32
    assert {c.name for c in AuditEvent.__table__.columns} == {
        "id",
        "at",
        "action",
        "transfer_id",
        "subject_id",
        "key_id",
        "address_hash",
    }


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_events SET action = 'nothing'",
        "UPDATE audit_events SET at = now() WHERE false",
        "DELETE FROM audit_events",
        "DELETE FROM audit_events WHERE id = -1",
        "INSERT INTO audit_events (id, action) VALUES (1, 'forged')",
    ],
)
def test_s36_the_database_itself_refuses_to_change_one(sender: Sender, change: str) -> None:
    sent = sender.create()
    with pytest.raises(DBAPIError), db.session.begin_nested():
        db.session.execute(text(change))
    assert noted(sent.id) == ["create"]


def test_s36_a_row_outlives_what_it_is_about(sender: Sender) -> None:
    sent = sender.create()
    db.session.execute(text("DELETE FROM transfers WHERE id = :id"), {"id": sent.id})
    db.session.commit()
    assert noted(sent.id) == ["create"]
