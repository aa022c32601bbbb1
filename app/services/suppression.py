"""Addresses that get no mail from here: their owners want none, it came back, or they complained.

Kept as keyed hashes, so nobody can read from the rows who they are.
"""

from sqlalchemy import ARRAY, ColumnElement, LargeBinary, any_, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from app.addresses import hashes
from app.db import changed, db
from app.models import NoMail, OptOut

_ROWS = OptOut.__table__
# What a sender reads of each. Who reports our mail as spam is not told on.
WORDS = {
    NoMail.ASKED: "This person wants no mail from here.",
    NoMail.BOUNCED: "Mail to this address has come back.",
    NoMail.COMPLAINED: "This person wants no mail from here.",
}
# Why the address that asking() tells of gets no mail, to be asked along with something else. Where
# there is more than one row, a complaint first, and then an own wish.
REASON = (
    select(_ROWS.c.reason)
    .where(_ROWS.c.email_hash == any_(bindparam("email_hashes", type_=ARRAY(LargeBinary))))
    .order_by(_ROWS.c.reason != NoMail.COMPLAINED, _ROWS.c.reason)
    .limit(1)
    .scalar_subquery()
)


def suppress(email: str, reason: NoMail) -> None:
    """No mail to this address any more. Call in transaction(); repeatable.

    What a person has said stays, whatever their mail server says later; a complaint also beside an
    opt-out, whichever came first.
    """
    if NoMail.COMPLAINED in (reason, reason_of(email)):
        beside = insert(OptOut).values(
            email_hash=hashes(_complaint_of(email))[0], reason=NoMail.COMPLAINED
        )
        db.session.execute(beside.on_conflict_do_nothing())
    added = insert(OptOut).values(email_hash=hashes(email)[0], reason=reason)
    db.session.execute(
        added.on_conflict_do_nothing()
        if reason is NoMail.BOUNCED
        else added.on_conflict_do_update(
            index_elements=["email_hash"],
            set_={"reason": reason},
            where=OptOut.reason != NoMail.ASKED,
        )
    )


def reason_of(email: str) -> NoMail | None:
    """Why this address gets no mail; None if it gets what there is."""
    return db.session.scalar(select(REASON), asking(email))


def has_asked(email: str) -> bool:
    """Whether this address's owner has said, by our own link, that they want none."""
    asked = select(OptOut.email_hash).where(_is_of(email), OptOut.reason == NoMail.ASKED)
    return db.session.scalar(asked.limit(1)) is not None


def asking(email: str) -> dict[str, list[bytes]]:
    """What REASON has to be told of an address."""
    return {"email_hashes": _hashes_of(email)}


def lift(email: str, *reasons: NoMail) -> bool:
    """Mail goes there again, if it was for one of these that it did not. Call in transaction()."""
    lifted = delete(OptOut).where(_is_of(email), OptOut.reason.in_(reasons))
    return changed(lifted.execution_options(synchronize_session=False)) > 0


def _is_of(email: str) -> ColumnElement[bool]:
    return OptOut.email_hash.in_(_hashes_of(email))


def _hashes_of(email: str) -> list[bytes]:
    return hashes(email) + hashes(_complaint_of(email))


def _complaint_of(email: str) -> str:
    """What a complaint's own row is of: no address has a colon, so it is nobody's."""
    return f"complaint:{email}"
