"""PostgreSQL reset, away, hanging, slow, and with few connections: F38, F39, F40 of docs/reliability.md."""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest

from embedded import services
from tests.lab.lab import Lab, running, services_behind_proxies
from tests.lab.people import Heard, crowd

# Shown by `pytest --log-cli-level=INFO`: the figures of docs/reliability.md.
log = logging.getLogger("figures")
READY_SECONDS = 120
# Every connection that PostgreSQL gives; small plans of hosted ones have no more.
FEW_CONNECTIONS = 20


def test_f38_every_connection_reset_again_and_again(lab: Lab) -> None:
    """As a failover does it: requests get 503 at worst, and no transfer is lost."""
    with crowd(lab.stack, pause=0.1) as people:
        for _ in range(10):
            time.sleep(0.3)
            lab.postgres.reset()
        back = lab.heal()
    people.heard.check()
    lab.truth.skip_waits()
    lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent, begun_in_vain=True)
    log.info(
        f"reset: {people.heard.statuses}, slowest {people.heard.slowest:.1f}, back {back:.1f} s"
    )


@pytest.mark.parametrize("fault", ["down", "blackhole"])
def test_f39_away_for_a_while(lab: Lab, fault: str) -> None:
    """An honest 503 meanwhile, in time; and back by itself, the workers too."""
    with crowd(lab.stack) as people:
        time.sleep(1)
        getattr(lab.postgres, fault)()
        time.sleep(9)
        lab.postgres.up()
        back = lab.heal()
    people.heard.check()
    assert people.heard.statuses[503]
    lab.truth.skip_waits()
    took = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent, begun_in_vain=True)
    log.info(
        f"{fault}: slowest {people.heard.slowest:.1f} s, back {back:.1f} s, ready {took:.1f} s"
    )


def test_f39_many_at_once_while_it_hangs(lab: Lab) -> None:
    """More people than threads: they do not wait one behind the other, each a full time-out long."""
    heard = Heard()
    lab.postgres.blackhole()
    with ThreadPoolExecutor(40) as pool:
        for _ in range(160):
            pool.submit(lab.person(heard).ask, "GET", f"/d/{'x' * 32}")
    lab.postgres.up()
    assert set(heard.statuses) == {503}
    heard.check()
    log.info(f"many: slowest {heard.slowest:.1f} s")


def test_f39_a_job_waits_longer_and_not_for_ever() -> None:
    """The only worker is in the middle of a job when PostgreSQL falls silent for good.

    No clock until then: no sweep shall be what the worker is at.
    """
    with running("web", "worker") as lab:
        person = lab.person()
        sent = person.upload(person.begin({"a": b"1"}))
        lab.storage_line.hold()
        person.complete(sent)
        lab.truth.wait_until_leased(sent, 60)
        lab.postgres.blackhole()
        lab.storage_line.up()
        time.sleep(1)
        lab.postgres.up()
        lab.stack.start("clock")
        lab.truth.skip_waits()
        took = lab.truth.wait_until_ready([sent], 120)
        log.info(f"a job cut off: ready {took:.1f} s")


def test_a_slow_postgres_slows_and_breaks_nothing(lab: Lab) -> None:
    """0.05 s for every piece of data each way: a database on the other side of an ocean."""
    lab.postgres.slow(0.05)
    with crowd(lab.stack) as people:
        time.sleep(5)
    lab.postgres.up()
    people.heard.check()
    lab.truth.skip_waits()
    lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    log.info(f"slow: {people.heard.statuses}, slowest {people.heard.slowest:.1f} s")


@contextlib.contextmanager
def _with_few_connections(place: Path) -> Iterator[dict[str, str]]:
    """The services, with PostgreSQL told once to give few connections."""
    with services.started(["postgres"], var=place) as environ:
        connection = psycopg2.connect(environ["DATABASE_URL"])
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM SET max_connections = {FEW_CONNECTIONS}")
    with services.started(["postgres", "redis", "s3"], var=place) as environ:
        yield environ


def test_f40_few_connections_are_enough_for_many_processes(tmp_path: Path) -> None:
    """3 webs, 3 workers and 60 requests at once on 20 connections: nobody is refused."""
    names = ["web", "web.2", "web.3", "worker", "worker.2", "worker.3", "clock"]
    with (
        _with_few_connections(tmp_path) as environ,
        services_behind_proxies(environ, DATABASE_POOL_SIZE="2") as lab,
    ):
        lab.stack.release()
        for name in names:
            lab.stack.start(name)
        sent = [lab.person().send() for _ in range(3)]
        with crowd(lab.stack, senders=4, watchers=0) as people, ThreadPoolExecutor(60) as pool:
            for index in range(600):
                pool.submit(lab.person(people.heard).ask, "GET", sent[index % 3].page)
        people.heard.check()
        assert set(people.heard.statuses) <= {200, 201, 202}
        lab.truth.wait_until_ready(sent + people.sent, READY_SECONDS)
        log.info(f"few: slowest {people.heard.slowest:.1f} s, {people.heard.statuses}")
