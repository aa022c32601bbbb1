"""Requests by recipients to extend a transfer: lists, counts, settles and deletes their rows.

asking.py adds them.
"""

import uuid
from collections.abc import Iterable

from sqlalchemy import delete, func, select, update

from app.clock import db_now
from app.db import db
from app.models import Ending, ExtensionRequest

# A listing shows at most this many.
MOST_SHOWN = 500


def of_transfer(transfer_id: uuid.UUID) -> list[ExtensionRequest]:
    """A transfer's requests, newest first, at most MOST_SHOWN."""
    found = db.session.scalars(
        select(ExtensionRequest)
        .where(ExtensionRequest.transfer_id == transfer_id)
        .order_by(ExtensionRequest.created_at.desc(), ExtensionRequest.id)
        .limit(MOST_SHOWN)
    )
    return list(found)


def count(transfer_id: uuid.UUID) -> int:
    """How many requests are unanswered."""
    found = db.session.scalar(
        select(func.count())
        .select_from(ExtensionRequest)
        .where(ExtensionRequest.transfer_id == transfer_id, ExtensionRequest.settled_at.is_(None))
    )
    return found or 0


def settle(transfer_id: uuid.UUID, reasons: Iterable[Ending] = tuple(Ending)) -> None:
    """Mark the requests with these reasons as settled: the sender gave what they asked for.

    Call in transaction(); repeatable.
    """
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
    """Delete requests that can no longer be answered, as they identify who asked.

    Call in transaction().
    """
    db.session.execute(
        delete(ExtensionRequest).where(ExtensionRequest.transfer_id.in_(transfer_ids))
    )
