"""What recipients have asked of a transfer's sender, as rows: read, counted, settled, forgotten.

asking.py makes them.
"""

import uuid
from collections.abc import Iterable

from sqlalchemy import delete, func, select, update

from app.clock import db_now
from app.db import db
from app.models import Ending, ExtensionRequest

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
    """How many nobody has answered."""
    found = db.session.scalar(
        select(func.count())
        .select_from(ExtensionRequest)
        .where(ExtensionRequest.transfer_id == transfer_id, ExtensionRequest.settled_at.is_(None))
    )
    return found or 0


def settle(transfer_id: uuid.UUID, reasons: Iterable[Ending] = tuple(Ending)) -> None:
    """Its sender gave what was asked for, for these reasons. Call in transaction(); repeatable."""
    db.session.execute(
        update(ExtensionRequest)
        .where(
            ExtensionRequest.transfer_id == transfer_id,
            ExtensionRequest.reason.in_(reasons),
            ExtensionRequest.settled_at.is_(None),
        )
        .values(settled_at=db_now())
        .execution_options(synchronize_session=False)
    )


def forget(*transfer_ids: uuid.UUID) -> None:
    """Nobody can answer them any more, and they say who asked. Call in transaction()."""
    db.session.execute(
        delete(ExtensionRequest).where(ExtensionRequest.transfer_id.in_(transfer_ids))
    )
