"""The folder where the embedded services keep everything: secrets, lock and data."""

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SECRETS = {
    "SECRET_KEY": 48,
    "POSTGRES_PASSWORD": 24,
    "REDIS_PASSWORD": 24,
    "S3_ACCESS_KEY_ID": 12,
    "S3_SECRET_ACCESS_KEY": 30,
}
LEFTOVERS_LIMIT_SECONDS = 10.0
# The runner's own environment and what it adds to it, for commands beside it (embedded/beside.py).
ENVIRONMENT = "environment.json"


class Refused(Exception):
    """A problem that the user must know and can fix. The message says how."""


class Var:
    """One such folder. If it is created here, only its owner can read it."""

    def __init__(self, path: Path) -> None:
        """Create the folder if it is missing; raises Refused if it cannot be created or used."""
        self.path = Path(os.path.abspath(path))
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Refused(f"cannot make the folder {self.path}: {error.strerror}") from error
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise Refused(
                f"the folder {self.path} belongs to somebody else. Run this as its owner, "
                "or name another folder with BEELINE_VAR=..."
            )

    def folder(self, name: str) -> Path:
        """The path of a subfolder, created if it is missing."""
        path = self.path / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    def secrets(self) -> dict[str, str]:
        """Random secrets, created once and kept in a file that only its owner can read."""
        path = self.path / "secrets.json"
        try:
            known: dict[str, str] = json.loads(path.read_text())
        except FileNotFoundError:
            known = {}
        except (OSError, ValueError) as error:
            raise Refused(f"{path} cannot be read: {error}") from error
        missing = SECRETS.keys() - known.keys()
        if missing:
            # Hexadecimal, because some of these become part of a URL.
            known |= {name: secrets.token_hex(SECRETS[name]) for name in sorted(missing)}
            write_private(path, json.dumps(known, indent=2) + "\n")
        return known

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Lock this folder and yield the lock's file descriptor, for processes to hold it as well.

        Raises Refused if another process holds the lock. What a killed runner left behind is about
        to end and is waited for.
        """
        path = self.path / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd, path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield fd
        finally:
            os.close(fd)

    def _lock(self, fd: int, path: Path) -> None:
        deadline = time.monotonic() + LEFTOVERS_LIMIT_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = path.read_text().strip()
                if _is_alive(holder) or time.monotonic() > deadline:
                    raise Refused(
                        f"Beeline already runs on {self.path} (process {holder or 'unknown'}). "
                        "Stop it first, or name another folder with BEELINE_VAR=..."
                    ) from None
                time.sleep(0.05)
            else:
                return


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(name, path)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    # A zombie, killed but not yet reaped by its parent, no longer holds the lock.
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
