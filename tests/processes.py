"""Processes of ours that tests start, and end again with all their children."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from embedded.ports import free_port

Process = subprocess.Popen[bytes]


def children(pid: int) -> list[int]:
    """Every descendant of a process that still runs."""
    try:
        direct = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return direct + [below for one in direct for below in children(one)]


def kill_family(process: Process) -> None:
    """SIGKILL for a process and every descendant of it."""
    if process.poll() is None:
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Stack:
    """Web, worker and clock as the Procfile starts them, against the services of `environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = dict(os.environ) | {"PATH": path} | dict(environ)
        self.environ |= {"BASE_URL": self.url, "PORT": str(self.port), "HOST": "127.0.0.1"}
        lines = Path("Procfile").read_text().splitlines()
        self._commands = dict(line.split(": ", 1) for line in lines)
        self.running: dict[str, Process] = {}

    def release(self) -> None:
        """Migrations and the bucket, as a deployment does them."""
        subprocess.run(self._commands["release"], shell=True, env=self.environ, check=True)

    def start(self, name: str) -> None:
        """Start one kind of process, and wait for the web to answer."""
        command = f"exec {self._commands[name]}"
        self.running[name] = subprocess.Popen(command, shell=True, env=self.environ)
        if name == "web":
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until GET /ready answers 200; AssertionError after 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("the web process did not become ready")

    def kill(self, name: str) -> None:
        """SIGKILL, children too."""
        kill_family(self.running.pop(name))

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to whatever has not left within 25 seconds."""
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + 25
        for process in self.running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill_family(process)
        self.running.clear()
