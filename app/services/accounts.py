"""The identities of programs: workspaces, their API keys, and tokens that a key is exchanged for.

The operator makes workspaces with their keys here; people make keys of their own in own_keys.py.
A key is shown once. Each request looks up its row, so a revoked key is refused from the next
request on, in every process. A token is valid only together with the key it was issued for.
"""

import hashlib
import hmac
import re
import secrets
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import joinedload

from app import tokens
from app.clock import db_now
from app.db import ask, changed, db, transaction
from app.errors import Invalid, NotAllowed, NotFound, Unauthorized
from app.models import ApiKey, Board, Scope, Transfer, Workspace
from app.services import audit, senders

_ALPHABET = string.ascii_lowercase + string.digits
_SHAPE = re.compile(r"(bee_[a-z0-9]{12})_[A-Za-z0-9_-]{43}")
# `last_used_at` is only shown to people: not every request needs to write it.
NOTE_USE_AFTER = timedelta(minutes=1)
LONGEST_NAME = 200
# Vague on purpose: the same for a missing, an unknown and a revoked one, and for that of somebody
# who may not send any more.
NO_KEY = "This needs an API key."
NO_TOKEN = "This needs a token that is still valid."  # noqa: S105
_RANKS = {Scope.READ: 0, Scope.WRITE: 1, Scope.ADMIN: 2}


@dataclass(frozen=True)
class Issued:
    """A new key with its text, which is not stored and never shown again."""

    row: ApiKey
    text: str


@dataclass(frozen=True)
class Caller:
    """Who is calling: a key of a workspace, and for which of that program's own users."""

    key_id: uuid.UUID
    workspace_id: uuid.UUID
    scope: Scope
    user_identifier: str | None = None
    # Whose own key it is; None for a key that the operator has issued.
    email: str | None = None

    @property
    def actor(self) -> str:
        """The workspace and the user in one string, which tells who repeats a request.

        The user's name is quoted, so that no name can be taken for another caller, or for none.
        """
        return f"{self.workspace_id}:{self.user_identifier!r}"

    def check_may(self, scope: Scope) -> None:
        """Raise NotAllowed unless the key's scope includes this one."""
        if _RANKS[self.scope] < _RANKS[scope]:
            raise NotAllowed(f"This API key may only {self.scope.value}.")

    def is_owner_of(self, kind: type[Transfer] | type[Board]) -> ColumnElement[bool]:
        """The condition that a row is this caller's: of its workspace, made for the same user."""
        return and_(
            kind.workspace_id == self.workspace_id,
            kind.user_identifier.is_not_distinct_from(self.user_identifier),
        )

    def owns(self, row: Transfer | Board) -> bool:
        """Whether a loaded row is this caller's, as is_owner_of() defines it."""
        mine = (self.workspace_id, self.user_identifier)
        return (row.workspace_id, row.user_identifier) == mine


# -- keys --------------------------------------------------------------------------------------


def issue_key(workspace: str, name: str, scope: Scope) -> Issued:
    """Issue a key for the workspace of this name, which is created if needed. Raises Invalid, also
    for a person's own workspace: only they make its keys.

    Not idempotent: each call issues another key.
    """
    check_names(workspace=workspace, name=name)
    with transaction():
        return add_key(uuid.uuid4(), _workspace_id(workspace), name, scope)


def add_key(key_id: uuid.UUID, workspace_id: uuid.UUID, name: str, scope: Scope) -> Issued:
    """Add a key to a workspace, whose name was checked. Call in transaction()."""
    prefix = "bee_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=key_id,
        workspace_id=workspace_id,
        name=name,
        prefix=prefix,
        key_hash=_hash(text),
        scope=scope,
    )
    db.session.add(row)
    audit.note("issue key", subject_id=row.id)
    return Issued(row, text)


def check_names(**names: str) -> None:
    """Raise Invalid for names that nobody could read, or that would be more than a line."""
    complaints = {
        field: f"must be 1 to {LONGEST_NAME} characters, without control characters"
        for field, value in names.items()
        if not value.strip() or len(value) > LONGEST_NAME or not value.isprintable()
    }
    if complaints:
        raise Invalid(complaints)


def _workspace_id(name: str) -> uuid.UUID:
    """The operator's workspace of this name, created if needed; raises Invalid for a person's."""
    made = add_workspace("name", id=uuid.uuid4(), name=name)
    if made is not None:
        return made
    named = select(Workspace.id).where(Workspace.name == name, Workspace.email.is_(None))
    known = db.session.scalar(named)
    if known is None:
        raise Invalid({"workspace": "is a person's own: only they make keys for it"})
    return known


def add_workspace(unique: str, **columns: Any) -> uuid.UUID | None:
    """Add a workspace; returns its id, or None if there is one with this value in the column
    `unique`, also if two callers add it simultaneously. Call in transaction().
    """
    made: uuid.UUID | None = db.session.scalar(
        insert(Workspace)
        .values(**columns)
        .on_conflict_do_nothing(index_elements=[unique])
        .returning(Workspace.id)
    )
    if made is not None:
        audit.note("create workspace", subject_id=made)
    return made


def all_keys() -> Sequence[ApiKey]:
    """All keys, revoked ones too, with their workspaces: by its name or whose own it is, in the
    order of issue.
    """
    return db.session.scalars(
        select(ApiKey)
        .join(ApiKey.workspace)
        .order_by(func.coalesce(Workspace.email, Workspace.name), ApiKey.created_at)
        .options(joinedload(ApiKey.workspace, innerjoin=True))
    ).all()


def revoke_key(prefix: str) -> bool:
    """Revoke a key for good, from the next request on, in every process. Raises NotFound.

    False if it was revoked already.
    """
    return revoke(ApiKey.prefix == prefix)


def revoke(*which: ColumnElement[bool]) -> bool:
    """Revoke the one key that these conditions find; as revoke_key()."""
    with transaction():
        key_id = db.session.scalar(select(ApiKey.id).where(*which))
        if key_id is None:
            raise NotFound("There is no such key.")
        revoked = changed(
            update(ApiKey)
            .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
            .values(revoked_at=db_now())
            .execution_options(synchronize_session=False)
        )
        if revoked == 1:
            audit.note("revoke key", subject_id=key_id)
    return revoked == 1


def is_key(text: str | None) -> bool:
    """Whether this has the form of an API key, which no owner token has."""
    return text is not None and prefix_of(text) is not None


def prefix_of(text: str) -> str | None:
    """The part of an API key that it is looked up by, which is not secret; None if not a key."""
    shape = _SHAPE.fullmatch(text)
    return shape and shape[1]


def authenticate(text: str | None) -> Caller:
    """The caller that an API key identifies; raises Unauthorized."""
    prefix = prefix_of(text or "")
    if text is None or prefix is None:
        raise Unauthorized(NO_KEY)
    found = ask(_BY_PREFIX, {"prefix": prefix}).first()
    if found is None or not hmac.compare_digest(found.key_hash, _hash(text)):
        raise Unauthorized(NO_KEY)
    caller = _caller(found)
    if found.is_use_due:
        _note_use(found.id)
    return caller


def caller_of(key_id: uuid.UUID) -> Caller:
    """The caller of a key that was authenticated before; raises Unauthorized if refused since."""
    found = ask(_BY_ID, {"id": key_id}).first()
    if found is None:
        raise Unauthorized(NO_KEY)
    return _caller(found)


def _caller(found: Row[Any]) -> Caller:
    """The caller of a key's row; raises Unauthorized if its person may not send any more."""
    if found.email is not None and not senders.may_have_keys(found.email):
        raise Unauthorized(NO_KEY)
    return Caller(found.id, found.workspace_id, found.scope, email=found.email)


def _is_use_due() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= db_now() - NOTE_USE_AFTER)


# Run for each request, so built only once.
_GOOD = (
    select(ApiKey.id, ApiKey.workspace_id, ApiKey.scope, Workspace.email)
    .join(ApiKey.workspace)
    .where(ApiKey.revoked_at.is_(None))
)
_BY_ID = _GOOD.where(ApiKey.id == bindparam("id"))
_BY_PREFIX = _GOOD.add_columns(ApiKey.key_hash, _is_use_due().label("is_use_due")).where(
    ApiKey.prefix == bindparam("prefix")
)


def _note_use(key_id: uuid.UUID) -> None:
    """Update `last_used_at`. Of simultaneous requests only one does; the others skip the locked
    row instead of waiting, as they would write the same.
    """
    free = (
        select(ApiKey.id)
        .where(ApiKey.id == key_id, _is_use_due())
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    with transaction():
        db.session.execute(
            update(ApiKey)
            .where(ApiKey.id.in_(select(free.c.id)))
            .values(last_used_at=db_now())
            .execution_options(synchronize_session=False)
        )


def is_vouched_for(workspace_id: uuid.UUID | None) -> bool:
    """Whether the operator vouches for what was made in this workspace: not in a person's own.

    What people send, with a key or without, is subject to the rules for senders (SENDERS).
    """
    if workspace_id is None:
        return False
    whose = select(Workspace.id).where(Workspace.id == workspace_id, Workspace.email.is_(None))
    return db.session.scalar(whose) is not None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# -- tokens ------------------------------------------------------------------------------------


def issue_token(caller: Caller, user_identifier: str | None) -> str:
    """Issue a token by which the caller acts for one of its users, to be sent with its key."""
    with transaction():
        audit.note("authorize", subject_id=caller.workspace_id)
    return tokens.issue(tokens.Claims(caller.key_id, user_identifier))


def speak_for(caller: Caller, token: str | None) -> Caller:
    """The caller acting for the token's user; raises Unauthorized if issued for another key."""
    try:
        claims = tokens.read(token or "")
    except tokens.BadToken as error:
        raise Unauthorized(NO_TOKEN) from error
    if claims.key_id != caller.key_id:
        raise Unauthorized(NO_TOKEN)
    return replace(caller, user_identifier=claims.user_identifier)
