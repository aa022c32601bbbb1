"""Restarts under load, and kill -9 again and again: F28, F29, F30 of docs/reliability.md."""

import logging
import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab, running
from tests.lab.people import Heard, crowd
from tests.lab.s3faults import late
from tests.lab.stack import family

# Shown by `pytest --log-cli-level=INFO`: the figures of docs/reliability.md.
log = logging.getLogger("figures")
KILLS = int(os.environ.get("KILLS", "6"))
BACKLOG = 12
SEED = int(os.environ.get("SEED", "1"))
# Heroku's SIGKILL comes after 30 seconds; nobody of ours needs it.
LEAVE_SECONDS = 25
READY_SECONDS = 120


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two web processes, two workers and the clock."""
    with running("web", "web.2", "worker", "worker.2", "clock") as started:
        yield started


@pytest.fixture(autouse=True)
def _healed(lab: Lab) -> Iterator[None]:
    yield
    lab.heal()


def test_f30_a_restart_of_everything_fails_nobody(lab: Lab) -> None:
    """SIGTERM to every process of every dyno, while people upload and look and checks are running.

    As on Heroku the new ones start, the router turns to them, and only then the old ones are told.
    """
    lab.storage.plan("CompleteMultipartUpload", late(0.2))
    old = list(lab.stack.running)
    with crowd(lab.stack, senders=2, watchers=6, pause=0.4) as people:
        time.sleep(2)
        for name in ("web.3", "web.4", "worker.3", "worker.4", "clock.2"):
            lab.stack.start(name)
        took = lab.stack.shut_down(*old)
        time.sleep(1)
    assert took < LEAVE_SECONDS
    people.heard.check()
    assert set(people.heard.statuses) <= {200, 201, 202}, people.heard.statuses
    ready = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent)
    log.info(f"{len(people.heard.answers)} requests, left in {took:.1f} s, ready {ready:.1f} s")


def test_f30_without_a_moment_between_the_old_and_the_new(lab: Lab) -> None:
    """A requests that is running is answered, however slow; and whoever comes next just waits."""
    webs = [name for name in lab.stack.running if name.startswith("web")]
    heard = Heard()
    lab.postgres.slow(0.3)
    asking = [
        threading.Thread(target=lab.person(heard).ask, args=("GET", f"/d/{'x' * 32}"))
        for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    time.sleep(0.3)
    took = lab.stack.shut_down(*webs)
    lab.postgres.up()
    for thread in asking:
        thread.join()
    assert heard.statuses == {404: 6}
    assert took < LEAVE_SECONDS
    for name in ("web.5", "web.6"):
        lab.stack.start(name)


def _at_work(lab: Lab) -> str:
    """A worker that has a job at hand, while somebody holds a transfer's lease."""
    deadline = time.monotonic() + 60
    while True:
        busy = [
            name
            for name, process in lab.stack.running.items()
            if name.startswith("worker") and len(family(process.pid)) > 1
        ]
        held = lab.truth.rows("SELECT 1 FROM transfers WHERE lease_token IS NOT NULL")
        if busy and held:
            return busy[0]
        assert time.monotonic() < deadline, "nobody works"
        time.sleep(0.02)


def test_f28_kill_9_again_and_again(lab: Lab) -> None:
    """Half of the time only the parent, so that its child goes on beside whoever takes over.

    KILLS and SEED in the environment say how often and how; a failure names them. No more than
    BACKLOG wait at a time, so that what is left after the last kill tells of the kills.
    """
    chance = random.Random(SEED)
    lab.storage.plan("CompleteMultipartUpload", late(0.7))
    with crowd(lab.stack, senders=2, watchers=1, pause=0.8) as people:
        people.may_send = lambda: lab.truth.states(people.sent)["PROCESSING"] < BACKLOG
        for number in range(KILLS):
            time.sleep(chance.uniform(0, 0.7))
            victim = _at_work(lab)
            if number % 2:
                lab.stack.kill(victim)
            else:
                lab.stack.kill_parent(victim)
            lab.stack.start(f"worker.{100 + number}")
    people.heard.check()
    took = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent)
    log.info(f"{KILLS} kills, {len(people.sent)} transfers, seed {SEED}: ready {took:.1f} s")
