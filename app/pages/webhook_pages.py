"""/workspace/webhooks: pages to manage a workspace's webhooks, after login with an admin key.

The key is entered once, in a form; after that a cookie stands for it for an hour. Everything works
without JavaScript; with it, the page of a webhook refreshes itself.
"""

import secrets
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, redirect, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.errors import Invalid, NotAllowed, Unauthorized, WrongState
from app.gateways.webhook import LONGEST_URL
from app.inputs import Inputs
from app.pages.login_cookie import LoginCookie
from app.pages.view import is_htmx, page_or_fragment, typed
from app.request_guards import count_call, limiter, unknown_limit
from app.services import idempotency, webhooks, workspace_login
from app.services.accounts import Caller
from app.services.idempotency import Once

bp = Blueprint("webhook_pages", __name__, url_prefix="/workspace/webhooks")
_cookie = LoginCookie("beeline-workspace")

Route = Callable[..., AnyResponse]


def _inside(route: Route) -> Route:
    """Give the route its Caller; redirect to the login form if there is no valid session."""

    @wraps(route)
    def guarded(**rest: Any) -> AnyResponse:
        caller = workspace_login.caller_of(_cookie.read())
        if caller is not None:
            count_call(caller.key_id)
            return route(caller, **rest)
        if not is_htmx():
            return redirect(url_for(".show_webhooks"), 303)
        return Response(status=204, headers={"HX-Redirect": url_for(".show_webhooks")})

    return guarded


# -- login and logout ----------------------------------------------------------------------------


@bp.get("")
def show_webhooks() -> AnyResponse:
    """List the workspace's webhooks, or show the login form."""
    caller = workspace_login.caller_of(_cookie.read())
    return _door() if caller is None else _list(caller)


@bp.post("/enter")
@limiter.limit(unknown_limit, override_defaults=False)
def enter() -> AnyResponse:
    """Log in with a key, for an hour."""
    try:
        with Inputs(typed("key")) as given:
            key = given.text("key", longest=200)
        word = workspace_login.enter(key)
    except Invalid:
        return _door("This is not an API key.", 422)
    except Unauthorized:
        return _door("There is no such key, or it has been revoked.", 422)
    except NotAllowed:
        return _door("This key cannot manage webhooks: it needs the scope admin.", 422)
    answer = redirect(url_for(".show_webhooks"), 303)
    _cookie.set(answer, word, workspace_login.STAYS_SECONDS)
    return answer


@bp.post("/leave")
def leave() -> AnyResponse:
    """Log out: delete the cookie."""
    answer = redirect(url_for(".show_webhooks"), 303)
    _cookie.delete(answer)
    return answer


def _door(complaint: str = "", status: int = 200) -> Response:
    return make_response(render_template("pages/webhooks_door.html", complaint=complaint), status)


# -- webhooks ------------------------------------------------------------------------------------


@bp.post("")
@_inside
def create_webhook(caller: Caller) -> AnyResponse:
    """Create a webhook. Only this answer shows its secret, also when it is reloaded."""
    events = {event.value: event for event in webhooks.EVENTS}
    said = typed("url", "once", *events)
    try:
        with Inputs({"url": said.get("url", "")}) as given:
            url = given.text("url", longest=LONGEST_URL).strip()
        wanted = [events[name] for name in events if name in said]
        made = webhooks.create(caller, url, wanted, _once(caller, said))
    except Invalid as error:
        return _list(caller, 422, said=said, complaints=error.fields)
    return _list(caller, 201, made=made)


def _once(caller: Caller, said: dict[str, str]) -> Once | None:
    """Identify this form as filled in, to process it only once; None without its `once` field."""
    # All fields are part of the key: going back and changing one means another webhook.
    key = urlencode(sorted(said.items())) if said.get("once") else None
    return idempotency.once(key, str(caller.workspace_id), b"")


def _list(caller: Caller, status: int = 200, **words: Any) -> Response:
    page = render_template(
        "pages/webhooks.html",
        workspace=workspace_login.workspace_of(caller),
        webhooks=webhooks.all_of(caller),
        events=webhooks.EVENTS,
        once=secrets.token_urlsafe(16),
        **words,
    )
    return make_response(page, status)


@bp.get("/<uuid:webhook_id>")
@_inside
def show_webhook(caller: Caller, webhook_id: uuid.UUID) -> AnyResponse:
    """Show one webhook with its log or, to htmx, its log and its health."""
    return _shown(caller, webhook_id)


def _shown(caller: Caller, webhook_id: uuid.UUID) -> Response:
    webhook = webhooks.of_caller(webhook_id, caller)
    return page_or_fragment(
        "pages/webhook.html",
        "fragments/_webhook.html",
        status=200,
        webhook=webhook,
        log=webhooks.log_of(webhook),
    )


@bp.post("/<uuid:webhook_id>/test")
@_inside
def test_webhook(caller: Caller, webhook_id: uuid.UUID) -> AnyResponse:
    """Send it a test event."""
    webhook = webhooks.of_caller(webhook_id, caller)
    return _done(caller, webhook_id, lambda: webhooks.send_test(webhook))


@bp.post("/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/retry")
@_inside
def retry_delivery(caller: Caller, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> AnyResponse:
    """Send one delivery again."""
    webhook = webhooks.of_caller(webhook_id, caller)
    return _done(caller, webhook_id, lambda: webhooks.retry(webhook, delivery_id))


@bp.post("/<uuid:webhook_id>/<any(on, off):position>")
@_inside
def switch_webhook(caller: Caller, webhook_id: uuid.UUID, position: str) -> AnyResponse:
    """Switch the webhook on or off."""
    webhooks.edit(webhooks.of_caller(webhook_id, caller), is_enabled=position == "on")
    return redirect(url_for(".show_webhook", webhook_id=webhook_id), 303)


@bp.post("/<uuid:webhook_id>/delete")
@_inside
def delete_webhook(caller: Caller, webhook_id: uuid.UUID) -> AnyResponse:
    """Delete the webhook with its log."""
    webhooks.remove(webhooks.of_caller(webhook_id, caller))
    return redirect(url_for(".show_webhooks"), 303)


def _done(caller: Caller, webhook_id: uuid.UUID, act: Callable[[], object]) -> AnyResponse:
    """Do it, then answer htmx with the refreshed fragment, or redirect to the page."""
    try:
        act()
    except WrongState:
        # The webhook has been switched off meanwhile, which the page shows.
        if is_htmx():
            here = url_for(".show_webhook", webhook_id=webhook_id)
            return Response(status=204, headers={"HX-Redirect": here})
    if is_htmx():
        return _shown(caller, webhook_id)
    return redirect(url_for(".show_webhook", webhook_id=webhook_id), 303)
