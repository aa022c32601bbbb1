"""A transfer's password: proof that a visitor knows it, and limits on how often it may be tried.

Tries are counted in rows, so that any number of web processes share one count and nobody can guess
faster while Redis is away. A try is counted before anything is hashed, whatever its result.
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

# After the free tries an address waits this long, then twice as long after each further one.
FIRST_WAIT_SECONDS = 5
LONGEST_WAIT_SECONDS = 900
# After this long without a try an address has its free tries back.
FORGOTTEN_AFTER = timedelta(days=1)
_HOUR = 3600.0
# The address_hash of the row that counts all addresses together.
_ALL = b""


# -- who has opened it -------------------------------------------------------------------------


def is_open(transfer: Transfer, proof: str | None) -> bool:
    """Whether a visitor with this proof may see what the transfer holds."""
    if transfer.password_hash is None:
        return True
    if not proof:
        return False
    try:
        _, proved_at = _signer(transfer).unsign(proof, return_timestamp=True)
    except BadSignature:
        return False
    # Not `max_age`: it refuses what another process signed if its clock is a little ahead.
    return clock.now() - proved_at < timedelta(hours=settings.unlock_ttl_in_hours)


def open_with(transfer: Transfer, password: str) -> str | None:
    """Try the password; returns a proof that is valid for a while, None if the transfer has none.

    Raises PasswordWrong, TooManyTries. Ends the read transaction, because hashing takes time.
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
    """A TimestampSigner by the clock that is used everywhere."""

    def get_timestamp(self) -> int:
        """Seconds since 1970."""
        return int(clock.now().timestamp())


def _signer(transfer: Transfer) -> _Signer:
    """The signer for this transfer and this password: a new password invalidates former proofs."""
    return _Signer(
        [*settings.secret_key_fallbacks, settings.secret_key],
        salt=f"unlock:{transfer.id}:{transfer.password_hash}",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )


# -- how often it may be tried -------------------------------------------------------------------


def forget_tries(*transfer_ids: uuid.UUID) -> None:
    """Forget all tries of these passwords, so that no client has to wait. Call in transaction()."""
    db.session.execute(delete(UnlockTries).where(UnlockTries.transfer_id.in_(transfer_ids)))


def _count_try(transfer_id: uuid.UUID) -> None:
    """Count one try before it is made; raises TooManyTries with the seconds left to wait.

    The address's own row comes first, so that one address can only delay itself.
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
    """Count a try of one address: the first ones are free, then each doubles the wait for the next.

    Changes no row while the address still has to wait.
    """
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
    """Count a try against the hourly limit of all addresses: each takes an equal share of an hour.

    `next_at` is the end of all shares that are taken. When the hour is full, one try becomes free
    each time a share has passed: never all of them at once, and never none for long. Changes no row
    while the hour is full.
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
    """Uncount a right password: any number of people who know it may open it. In transaction()."""
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
