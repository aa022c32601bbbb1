"""Lets a recipient ask the sender of an ended transfer for more time, or for more downloads.

Once a day for each visitor and transfer, which a unique key enforces even for simultaneous
requests.
"""

import hashlib
import uuid
from typing import Any

from sqlalchemy import ColumnElement, Date, Insert, and_, case, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert

from app import lifecycle
from app.clock import db_now
from app.db import changed, db, transaction
from app.errors import Gone, PasswordNeeded, WrongState
from app.models import Ending, ExtensionRequest, State, Transfer
from app.services import audit, delivery, transfer_view
from app.services.transfers import of_id

LONGEST_MESSAGE = 500
LONGEST_CONTACT = 254


def is_open(transfer_id: uuid.UUID) -> bool:
    """Whether the sender could still give more: not if quarantined or past the grace period."""
    found = db.session.scalar(select(Transfer.id).where(Transfer.id == transfer_id, _is_open()))
    return found is not None


def ask(
    slug: str, visitor: str | None, proof: str | None, message: str = "", contact: str = ""
) -> bool:
    """Record a request; False if the same visitor has asked today already.

    Raises NotFound, PasswordNeeded where the page would ask for it, Gone when no more can be
    given, WrongState while there is nothing to ask for.
    """
    shown = transfer_view.view(slug, visitor, proof)
    if shown.is_locked:
        raise PasswordNeeded
    asker_hash = _asker(visitor)
    with transaction():
        is_noted = changed(_note(shown.id, asker_hash, message, contact)) == 1
        if is_noted:
            audit.note("ask sender", shown.id)
            words = "\n\n".join(filter(None, (message, contact)))
            # A sender without a confirmed address finds the request on the manage page.
            delivery.pass_on_question(of_id(shown.id), words)
    if is_noted:
        return True
    if _has_asked(shown.id, asker_hash):
        return False
    if shown.has_ended:
        raise Gone(reason=shown.state)
    raise WrongState("There is nothing to ask for: the files are here, or on their way.")


def has_asked_today(transfer_id: uuid.UUID, visitor: str | None) -> bool:
    """Whether this browser has asked today, by its cookie only: others may share its IP address."""
    return visitor is not None and _has_asked(transfer_id, _asker(visitor))


def _note(transfer_id: uuid.UUID, asker_hash: bytes, message: str, contact: str) -> Insert:
    """One statement that checks and inserts, so that the state cannot change in between."""
    reason = case((_is_used_up(), Ending.LIMIT_REACHED.value), else_=Ending.EXPIRED.value)
    asked = select(
        Transfer.id,
        cast(reason, ExtensionRequest.reason.type),
        literal(message),
        literal(contact),
        literal(asker_hash),
        _today(),
    ).where(Transfer.id == transfer_id, _is_open())
    names = ["transfer_id", "reason", "message", "contact", "asker_hash", "day"]
    return (
        insert(ExtensionRequest)
        .from_select(names, asked)
        .on_conflict_do_nothing(index_elements=["transfer_id", "asker_hash", "day"])
    )


def _has_asked(transfer_id: uuid.UUID, asker_hash: bytes) -> bool:
    found = db.session.scalar(
        select(ExtensionRequest.id).where(
            ExtensionRequest.transfer_id == transfer_id,
            ExtensionRequest.asker_hash == asker_hash,
            ExtensionRequest.day == _today(),
        )
    )
    return found is not None


def _is_open() -> ColumnElement[bool]:
    is_kept = and_(Transfer.state == State.EXPIRED, ~lifecycle.is_past_grace())
    return and_(Transfer.quarantined_at.is_(None), or_(lifecycle.is_due(), is_kept, _is_used_up()))


def _is_used_up() -> ColumnElement[bool]:
    return and_(
        Transfer.state == State.READY,
        Transfer.expires_at > db_now(),
        Transfer.is_used_up,
    )


def _today() -> ColumnElement[Any]:
    return cast(func.timezone("UTC", db_now()), Date)


def _asker(visitor: str | None) -> bytes:
    """A hash of who asks: of the browser's cookie, or without one of the network address."""
    if visitor:
        return hashlib.sha256(visitor.encode()).digest()
    return audit.actor.get() or bytes(32)
