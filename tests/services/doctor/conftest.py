"""Redis and a bucket that a test of `flask doctor` may spoil."""

import secrets
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask

from app import config
from app.extensions import events, storage
from app.services import bucket_rules

Configure = Callable[..., None]


@pytest.fixture
def server(environ: dict[str, str]) -> Iterator[redis.Redis]:
    """Redis, empty before and after, with its own settings afterwards."""
    client = redis.Redis.from_url(environ["REDIS_URL"])
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    client.replicaof("NO", "ONE")
    client.flushall()
    client.close()


@pytest.fixture
def bound(app: Flask, configure: Configure) -> Iterator[None]:
    """The gateways have their own settings again after the test."""
    before = config.current()
    yield
    storage.bind(before)
    events.bind(before)


@pytest.fixture
def bucket(app: Flask, inside: None, configure: Configure, bound: None) -> str:
    """A bucket of the test's own, set up as a release does; its name."""
    name = f"doctor-{secrets.token_hex(4)}"
    configure(s3_bucket=name)
    storage.bind(config.current())
    storage.setup(config.settings.origins, bucket_rules.ABORT_AFTER_DAYS)
    return name
