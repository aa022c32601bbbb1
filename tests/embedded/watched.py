"""A program started by a test: its output line by line, and all of its child processes."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_SECONDS = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true; AssertionError after LIMIT_SECONDS."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS:.0f} s: {what}"
        time.sleep(0.02)


class Program:
    """A Python module or script, with its output read line by line."""

    def __init__(self, *words: str | Path, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()
        self._popen = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._family: set[psutil.Process] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._popen.stdout:
            self.lines.append(line.rstrip())
            self._new.put(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line_with(self, words: str) -> str:
        """The next line, after those already returned, that contains these words."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                line = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"never said: {words}\n{self.text}") from None
            if words in line:
                return line

    def family(self) -> set[psutil.Process]:
        """All descendants, including those found by earlier calls."""
        if self._popen.poll() is None:
            self._family |= set(psutil.Process(self._popen.pid).children(recursive=True))
        return self._family

    def below(self, words: str, *, but: psutil.Process | None = None) -> psutil.Process:
        """Wait for a descendant whose command line contains these words."""
        found: list[psutil.Process] = []

        def look() -> list[psutil.Process]:
            found[:] = [one for one in self.family() if one != but and _says(one, words)]
            return found

        until(look, f"a process with {words}")
        return found[0]

    def send(self, signum: signal.Signals) -> None:
        self.family()
        self._popen.send_signal(signum)

    def exit_code(self) -> int:
        code = self._popen.wait(LIMIT_SECONDS)
        self._reader.join(LIMIT_SECONDS)
        return code

    def assert_nothing_is_left(self) -> None:
        until(lambda: not [one for one in self._family if _lives(one)], f"{self._family} to end")

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self.family()
            self._popen.kill()
            self._popen.wait()
        self._reader.join(LIMIT_SECONDS)
        self._popen.stdout.close()


def _says(process: psutil.Process, words: str) -> bool:
    try:
        line = " ".join(process.cmdline())  # Empty for a zombie.
    except psutil.Error:
        return False
    return words in line and "leash.py" not in line


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
