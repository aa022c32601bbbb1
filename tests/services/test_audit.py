"""S36: each act leaves one row, in the transaction that did it, and rows are only ever added."""

import uuid

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import InternalError

from app.db import db, transaction
from app.models import AuditEvent
from app.services import downloads, transfers
from tests.factories import Sender

pytestmark = pytest.mark.usefixtures("inside")


def actions(transfer_id: uuid.UUID) -> list[str]:
    query = select(AuditEvent).where(AuditEvent.transfer_id == transfer_id).order_by(AuditEvent.id)
    return [event.action for event in db.session.scalars(query)]


def test_every_act_leaves_one_row(sender: Sender) -> None:
    sent = sender.ready()
    for _ in range(2):
        downloads.file_url(sent.slug, uuid.UUID(sent.files[0]["id"]), "ada")
    transfers.delete(sent.id)
    transfers.delete(sent.id)
    assert actions(sent.id) == ["create", "complete", "download", "delete"]
    first = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "create")).first()
    assert first is not None
    assert len(first.address_hash or b"") == 32
    assert b"127.0.0.1" not in (first.address_hash or b"")


def test_what_did_not_happen_leaves_none(sender: Sender) -> None:
    sent = sender.create()
    with pytest.raises(ZeroDivisionError), transaction():  # noqa: PT012
        transfers.delete(sent.id)
        raise ZeroDivisionError
    assert actions(sent.id) == ["create"]


@pytest.mark.parametrize(
    "change", ["UPDATE audit_events SET action = 'x'", "DELETE FROM audit_events"]
)
def test_the_database_refuses_to_change_or_remove_rows(sender: Sender, change: str) -> None:
    sender.create()
    with pytest.raises(InternalError, match="only ever added"), transaction():
        db.session.execute(text(change))
