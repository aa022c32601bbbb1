"""Short-lived signed tokens that name the user a program acts for (JWT, RFC 7519).

One algorithm, one issuer, one audience and one kind, all fixed: a token cannot choose how it is
verified, and one with other headers or claims than ours is refused. A token gives no access by
itself: the API key that it was made for must be sent along.
"""

import hashlib
import hmac
import uuid
from dataclasses import dataclass
from typing import Any

from app import clock
from app.config import settings

ALGORITHM = "HS256"
KIND = "access"
AUDIENCE = "beeline/v2"
# Another process's clock may be a little ahead.
LEEWAY_SECONDS = 10
_HEADER = {"alg": ALGORITHM, "typ": "JWT"}
_CLAIMS = {"iss", "aud", "sub", "typ", "iat", "exp", "user"}


@dataclass(frozen=True)
class Claims:
    """What a token proves: the API key it was made for, and the user of that program."""

    key_id: uuid.UUID
    user_identifier: str | None


class BadToken(Exception):
    """The token is not one of ours, or has expired."""


def issue(claims: Claims) -> str:
    """Return a token with these claims, valid for JWT_TTL_IN_MINUTES."""
    # Imported here and below: its cryptography takes as long to load as half of our routes, and
    # only programs that act for their own users need it.
    import jwt

    now = int(clock.now().timestamp())
    said = {
        "iss": settings.base_url,
        "aud": AUDIENCE,
        "sub": str(claims.key_id),
        "typ": KIND,
        "iat": now,
        "exp": now + settings.jwt_ttl_in_minutes * 60,
        "user": claims.user_identifier,
    }
    return jwt.encode(said, _keys()[0], algorithm=ALGORITHM, headers=_HEADER)


def read(token: str) -> Claims:
    """Verify a token and return its claims; raises BadToken."""
    import jwt

    for key in _keys():
        try:
            whole = jwt.decode_complete(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=settings.base_url,
                # The times are checked below, by the clock that is used everywhere.
                options={"verify_exp": False, "verify_iat": False, "strict_aud": True},
            )
        except jwt.InvalidSignatureError:
            continue
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise BadToken from error
        return _checked(whole["header"], whole["payload"])
    raise BadToken


def _checked(header: dict[str, Any], said: dict[str, Any]) -> Claims:
    now = clock.now().timestamp()
    user = said.get("user")
    times = (said.get("iat"), said.get("exp"))
    if header != _HEADER or set(said) != _CLAIMS or said["typ"] != KIND:
        raise BadToken
    if not all(type(one) is int for one in times) or not isinstance(user, str | None):
        raise BadToken
    is_alive = said["iat"] <= now + LEEWAY_SECONDS and now < said["exp"]
    if not is_alive or said["exp"] - said["iat"] > settings.jwt_ttl_in_minutes * 60:
        raise BadToken
    try:
        return Claims(uuid.UUID(said["sub"]), user)
    except ValueError as error:
        raise BadToken from error


def _keys() -> list[bytes]:
    """The signing key, then former ones, whose tokens are still accepted.

    Never SECRET_KEY itself: a signature for one purpose must not be valid for another.
    """
    own = [settings.jwt_secret, *settings.jwt_secret_fallbacks]
    derived = [settings.secret_key, *settings.secret_key_fallbacks]
    return [
        *(hashlib.sha256(one.encode()).digest() for one in own if one),
        *(hmac.digest(one.encode(), b"jwt", "sha256") for one in derived),
    ]
