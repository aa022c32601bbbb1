"""API keys that people make for themselves, where only some may send (SENDERS).

They belong to a workspace of that person's own, which no key of the operator's can belong to. What
is sent with them is sent by that person (delivery.create()), and they are refused as soon as their
person may not send any more (accounts.authenticate()).
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Select, exists, func, select
from sqlalchemy.exc import IntegrityError

from app.clock import db_now
from app.db import db, transaction
from app.errors import Invalid, NotFound, SenderNotAllowed
from app.models import ApiKey, Scope, Workspace
from app.services import accounts, assets, senders, small_files
from app.services.upkeep import Tell

# What such a key may; never ADMIN, which is about the whole installation.
SCOPES = (Scope.WRITE, Scope.READ)
# Of one address. More would be a mistake, or somebody who fills the table, as by making and
# revoking one after the other.
MOST_LIVE = 20
MOST_A_DAY = 50
# Of one address, so that the page stays short: live ones, which can be revoked there, before
# others.
MOST_LISTED = 50


class OwnKey(NamedTuple):
    """A key as the person who has made it sees it."""

    id: uuid.UUID
    name: str
    prefix: str
    scope: Scope
    created_at: datetime
    last_used_at: datetime | None
    is_revoked: bool


class Cleared(NamedTuple):
    """How many keys were revoked, and how many of what was kept with them was deleted."""

    keys: int
    assets: int
    files: int


def make(key_id: uuid.UUID, email: str, *, name: str, scope: Scope) -> accounts.Issued | None:
    """Make a key for an address that the caller must have proven, lately.

    Repeating it with the same id makes no other: it returns None, as the key cannot be shown again.
    Raises Invalid, also if the address has MOST_LIVE live ones or has made MOST_A_DAY in a day, and
    SenderNotAllowed.
    """
    if not senders.may_have_keys(email):
        raise SenderNotAllowed
    accounts.check_names(name=name)
    if scope not in SCOPES:
        raise Invalid({"scope": "must be write or read"})
    try:
        with transaction():
            senders.take_turn(email)
            if db.session.get(ApiKey, key_id) is not None:
                return None
            _check_count(email)
            return accounts.add_key(key_id, _workspace_id(email), name, scope)
    except IntegrityError:
        # Somebody else, whose turn is another, has sent this id at the same time.
        return None


def _check_count(email: str) -> None:
    is_live = ApiKey.revoked_at.is_(None)
    is_new = ApiKey.created_at > db_now() - timedelta(days=1)
    counts = select(func.count().filter(is_live), func.count().filter(is_new))
    mine = counts.select_from(ApiKey).join(ApiKey.workspace).where(Workspace.email == email)
    live_count, new_count = db.session.execute(mine).one()
    if live_count >= MOST_LIVE:
        raise Invalid({"name": f"is too many: revoke one of your {MOST_LIVE} keys"})
    if new_count >= MOST_A_DAY:
        raise Invalid({"name": f"is too many: you have made {MOST_A_DAY} keys in one day"})


def _workspace_id(email: str) -> uuid.UUID:
    """The person's own workspace, created if needed.

    Its name has to be unique too, so it is its id: nothing that the operator has called one, by the
    address for example.
    """
    new_id = uuid.uuid4()
    made = accounts.add_workspace("email", id=new_id, name=str(new_id), email=email)
    return made or db.session.scalars(_own(email)).one()


def revoke(email: str, key_id: uuid.UUID) -> None:
    """Revoke a key of this address, from the next request on; repeatable. Raises NotFound."""
    accounts.revoke(ApiKey.id == key_id, ApiKey.workspace_id.in_(_own(email)))


def clear(email: str, tell: Tell) -> Cleared:
    """Revoke all keys of this address, and delete what was kept with them and has no date: assets
    and small files. What was sent with them is left. For the operator, who has no key for this
    workspace. Repeatable, which takes what was being added meanwhile. Raises NotFound.
    """
    workspace_id = db.session.scalar(_own(email))
    if workspace_id is None:
        raise NotFound(f"{email} has made no keys.")
    with transaction():
        senders.take_turn(email)
        is_mine = ApiKey.workspace_id == workspace_id
        live = select(ApiKey.id).where(is_mine, ApiKey.revoked_at.is_(None))
        keys = sum(accounts.revoke(ApiKey.id == one) for one in db.session.scalars(live).all())
    return Cleared(
        keys,
        assets.remove_all(workspace_id, tell),
        small_files.remove_all(workspace_id, tell),
    )


def of_email(email: str) -> Sequence[OwnKey]:
    """At most MOST_LISTED keys of this address: all live ones, then others.

    The newest come first, of both.
    """
    is_revoked = ApiKey.revoked_at.is_not(None)
    rows = db.session.execute(
        select(
            ApiKey.id,
            ApiKey.name,
            ApiKey.prefix,
            ApiKey.scope,
            ApiKey.created_at,
            ApiKey.last_used_at,
            is_revoked,
        )
        .where(ApiKey.workspace_id.in_(_own(email)))
        .order_by(is_revoked, ApiKey.created_at.desc())
        .limit(MOST_LISTED)
    )
    return [OwnKey(*row) for row in rows]


def has_any(email: str) -> bool:
    """Whether this address has made keys, revoked or not."""
    return bool(db.session.scalar(select(exists().where(Workspace.email == email))))


def _own(email: str) -> Select[uuid.UUID]:
    return select(Workspace.id).where(Workspace.email == email)
