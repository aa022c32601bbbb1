"""The cookie that remembers a right password in one browser: one for each transfer."""

import hashlib
from typing import Any

from flask import request
from werkzeug.wrappers import Response

from app.config import settings

_PREFIX = "beeline-open-"
# How many a browser keeps.
MOST = 20


def proof_of(slug: str) -> str | None:
    """What services.downloads takes for having been given the password before."""
    return request.cookies.get(_name(slug))


def remember(answer: Response, slug: str, proof: str) -> None:
    """For this browser's visits within the lifetime; the eldest go where there are too many."""
    rules: dict[str, Any] = {"secure": settings.is_https, "httponly": True, "samesite": "Lax"}
    # Browsers send the eldest first, and servers refuse a header of more than 8 KiB.
    known = [name for name in request.cookies if name.removeprefix("__Host-").startswith(_PREFIX)]
    for name in known[: -MOST + 1]:
        answer.delete_cookie(name, **rules)
    lifetime = settings.unlock_ttl_in_hours * 3600
    answer.set_cookie(_name(slug), proof, max_age=lifetime, **rules)


def _name(slug: str) -> str:
    """Tells nobody which transfer it is for."""
    name = f"{_PREFIX}{hashlib.sha256(slug.encode()).hexdigest()[:16]}"
    return f"__Host-{name}" if settings.is_https else name
