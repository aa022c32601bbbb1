"""Authentication. Every API route has exactly one of these guards (tests/test_house.py)."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from flask import request

from app.errors import AppError, Gone, Unauthorized
from app.models import Scope, Transfer
from app.request_guards import count_call, count_wrong_key
from app.services import accounts, audit, sender_access, transfers, upload_sessions
from app.services.accounts import Caller

Route = Callable[..., Any]


@dataclass(frozen=True)
class Asking:
    """Credentials for a transfer: either a workspace's Caller or the transfer's owner token."""

    transfer_id: uuid.UUID
    caller: Caller | None
    owner_token: str | None

    def transfer(self) -> Transfer:
        """Return the transfer if the credentials are for it.

        Raises NotFound; Gone once deleted; Unauthorized if neither key nor token was sent.
        """
        if self.caller is not None:
            return transfers.of_workspace(self.transfer_id, self.caller)
        return sender_access.owned(self.transfer_id, self.owner_token)


def anyone(route: Route) -> Route:
    """Mark a route that deliberately needs no key."""
    return _wearing("anyone", route)


def anyone_or_key(scope: Scope) -> Callable[[Route], Route]:
    """Guard a route for which a key is optional; it gets the Caller or None.

    A wrong key is refused.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            return route(_caller(_key(), scope) if sends_key() else None, **rest)

        return _wearing(f"anyone-or-key:{scope.value}", guarded)

    return guard


def owner(scope: Scope, *, deleted: type[AppError] | None = None) -> Callable[[Route], Route]:
    """Require `Authorization: Bearer <owner token>`, or a key with `scope` of the transfer's
    workspace; the route gets the Transfer.

    The token of the manage link is accepted too: its holder can do all of this on the page. For a
    deleted transfer raises Gone, or `deleted`. Cookies are ignored, so other sites cannot forge
    requests.
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
    """Require the same as owner(), but give the route an Asking, to validate its input first.

    Raises Unauthorized without credentials. A key is authenticated first; access to the transfer
    is only checked by Asking.transfer().
    """

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
    """Require an API key with `scope`; the route gets its Caller.

    The key is sent as `x-api-key`, or as `Authorization: Bearer`.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            return route(_caller(_key(), scope), **rest)

        return _wearing(f"key:{scope.value}", guarded)

    return guard


def member(scope: Scope) -> Callable[[Route], Route]:
    """Require an API key as `x-api-key` and a token for it as `Authorization: Bearer`.

    The route gets the Caller, who acts for the user that the token names.
    """

    def guard(route: Route) -> Route:
        @wraps(route)
        def guarded(**rest: Any) -> Any:
            caller = _caller(request.headers.get("x-api-key"), scope)
            return route(accounts.speak_for(caller, _bearer()), **rest)

        return _wearing(f"member:{scope.value}", guarded)

    return guard


def uploader(route: Route) -> Route:
    """Require an API key with the scope write, or a session in the path; the route gets the Caller.

    A session gives access to no other routes than these.
    """

    @wraps(route)
    def guarded(session: str | None = None, **rest: Any) -> Any:
        if session is not None:
            return route(_in_session(session), **rest)
        return route(_caller(_key(), Scope.WRITE), **rest)

    return _wearing("uploader", guarded)


def _wearing(guard: str, route: Route) -> Route:
    """Note the guard's name on the route, for the tests."""
    route.guard = guard  # type: ignore[attr-defined]  # a function takes any, a Callable may not
    return route


def _in_session(word: str) -> Caller:
    found = upload_sessions.read_session(word)
    audit.acting_key.set(found.caller.key_id)
    # Counted by session: a page must not use up the daily limit of the program's key.
    count_call(found.id)
    return found.caller


def sends_key() -> bool:
    """Whether the request carries an API key, valid or not."""
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
