"""What recipients have asked of a transfer's sender, as rows: read, counted, forgotten.

How one is made is services/asking.py. A job may announce those whose `announced_at` is null.
"""

import uuid

from sqlalchemy import delete, func, select

from app.db import db
from app.models import ExtensionRequest

# Whoever lists them is shown so many.
MOST_SHOWN = 500


def of_transfer(transfer_id: uuid.UUID) -> list[ExtensionRequest]:
    """What was asked, the newest first, at most MOST_SHOWN."""
    found = db.session.scalars(
        select(ExtensionRequest)
        .where(ExtensionRequest.transfer_id == transfer_id)
        .order_by(ExtensionRequest.created_at.desc(), ExtensionRequest.id)
        .limit(MOST_SHOWN)
    )
    return list(found)


def count(transfer_id: uuid.UUID) -> int:
    """How many there are."""
    found = db.session.scalar(
        select(func.count())
        .select_from(ExtensionRequest)
        .where(ExtensionRequest.transfer_id == transfer_id)
    )
    return found or 0


def forget(*transfer_ids: uuid.UUID) -> None:
    """Nobody can answer them any more, and they say who asked. Call in transaction()."""
    db.session.execute(
        delete(ExtensionRequest).where(ExtensionRequest.transfer_id.in_(transfer_ids))
    )
