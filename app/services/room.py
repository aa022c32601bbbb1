"""Room in the bucket: no more is taken than the operator wants to keep (MAX_STORED_SIZE)."""

from sqlalchemy import func, select

from app.config import settings
from app.db import db
from app.errors import Invalid
from app.models import Upload
from app.services.removal import is_kept
from app.words import filesize

# The id of our advisory lock: "room" on a phone keypad.
_LOCK = 7666


def reserve(size: int, field: str = "files") -> None:
    """Raise Invalid, naming the field, unless there is room for `size` bytes more.

    Call it in transaction(), before the rows that take the room are added: until it ends, others
    wait here, so that together they do not take more than there is. Without a limit this costs
    nothing; otherwise, it reads the size of everything that is kept.
    """
    most = settings.max_stored_size
    if most is None:
        return
    db.session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    left = max(0, most - taken())
    if size > left:
        raise Invalid(
            {field: f"would need {filesize(size)}, and this site has room for {filesize(left)} now"}
        )


def reserve_some(size: int | None, field: str) -> None:
    """The same for what is counted once it has arrived; `size` may be unknown."""
    reserve(max(size or 0, 1), field)


def taken() -> int:
    """The bytes of all that is kept, or announced and still expected.

    What was deleted or given up no longer counts, although its bytes may be there for some seconds.
    """
    query = select(func.coalesce(func.sum(Upload.size), 0)).where(is_kept())
    return int(db.session.scalar(query) or 0)
