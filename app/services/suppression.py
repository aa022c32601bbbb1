"""The suppression list: addresses that get no mail after an opt-out, a bounce or a spam complaint.

Kept as keyed hashes, so that the addresses cannot be read from the rows.
"""

import hmac

from sqlalchemy import ARRAY, ColumnElement, LargeBinary, any_, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from app.config import settings
from app.db import changed, db
from app.models import NoMail, OptOut

_ROWS = OptOut.__table__
# What a sender is shown for each. That somebody complained is not given away.
WORDS = {
    NoMail.ASKED: "This person wants no e-mails from this site.",
    NoMail.BOUNCED: "Earlier e-mails to this address came back.",
    NoMail.COMPLAINED: "This person wants no e-mails from this site.",
}
# Why the address bound by asking() gets no mail: a subquery for use in other statements. If there
# is more than one row, a complaint takes precedence, then an opt-out.
REASON = (
    select(_ROWS.c.reason)
    .where(_ROWS.c.email_hash == any_(bindparam("email_hashes", type_=ARRAY(LargeBinary))))
    .order_by(_ROWS.c.reason != NoMail.COMPLAINED, _ROWS.c.reason)
    .limit(1)
    .scalar_subquery()
)


def suppress(email: str, reason: NoMail) -> None:
    """Stop all mail to this address. Call in transaction(); repeatable.

    A bounce does not overwrite a person's own choice. A complaint is kept beside an opt-out,
    whichever came first.
    """
    if NoMail.COMPLAINED in (reason, reason_of(email)):
        beside = insert(OptOut).values(
            email_hash=_hashes(_complaint_of(email))[0], reason=NoMail.COMPLAINED
        )
        db.session.execute(beside.on_conflict_do_nothing())
    added = insert(OptOut).values(email_hash=_hashes(email)[0], reason=reason)
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
    """Why this address gets no mail; None if it gets mail."""
    return db.session.scalar(select(REASON), asking(email))


def has_asked(email: str) -> bool:
    """Whether the owner of this address has opted out by our own link."""
    asked = select(OptOut.email_hash).where(_is_of(email), OptOut.reason == NoMail.ASKED)
    return db.session.scalar(asked.limit(1)) is not None


def asking(email: str) -> dict[str, list[bytes]]:
    """The bind parameters of REASON for one address."""
    return {"email_hashes": _hashes_of(email)}


def lift(email: str, *reasons: NoMail) -> bool:
    """Allow mail again if it was stopped for one of these reasons; returns whether it was.

    Call in transaction().
    """
    lifted = delete(OptOut).where(_is_of(email), OptOut.reason.in_(reasons))
    return changed(lifted.execution_options(synchronize_session=False)) > 0


def _is_of(email: str) -> ColumnElement[bool]:
    return OptOut.email_hash.in_(_hashes_of(email))


def _hashes_of(email: str) -> list[bytes]:
    return _hashes(email) + _hashes(_complaint_of(email))


def _hashes(address: str) -> list[bytes]:
    """Keyed hashes of the address: the first under the current key, the others under former ones.

    The address itself is not stored, so it cannot be hashed again under a new key: a former key has
    to stay in the settings for as long as its hashes must be recognised.
    """
    keys = (settings.secret_key, *settings.secret_key_fallbacks, *settings.opt_out_keys)
    return [hmac.digest(key.encode(), f"email:{address}".encode(), "sha256") for key in keys]


def _complaint_of(email: str) -> str:
    """The pseudo-address under which a complaint is stored; no real address has a colon in it."""
    return f"complaint:{email}"
