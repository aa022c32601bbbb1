"""Opens a workspace's pages with one of its API keys, which a signed token then stands for.

The token names the key and is valid for an hour. The key's row is looked up each time, so revoking
it immediately ends what was opened with it.
"""

import uuid

from app import clock
from app.db import db, transaction
from app.errors import Unauthorized
from app.models import Scope, Workspace
from app.seals import Seal
from app.services import accounts, audit
from app.services.accounts import Caller

STAYS_SECONDS = 3600
_seal = Seal("workspace")


def enter(key: str) -> str:
    """The token for a key, which must have scope admin. Raises Unauthorized, NotAllowed."""
    caller = accounts.authenticate(key.strip())
    audit.acting_key.set(caller.key_id)
    caller.check_may(Scope.ADMIN)
    with transaction():
        audit.note("enter workspace", subject_id=caller.workspace_id)
    until = int(clock.now().timestamp()) + STAYS_SECONDS
    return _seal.of(f"{until}:{caller.key_id}")


def caller_of(word: str | None) -> Caller | None:
    """The caller that this token stands for; None if it has expired or its key was revoked."""
    until, _, key_id = (_seal.read(word or "") or "0:").partition(":")
    if int(until) <= clock.now().timestamp():
        return None
    try:
        caller = accounts.caller_of(uuid.UUID(key_id))
    except Unauthorized:
        return None
    audit.acting_key.set(caller.key_id)
    return caller


def workspace_of(caller: Caller) -> str:
    """The name of the caller's workspace."""
    return db.session.get_one(Workspace, caller.workspace_id).name
