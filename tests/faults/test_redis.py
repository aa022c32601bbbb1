"""Redis refused, hanging, slow and emptied, while people send and look: F31, F32."""

import logging
import time

import pytest
import redis

from app.gateways.queue import REST_SECONDS
from tests.lab.lab import Lab, running
from tests.lab.people import crowd

# Shown by `pytest --log-cli-level=INFO`: the figures of docs/reliability.md.
log = logging.getLogger("figures")
READY_SECONDS = 120


@pytest.mark.parametrize("fault", ["down", "blackhole"])
def test_f31_without_redis_everything_is_accepted_and_ready_soon_after(
    lab: Lab, fault: str
) -> None:
    """Nobody is refused: the rows are the truth, and the sweep repeats what was not queued."""
    with crowd(lab.stack) as people:
        time.sleep(1)
        getattr(lab.redis, fault)()
        before = len(people.sent)
        time.sleep(8)
        lab.redis.up()
        back = lab.heal()
    assert len(people.sent) > before
    people.heard.check()
    assert 503 not in people.heard.statuses
    # The sweep leaves a reminder that may still be heard alone for a while: not the point here.
    lab.truth.skip_waits()
    took = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent)
    log.info(
        f"{fault}: slowest {people.heard.slowest:.1f} s, back {back:.1f} s, ready {took:.1f} s"
    )


def test_f31_a_slow_redis_slows_and_breaks_nothing(lab: Lab) -> None:
    """0.4 s for every piece of data each way: longer than any round trip around the world."""
    lab.redis.slow(0.4)
    with crowd(lab.stack) as people:
        time.sleep(6)
    lab.redis.up()
    people.heard.check()
    lab.truth.skip_waits()
    lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    log.info(f"slow: slowest {people.heard.slowest:.1f} s")


def test_f31_whoever_asks_meanwhile_does_not_wait() -> None:
    """The first request waits, and one whenever the rest is over: not each of them.

    For the queue and for the limits alike, which is why every one of these asks Redis.
    """
    with running("web") as lab:
        person = lab.person()
        lab.redis.blackhole()
        began = time.monotonic()
        for _ in range(8):
            person.ask("GET", f"/d/{'x' * 32}")
            person.begin({"a": b"1"})
            person.ask("GET", "/ready")
        rests = (time.monotonic() - began) / REST_SECONDS
        # Twice each time: the queue's connection may only have been closed while it was idle.
        assert 1 <= lab.redis.waits <= 2 * (1 + rests)
        person.heard.check(404)
        log.info(f"{len(person.heard.answers)} requests, {lab.redis.waits} waits")


def test_f31_nothing_answers_at_all_and_ready_says_so_in_time(lab: Lab) -> None:
    """PostgreSQL, Redis and storage hang at once: each is waited for, but not one after the other."""
    lab.postgres.blackhole()
    lab.redis.blackhole()
    lab.storage_line.blackhole()
    person = lab.person()
    for _ in range(4):
        answer = person.ask("GET", "/ready")
        assert answer.status == 503
        silent = {name for name, word in answer.json["checks"].items() if word == "not answering"}
        assert silent == {"database", "queue", "storage"}
    person.heard.check()
    log.info(f"nothing answers: slowest {person.heard.slowest:.1f} s")
    log.info(f"back {lab.heal():.1f} s")


def test_f32_redis_loses_everything_again_and_again(lab: Lab) -> None:
    """FLUSHALL in the middle of work, as an eviction or a restart without a disk would do."""
    client = redis.Redis.from_url(lab.environ["REDIS_URL"])
    with crowd(lab.stack) as people:
        deadline = time.monotonic() + 40
        while len(people.sent) < 8 and time.monotonic() < deadline:
            time.sleep(0.3)
            client.flushall()
    people.heard.check()
    assert 503 not in people.heard.statuses
    assert people.sent
    lab.truth.skip_waits()
    took = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent)
    log.info(f"flushed: ready {took:.1f} s")
    client.close()
