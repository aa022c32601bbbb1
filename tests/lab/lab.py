"""A whole Beeline with a fault-injecting proxy before each of its services."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from embedded import services
from tests.conftest import SECRET
from tests.lab.people import Heard, Person
from tests.lab.proxy import Proxy
from tests.lab.s3faults import S3Faults
from tests.lab.stack import Stack
from tests.lab.truth import Truth

# All people of a test share one IP address, and send more than any real person would.
GENEROUS = {
    "MAX_OPEN_TRANSFERS_PER_ADDRESS": "100000",
    "MAX_CREATES_PER_HOUR": "1000000",
    "MAX_UNKNOWN_PER_MINUTE": "1000000",
}


@dataclass
class Lab:
    """The stack, the proxies before its services, and direct access to the services.

    Browsers reach storage directly; the server's own calls pass `storage_line`, then `storage`.
    """

    environ: Mapping[str, str]
    postgres: Proxy
    redis: Proxy
    storage: S3Faults
    storage_line: Proxy
    stack: Stack
    truth: Truth

    def person(self, heard: Heard | None = None, at: str | None = None) -> Person:
        """A person who uses it: any web process, or the one `at` a URL."""
        return Person(self.stack, heard, at)

    def heal(self) -> float:
        """Make everything work again; the seconds until every web process is ready."""
        for proxy in (self.postgres, self.redis, self.storage_line):
            proxy.up()
        self.storage.heal()
        began = time.monotonic()
        for url in self.stack.addresses():
            self.stack.wait_until_ready(url)
        return time.monotonic() - began


@contextlib.contextmanager
def services_behind_proxies(environ: Mapping[str, str], **settings: str) -> Iterator[Lab]:
    """A lab on the given services; its stack is not started yet."""
    with contextlib.ExitStack() as open_:
        postgres = open_.enter_context(Proxy.before(environ["DATABASE_URL"]))
        redis = open_.enter_context(Proxy.before(environ["REDIS_URL"]))
        storage = open_.enter_context(S3Faults(environ["S3_ENDPOINT_URL"]))
        storage_line = open_.enter_context(Proxy.before(storage.url))
        given = {
            **environ,
            "SECRET_KEY": SECRET,
            "LOG_LEVEL": "ERROR",
            "WEB_CONCURRENCY": "1",
            "DATABASE_URL": postgres.instead(environ["DATABASE_URL"]),
            "REDIS_URL": redis.instead(environ["REDIS_URL"]),
            "S3_ENDPOINT_URL": storage_line.instead(storage.url),
            "S3_PUBLIC_ENDPOINT_URL": environ["S3_ENDPOINT_URL"],
            # So that even the smallest file is a multipart upload, as a big one is.
            "S3_CONDITIONAL_WRITES": "false",
            **GENEROUS,
            **settings,
        }
        stack = Stack(given)
        open_.callback(stack.stop)
        yield Lab(environ, postgres, redis, storage, storage_line, stack, Truth(environ))


@contextlib.contextmanager
def running(*names: str, **settings: str) -> Iterator[Lab]:
    """A lab on its own services, with these processes: "web", "web.2", "worker", "clock"."""
    with (
        services.started(["postgres", "redis", "s3"]) as environ,
        services_behind_proxies(environ, **settings) as lab,
    ):
        lab.stack.release()
        for name in names:
            lab.stack.start(name)
        yield lab
