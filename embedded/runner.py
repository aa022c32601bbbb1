"""`make run`: start everything in order, keep it running, stop it cleanly.

    python -m embedded.runner

Services come first, then the Procfile's release line, then its other lines. Whatever ends is
restarted. On Ctrl-C or SIGTERM the application stops before the services it uses; a second signal
skips the wait for the application. If the runner itself is killed, every process ends with it (see
leash.py).

Read from the environment: PORT, BEELINE_VAR, and the addresses of real services. A service whose
address is set is not started.
"""

import argparse
import contextlib
import json
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from embedded import leash, services
from embedded.parent import Parent
from embedded.ports import is_free, reserve, status_of, usual_or_free
from embedded.process import Command, Process
from embedded.services import Service
from embedded.var import ENVIRONMENT, Refused, Var, write_private

ROOT = Path(__file__).resolve().parent.parent
USUAL_WEB_PORT = 8000
RELEASE = "release"
WEB = "web"
LOOK_EVERY_SECONDS = 0.1
READY_LIMIT_SECONDS = 90.0
APP_STOP_LIMIT_SECONDS = 25.0
SERVICE_STOP_LIMIT_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 20.0  # Running this long resets the restart backoff.
ECHO_SECONDS = 0.7
COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)


class StopAsked(Exception):
    """A signal or the end of our parent asks us to stop."""


class Voice:
    """Prints whole lines to standard output, each labelled with the process that wrote it."""

    def __init__(self) -> None:
        """Use colours on a terminal, unless NO_COLOR is set."""
        self._lock = threading.Lock()
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._names: list[str] = []

    def say(self, line: str, name: str = "runner") -> None:
        """Print one line. A closed standard output is ignored."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(f"{self._label(name)} {line}", flush=True)

    def announce(self, line: str) -> None:
        """Print a line without a label, for people and scripts that wait for it."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(line, flush=True)

    def of(self, name: str) -> Callable[[str], None]:
        """A function that prints the lines of one process."""
        return lambda line: self.say(line, name)

    def _label(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
        label = f"{name:<8} |"
        if not self._coloured:
            return label
        return f"\033[{COLOURS[self._names.index(name) % len(COLOURS)]}m{label}\033[0m"


class Bell:
    """Wakes the main loop on a signal. The handlers only count; the loop does the work."""

    def __init__(self) -> None:
        """Listen for SIGCHLD and for the signals that stop us."""
        self.rung = 0
        self._last_ring = 0.0
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # If SIGHUP is ignored already, nohup did that: it stays ignored.
            if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._ring)

    def _ring(self, *_: object) -> None:
        # One request may arrive twice: sent to the process group, and passed on by `make`.
        now = time.monotonic()
        if now - self._last_ring > ECHO_SECONDS:
            self.rung += 1
        self._last_ring = now

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives, at most this many seconds."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)


@dataclass
class Line:
    """One line of a Procfile."""

    name: str
    command: str

    def words(self) -> list[str]:
        """The command to start. A simple command replaces the shell, so that signals reach it."""
        simple = not re.search(r"&&|\|\||[;|&]", self.command)
        return ["sh", "-c", f"exec {self.command}" if simple else self.command]


def read_procfile(path: Path) -> list[Line]:
    """The Procfile's lines in order; raises Refused if it cannot be read."""
    try:
        text = path.read_text()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    found = re.findall(r"^([A-Za-z0-9_-]+):[ \t]*(\S.*)$", text, flags=re.MULTILINE)
    return [Line(name, command.strip()) for name, command in found]


class Kept:
    """One process that is restarted, with backoff, whenever it ends."""

    def __init__(self, name: str, start: Callable[[], Process], voice: Voice) -> None:
        """`start` is called for every start."""
        self.name = name
        self._start = start
        self._voice = voice
        self._pause = FIRST_PAUSE_SECONDS
        self._due: float | None = None
        self._began = 0.0
        self.process: Process | None = None

    def begin(self) -> Process:
        """Start it now and return the process."""
        self._due = None
        self._began = time.monotonic()
        self.process = self._start()
        return self.process

    def look(self) -> bool:
        """Notice its end, and restart it once its backoff is over; True if it has just ended."""
        if self._due is not None:
            if time.monotonic() >= self._due:
                self._begin_again()
            return False
        if self.process is None or self.process.exit_code() is None:
            return False
        if time.monotonic() - self._began > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        how = describe(self.process.exit_code())
        self._voice.say(f"{self.name} {how}; starting it again in {self._pause:.1f} s")
        self.process.kill()
        self._due = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True

    def _begin_again(self) -> None:
        try:
            self.begin()
        except (Refused, OSError) as error:
            self._voice.say(f"{self.name} could not be started: {error}")
            self._due = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    @property
    def runs(self) -> bool:
        """Whether the process is running now."""
        return self.process is not None and self.process.exit_code() is None


def describe(code: int | None) -> str:
    """In words, how a process with this exit code ended."""
    if code is not None and code > 128:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(code - 128).name}"
    return f"ended with code {code}"


class Runner:
    """Everything that runs, from the lock on the data to the last process."""

    def __init__(
        self, environ: Mapping[str, str], procfile: Path, *, follows_parent: bool = False
    ) -> None:
        """Start nothing yet. With `follows_parent`, `run` ends when our parent process ends."""
        self._environ = environ
        self._lines = read_procfile(procfile)
        self._cwd = procfile.resolve().parent
        self._parent = Parent() if follows_parent else None
        self._voice = Voice()
        self._bell = Bell()
        self._services: list[Service] = []
        self._below: list[Kept] = []  # The services' processes.
        self._apps: list[Kept] = []  # The application's processes.
        self._env: dict[str, str] = {}
        self._lock = -1

    def run(self) -> None:
        """Start, keep running until asked to stop, stop. Raises Refused if it cannot start."""
        # If a leash itself is killed, its children become ours and not init's.
        leash.prctl(leash.PR_SET_CHILD_SUBREAPER, 1)
        var = Var(Path(self._environ.get("BEELINE_VAR") or "var"))
        with var.locked() as self._lock:
            try:
                self._start(var)
                while True:
                    self._turn()
            except StopAsked:
                pass
            finally:
                (var.path / ENVIRONMENT).unlink(missing_ok=True)
                self._stop()

    def _start(self, var: Var) -> None:
        asked = asked_port(self._environ)
        every = [kind(var) for kind in services.ALL]
        self._services = [one for one in every if not one.is_replaced(self._environ)]
        services.choose_usual_ports(self._services)
        for service in self._services:
            self._start_service(service)
        port = asked or usual_or_free(USUAL_WEB_PORT)
        self._env = self._app_environment(var, port)
        told = {"given": dict(self._environ), "own": self._env}
        write_private(var.path / ENVIRONMENT, json.dumps(told))
        self._release()
        for line in self._lines:
            if line.name != RELEASE:
                self._start_app(line)
        self._announce_when_ready(port)

    def _start_service(self, service: Service) -> None:
        kept = Kept(service.name, lambda: self._spawn_service(service), self._voice)
        self._below.append(kept)
        for _ in range(services.TRIES):
            self._voice.say(f"starting {service.name} on port {', '.join(map(str, service.ports))}")
            process = kept.begin()
            if services.wait_until_ready(service, process, self._pause):
                return
            if all(map(is_free, service.ports)):
                break
            # Another process took a port first, for instance another Beeline starting.
            services.choose_usual_ports([service])
        raise Refused(f"{service.name} {describe(process.exit_code())} while starting")

    def _spawn_service(self, service: Service) -> Process:
        service.prepare()
        return self._spawn(service.command(), service.name, ROOT)

    def _spawn(self, command: Command, name: str, cwd: Path) -> Process:
        return Process(command, output=self._voice.of(name), cwd=cwd, kept=(self._lock,))

    def _app_environment(self, var: Var, port: int) -> dict[str, str]:
        """The application's environment. SECRET_KEY and BASE_URL keep the user's values if set."""
        own: dict[str, str] = {}
        for service in self._services:
            own |= service.environment()
        own |= {"PORT": str(port), "HOST": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
        for name, value in (
            ("SECRET_KEY", var.secrets()["SECRET_KEY"]),
            ("BASE_URL", f"http://127.0.0.1:{port}"),
        ):
            own[name] = self._environ.get(name) or value
        tools = str(Path(sys.executable).parent)  # Where flask and gunicorn are.
        own["PATH"] = os.pathsep.join([tools, self._environ.get("PATH", os.defpath)])
        return own

    def _release(self) -> None:
        for line in self._lines:
            if line.name != RELEASE:
                continue
            process = self._spawn(Command(line.words(), env=self._env), RELEASE, self._cwd)
            try:
                while process.exit_code() is None:
                    self._pause(LOOK_EVERY_SECONDS / 2)
            finally:
                process.kill()
            if process.exit_code():
                raise Refused(f"the release command {describe(process.exit_code())}")

    def _start_app(self, line: Line) -> None:
        def start() -> Process:
            return self._spawn(Command(line.words(), env=self._env), line.name, self._cwd)

        kept = Kept(line.name, start, self._voice)
        self._apps.append(kept)
        kept.begin()

    def _announce_when_ready(self, port: int) -> None:
        if any(line.name == WEB for line in self._lines):
            deadline = time.monotonic() + READY_LIMIT_SECONDS
            while status_of(f"http://127.0.0.1:{port}/ready") != HTTPStatus.OK:
                if time.monotonic() > deadline:
                    raise Refused(f"the web process was not ready in {READY_LIMIT_SECONDS:.0f} s")
                self._turn()
        if mail_page := self._env.get("MAIL_PAGE_URL"):
            self._voice.announce(f"Mail that Beeline sends can be read at {mail_page}")
        self._voice.announce(f"Beeline is ready: http://127.0.0.1:{port}")

    def _turn(self) -> None:
        """One round of the main loop: pause, then restart what has ended."""
        self._pause(LOOK_EVERY_SECONDS)
        ended = [kept.look() for kept in (*self._below, *self._apps)]
        if any(ended):
            self._kill_strays()

    def _pause(self, seconds: float) -> None:
        self._bell.wait(seconds)
        if self._bell.rung or (self._parent and self._parent.wants_the_end()):
            raise StopAsked

    def _kill_strays(self) -> None:
        """Kill the orphans that a killed leash left to us."""
        ours = {kept.process.pid for kept in (*self._below, *self._apps) if kept.process}
        while strays := set(leash.children()) - ours:
            for pid in strays:  # Their children then become ours.
                leash.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _stop(self) -> None:
        """Stop the application first, then the services it uses."""
        rung = self._bell.rung
        if self._apps or self._below:
            self._voice.say("stopping")
        self._stop_all(self._apps, APP_STOP_LIMIT_SECONDS, rung)
        self._stop_all(self._below, SERVICE_STOP_LIMIT_SECONDS, None)
        self._kill_strays()
        for service in self._services:
            service.close()
        if self._below:
            self._voice.say("stopped")

    def _stop_all(self, group: Iterable[Kept], limit_seconds: float, rung: int | None) -> None:
        """Ask all to stop, wait for them, kill the rest.

        Unless `rung` is None, a further signal (a count above `rung`) cuts the wait short.
        """
        processes = {kept.name: kept.process for kept in group if kept.process and kept.runs}
        for process in processes.values():
            process.stop()
        deadline = time.monotonic() + limit_seconds
        while any(process.exit_code() is None for process in processes.values()):
            hurried = rung is not None and self._bell.rung > rung
            if hurried or time.monotonic() > deadline:
                break
            self._bell.wait(LOOK_EVERY_SECONDS)
        for name, process in processes.items():
            if process.exit_code() is None:
                self._voice.say(f"{name} does not stop and is killed")
            process.kill()


def asked_port(environ: Mapping[str, str]) -> int | None:
    """The web port that PORT asks for, or None; raises Refused if it is invalid or taken."""
    asked = environ.get("PORT", "")
    if not asked:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,4}", asked) or int(asked) > 65535:
        raise Refused(f"PORT must be a number from 1 to 65535, and is {asked!r}")
    if not is_free(int(asked)) or not reserve(int(asked)):
        raise Refused(
            f"port {asked} is taken or not allowed. Stop what uses it, "
            "or name another with PORT=..., or leave PORT out to get a free one"
        )
    return int(asked)


def main() -> int:
    """Run until stopped; returns 0 after a clean stop and 1 if something prevented the start."""
    parser = argparse.ArgumentParser(description="Run Beeline and all it needs on this machine.")
    parser.add_argument("--procfile", type=Path, default=ROOT / "Procfile")
    parser.add_argument(
        "--follow-parent", action="store_true", help="stop when the process that started this ends"
    )
    given = parser.parse_args()
    try:
        Runner(os.environ, given.procfile, follows_parent=given.follow_parent).run()
    except Refused as refused:
        print(f"Beeline cannot run: {refused}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:  # A full disk, another user's folder: no traceback needed.
        print(f"Beeline cannot run: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
