"""Helpers for tests of webhooks: a workspace's admin, the worker, and time that passes."""

import base64
import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.db import db, transaction
from app.models import Scope, Webhook, WebhookDelivery
from app.services import accounts, webhook_outbox
from tests.lab.receiver import Came

ALL = ("transfer.ready", "transfer.downloaded", "transfer.expired")


class Admin:
    """Manages a workspace's webhooks with the API."""

    def __init__(
        self, client: FlaskClient, workspace: str = "Acme", scope: Scope = Scope.ADMIN
    ) -> None:
        self.client = client
        with client.application.app_context():
            self.key = accounts.issue_key(workspace, "an admin's", scope).text

    def call(self, method: str, path: str = "", **given: Any) -> Any:
        """One request below /webhooks."""
        headers = {"x-api-key": self.key}
        return self.client.open(f"/webhooks{path}", method=method, headers=headers, **given)

    def add(self, url: str, events: Sequence[str] = ALL) -> Any:
        """Add a webhook; returns the response."""
        answer = self.call("POST", json={"url": url, "events": list(events)})
        assert answer.status_code == 201, answer.json
        return answer.json

    def show(self, hook: Any) -> Any:
        """The webhook as it is now."""
        return self.call("GET", f"/{hook['id']}").json

    def log(self, hook: Any) -> Any:
        """Its deliveries, newest first."""
        return self.call("GET", f"/{hook['id']}/deliveries").json["deliveries"]


def send_webhooks(app: Flask) -> int:
    """Send what is due, as the worker would."""
    with app.app_context():
        return webhook_outbox.send_webhooks()


def pass_time(app: Flask, **ago: float) -> None:
    """Move the webhooks' and deliveries' timestamps back, as if this much time had passed."""
    by = timedelta(**ago)
    with app.app_context(), transaction():
        db.session.execute(
            update(WebhookDelivery).values(
                due_at=WebhookDelivery.due_at - by,
                ends_at=WebhookDelivery.ends_at - by,
                created_at=WebhookDelivery.created_at - by,
            )
        )
        db.session.execute(
            update(Webhook).values(
                rest_until=Webhook.rest_until - by, failing_since=Webhook.failing_since - by
            )
        )


def rows(app: Flask) -> list[WebhookDelivery]:
    """The whole outbox."""
    with app.app_context():
        return list(
            db.session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at))
        )


def is_signed(came: Came, secret: str) -> bool:
    """Whether it is signed with this secret, as Standard Webhooks specifies."""
    said = f"{came.headers['webhook-id']}.{came.headers['webhook-timestamp']}.".encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    right = base64.b64encode(hmac.digest(key, said + came.body, "sha256")).decode()
    return came.headers["webhook-signature"] == f"v1,{right}"
