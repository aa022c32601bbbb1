"""/webhooks: the URLs that a workspace's events are sent to, managed with keys of scope admin."""

import uuid
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app import links
from app.api.auth import key
from app.api.bodies import is_seen, json_body, once
from app.errors import Invalid
from app.gateways.webhook import LONGEST_URL
from app.inputs import Inputs
from app.models import Scope, Webhook, WebhookDelivery
from app.services import webhooks
from app.services.accounts import Caller

bp = Blueprint("webhooks", __name__, url_prefix="/webhooks")


@bp.before_request
def _lead_people() -> AnyResponse | None:
    """Redirect browsers that open this URL to the page."""
    has_key = "x-api-key" in request.headers or "Authorization" in request.headers
    wants_page = "text/html" in request.headers.get("Accept", "")
    is_list = request.method == "GET" and request.path == bp.url_prefix
    return redirect(links.webhooks_url(), 303) if is_list and wants_page and not has_key else None


@bp.post("")
@key(Scope.ADMIN)
def create_webhook(caller: Caller) -> tuple[Response, int]:
    """Create a webhook; only this answer contains its secret."""
    with Inputs(json_body()) as given:
        url = given.text("url", longest=LONGEST_URL)
        events = given.some_of("events", webhooks.EVENTS)
        if not url or events is None:
            missing = {"url": "is required"} if not url else {}
            missing |= {"events": "is required"} if events is None else {}
            raise Invalid(missing | given.complaints)
    made = webhooks.create(caller, url, events, once(caller.workspace_id))
    return _shown(made.row, secret=made.secret), 201


@bp.get("")
@key(Scope.ADMIN)
def list_webhooks(caller: Caller) -> Response:
    """List the workspace's webhooks."""
    return jsonify({"webhooks": [_webhook_json(one) for one in webhooks.all_of(caller)]})


@bp.get("/<uuid:webhook_id>")
@key(Scope.ADMIN)
def show_webhook(caller: Caller, webhook_id: uuid.UUID) -> Response:
    """Return one webhook as it is now."""
    return _shown(webhooks.of_caller(webhook_id, caller))


@bp.patch("/<uuid:webhook_id>")
@key(Scope.ADMIN)
def edit_webhook(caller: Caller, webhook_id: uuid.UUID) -> Response:
    """Change URL or events, or switch it on or off; with If-Match, only if unchanged since."""
    webhook = webhooks.of_caller(webhook_id, caller)
    changes: dict[str, Any] = {}
    with Inputs(json_body()) as given:
        if given.has("url"):
            changes["url"] = given.text("url", longest=LONGEST_URL)
        if given.has("events"):
            changes["events"] = given.some_of("events", webhooks.EVENTS) or []
        if given.has("enabled"):
            changes["is_enabled"] = given.switch("enabled")
    return _shown(webhooks.edit(webhook, **changes, is_seen=is_seen()))


@bp.delete("/<uuid:webhook_id>")
@key(Scope.ADMIN)
def delete_webhook(caller: Caller, webhook_id: uuid.UUID) -> tuple[str, int]:
    """Delete the webhook with its log."""
    webhooks.remove(webhooks.of_caller(webhook_id, caller))
    return "", 204


@bp.post("/<uuid:webhook_id>/test")
@key(Scope.ADMIN)
def test_webhook(caller: Caller, webhook_id: uuid.UUID) -> tuple[Response, int]:
    """Send a `webhook.test` event now; the outcome is in the log."""
    row = webhooks.send_test(webhooks.of_caller(webhook_id, caller))
    return jsonify(_delivery_json(row)), 202


@bp.get("/<uuid:webhook_id>/deliveries")
@key(Scope.ADMIN)
def list_deliveries(caller: Caller, webhook_id: uuid.UUID) -> Response:
    """List the webhook's deliveries, newest first."""
    webhook = webhooks.of_caller(webhook_id, caller)
    with Inputs(request.args.to_dict()) as given:
        before = given.uuid("before") if given.has("before") else None
    log = webhooks.log_of(webhook, before)
    shown = [_delivery_json(one) for one in log.deliveries]
    return jsonify({"deliveries": shown, "next_before": log.next_before})


@bp.post("/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/retry")
@key(Scope.ADMIN)
def retry_delivery(
    caller: Caller, webhook_id: uuid.UUID, delivery_id: uuid.UUID
) -> tuple[Response, int]:
    """Send a delivery again now, under the same id."""
    row = webhooks.retry(webhooks.of_caller(webhook_id, caller), delivery_id)
    return jsonify(_delivery_json(row)), 202


def _shown(webhook: Webhook, **more: Any) -> Response:
    """Answer with a webhook, and with the ETag that If-Match takes."""
    answer = jsonify(_webhook_json(webhook) | more)
    answer.set_etag(webhooks.edit_mark(webhook))
    return answer


def _webhook_json(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": str(webhook.id),
        "url": webhook.url,
        "events": webhook.events,
        "enabled": webhook.is_enabled,
        "disabled_reason": webhook.disabled_for,
        "disabled_at": _instant(webhook.disabled_at),
        "failing_since": _instant(webhook.failing_since),
        "created_at": _instant(webhook.created_at),
    }


def _delivery_json(one: WebhookDelivery) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "event_id": str(one.event_id),
        "type": one.event,
        "transfer_id": one.transfer_id and str(one.transfer_id),
        "payload": one.payload,
        "state": one.state,
        "attempt_count": one.attempt_count,
        "created_at": _instant(one.created_at),
        "next_attempt_at": _instant(one.due_at) if one.state == "WAITING" else None,
        "attempted_at": _instant(one.attempted_at),
        "status": one.status,
        "latency_ms": one.latency_ms,
        "error": one.error,
    }


def _instant(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
