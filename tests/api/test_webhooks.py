"""/webhooks: for a workspace's keys of scope admin, and for nobody else."""

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import db
from app.models import Scope
from app.services import webhooks
from tests.factories import Machine
from tests.hooks import Admin, send_webhooks
from tests.lab.receiver import Receiver

URL = "https://hooks.example.org/beeline"
NOBODY = uuid.uuid4()


@pytest.fixture
def admin(client: FlaskClient) -> Admin:
    return Admin(client)


def fields_of(answer: Any) -> dict[str, str]:
    assert answer.status_code == 400, answer.json
    return {one["field"]: one["message"] for one in answer.json["error"]["fields"]}


def test_from_the_first_to_the_last(admin: Admin) -> None:
    made = admin.add(URL, ["transfer.expired", "transfer.ready", "transfer.ready"][:2])
    assert made["events"] == ["transfer.ready", "transfer.expired"]
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made["secret"])
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert admin.show(made) == shown
    other = admin.add(URL)
    assert other["secret"] != made["secret"]
    assert [one["id"] for one in admin.call("GET").json["webhooks"]] == [made["id"], other["id"]]
    at = f"/{made['id']}"
    changed = admin.call("PATCH", at, json={"url": f"{URL}/2", "events": ["transfer.downloaded"]})
    assert changed.json == shown | {"url": f"{URL}/2", "events": ["transfer.downloaded"]}
    off = admin.call("PATCH", at, json={"enabled": False}).json
    assert (off["enabled"], off["disabled_reason"]) == (False, "asked")
    assert admin.call("PATCH", at, json={"enabled": False}).json == off
    assert admin.call("PATCH", at, json={"enabled": True}).json == changed.json
    assert admin.call("PATCH", at, json={}).json == changed.json
    assert admin.log(made) == []
    assert admin.call("DELETE", at).status_code == 204
    assert admin.call("DELETE", at).status_code == 404
    assert admin.call("GET", at).status_code == 404


def test_the_secret_is_told_once_and_never_again(admin: Admin) -> None:
    made = admin.add(URL)
    said = [
        admin.call("GET").text,
        admin.call("GET", f"/{made['id']}").text,
        admin.call("PATCH", f"/{made['id']}", json={"url": URL}).text,
        admin.call("POST", f"/{made['id']}/test").text,
        admin.call("GET", f"/{made['id']}/deliveries").text,
    ]
    assert all(made["secret"].removeprefix("whsec_") not in one for one in said)


@pytest.mark.parametrize("body", [{}, [], {"url": URL}, {"events": ["transfer.ready"]}])
def test_what_is_missing_is_named(admin: Admin, body: Any) -> None:
    told = fields_of(admin.call("POST", json=body))
    assert set(told) <= {"url", "events", "body"}
    assert told


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://hooks.example.org"}, "url"),
        ({"url": "https://localhost/"}, "url"),
        ({"url": 1}, "url"),
        ({"url": "x" * 3000}, "url"),
        ({"url": ""}, "url"),
        ({"events": []}, "events"),
        ({"events": ["webhook.test"]}, "events.0"),
        ({"events": ["transfer.ready"] * 4}, "events"),
        ({"events": "transfer.ready"}, "events"),
        ({"secret": "mine"}, "secret"),
        ({"workspace_id": str(NOBODY)}, "workspace_id"),
    ],
)
def test_what_cannot_be_meant_is_refused_for_a_new_one_and_for_an_old(
    admin: Admin, body: Any, field: str
) -> None:
    whole = {"url": URL, "events": ["transfer.ready"]} | body
    assert field in fields_of(admin.call("POST", json=whole))
    made = admin.add(URL)
    assert field in fields_of(admin.call("PATCH", f"/{made['id']}", json=body))
    assert admin.show(made)["url"] == URL


@pytest.mark.parametrize("enabled", [1, "true", None, []])
def test_a_switch_is_true_or_false(admin: Admin, enabled: Any) -> None:
    made = admin.add(URL)
    assert "enabled" in fields_of(admin.call("PATCH", f"/{made['id']}", json={"enabled": enabled}))


def test_one_whose_address_is_no_longer_allowed_can_be_switched_off_and_corrected(
    admin: Admin, configure: Any
) -> None:
    configure(webhook_allow_loopback=True)
    at = f"/{admin.add('http://127.0.0.1:9/', ['transfer.ready'])['id']}"
    configure(webhook_allow_loopback=False)
    for change in ({"enabled": False}, {"events": ["transfer.expired"]}):
        answer = admin.call("PATCH", at, json=change)
        assert (answer.status_code, answer.json | change) == (200, answer.json)
    on = admin.call("PATCH", at, json={"enabled": True})
    assert fields_of(on) == {"url": "must begin with https://"}
    assert admin.call("PATCH", at, json={"enabled": True, "url": URL}).json["enabled"]


def test_a_workspace_has_so_many_at_most(admin: Admin, monkeypatch: Any) -> None:
    monkeypatch.setattr(webhooks, "MOST", 2)
    for _ in range(2):
        admin.add(URL)
    answer = admin.call("POST", json={"url": URL, "events": ["transfer.ready"]})
    assert "at most 2 webhooks" in fields_of(answer)["url"]
    assert Admin(admin.client, "Others").add(URL)


def routes(app: Flask) -> list[tuple[str, str]]:
    """Every route of one webhook: also those that are written tomorrow."""
    found = [
        (method, rule.rule.removeprefix("/webhooks"))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("webhooks.") and "webhook_id" in rule.arguments
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})
    ]
    assert len(found) >= 6
    return found


def test_s07_a_strangers_key_finds_nothing(app: Flask, admin: Admin) -> None:
    made = admin.add(URL)
    delivery = admin.call("POST", f"/{made['id']}/test").json
    stranger = Admin(admin.client, "Others")
    others = stranger.add(URL)
    assert [one["id"] for one in stranger.call("GET").json["webhooks"]] == [others["id"]]
    for method, rule in routes(app):
        for webhook_id in (made["id"], str(NOBODY)):
            path = rule.replace("<uuid:webhook_id>", webhook_id)
            path = path.replace("<uuid:delivery_id>", delivery["id"])
            answer = stranger.call(method, path, json={"enabled": False})
            assert (answer.status_code, answer.json["error"]["code"]) == (404, "not_found"), path
    # Nor by a webhook of one's own.
    retry = f"/{others['id']}/deliveries/{delivery['id']}/retry"
    assert stranger.call("POST", retry).status_code == 404
    before = stranger.call("GET", f"/{others['id']}/deliveries?before={delivery['id']}")
    assert "before" in fields_of(before)
    assert admin.show(made)["enabled"]
    assert len(admin.log(made)) == 1


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_a_key_of_less_scope_may_not(app: Flask, admin: Admin, scope: Scope) -> None:
    made = admin.add(URL)
    less = Admin(admin.client, scope=scope)
    assert less.call("GET").status_code == 403
    assert less.call("POST", json={"url": URL, "events": ["transfer.ready"]}).status_code == 403
    for method, rule in routes(app):
        path = rule.replace("<uuid:webhook_id>", made["id"]).replace(
            "<uuid:delivery_id>", str(NOBODY)
        )
        assert less.call(method, path, json={}).status_code == 403, path
    nobody = admin.client.get("/webhooks")
    assert (nobody.status_code, nobody.json["error"]["code"]) == (401, "unauthorized")


def test_a_browser_without_a_key_is_led_to_the_page(admin: Admin) -> None:
    html = {"Accept": "text/html,application/xhtml+xml;q=0.9"}
    led = admin.client.get("/webhooks", headers=html)
    assert (led.status_code, led.location) == (303, "http://localhost/workspace/webhooks")
    with_key = admin.client.get("/webhooks", headers=html | {"x-api-key": admin.key})
    assert with_key.json == {"webhooks": []}


def test_the_secret_is_in_one_row_and_not_in_the_outbox(
    app: Flask, admin: Admin, machine: Machine
) -> None:
    made = admin.add(URL)
    machine.ready()
    with app.app_context():
        rows = db.session.scalars(text("SELECT json_agg(t)::text FROM webhook_deliveries t")).one()
    assert made["secret"].removeprefix("whsec_") not in rows


def test_the_example_of_the_documentation_verifies_what_comes(
    app: Flask, admin: Admin, receiver: Receiver
) -> None:
    written = Path("docs/api.md").read_text()
    (example,) = re.findall(r"```python\n(import base64.*?)```", written, re.DOTALL)
    known: dict[str, Any] = {}
    exec(example, known)
    made = admin.add(receiver.url)
    admin.call("POST", f"/{made['id']}/test")
    assert send_webhooks(app) == 1
    (came,) = receiver.came
    event = known["verify"](made["secret"], came.headers, came.body)
    assert event["type"] == "webhook.test"
    old = {**came.headers, "webhook-timestamp": "1700000000"}
    other = {**came.headers, "webhook-id": str(NOBODY)}
    stranger = admin.add(receiver.url)["secret"]
    for secret, headers, body in (
        (stranger, came.headers, came.body),
        (made["secret"], came.headers, came.body + b" "),
        (made["secret"], old, came.body),
        (made["secret"], other, came.body),
        (made["secret"], {**came.headers, "webhook-signature": ""}, came.body),
    ):
        with pytest.raises(ValueError):
            known["verify"](secret, headers, body)
