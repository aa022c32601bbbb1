"""Cookies that remember a right password in one browser: one for each transfer."""

import hashlib
from typing import Any

from flask import request
from werkzeug.wrappers import Response

from app.config import settings

_PREFIX = "beeline-open-"
# At most this many are kept in a browser.
MOST = 20


def proof_of(slug: str) -> str | None:
    """The proof that the password was given before, as services.downloads takes it, or None."""
    return request.cookies.get(_name(slug))


def remember(answer: Response, slug: str, proof: str) -> None:
    """Set the cookie, for UNLOCK_TTL_IN_HOURS; if there are too many, delete the oldest ones."""
    rules: dict[str, Any] = {"secure": settings.is_https, "httponly": True, "samesite": "Lax"}
    # Browsers send the oldest first, and servers refuse a header of more than 8 KiB.
    known = [name for name in request.cookies if name.removeprefix("__Host-").startswith(_PREFIX)]
    for name in known[: -MOST + 1]:
        answer.delete_cookie(name, **rules)
    lifetime = settings.unlock_ttl_in_hours * 3600
    answer.set_cookie(_name(slug), proof, max_age=lifetime, **rules)


def _name(slug: str) -> str:
    """The cookie's name, which does not reveal the transfer's slug."""
    name = f"{_PREFIX}{hashlib.sha256(slug.encode()).hexdigest()[:16]}"
    return f"__Host-{name}" if settings.is_https else name
