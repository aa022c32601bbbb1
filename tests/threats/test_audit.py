"""S36: who did what is written down once, in the act's own transaction, and never changed."""

import uuid

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.db import db
from app.models import AuditEvent
from tests.factories import Sender

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
