"""What webhooks are told, and that they are told it: signed, again if need be, and to nobody else."""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select

from app import clock, jobs
from app.db import db, transaction
from app.models import AuditEvent, DeliveryState, State, Transfer, WebhookDelivery
from app.services import accounts, claims, downloads, upkeep, webhook_news, webhook_outbox
from tests.factories import Machine, Sender
from tests.hooks import ALL, Admin, is_signed, pass_time, rows, send_webhooks
from tests.lab.receiver import Canary, Receiver
from tests.watching import statements

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def _here(configure: Configure) -> None:
    configure(webhook_allow_loopback=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def admin(app: Flask) -> Admin:
    return Admin(app.test_client())


def download(app: Flask, shown: Any) -> None:
    """As curl does, without a cookie: each counts."""
    client = app.test_client(use_cookies=False)
    url = f"/d/{shown['url'].rpartition('/')[2]}/files/{shown['files'][0]['id']}"
    assert client.get(url, headers={"User-Agent": "curl/8"}).status_code == 303


def expire(app: Flask, transfer_id: str) -> None:
    with app.app_context():
        with transaction():
            db.session.get(Transfer, transfer_id).expires_at = clock.now() - timedelta(seconds=1)
        upkeep.expire_due()


def told(receiver: Receiver) -> list[str]:
    return [json.loads(one.body)["type"] for one in receiver.came]


def test_each_thing_that_happens_is_told_once_and_signed(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, queued: list
) -> None:
    hook = admin.add(receiver.url)
    made = machine.ready()
    assert ("webhook_outbox.send_webhooks",) in queued
    assert send_webhooks(app) == 1
    for _ in range(2):
        download(app, made)
    expire(app, made["id"])
    assert send_webhooks(app) == 3
    assert send_webhooks(app) == 0
    assert told(receiver) == [ALL[0], ALL[1], ALL[1], ALL[2]]
    assert all(is_signed(one, hook["secret"]) for one in receiver.came)
    ready, first, second, expired = (json.loads(one.body) for one in receiver.came)
    with app.app_context():
        row = db.session.get(Transfer, made["id"])
        before = row.expires_at
    assert ready["data"] == {
        "transfer_id": made["id"],
        "user_identifier": None,
        "url": made["url"],
        "expires_at": ready["data"]["expires_at"],
        "download_count": 0,
        "max_downloads": None,
    }
    assert datetime.fromisoformat(ready["data"]["expires_at"]) > clock.now()
    assert first["data"]["file_id"] == second["data"]["file_id"] == made["files"][0]["id"]
    assert (first["data"]["download_count"], second["data"]["download_count"]) == (1, 2)
    told_at = datetime.fromisoformat(expired["data"]["expires_at"])
    assert abs(told_at - before) < timedelta(seconds=1)
    for one, came in zip((ready, first, second, expired), receiver.came, strict=True):
        assert came.headers["webhook-id"] == one["id"]
        assert came.headers["content-type"] == "application/json"
        assert abs(int(came.headers["webhook-timestamp"]) - time.time()) < 60
        assert datetime.fromisoformat(one["timestamp"]).tzinfo == UTC
    assert len({one["id"] for one in (ready, first, second, expired)}) == 4
    log = admin.log(hook)
    assert [one["type"] for one in log] == told(receiver)[::-1]
    assert {(one["state"], one["status"], one["error"]) for one in log} == {("SENT", 200, "")}
    assert all(one["latency_ms"] >= 0 and one["attempt_count"] == 1 for one in log)
    assert log[-1]["payload"].encode() == receiver.came[0].body


def test_only_those_of_its_workspace_that_listen_to_it_are_told(
    app: Flask, machine: Machine, sender: Sender, admin: Admin, receiver: Receiver
) -> None:
    both = [admin.add(f"{receiver.url}&n={n}", ["transfer.ready"]) for n in range(2)]
    admin.add(f"{receiver.url}&later", ["transfer.expired"])
    off = admin.add(f"{receiver.url}&off")
    assert admin.call("PATCH", f"/{off['id']}", json={"enabled": False}).status_code == 200
    Admin(admin.client, "Others").add(f"{receiver.url}&others")
    sender.ready()
    machine.ready()
    assert send_webhooks(app) == 2
    assert {one.path[-3:] for one in receiver.came} == {"n=0", "n=1"}
    # The same news has the same id, and each its own signature.
    assert len({one.headers["webhook-id"] for one in receiver.came}) == 1
    by_path = {one.path[-3:]: one for one in receiver.came}
    assert is_signed(by_path["n=0"], both[0]["secret"])
    assert not is_signed(by_path["n=0"], both[1]["secret"])


def test_it_holds_nothing_that_a_person_wrote(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    admin.add(receiver.url)
    made = machine.create({"canary-name.txt": b"1"})
    with app.app_context(), transaction():
        row = db.session.get(Transfer, made["id"])
        row.title, row.message = "canary-title", "canary-message"
    machine.upload(made, {"canary-name.txt": b"1"})
    machine.call("PUT", f"/transfers/{made['id']}/finalize")
    machine.process(made["id"])
    (one,) = rows(app)
    assert "canary" not in one.payload


def test_what_is_rolled_back_is_not_told(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    admin.add(receiver.url, ["transfer.downloaded"])
    made = machine.ready()

    def fail(*given: Any) -> None:
        raise RuntimeError("after the row, before the commit")

    with monkeypatch.context() as broken:
        broken.setattr(downloads.audit, "note", fail)
        with app.app_context(), pytest.raises(RuntimeError):
            downloads.count_once(made["id"], made["files"][0]["id"], None)
    assert rows(app) == []


def test_500_and_silence_are_tried_again_until_it_is_taken(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    monkeypatch.setattr("app.gateways.webhook.SECONDS", 0.3)
    receiver.answers = [500, 0.6, 200]
    hook = admin.add(receiver.url, ["transfer.ready"])
    machine.ready()
    assert send_webhooks(app) == 0
    (one,) = admin.log(hook)
    assert (one["state"], one["status"], one["error"]) == ("WAITING", 500, "It answered 500.")
    assert admin.show(hook)["failing_since"]
    assert send_webhooks(app) == 0
    pass_time(app, seconds=61)
    assert send_webhooks(app) == 0
    (one,) = admin.log(hook)
    assert (one["status"], one["attempt_count"]) == (None, 2)
    assert one["error"].startswith("It did not answer")
    pass_time(app, seconds=61)
    assert send_webhooks(app) == 0, "the second wait is longer"
    pass_time(app, seconds=300)
    assert send_webhooks(app) == 1
    assert len({came.headers["webhook-id"] for came in receiver.came}) == 1
    assert len({came.body for came in receiver.came}) == 1
    assert all(is_signed(came, hook["secret"]) for came in receiver.came)
    assert admin.show(hook)["failing_since"] is None


def test_what_nobody_takes_for_a_day_is_given_up_aloud(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, caplog: Any
) -> None:
    receiver.answers = [500]
    hook = admin.add(receiver.url, ["transfer.ready"])
    machine.ready()
    waited = 0
    while waited < 86400:
        send_webhooks(app)
        (one,) = rows(app)
        seconds = claims.backoff(one.attempt_count).total_seconds() + 1
        pass_time(app, seconds=seconds)
        waited += seconds
    assert "given up" not in caplog.text
    assert send_webhooks(app) == 0
    assert "1 messages to a webhook were given up" in caplog.text
    (one,) = admin.log(hook)
    assert (one["state"], one["error"]) == ("FAILED", "It answered 500.")
    assert 8 <= len(receiver.came) <= len(claims.BACKOFF_SECONDS) + 1
    # One bad day alone does not switch it off.
    assert admin.show(hook)["enabled"]


@pytest.mark.parametrize("answer", [200, 500])
def test_what_we_sent_to_nobody_for_a_day_is_tried_all_the_same(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, caplog: Any, answer: int
) -> None:
    """No maker was there: that says nothing of the server. Once, if it does not take it then."""
    receiver.answers = [answer]
    hook = admin.add(receiver.url, ["transfer.ready"])
    machine.ready()
    pass_time(app, days=1, hours=2)
    assert send_webhooks(app) == (answer == 200)
    assert "given up" not in caplog.text
    send_webhooks(app)
    (one,) = admin.log(hook)
    assert one["state"] == ("SENT" if answer == 200 else "FAILED")
    assert len(receiver.came) == 1


def test_one_that_takes_nothing_for_three_days_is_switched_off_and_says_why(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    receiver.answers = [500]
    hook = admin.add(receiver.url, ["transfer.ready"])
    for _ in range(3):
        machine.ready()
        send_webhooks(app)
        pass_time(app, days=1, hours=1)
    assert admin.show(hook)["enabled"]
    send_webhooks(app)
    shown = admin.show(hook)
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "failing")
    machine.ready()
    assert len(admin.log(hook)) == 3
    on = admin.call("PATCH", f"/{hook['id']}", json={"enabled": True}).json
    assert (on["enabled"], on["failing_since"], on["disabled_reason"]) == (True, None, None)
    receiver.answers = [200]
    machine.ready()
    assert send_webhooks(app) == 1


def test_410_switches_it_off_at_once(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    receiver.answers = [410]
    hook = admin.add(receiver.url, ["transfer.ready"])
    for _ in range(3):
        machine.ready()
    assert send_webhooks(app) == 0
    assert admin.show(hook)["disabled_reason"] == "gone"
    assert len(receiver.came) == 1
    assert {one["state"] for one in admin.log(hook)} == {"FAILED"}
    assert {one["error"] for one in admin.log(hook)} == {
        "It answered 410.",
        "The webhook was switched off before this was sent.",
    }
    retry = admin.call("POST", f"/{hook['id']}/deliveries/{admin.log(hook)[0]['id']}/retry")
    assert (retry.status_code, retry.json["error"]["code"]) == (409, "wrong_state")
    assert admin.call("POST", f"/{hook['id']}/test").status_code == 409


@pytest.mark.real_commits
def test_what_is_queued_just_while_its_webhook_is_switched_off_fails_too(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    """Otherwise it would wait for ever, and be sent when the webhook is switched on years later."""
    made = machine.ready()
    hook = admin.add(receiver.url)
    with app.app_context(), transaction():
        webhook_news.tell_ready(uuid.UUID(made["id"]))
        with ThreadPoolExecutor(1) as pool:
            off = pool.submit(admin.call, "PATCH", f"/{hook['id']}", json={"enabled": False})
            assert off.result().status_code == 200
    assert send_webhooks(app) == 0
    (one,) = admin.log(hook)
    assert (one["state"], one["attempt_count"]) == ("FAILED", 0)
    assert one["error"] == "The webhook was switched off before this was sent."
    admin.call("PATCH", f"/{hook['id']}", json={"enabled": True})
    assert send_webhooks(app) == 0
    # Nothing else that waits is touched.
    admin.call("POST", f"/{hook['id']}/test")
    assert send_webhooks(app) == 1


def test_a_test_goes_the_same_way_whatever_the_webhook_listens_to(
    app: Flask, admin: Admin, receiver: Receiver, queued: list
) -> None:
    hook = admin.add(receiver.url, ["transfer.expired"])
    answer = admin.call("POST", f"/{hook['id']}/test")
    assert (answer.status_code, answer.json["state"]) == (202, "WAITING")
    assert queued == [("webhook_outbox.send_webhooks",)]
    assert send_webhooks(app) == 1
    (came,) = receiver.came
    assert json.loads(came.body)["type"] == "webhook.test"
    assert json.loads(came.body)["data"] == {"webhook_id": hook["id"]}
    assert is_signed(came, hook["secret"])


def test_somebody_who_presses_does_not_wait_for_its_rest(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    receiver.answers = [500, 500, 200]
    hook = admin.add(receiver.url, ["transfer.ready"])
    machine.ready()
    send_webhooks(app)
    assert admin.call("POST", f"/{hook['id']}/test").status_code == 202
    send_webhooks(app)
    assert told(receiver) == ["transfer.ready", "webhook.test"]
    first = admin.log(hook)[-1]
    again = admin.call("POST", f"/{hook['id']}/deliveries/{first['id']}/retry")
    assert (again.status_code, again.json["event_id"]) == (202, first["event_id"])
    assert send_webhooks(app) == 1
    assert receiver.came[2].headers["webhook-id"] == first["event_id"]
    # What was taken can be sent again as well.
    assert admin.call("POST", f"/{hook['id']}/deliveries/{first['id']}/retry").status_code == 202
    assert send_webhooks(app) == 1


def test_dead_servers_delay_nobody_else(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    """Each is asked once, beside the others, and then rests, however much waits for it."""
    monkeypatch.setattr("app.gateways.webhook.SECONDS", 1.0)
    with Receiver(answers=[30.0]) as dead:
        hooks = [admin.add(f"{dead.url}&n={n}", ["transfer.ready"]) for n in range(4)]
        admin.add(receiver.url, ["transfer.ready"])
        for _ in range(5):
            machine.ready()
        began = time.monotonic()
        assert send_webhooks(app) == 5
        assert time.monotonic() - began < 3
        assert len(dead.came) == 4
        assert sorted(one.attempt_count for one in rows(app)) == [0] * 16 + [1] * 9
        assert send_webhooks(app) == 0
        assert len(dead.came) == 4
        assert all(admin.show(hook)["failing_since"] for hook in hooks)


def test_many_to_one_keep_nobody_else_waiting(
    app: Flask, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    monkeypatch.setattr(webhook_outbox, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(webhook_outbox, "MOST_TO_ONE", 3)
    many, few = (admin.add(f"{receiver.url}&{name}") for name in ("many", "few"))
    with app.app_context():
        for _ in range(9):
            admin.call("POST", f"/{many['id']}/test")
        admin.call("POST", f"/{few['id']}/test")
        batch = webhook_outbox._claim()
    assert [str(one.webhook_id) for one in batch].count(few["id"]) == 1
    assert len(batch) == 4


def test_a_job_ends_when_its_turn_does_and_the_rest_is_queued_again(
    app: Flask, admin: Admin, receiver: Receiver, monkeypatch: Any, queued: list
) -> None:
    hook = admin.add(receiver.url)
    for _ in range(5):
        admin.call("POST", f"/{hook['id']}/test")
    queued.clear()
    receiver.answers = [0.1]
    with monkeypatch.context() as short:
        short.setattr(webhook_outbox, "TURN_SECONDS", -1)
        assert send_webhooks(app) < 5
    assert queued == [("webhook_outbox.send_webhooks",)]
    jobs.stopping.set()
    assert send_webhooks(app) == 0
    jobs.stopping.clear()
    send_webhooks(app)
    assert {one.state for one in rows(app)} == {DeliveryState.SENT}
    assert {one.attempt_count for one in rows(app)} == {1}


def test_a_message_on_its_way_when_its_webhook_is_deleted_harms_nothing(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    hook = admin.add(receiver.url)
    machine.ready()
    settle = webhook_outbox._settle

    def delete_first(*given: Any) -> bool:
        assert admin.call("DELETE", f"/{hook['id']}").status_code == 204
        return settle(*given)

    monkeypatch.setattr(webhook_outbox, "_settle", delete_first)
    send_webhooks(app)
    assert rows(app) == []
    assert admin.call("GET").json == {"webhooks": []}


def test_ten_thousand_that_expire_are_told_of_by_the_statement_that_lets_them(
    app: Flask, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "EXPIRE_BATCH", 10_001)  # One more would take a second session.
    hook = admin.add("https://hooks.example.org/", ["transfer.expired"])
    with app.app_context():
        workspace_id = accounts.authenticate(admin.key).workspace_id
        with transaction():
            db.session.execute(
                insert(Transfer),
                [
                    {
                        "slug": f"slug-{n}",
                        "owner_token_hash": b"x" * 32,
                        "state": State.READY,
                        "ready_at": clock.now() - timedelta(days=2),
                        "expires_at": clock.now() - timedelta(hours=1),
                        "workspace_id": workspace_id,
                    }
                    for n in range(10_000)
                ],
            )
        with statements(app) as told:
            assert upkeep.expire_due() == 10_000
        written = [one for one in told if re.search("INSERT|UPDATE transfers", one)]
        # The second finds no more, and the last notes the sweep's end.
        assert len(written) == 3
        assert written[0] == written[1]
        assert "heartbeats" in written[2]
        count = db.session.scalars(select(WebhookDelivery.event_id).distinct()).all()
        assert len(count) == 10_000
        acts = select(AuditEvent.transfer_id).where(AuditEvent.action == "expire")
        assert len(db.session.scalars(acts).all()) == 10_000
    page = admin.call("GET", f"/{hook['id']}/deliveries").json
    seen = {one["id"] for one in page["deliveries"]}
    more = admin.call("GET", f"/{hook['id']}/deliveries?before={page['next_before']}").json
    assert len(seen | {one["id"] for one in more["deliveries"]}) == 100


def test_what_has_expired_is_told_even_if_its_program_ends_it_before_the_sweep_comes(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    made = machine.put_one()["id"]
    admin.add(receiver.url, ["transfer.expired"])
    with app.app_context(), transaction():
        db.session.get(Transfer, made).expires_at = clock.now() - timedelta(seconds=1)
    answer = machine.native("PATCH", f"/{made}", json={"status": "EXPIRED"})
    assert (answer.status_code, answer.json["status"]) == (200, "EXPIRED")
    expire(app, made)
    assert send_webhooks(app) == 1


def test_what_came_back_and_expires_again_is_told_again(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver
) -> None:
    admin.add(receiver.url, ["transfer.expired"])
    made = machine.ready()
    for _ in range(2):
        expire(app, made["id"])
        with app.app_context(), transaction():
            row = db.session.get(Transfer, made["id"])
            row.state, row.expired_at = State.READY, None
    assert send_webhooks(app) == 2
    assert len({one.headers["webhook-id"] for one in receiver.came}) == 2


def test_the_log_is_dropped_when_it_is_old_and_what_waits_is_not(
    app: Flask, admin: Admin, receiver: Receiver, configure: Configure, monkeypatch: Any
) -> None:
    configure(webhook_log_days=7)
    monkeypatch.setattr(webhook_outbox, "BATCH", 2)
    hook = admin.add(receiver.url)
    for _ in range(5):
        admin.call("POST", f"/{hook['id']}/test")
    send_webhooks(app)
    pass_time(app, days=6)
    with app.app_context():
        assert webhook_outbox.drop_webhook_log() == 0
        pass_time(app, days=1, seconds=1)
        admin.call("POST", f"/{hook['id']}/test")
        assert webhook_outbox.drop_webhook_log() == 5
    assert [one.state for one in rows(app)] == [DeliveryState.WAITING]


def test_s24_nothing_is_sent_here_where_that_is_not_allowed(
    app: Flask, machine: Machine, admin: Admin, configure: Configure
) -> None:
    """Not even by a webhook that was made while it was."""
    canary = Canary()
    hook = admin.add(f"http://127.0.0.1:{canary.port}/")
    configure(webhook_allow_loopback=False)
    machine.ready()
    assert send_webhooks(app) == 0
    (one,) = admin.log(hook)
    assert one["error"] == "This address must begin with https://."
    assert canary.visits == 0
    canary.close()


def test_no_transaction_is_open_while_a_receiver_is_asked(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, monkeypatch: Any
) -> None:
    admin.add(receiver.url)
    machine.ready()
    held: list[bool] = []
    send = webhook_outbox._send

    def looking(*given: Any) -> int:
        held.append(db.session().in_transaction())
        return send(*given)

    monkeypatch.setattr(webhook_outbox, "_send", looking)
    send_webhooks(app)
    assert held == [False]


def test_s32_neither_secret_nor_address_is_in_the_log(
    app: Flask, machine: Machine, admin: Admin, receiver: Receiver, caplog: Any
) -> None:
    caplog.set_level("DEBUG")
    receiver.answers = [500, 410]
    hook = admin.add(receiver.url + "&canary")
    machine.ready()
    send_webhooks(app)
    pass_time(app, days=2)
    send_webhooks(app)
    assert "given up" in caplog.text
    assert "canary" not in caplog.text
    assert hook["secret"] not in caplog.text


def test_s36_each_act_is_on_record_with_its_key(
    app: Flask, admin: Admin, receiver: Receiver
) -> None:
    receiver.answers = [200, 410]
    hook = admin.add(receiver.url)
    at = f"/{hook['id']}"
    admin.call("PATCH", at, json={"events": ["transfer.ready"]})
    admin.call("POST", f"{at}/test")
    send_webhooks(app)
    admin.call("POST", f"{at}/deliveries/{admin.log(hook)[0]['id']}/retry")
    send_webhooks(app)
    admin.call("PATCH", at, json={"enabled": True})
    admin.call("PATCH", at, json={"enabled": False})
    admin.call("DELETE", at)
    with app.app_context():
        key_id = accounts.authenticate(admin.key).key_id
        found = db.session.scalars(
            select(AuditEvent).where(AuditEvent.subject_id == hook["id"]).order_by(AuditEvent.id)
        ).all()
    assert [one.action for one in found] == [
        "create webhook",
        "edit webhook",
        "test webhook",
        "retry webhook",
        "switch off webhook",
        "edit webhook",
        "switch off webhook",
        "delete webhook",
    ]
    assert {one.key_id for one in found if one is not found[4]} == {key_id}
