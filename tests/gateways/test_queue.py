"""Redis as the queue uses it: the server's certificate, a full server, job ids, RQ's timeouts."""

import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from flask import Flask
from rq import Queue

from app import config
from app.extensions import queue
from app.gateways.queue import JobQueue
from app.jobs import Job
from tests.lab.receiver import make_certificates
from tests.test_config import GOOD


@pytest.fixture
def redis_by_tls(environ: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a server that is real, and whose certificate nobody knows."""
    target = urlsplit(environ["REDIS_URL"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificates(tmp_path, "localhost") / "server.pem")

    def pass_on(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                to.sendall(piece)

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                with suppress(OSError):
                    near = context.wrap_socket(near, server_side=True)
                    far = socket.create_connection((target.hostname, target.port))
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=pass_on, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        who = target.netloc.rpartition("@")[0]
        yield f"rediss://{who}@127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_cannot_prove_who_it_is_is_used_where_an_operator_says_so(
    redis_by_tls: str,
) -> None:
    """As Heroku's is: its chain is self-signed."""
    given = GOOD | {"REDIS_URL": redis_by_tls}
    asked = JobQueue()
    asked.bind(config.load(given))
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        asked.check()
    asked.bind(config.load(given | {"REDIS_TLS_VERIFY": "false"}))
    asked.check()


def test_a_server_that_is_full_does_not_pass_for_one_that_takes_jobs(
    environ: dict[str, str],
) -> None:
    """As /ready and a release ask: it answers a ping like any other."""
    asked = JobQueue()
    asked.bind(config.load(GOOD | {"REDIS_URL": environ["REDIS_URL"]}))
    asked.check()
    server = redis.Redis.from_url(environ["REDIS_URL"])
    server.config_set("maxmemory", "1")
    try:
        assert server.ping()
        with pytest.raises(redis.RedisError, match="maxmemory"):
            asked.check()
    finally:
        server.config_set("maxmemory", "0")
    assert 0 < server.ttl("beeline:ready") <= 60


def test_f36_every_attempt_is_a_job_of_its_own(environ: dict[str, str]) -> None:
    """With the same id for both, RQ would overwrite the first job with the second."""
    filling = JobQueue()
    filling.bind(config.load(GOOD | {"REDIS_URL": environ["REDIS_URL"]}))
    work = Job("app.services.checking.process", queue=f"test-{uuid.uuid4()}")
    for attempt in (1, 2):
        filling.put(work, "some-id", attempt=attempt)
    waiting = Queue(work.queue, connection=redis.Redis.from_url(environ["REDIS_URL"]))
    assert waiting.get_job_ids() == [f"checking_process-some-id-{attempt}" for attempt in (1, 2)]
    waiting.delete()


def test_f32_a_worker_is_known_again_after_redis_has_lost_everything(app: Flask) -> None:
    worker = queue._make_worker(app, ["default", "mail"], threading.Event())
    worker.register_birth()
    try:
        worker.connection.flushdb()
        assert queue.processes() == []
        worker.heartbeat()
        [known] = queue.processes()
        assert known.queues == {"default", "mail"}
        assert known.age_seconds < 5
    finally:
        worker.register_death()
    assert queue.processes() == []


def test_f28_rq_notices_a_killed_worker_within_90_seconds(app: Flask) -> None:
    """RQ adds a minute to the interval of each heartbeat before it takes a worker or a job for dead."""
    worker = queue._make_worker(app, ["default"], threading.Event())
    assert worker.worker_ttl + 60 <= 90
    assert worker.job_monitoring_interval + 60 + worker.maintenance_interval <= 90
