"""One process on a leash: start it, read its output, stop it, and be sure that it is gone."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

LEASH = Path(__file__).with_name("leash.py")
Output = Callable[[str], None]


@dataclass
class Command:
    """What to start, and how."""

    words: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)  # on top of our own environment
    user: tuple[int, int] | None = None  # uid and gid, if not ours
    fds: tuple[int, ...] = ()  # file descriptors to be inherited
    stop_signal: signal.Signals = signal.SIGTERM


class Process:
    """A running command. None of its processes outlives ours, however ours ends."""

    def __init__(
        self,
        command: Command,
        *,
        output: Output | IO[bytes],
        cwd: Path | None = None,
        kept: tuple[int, ...] = (),
    ) -> None:
        """Start it. `output` is called with each line, or is a file.

        `kept` are file descriptors, such as a lock's, that stay open until all of it has ended.
        """
        self.command = command
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", LEASH, *_options(command, kept), "--", *command.words],
            env={**os.environ, **command.env},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if callable(output) else output,
            stderr=subprocess.STDOUT,
            pass_fds=(*command.fds, *kept),
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._reader: threading.Thread | None = None
        if callable(output):
            self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
            self._reader.start()

    def _read(self, output: Output) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as lines:
            for line in lines:
                output(line.decode(errors="replace").rstrip("\r\n"))

    def exit_code(self) -> int | None:
        """The exit code, 128 + signal if a signal ended it, or None while it runs."""
        code = self._popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def stop(self) -> None:
        """Ask it to end, and return immediately."""
        if self.exit_code() is None:
            self._popen.send_signal(self.command.stop_signal)

    def wait(self, limit_seconds: float) -> bool:
        """Wait until all of it has ended; False if it has not within the limit."""
        try:
            self._popen.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def kill(self) -> None:
        """Kill it and everything below it now."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        if not self.wait(limit_seconds=6):
            self._popen.kill()
            self.wait(limit_seconds=6)

    def _close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        if self._reader:
            self._reader.join(timeout=1)


def _options(command: Command, kept: tuple[int, ...]) -> list[str]:
    options = [word for fd in kept for word in ("--keep", str(fd))]
    if command.user:
        options += ["--user", f"{command.user[0]}:{command.user[1]}"]
    return options
