"""F47 of webhooks: a worker that dies between sending and noting it; and several at once."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from app.db import db
from app.models import DeliveryState
from app.services import claims, webhook_outbox
from tests.factories import Machine
from tests.faults.test_crashes import STEPS
from tests.hooks import Admin, is_signed, pass_time, rows, send_webhooks
from tests.lab.crasher import DIED, Crasher
from tests.lab.receiver import Receiver

pytestmark = pytest.mark.real_commits


@pytest.fixture(scope="module")
def crasher(app: Flask, environ: dict[str, str]) -> Iterator[Crasher]:
    made = Crasher(environ | {"WEBHOOK_ALLOW_LOOPBACK": "true"})
    yield made
    made.close()


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("webhook.")])
def test_f47_each_death_doubles_only_what_was_on_its_way(
    step: str, app: Flask, crasher: Crasher, machine: Machine, receiver: Receiver
) -> None:
    admin = Admin(machine.client)
    hook = admin.add(receiver.url, ["transfer.ready"])
    ready = [machine.ready()["id"] for _ in range(3)]
    deaths = 2
    for _ in range(deaths):
        assert crasher.run("send_webhooks", dies_at=step) == DIED
        # The claim lapses; whoever comes next goes on.
        pass_time(app, seconds=claims.CLAIM_SECONDS + 1)
    assert crasher.run("send_webhooks") == 0
    assert send_webhooks(app) == 0
    came = Counter(json.loads(one.body)["data"]["transfer_id"] for one in receiver.came)
    assert set(came) == set(ready)
    if step == "webhook.1":
        assert sum(came.values()) == 3
    # The same id each time, so a receiver can tell.
    assert len({one.headers["webhook-id"] for one in receiver.came}) == 3
    assert all(is_signed(one, hook["secret"]) for one in receiver.came)
    assert {one.state for one in rows(app)} == {DeliveryState.SENT}


def test_six_workers_at_once_send_each_message_once(
    app: Flask, machine: Machine, receiver: Receiver, monkeypatch
) -> None:
    monkeypatch.setattr(webhook_outbox, "MOST_TO_ONE", 2)
    admin = Admin(machine.client)
    hooks = [admin.add(f"{receiver.url}&n={n}") for n in range(4)]
    for hook in hooks:
        for _ in range(10):
            admin.call("POST", f"/{hook['id']}/test")
    gate = threading.Barrier(6)

    def work(_: int) -> int:
        with app.app_context():
            gate.wait()
            try:
                return webhook_outbox.send_webhooks()
            finally:
                db.session.remove()

    with ThreadPoolExecutor(6) as pool:
        taken = sum(pool.map(work, range(6)))
    # Who finds nothing free goes, and whoever is still at it takes the rest.
    taken += send_webhooks(app)
    assert taken == len(receiver.came) == 40
    assert len({one.headers["webhook-id"] for one in receiver.came}) == 40
    assert {(one.state, one.attempt_count) for one in rows(app)} == {(DeliveryState.SENT, 1)}
