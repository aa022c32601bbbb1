"""Who is asking. Every API route wears exactly one of these guards (tests/test_house.py)."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from flask import request

from app.doors import count_call, count_wrong_key
from app.errors import AppError, Gone, Unauthorized
from app.models import Scope, Transfer
from app.services import accounts, audit, sender_access, transfers, upload_sessions
from app.services.accounts import Caller

Route = Callable[..., Any]


@dataclass(frozen=True)
class Asking:
    """Who asks for a transfer: a workspace's key, or whoever has the transfer's own token."""

    transfer_id: uuid.UUID
    caller: Caller | None
    owner_token: str | None

    def transfer(self) -> Transfer:
        """The transfer, if it is theirs; raises as sender_access.owned() does."""
        if self.caller is not None:
            return transfers.of_workspace(self.transfer_id, self.caller)
        return sender_access.owned(self.transfer_id, self.owner_token)


def anyone(route: Route) -> Route:
    """The route needs no key, and that is meant."""
    return _wearing("anyone", route)


def anyone_or_key(scope: Scope) -> Callable[[Route], Route]:
    """The route needs no key, and is given the Caller if there is one: a wrong one is refused."""

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            return route(_caller(_key(), scope) if sends_key() else None, **rest)

        return _wearing(f"anyone-or-key:{scope.value}", guarded)

    return guard


def owner(scope: Scope, *, deleted: type[AppError] | None = None) -> Callable[[Route], Route]:
    """The route needs `Authorization: Bearer <owner token>`, or a key of the transfer's workspace
    that may do `scope`, and is given that Transfer.

    The word of its manage link does as well as the token: who has that link may do all of this
    there. One that was deleted is Gone, or `deleted`. No cookie is ever looked at, so no other
    site can act for its visitor here.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(transfer_id: uuid.UUID, **rest: Any) -> Any:
            try:
                transfer = _asking(transfer_id, scope).transfer()
            except Gone as error:
                if deleted is None:
                    raise
                raise deleted(error.title, **error.details) from error
            return route(transfer, **rest)

        return _wearing(f"owner:{scope.value}", guarded)

    return guard


def owner_asking(scope: Scope) -> Callable[[Route], Route]:
    """As `owner`, for a route that looks at what it was sent first: it is given who is Asking."""

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(transfer_id: uuid.UUID, **rest: Any) -> Any:
            asking = _asking(transfer_id, scope)
            if asking.caller is None and not asking.owner_token:
                raise Unauthorized
            return route(asking, **rest)

        return _wearing(f"owner:{scope.value}", guarded)

    return guard


def key(scope: Scope) -> Callable[[Route], Route]:
    """The route needs an API key that may do `scope`, and is given its Caller.

    As `x-api-key`, or as `Authorization: Bearer`.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            return route(_caller(_key(), scope), **rest)

        return _wearing(f"key:{scope.value}", guarded)

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

        return _wearing(f"member:{scope.value}", guarded)

    return guard


def uploader(route: Route) -> Route:
    """The route needs an API key that may write, or a session in its path; it is given the Caller.

    A session may do nothing else than what wears this.
    """

    @wraps(route)
    def guarded(session: str | None = None, **rest: Any) -> Any:
        if session is not None:
            return route(_in_session(session), **rest)
        return route(_caller(_key(), Scope.WRITE), **rest)

    return _wearing("uploader", guarded)


def _wearing(guard: str, route: Route) -> Route:
    """The route with its guard's name on it, by which the tests look for it."""
    route.guard = guard  # type: ignore[attr-defined]  # a function takes any, a Callable may not
    return route


def _in_session(word: str) -> Caller:
    found = upload_sessions.read_session(word)
    audit.acting_key.set(found.caller.key_id)
    # By the session: whoever has a page must not use up what its program may ask in a day.
    count_call(found.id)
    return found.caller


def sends_key() -> bool:
    """Whether the request comes with something that is meant as an API key, right or wrong."""
    return "x-api-key" in request.headers or accounts.is_key(_bearer())


def _asking(transfer_id: uuid.UUID, scope: Scope) -> Asking:
    if sends_key():
        return Asking(transfer_id, _caller(_key(), scope), None)
    return Asking(transfer_id, None, _bearer())


def _key() -> str | None:
    return request.headers.get("x-api-key") or _bearer()


def _caller(text: str | None, scope: Scope) -> Caller:
    try:
        caller = accounts.authenticate(text)
    except Unauthorized:
        if text:
            count_wrong_key(accounts.prefix_of(text))
        raise
    audit.acting_key.set(caller.key_id)
    count_call(caller.key_id)
    caller.check_may(scope)
    return caller


def _bearer() -> str | None:
    given = request.authorization
    return given.token if given is not None and given.type == "bearer" else None
