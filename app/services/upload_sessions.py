"""Upload sessions: a URL by which a web page may upload into a workspace for a while.

An API client asks for one with its key and hands it to a page, which then needs no header and no
cookie. Nothing is stored: a session is a signed token, valid only as long as the key that it was
made with.
"""

import uuid
from dataclasses import dataclass, replace

from app import clock
from app.errors import Unauthorized
from app.models import Scope
from app.seals import Seal
from app.services import accounts
from app.services.accounts import Caller

NO_SESSION = "This session has ended or never existed."
_SEAL = Seal("upload session")


@dataclass(frozen=True)
class Session:
    """A session's id, by which its calls are counted, and the caller for whom it may upload."""

    id: uuid.UUID
    caller: Caller


def open_session(caller: Caller, seconds: int) -> str:
    """A new session's token for the caller's workspace, valid for this many seconds.

    Each call makes another.
    """
    until = int(clock.now().timestamp()) + seconds
    return _SEAL.of(f"{uuid.uuid4().hex}.{caller.key_id.hex}.{until}")


def read_session(word: str) -> Session:
    """The session of a token; raises Unauthorized if it, or its key, is not valid any more."""
    pieces = (_SEAL.read(word) or "").split(".")
    if len(pieces) != 3 or int(pieces[2]) <= clock.now().timestamp():
        raise Unauthorized(NO_SESSION)
    try:
        caller = accounts.caller_of(uuid.UUID(pieces[1]))
    except Unauthorized as revoked:
        raise Unauthorized(NO_SESSION) from revoked
    # Never more than uploading, whatever else its key allows.
    return Session(uuid.UUID(pieces[0]), replace(caller, scope=Scope.WRITE))
