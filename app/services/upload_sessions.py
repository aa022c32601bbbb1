"""Sessions for browsers: an address that lets a page upload into a workspace, for a while.

A program asks for one with its key and hands it to a page, which needs no header and no cookie.
Nothing of it is stored: it is a sealed word, good only as long as the key that it was made with.
"""

import uuid
from dataclasses import dataclass, replace

from app import clock
from app.errors import Unauthorized
from app.models import Scope
from app.seals import Seal
from app.services import accounts
from app.services.accounts import Caller

NO_SESSION = "This session is over, or never was."
_SEAL = Seal("upload session")


@dataclass(frozen=True)
class Session:
    """A session by its id, which its calls are counted by, and for whom it may upload."""

    id: uuid.UUID
    caller: Caller


def open_session(caller: Caller, seconds: int) -> str:
    """A new session for the caller's workspace, good for so long. Each call makes another."""
    until = int(clock.now().timestamp()) + seconds
    return _SEAL.of(f"{uuid.uuid4().hex}.{caller.key_id.hex}.{until}")


def read_session(word: str) -> Session:
    """Whose session this is; raises Unauthorized when it, or its key, is good no more."""
    pieces = (_SEAL.read(word) or "").split(".")
    if len(pieces) != 3 or int(pieces[2]) <= clock.now().timestamp():
        raise Unauthorized(NO_SESSION)
    try:
        caller = accounts.caller_of(uuid.UUID(pieces[1]))
    except Unauthorized as revoked:
        raise Unauthorized(NO_SESSION) from revoked
    # Never more than uploading, whatever its key may do.
    return Session(uuid.UUID(pieces[0]), replace(caller, scope=Scope.WRITE))
