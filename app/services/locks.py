"""The password before a transfer: who has opened it, and how often it may be tried.

Tries are counted in the rows, so that any number of web processes count as one and nobody guesses
faster while Redis is away. They are counted before anything is hashed, whatever comes of it.
"""

import hashlib
import uuid
from datetime import timedelta
from typing import Any

from itsdangerous import BadSignature, TimestampSigner
from sqlalchemy import (
    ColumnElement,
    Insert,
    SQLColumnExpression,
    case,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from app import clock, passwords
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import PasswordWrong, TooManyTries
from app.models import Transfer, UnlockTries
from app.services import audit

# Who has tried so often as may be at once waits so long, then twice as long each time.
FIRST_WAIT_SECONDS = 5
LONGEST_WAIT_SECONDS = 900
# After so long without a try an address begins anew.
FORGOTTEN_AFTER = timedelta(days=1)
_HOUR = 3600.0
# Stands for all addresses together.
_ALL = b""


# -- who has opened it -------------------------------------------------------------------------


def is_open(transfer: Transfer, proof: str | None) -> bool:
    """Whether whoever has this proof may see what the transfer holds."""
    if transfer.password_hash is None:
        return True
    if not proof:
        return False
    try:
        _, proved_at = _signer(transfer).unsign(proof, return_timestamp=True)
    except BadSignature:
        return False
    # Not by `max_age`, which refuses what another process signed by a clock a little ahead.
    return clock.now() - proved_at < timedelta(hours=settings.unlock_ttl_in_hours)


def open_with(transfer: Transfer, password: str) -> str | None:
    """Try the password: its proof, good for a while; None if the transfer has none.

    Raises PasswordWrong, TooManyTries. Ends the read transaction, as hashing takes its time.
    """
    _count_try(transfer.id)
    is_right = passwords.matches(transfer.password_hash, password)
    if transfer.password_hash is None:
        return None
    with transaction():
        if is_right:
            _take_back(transfer.id)
        audit.note("unlock" if is_right else "refuse unlock", transfer.id)
    if not is_right:
        raise PasswordWrong
    return _signer(transfer).sign("open").decode()


class _Signer(TimestampSigner):
    """By the clock that everything else goes by."""

    def get_timestamp(self) -> int:
        """Seconds since 1970."""
        return int(clock.now().timestamp())


def _signer(transfer: Transfer) -> _Signer:
    """For this transfer and this password only: with another hash no former proof is good."""
    return _Signer(
        [*settings.secret_key_fallbacks, settings.secret_key],
        salt=f"unlock:{transfer.id}:{transfer.password_hash}",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )


# -- how often it may be tried -------------------------------------------------------------------


def forget_tries(*transfer_ids: uuid.UUID) -> None:
    """Whoever had to wait may try at once. Call in transaction()."""
    db.session.execute(delete(UnlockTries).where(UnlockTries.transfer_id.in_(transfer_ids)))


def _count_try(transfer_id: uuid.UUID) -> None:
    """Count one try, before it is made; raises TooManyTries with what is left to wait.

    The address's own row first, so that one address can wait for nobody but itself.
    """
    address = audit.actor.get() or bytes(32)
    has_room_at = UnlockTries.next_at - _seconds(_HOUR - _interval())
    with transaction():
        if not _is_counted(_try_of_address(transfer_id, address)):
            raise TooManyTries(_left(transfer_id, address, UnlockTries.next_at))
        if not _is_counted(_try_of_all(transfer_id)):
            raise TooManyTries(_left(transfer_id, _ALL, has_room_at))


def _is_counted(statement: Insert) -> bool:
    return changed(statement) == 1


def _try_of_address(transfer_id: uuid.UUID, address: bytes) -> Insert:
    """Free at first; each further one only when the wait is over, and it makes the next longer."""
    at_once = settings.unlock_tries_at_once
    is_forgotten = UnlockTries.next_at < db_now() - FORGOTTEN_AFTER
    count = case((is_forgotten, 1), else_=UnlockTries.try_count + 1)
    return (
        insert(UnlockTries)
        .values(
            transfer_id=transfer_id,
            address_hash=address,
            try_count=1,
            next_at=db_now() + _seconds(FIRST_WAIT_SECONDS if at_once == 1 else 0),
        )
        .on_conflict_do_update(
            index_elements=["transfer_id", "address_hash"],
            set_={"try_count": count, "next_at": db_now() + _seconds(_wait_after(count))},
            where=or_(UnlockTries.try_count < at_once, UnlockTries.next_at <= db_now()),
        )
    )


def _wait_after(count: ColumnElement[int]) -> ColumnElement[Any]:
    over = count - settings.unlock_tries_at_once
    doubled = FIRST_WAIT_SECONDS * func.power(2, func.least(over, 20))
    return case((over < 0, 0), else_=func.least(doubled, LONGEST_WAIT_SECONDS))


def _try_of_all(transfer_id: uuid.UUID) -> Insert:
    """So many in an hour, wherever they come from: each takes its share of the hour ahead.

    `next_at` is the end of all the shares that are taken. When the hour is full, one is free
    again each time a share has passed: never all of them at once, and never none for long.
    """
    return (
        insert(UnlockTries)
        .values(
            transfer_id=transfer_id,
            address_hash=_ALL,
            try_count=1,
            next_at=db_now() + _seconds(_interval()),
        )
        .on_conflict_do_update(
            index_elements=["transfer_id", "address_hash"],
            set_={
                "try_count": UnlockTries.try_count + 1,
                "next_at": func.greatest(UnlockTries.next_at, db_now()) + _seconds(_interval()),
            },
            where=UnlockTries.next_at <= db_now() + _seconds(_HOUR - _interval()),
        )
    )


def _take_back(transfer_id: uuid.UUID) -> None:
    """A right one was no guess: any number of people who know it may open it. In transaction()."""
    address = audit.actor.get() or bytes(32)
    mine = UnlockTries.transfer_id == transfer_id
    db.session.execute(delete(UnlockTries).where(mine, UnlockTries.address_hash == address))
    db.session.execute(
        update(UnlockTries)
        .where(mine, UnlockTries.address_hash == _ALL)
        .values(next_at=UnlockTries.next_at - _seconds(_interval()))
    )


def _left(transfer_id: uuid.UUID, address: bytes, until: SQLColumnExpression[Any]) -> float:
    left = db.session.scalar(
        select(func.extract("epoch", until - db_now())).where(
            UnlockTries.transfer_id == transfer_id, UnlockTries.address_hash == address
        )
    )
    return float(left or 0)


def _interval() -> float:
    return _HOUR / settings.max_unlock_tries_per_hour


def _seconds(count: Any) -> ColumnElement[Any]:
    return func.make_interval(0, 0, 0, 0, 0, 0, count)
