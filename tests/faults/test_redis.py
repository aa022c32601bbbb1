"""Redis refused, hanging, slow and emptied, while people send and look: see FAULTS F31, F32."""

import logging
import time
from collections.abc import Iterator

import pytest
import redis

from tests.lab.lab import Lab, running
from tests.lab.people import crowd

# Shown by `pytest --log-cli-level=INFO`: the figures of docs/reliability.md.
log = logging.getLogger("figures")
READY_SECONDS = 60


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two web processes, two workers and the clock."""
    with running("web", "web.2", "worker", "worker.2", "clock") as started:
        yield started


@pytest.fixture(autouse=True)
def _healed(lab: Lab) -> Iterator[None]:
    yield
    lab.heal()


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


def test_f31_what_is_down_is_not_hammered(lab: Lab) -> None:
    """Only the first request of each web process waits; the next ones are told at once."""
    lab.redis.blackhole()
    for url in lab.stack.addresses():
        person = lab.person(at=url)
        for _ in range(6):
            person.ask("GET", "/ready")
        waits = [answer.seconds > 1 for answer in person.heard.answers]
        # A second one when the circuit's rest was over before all were through.
        assert 1 <= sum(waits) <= 2, waits
        person.heard.check()


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
