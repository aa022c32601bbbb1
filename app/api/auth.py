"""Who is asking. Every API route wears exactly one of these guards (tests/test_house.py)."""

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import request

from app.doors import count_call
from app.models import Scope
from app.services import accounts, audit, managing
from app.services.accounts import Caller

Route = Callable[..., Any]


def anyone(route: Route) -> Route:
    """The route needs no key, and that is meant."""
    route.guard = "anyone"  # type: ignore[attr-defined]
    return route


def owner(route: Route) -> Route:
    """The route needs `Authorization: Bearer <owner token>`, and is given that Transfer.

    The word of its manage link does as well: who has that link may do all of this there.
    No cookie is ever looked at, so no other site can act for its visitor here.
    """

    @wraps(route)
    def guarded(transfer_id: uuid.UUID, **rest: Any) -> Any:
        return route(managing.owned(transfer_id, _bearer()), **rest)

    guarded.guard = "owner"  # type: ignore[attr-defined]
    return guarded


def key(scope: Scope) -> Callable[[Route], Route]:
    """The route needs an API key that may do `scope`, and is given its Caller.

    As `x-api-key`, or as `Authorization: Bearer`.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            return route(_caller(request.headers.get("x-api-key") or _bearer(), scope), **rest)

        guarded.guard = f"key:{scope.value}"  # type: ignore[attr-defined]
        return guarded

    return guard


def member(scope: Scope) -> Callable[[Route], Route]:
    """The route needs an API key as `x-api-key`, and as `Authorization: Bearer` a token for it.

    It is given the Caller, who speaks for the user that the token names.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            caller = _caller(request.headers.get("x-api-key"), scope)
            return route(accounts.speak_for(caller, _bearer()), **rest)

        guarded.guard = f"member:{scope.value}"  # type: ignore[attr-defined]
        return guarded

    return guard


def _caller(text: str | None, scope: Scope) -> Caller:
    caller = accounts.authenticate(text)
    audit.acting_key.set(caller.key_id)
    count_call(caller.key_id)
    caller.check_may(scope)
    return caller


def _bearer() -> str | None:
    given = request.authorization
    return given.token if given is not None and given.type == "bearer" else None
