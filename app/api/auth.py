"""Who is asking. Every API route wears exactly one of these guards (tests/test_house.py)."""

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import request

from app.services import transfers

Route = Callable[..., Any]


def anyone(route: Route) -> Route:
    """The route needs no key, and that is meant."""
    route.guard = "anyone"  # type: ignore[attr-defined]
    return route


def owner(route: Route) -> Route:
    """The route needs `Authorization: Bearer <owner token>`, and is given that Transfer.

    No cookie is ever looked at, so no other site can act for its visitor here.
    """

    @wraps(route)
    def guarded(transfer_id: uuid.UUID, **rest: Any) -> Any:
        return route(transfers.owned(transfer_id, _bearer()), **rest)

    guarded.guard = "owner"  # type: ignore[attr-defined]
    return guarded


def _bearer() -> str | None:
    given = request.authorization
    return given.token if given is not None and given.type == "bearer" else None
