"""What the slug of a link leads to, and whether it is still to be had.

A transfer has a link of its own, and each of its recipients has another one.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Row, Select, and_, bindparam, select

from app.db import db
from app.errors import Gone, NotFound
from app.models import Recipient, State, Transfer
from app.services.transfers import has_expired, is_at

_SHOWN_AS = {
    State.INIT: "uploading",
    State.PROCESSING: "processing",
    State.READY: "ready",
    State.EXPIRED: "expired",
    State.DELETED: "deleted",
}
ENDED = {
    "expired": "This transfer has expired.",
    "deleted": "This transfer was deleted.",
    "limit_reached": "All downloads of this transfer have been used.",
    # Quarantined; the reason is not shown (services/abuse.py).
    "unavailable": "This is not available.",
}
# In these states it no longer matters whether the visitor knows the password.
_OVER = {"expired", "deleted", "unavailable"}
# A file can be downloaded as soon as it is safe itself, whatever becomes of the others.
LIVE = (State.INIT, State.PROCESSING, State.READY)

# Built once, because every request to a link begins with it.
_SLUG: BindParameter[str] = bindparam("slug")
AT_SLUG = (
    select(
        Transfer,
        has_expired().label("is_due"),
        Recipient.id.label("recipient_id"),
        Recipient.revoked_at,
    )
    .outerjoin(Recipient, and_(Recipient.slug == _SLUG, Recipient.transfer_id == Transfer.id))
    .where(is_at(_SLUG))
    .execution_options(populate_existing=True)
)
_OF_ID = (
    select(Transfer, has_expired().label("is_due"))
    .where(Transfer.id == bindparam("id"))
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True)
class Link:
    """A link and its transfer: `state` is the page's word ("ready"), not the row's."""

    slug: str
    transfer: Transfer
    state: str
    # The recipient whose personal link this is; None for the transfer's own link.
    recipient_id: uuid.UUID | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody gets anything any more, whether they know the password or not."""
        return self.state in _OVER

    @property
    def state_within_limit(self) -> str:
        """The state for a visitor whose download has been counted already."""
        return _SHOWN_AS[self.transfer.state] if self.state == "limit_reached" else self.state


def find(slug: str) -> Link:
    """The link with this slug; one query. Raises as find_row()."""
    return find_row(AT_SLUG, slug)[0]


def find_row(statement: Select[*tuple[Any, ...]], slug: str) -> tuple[Link, Row[Any]]:
    """The link with this slug, and its row in `statement`, which is AT_SLUG with more columns.

    Raises NotFound, and Gone for a recipient's link that was revoked.
    """
    row = db.session.execute(statement, {"slug": slug}).first()
    if row is None:
        raise NotFound("This link does not lead anywhere.")
    if row.revoked_at is not None:
        raise Gone("This link was taken back by its sender.", reason="revoked")
    return Link(slug, row.Transfer, _state(row.Transfer, row.is_due), row.recipient_id), row


def state_of(transfer_id: uuid.UUID) -> str:
    """The state that the links of this transfer show. Raises NotFound."""
    row = db.session.execute(_OF_ID, {"id": transfer_id}).first()
    if row is None:
        raise NotFound("This link does not lead anywhere.")
    return _state(row.Transfer, row.is_due)


def _state(transfer: Transfer, is_due: bool) -> str:
    """The state to show. Expiry is enforced here on every request, even before the sweep runs."""
    if is_due:
        return "expired"
    if transfer.quarantined_at is not None and _SHOWN_AS[transfer.state] not in _OVER:
        return "unavailable"
    if transfer.state in LIVE and transfer.is_used_up:
        return "limit_reached"
    return _SHOWN_AS[transfer.state]
