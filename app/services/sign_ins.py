"""Signs a person in: a code mailed to their address, then a token for the browser, for a month.

The token names the code that was used. The code's row says which address it has proven, since when,
and whether it has been signed out, which ends it here too and not only in the browser. It is no
sender's token (senders.py): scripts keep those for long, and they show nobody anything.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, select, update

from app.clock import db_now
from app.db import changed, db, transaction
from app.models import SenderCode
from app.seals import Seal
from app.services import audit, senders

STAYS_DAYS = 30
# Some things take a code that was entered lately (step-up), because a browser stays signed in.
RECENT_HOURS = 1
_seal = Seal("sign in")


@dataclass(frozen=True)
class SignIn:
    """A browser that is signed in: by which code, with which address, and how long ago it was
    entered.
    """

    code_id: uuid.UUID
    email: str
    age: timedelta

    @property
    def is_recent(self) -> bool:
        """Whether its code was entered within the last RECENT_HOURS."""
        return self.age < timedelta(hours=RECENT_HOURS)


def mail_code(given: str) -> uuid.UUID:
    """Mail a code that signs in to an address; returns its id. Raises Invalid, TooMuchMail."""
    return senders.mail_code(given, signs_in=True)


def asked_for(code_ids: Sequence[uuid.UUID]) -> str | None:
    """The address to which the latest of these codes was mailed; None if none can be used now."""
    latest = (
        select(SenderCode.email)
        .where(SenderCode.id.in_(code_ids), SenderCode.signs_in, senders.is_alive())
        .order_by(SenderCode.created_at.desc())
        .limit(1)
    )
    return db.session.scalar(latest)


def enter(code_ids: Sequence[uuid.UUID], figures: str) -> str:
    """Check the digits of a code, one of those that this browser has asked for; returns the token.

    A code is good for that browser alone, so nobody else can use up its tries. Raises Invalid.
    """
    mine = and_(SenderCode.id.in_(code_ids), SenderCode.signs_in)
    return _seal.of(f"{senders.use(figures, mine, action='sign in').id}")


def email_of(word: str | None) -> str | None:
    """The address that this token is signed in to; None if it is forged, too old or signed out."""
    found = sign_in_of(word)
    return found.email if found else None


def sign_in_of(word: str | None) -> SignIn | None:
    """The sign-in that this token stands for; None if it is forged, too old or signed out."""
    if (code_id := _code_id(word)) is None:
        return None
    wanted = select(SenderCode.id, SenderCode.email, db_now() - SenderCode.used_at)
    row = db.session.execute(wanted.where(SenderCode.id == code_id, is_signed_in())).first()
    return SignIn(*row) if row else None


def leave(word: str | None, *, everywhere: bool = False) -> None:
    """Sign out: the token is good for nothing from now on, wherever it is kept. Repeatable.

    `everywhere` ends all tokens for its address, if it is good itself.
    """
    which = SenderCode.id == _code_id(word)
    if everywhere:
        which = SenderCode.email == email_of(word)
    with transaction():
        if changed(
            update(SenderCode)
            .where(which, is_signed_in())
            .values(signed_out_at=db_now())
            .execution_options(synchronize_session=False)
        ):
            audit.note("sign out")


def is_signed_in() -> ColumnElement[bool]:
    """The condition that a code was used to sign in, and still stands for that; never NULL."""
    return and_(
        SenderCode.signs_in,
        SenderCode.used_at.is_not(None),
        SenderCode.used_at > db_now() - timedelta(days=STAYS_DAYS),
        SenderCode.signed_out_at.is_(None),
    )


def _code_id(word: str | None) -> uuid.UUID | None:
    named = _seal.read(word or "")
    return uuid.UUID(named) if named else None
