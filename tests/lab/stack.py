"""The Procfile's processes, any number of each, and every way to end them."""

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
    """Start a command in its own session, by which family() finds all its descendants."""
    return subprocess.Popen(
        command,
        shell=isinstance(command, str),
        env=os.environ | dict(environ),
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Have the process killed with its parent: a killed test run leaves none (Linux only)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def family(leader: int) -> list[int]:
    """The ids of all running processes of a session, including those whose parent was killed."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def signal_family(leader: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a session."""
    for pid in family(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_family(process: Process) -> None:
    """SIGKILL a process and all of its descendants that are still running."""
    signal_family(process.pid, signal.SIGKILL)
    process.wait()


def kill_parent(process: Process) -> None:
    """SIGKILL only the process itself: its children keep running."""
    process.kill()
    process.wait()


class Stack:
    """Web, worker and clock as the Procfile starts them, with the services of `environ`.

    Processes are called "web", "worker", "clock", further ones "web.2" and so on.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = dict(os.environ) | {"PATH": path} | dict(environ)
        self.environ |= {"BASE_URL": self.url, "PORT": str(self.port), "HOST": "127.0.0.1"}
        # Killed processes leave temporary files behind; they are removed with this object.
        self.environ["TMPDIR"] = mkdtemp(prefix="beeline-stack-")
        weakref.finalize(self, shutil.rmtree, self.environ["TMPDIR"], ignore_errors=True)
        lines = Path("Procfile").read_text().splitlines()
        self._commands = dict(line.split(": ", 1) for line in lines)
        self.running: dict[str, Process] = {}
        self._left_behind: list[int] = []
        self._routed: dict[str, str] = {}
        self._routing = threading.Condition()

    def release(self) -> None:
        """Migrate the database and set up the bucket, as a deployment does."""
        subprocess.run(self._commands["release"], shell=True, env=self.environ, check=True)

    def start(self, name: str, **environ: str) -> None:
        """Start one process, with settings of its own if given; waits until a web is ready."""
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
        """Wait until GET /ready answers 200; AssertionError after 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{url or self.url}/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("the web process did not become ready")

    def address(self) -> str:
        """The URL of a random web process, as a platform's router picks one; waits for one."""
        with self._routing:
            if not self._routing.wait_for(lambda: self._routed, timeout=20):
                raise AssertionError("no web process takes requests")
            return random.choice(list(self._routed.values()))

    def addresses(self) -> list[str]:
        """The URLs of all web processes that accept requests."""
        with self._routing:
            return list(self._routed.values())

    def kill(self, name: str) -> None:
        """SIGKILL a process and its children."""
        self._take_out(name)
        kill_family(self.running.pop(name))

    def kill_parent(self, name: str) -> None:
        """SIGKILL only the process itself; its children run on until the stack is stopped."""
        self._take_out(name)
        process = self.running.pop(name)
        self._left_behind.append(process.pid)
        kill_parent(process)

    def shut_down(self, *names: str) -> float:
        """End processes as Heroku does; returns the seconds until the last had ended.

        They get no more requests, then SIGTERM, children too, and SIGKILL if they are still
        running after 30 seconds.
        """
        began = time.monotonic()
        for name in names:
            self._take_out(name)
        # Requests that were just routed arrive before the signal does.
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
        """SIGKILL everything; the services are discarded anyway. shut_down() ends them cleanly."""
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
