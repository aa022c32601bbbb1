"""The Procfile's processes, as many of each as a test wants, and every way to end them."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from embedded.ports import free_port

Process = subprocess.Popen[bytes]
# How long Heroku waits between SIGTERM and SIGKILL.
HEROKU_SECONDS = 30
_PR_SET_PDEATHSIG = 1


def begin(command: str | list[str], environ: Mapping[str, str]) -> Process:
    """Start a command in a session of its own, by which its family is known for ever."""
    return subprocess.Popen(
        command,
        shell=isinstance(command, str),
        env=os.environ | dict(environ),
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """A test run that is killed leaves nobody behind (Linux; elsewhere it does)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def family(leader: int) -> list[int]:
    """Every running process of a session: also those whose parent was killed."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def signal_family(leader: int, number: signal.Signals) -> None:
    """Send a signal to all of them."""
    for pid in family(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_family(process: Process) -> None:
    """SIGKILL for a process and all that it started, whoever is still there."""
    signal_family(process.pid, signal.SIGKILL)
    process.wait()


def kill_parent(process: Process) -> None:
    """SIGKILL for the process alone: what it started goes on without it."""
    process.kill()
    process.wait()


class Stack:
    """Web, worker and clock as the Procfile starts them, against the services of `environ`.

    Processes are known as "web", "worker", "clock", further ones as "web.2" and so on.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = dict(os.environ) | {"PATH": path} | dict(environ)
        self.environ |= {"BASE_URL": self.url, "PORT": str(self.port), "HOST": "127.0.0.1"}
        # What is killed leaves its temporary files behind; they go when this object does.
        self.environ["TMPDIR"] = mkdtemp(prefix="beeline-stack-")
        weakref.finalize(self, shutil.rmtree, self.environ["TMPDIR"], ignore_errors=True)
        lines = Path("Procfile").read_text().splitlines()
        self._commands = dict(line.split(": ", 1) for line in lines)
        self.running: dict[str, Process] = {}
        self._left_behind: list[int] = []
        self._routed: dict[str, str] = {}
        self._routing = threading.Condition()

    def release(self) -> None:
        """Migrations and the bucket, as a deployment does them."""
        subprocess.run(self._commands["release"], shell=True, env=self.environ, check=True)

    def start(self, name: str, **environ: str) -> None:
        """Start one process, with settings of its own if need be; wait for a web to answer."""
        kind = name.partition(".")[0]
        port = self.port
        if kind == "web" and (name != "web" or "web" in self._routed):
            port = free_port()
        command = f"exec {self._commands[kind]}"
        self.running[name] = begin(command, self.environ | {"PORT": str(port)} | environ)
        if kind == "web":
            url = f"http://127.0.0.1:{port}"
            self.wait_until_ready(url)
            with self._routing:
                self._routed[name] = url
                self._routing.notify_all()

    def wait_until_ready(self, url: str | None = None) -> None:
        """Until GET /ready answers 200; AssertionError after 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{url or self.url}/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("the web process did not become ready")

    def address(self) -> str:
        """Any web process that takes requests, as a platform's router picks one; waits for one."""
        with self._routing:
            if not self._routing.wait_for(lambda: self._routed, timeout=20):
                raise AssertionError("no web process takes requests")
            return random.choice(list(self._routed.values()))

    def addresses(self) -> list[str]:
        """Every web process that takes requests."""
        with self._routing:
            return list(self._routed.values())

    def kill(self, name: str) -> None:
        """SIGKILL, children too."""
        self._take_out(name)
        kill_family(self.running.pop(name))

    def kill_parent(self, name: str) -> None:
        """SIGKILL for the process alone; what it started goes on, until the stack is stopped."""
        self._take_out(name)
        process = self.running.pop(name)
        self._left_behind.append(process.pid)
        kill_parent(process)

    def shut_down(self, *names: str) -> float:
        """End them as Heroku does; the seconds until the last had left.

        They get no more requests, SIGTERM goes to all of their processes, children too, and
        SIGKILL to those that are still there after 30 seconds.
        """
        began = time.monotonic()
        for name in names:
            self._take_out(name)
        # What the router has just sent arrives before the signal does.
        time.sleep(0.1)
        for name in names:
            signal_family(self.running[name].pid, signal.SIGTERM)
        for name in names:
            process = self.running.pop(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, began + HEROKU_SECONDS - time.monotonic()))
            if family(process.pid):
                time.sleep(0.2)
            kill_family(process)
        return time.monotonic() - began

    def stop(self) -> None:
        """SIGKILL to all: what they work on goes with the services. How they leave is shut_down's."""
        for process in self.running.values():
            kill_family(process)
        for leader in self._left_behind:
            signal_family(leader, signal.SIGKILL)
        self.running.clear()
        self._left_behind.clear()
        self._routed.clear()

    def _take_out(self, name: str) -> None:
        with self._routing:
            self._routed.pop(name, None)
