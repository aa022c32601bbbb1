"""A real worker and clock as processes of their own, killed and stopped as an operator's would be."""

import json
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask

import worker
from app import clock, jobs
from app.extensions import queue
from app.gateways.queue import JobQueue
from app.models import State
from tests.factories import Sender, Sent
from tests.lab.proxy import Proxy
from tests.lab.stack import Process, begin, family, kill_family, kill_parent, signal_family

pytestmark = pytest.mark.real_commits
Start = Callable[..., Process]


@pytest.fixture
def storage_behind(environ: dict[str, str]) -> Iterator[Proxy]:
    """What the worker takes for storage, and the test can make hang."""
    with Proxy.before(environ["S3_ENDPOINT_URL"]) as proxy:
        yield proxy


@pytest.fixture
def start(
    app: Flask, environ: dict[str, str], storage_behind: Proxy, monkeypatch
) -> Iterator[Start]:
    """Start `worker.py` with these words; whatever still runs at the end is killed."""
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()
    monkeypatch.setattr(queue, "put", lambda *given, **more: JobQueue.put(queue, *given, **more))
    given = environ | {"S3_ENDPOINT_URL": storage_behind.instead(environ["S3_ENDPOINT_URL"])}
    running: list[Process] = []

    def run(*words: str) -> Process:
        running.append(begin([sys.executable, "worker.py", *words], given))
        return running[-1]

    yield run
    for process in running:
        kill_family(process)


def state_within(sent: Sent, state: State, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if sent.row().state is state:
            return True
        time.sleep(0.1)
    return False


def test_f37_a_worker_takes_the_job_and_its_arguments_are_plain_json(
    start: Start, sender: Sender, environ: dict[str, str]
) -> None:
    sent = sender.create({"a": b"1", "b/empty": b""}).upload().complete()
    client = redis.Redis.from_url(environ["REDIS_URL"])
    (key,) = client.keys("rq:job:*")
    held = json.loads(zlib.decompress(client.hget(key, "data")))
    assert held == ["app.services.checking.process", None, [str(sent.id)], {}]
    start()
    assert state_within(sent, State.READY, 20)


@pytest.mark.parametrize("whole_family", [True, False])
def test_f28_f29_a_worker_killed_in_the_middle_loses_nothing(
    start: Start, sender: Sender, storage_behind: Proxy, whole_family: bool
) -> None:
    """With only the parent killed its child goes on, beside the worker that takes over."""
    sent = sender.create({f"f{n}": b"x" for n in range(5)}).upload().complete()
    storage_behind.hold()
    worker = start()
    assert storage_behind.held.wait(20)
    assert sent.row().lease_token is not None
    if whole_family:
        kill_family(worker)
        # Nobody renews it; that it lapses by itself only takes its time.
        sent.set(lease_until=clock.now())
    else:
        kill_parent(worker)
    storage_behind.up()
    start()
    start("clock")
    assert state_within(sent, State.READY, 60)


def test_f32_everything_queued_can_be_lost(
    start: Start, sender: Sender, environ: dict[str, str]
) -> None:
    sent = sender.create().upload().complete()
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()
    start()
    start("clock")
    start("clock")
    assert state_within(sent, State.READY, 60)


def test_f30_sigterm_in_the_middle_of_a_job_hands_it_over(
    start: Start, sender: Sender, storage_behind: Proxy
) -> None:
    """Two batches of files: told to stop in the first, the rest is for another worker."""
    sent = sender.create({f"f{n}": b"x" for n in range(40)}).upload().complete()
    storage_behind.hold()
    worker = start()
    assert storage_behind.held.wait(20)
    began = time.monotonic()
    for _ in range(3):  # Heroku repeats it, and sends it to the children too
        signal_family(worker.pid, signal.SIGTERM)
        time.sleep(0.1)
    time.sleep(1)
    assert worker.poll() is None, "it left its child alone"
    storage_behind.up()
    worker.wait(25)
    assert time.monotonic() - began < 25
    # It waited for its child, which handed over in peace.
    assert family(worker.pid) == []
    assert sent.row().state is State.PROCESSING
    start()
    assert state_within(sent, State.READY, 10)


def test_an_idle_worker_and_a_clock_leave_at_once(start: Start, environ: dict[str, str]) -> None:
    client = redis.Redis.from_url(environ["REDIS_URL"])
    started = [start(), start("clock"), start("sweep")]

    def idle_workers() -> int:
        return [client.hget(key, "state") for key in client.smembers("rq:workers")].count(b"idle")

    while idle_workers() < 2 or not client.keys("beeline:tick:*"):
        assert [process.poll() for process in started] == [None, None, None]
        time.sleep(0.1)
    for process in started:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(10) for process in started] == [0, 0, 0]


# A worker that stops in seconds: `python worker.py sweep` takes longer for the same.
IMPATIENT = (
    'import worker; from app.gateways import queue; queue.STOP_SECONDS = 1; worker.main(["sweep"])'
)


@pytest.mark.usefixtures("start")
def test_f30_f31_a_queue_that_hangs_keeps_no_worker_that_is_told_to_leave(
    environ: dict[str, str],
) -> None:
    """Nor does it end anything else, such as what the same shell has started."""
    client = redis.Redis.from_url(environ["REDIS_URL"])
    with Proxy.before(environ["REDIS_URL"]) as proxy:
        given = environ | {"REDIS_URL": proxy.instead(environ["REDIS_URL"])}
        shell = begin(f"sleep 99 & {sys.executable} -c '{IMPATIENT}'; wait", given)
        try:
            while not client.smembers("rq:workers"):
                assert shell.poll() is None
                time.sleep(0.1)
            time.sleep(1)
            leaving, beside = sorted(set(family(shell.pid)) - {shell.pid}, key=_is_sleep)
            proxy.blackhole()
            os.kill(leaving, signal.SIGTERM)
            began = time.monotonic()
            while leaving in family(shell.pid):
                assert time.monotonic() - began < 15
                time.sleep(0.1)
            assert set(family(shell.pid)) == {shell.pid, beside}
        finally:
            kill_family(shell)


def _is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def test_f36_a_job_can_be_queued_again_after_it_failed(start: Start, app: Flask) -> None:
    """Nothing in Redis keeps a second reminder of the same work from coming."""
    with app.app_context():
        for _ in range(2):
            jobs.PROCESS_TRANSFER.later("not a uuid")  # type: ignore[arg-type]
            jobs.EXPIRE_DUE.later()
    assert queue._redis.llen("rq:queue:default") == 2


def test_f39_a_job_that_failed_soon_makes_room(
    start: Start, app: Flask, environ: dict[str, str]
) -> None:
    """While the database is away hundreds of an hour fail, and Redis may be small."""
    client = redis.Redis.from_url(environ["REDIS_URL"])
    with app.app_context():
        jobs.PROCESS_TRANSFER.later("not a uuid")  # type: ignore[arg-type]
    start()
    deadline = time.monotonic() + 20
    while not client.zcard("rq:failed:default"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kept = [*client.keys("rq:job:*"), *client.keys("rq:results:*")]
    assert kept
    assert all(0 < client.ttl(key) <= 3600 for key in kept)


def test_one_tick_of_two_clocks_puts_one_job(app: Flask, environ: dict[str, str], queued) -> None:
    redis.Redis.from_url(environ["REDIS_URL"]).flushall()
    assert [queue.put_once(jobs.EXPIRE_DUE, 7, 30) for _ in range(3)] == [True, False, False]
    assert queue.put_once(jobs.EXPIRE_DUE, 8, 30)
    assert queued == [("upkeep.expire_due",)] * 2


def test_a_clock_without_redis_says_so_once_a_second_and_goes_on(
    app: Flask, monkeypatch, caplog
) -> None:
    stop = threading.Event()
    rounds: list[float] = []
    put: list[jobs.Job] = []

    def wait(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            stop.set()

    def put_once(job: jobs.Job, slot: int, seconds: int) -> None:
        if len(rounds) < 2:
            raise redis.ConnectionError("away")
        put.append(job)

    monkeypatch.setattr(stop, "wait", wait)
    monkeypatch.setattr(queue, "put_once", put_once)
    worker.clock(stop)
    assert put == [job for _, job in jobs.SCHEDULE]
    assert [one.getMessage() for one in caplog.records] == [
        "could not queue upkeep.requeue_stuck: away"
    ] * 2


@pytest.mark.usefixtures("start")
def test_a_tick_waits_once_however_long_nobody_takes_it(app: Flask) -> None:
    assert [queue.put_once(jobs.EXPIRE_DUE, slot, 30) for slot in (1, 2, 3)] == [True, False, False]
    assert queue.put_once(jobs.DELETE_EXPIRED, 1, 300)
    waiting = queue._queue("sweep")
    assert len(waiting) == 2
    waiting.pop_job_id()
    assert queue.put_once(jobs.EXPIRE_DUE, 4, 30)


@pytest.mark.parametrize(
    ("words", "unknown"),
    [("preview", "preview"), ("sweep mails default", "mails"), ("clock sqs", "clock")],
)
def test_a_queue_that_is_not_known_is_refused_and_not_waited_at(
    words: str, unknown: str, capsys
) -> None:
    with pytest.raises(SystemExit) as ended:
        worker.main(words.split())
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"There is no queue {unknown}." in told
    assert ", ".join(jobs.QUEUES) in told
