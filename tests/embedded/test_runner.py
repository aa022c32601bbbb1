"""The runner, with a Procfile of small programs: start order, restarts, stops, no orphans."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from embedded.ports import free_port, status_of
from embedded.runner import Line, asked_port, describe, read_procfile
from embedded.var import Refused
from tests.embedded.watched import Program, until

# Pretend that there are real services, so that no embedded ones are started. They are never used.
ELSEWHERE = {
    "DATABASE_URL": "postgresql://elsewhere/x",
    "REDIS_URL": "redis://elsewhere/0",
    "S3_BUCKET": "elsewhere",
    "MAIL_URL": "smtp://elsewhere",
}
WEB = """
import http.server, os, subprocess
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
subprocess.Popen(["sleep", "987"], start_new_session=True)  # As RQ's work horse does.
address = os.environ["HOST"], int(os.environ["PORT"])
print("serving", os.environ["BASE_URL"], len(os.environ["SECRET_KEY"]) > 31)
http.server.ThreadingHTTPServer(address, Page).serve_forever()
"""
WORKER = """
import signal, time
def stop(*_):
    time.sleep(0.3)
    print("finished what was begun")
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
print("working")
while True:
    time.sleep(0.05)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("not listening")
while True:
    time.sleep(0.05)
"""
Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a runner on a Procfile of the named programs."""
    for name, text in (("web", WEB), ("worker", WORKER), ("stubborn", STUBBORN)):
        (tmp_path / f"{name}.py").write_text(text)

    def started(*lines: str, **env: str) -> Program:
        (tmp_path / "Procfile").write_text("\n".join(lines))
        given = {"BEELINE_VAR": str(tmp_path / "var"), "PORT": "", **ELSEWHERE, **env}
        words = ("-m", "embedded.runner", "--procfile", tmp_path / "Procfile")
        return running.enter_context(Program(*words, env=given))

    with ExitStack() as running:
        yield started


def test_all_starts_in_order_and_the_apps_stop_before_what_they_use(start: Start) -> None:
    lines = ("release: echo released && true", "web: python web.py", "worker: python worker.py")
    program = start(*lines, REDIS_URL="", MAIL_URL="", SECRET_KEY="", BASE_URL="")
    program.line_with("starting redis")
    program.line_with("starting mail")
    program.line_with("released")
    program.line_with("can be read at http://127.0.0.1:")
    ready = program.line_with("Beeline is ready:")
    address = ready.removeprefix("Beeline is ready: ")
    assert address.startswith("http://127.0.0.1:")
    assert status_of(address) == 200
    until(lambda: f"serving {address} True" in program.text, "the page to say so")
    until(lambda: "| working" in program.text, "the worker to listen to signals")

    began = time.monotonic()
    program.send(signal.SIGTERM)
    assert program.exit_code() == 0
    assert time.monotonic() - began < 5
    assert program.text.count("Beeline is ready") == 1
    assert program.text.index("finished what was begun") < program.text.index("ready to exit")
    program.assert_nothing_is_left()


def test_a_command_runs_beside_it_and_only_while_it_runs(start: Start, tmp_path: Path) -> None:
    ask = "import os; print(os.environ['PORT'], os.environ['BASE_URL'])"
    command = [sys.executable, "-m", "embedded.beside", sys.executable, "-c", ask]
    env = os.environ | {"BEELINE_VAR": str(tmp_path / "var")}
    program = start("worker: python worker.py", BASE_URL="")
    program.line_with("working")
    kept = tmp_path / "var" / "environment.json"
    assert kept.stat().st_mode & 0o077 == 0
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "http://127.0.0.1:" in told
    program.send(signal.SIGTERM)
    assert program.exit_code() == 0
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make run" in done.stdout
    program.assert_nothing_is_left()


def test_a_command_beside_it_has_its_settings_unless_told_otherwise(
    start: Start, tmp_path: Path
) -> None:
    ask = "import os; print(*map(os.environ.get, ('GRACE_IN_DAYS', 'DATABASE_URL', 'PORT')))"
    command = [sys.executable, "-m", "embedded.beside", sys.executable, "-c", ask]
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"BEELINE_VAR": str(tmp_path / "var"), "PORT": "1"}
    program = start("worker: python worker.py", BASE_URL="", GRACE_IN_DAYS="30")
    program.line_with("working")
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"30 postgresql://elsewhere/x \d\d+\n", told)
    env["GRACE_IN_DAYS"] = "5"
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert told.startswith("5 postgresql://elsewhere/x ")


def test_it_ends_when_only_make_was_interrupted(start: Start, tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("worker: python worker.py")
    runner = f"{sys.executable} -m embedded.runner --procfile {tmp_path}/Procfile --follow-parent"
    (tmp_path / "Makefile").write_text(f"run:\n\t@{runner}\n")
    env = {"BEELINE_VAR": str(tmp_path / "var"), **ELSEWHERE}
    words = ("-c", "import os, sys; os.execvp('make', sys.argv[1:])", "make", "-f")
    for signum in (signal.SIGINT, signal.SIGKILL):
        with Program(*words, tmp_path / "Makefile", "run", env=env) as program:
            program.line_with("working")
            program.send(signum)
            program.assert_nothing_is_left()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_too(start: Start, signum: signal.Signals) -> None:
    program = start("worker: python worker.py")
    program.line_with("working")
    program.send(signum)
    assert program.exit_code() == 0
    program.assert_nothing_is_left()


def test_nothing_is_left_of_a_killed_runner_and_the_next_one_starts(start: Start) -> None:
    program = start("web: python web.py", "worker: python worker.py", REDIS_URL="")
    program.line_with("Beeline is ready")
    sleeper = program.below("sleep 987")
    assert program.below("valkey-server")
    program.send(signal.SIGKILL)
    again = start("web: python web.py", REDIS_URL="")
    again.line_with("Beeline is ready")
    program.assert_nothing_is_left()
    assert not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("killed", ["web.py", "worker.py", "valkey-server"])
def test_what_is_killed_is_started_again(start: Start, killed: str) -> None:
    program = start("web: python web.py", "worker: python worker.py", REDIS_URL="")
    ready = program.line_with("Beeline is ready")
    before = program.below(killed)
    before.kill()
    assert "was ended by SIGKILL" in program.line_with("starting it again")
    assert program.below(killed, but=before)
    until(lambda: status_of(ready.split()[-1]) == 200, "the page to answer")


def test_a_killed_leash_takes_its_process_along(start: Start) -> None:
    program = start("web: python web.py")
    program.line_with("Beeline is ready")
    web, sleeper = program.below("web.py"), program.below("sleep 987")
    web.parent().kill()
    program.line_with("starting it again")
    program.line_with("serving")
    for process in (web, sleeper):
        until(lambda process=process: not process.is_running(), f"{process} to end")


def test_a_process_that_keeps_ending_is_started_less_and_less_often(start: Start) -> None:
    program = start("worker: sh -c 'exit 7'")
    pauses = [program.line_with("ended with code 7").split()[-2] for _ in range(3)]
    assert pauses == ["0.2", "0.4", "0.8"]


def test_a_second_signal_does_not_wait(start: Start) -> None:
    program = start("worker: python stubborn.py")
    program.line_with("not listening")
    program.send(signal.SIGTERM)
    program.line_with("stopping")
    program.send(signal.SIGTERM)  # Too soon to count as a second one: `make` repeats the first.
    time.sleep(0.9)
    assert "does not stop" not in program.text
    program.send(signal.SIGTERM)
    program.line_with("does not stop and is killed")
    assert program.exit_code() == 0
    program.assert_nothing_is_left()


def test_a_second_runner_on_the_same_data_is_refused(start: Start) -> None:
    start("worker: python worker.py").line_with("working")
    second = start("worker: python worker.py")
    second.line_with("already runs on")
    assert second.exit_code() == 1


def test_a_failed_release_ends_it_all(start: Start) -> None:
    program = start("release: echo trying && false", "web: python web.py", REDIS_URL="")
    program.line_with("trying")
    assert program.exit_code() == 1
    assert "the release command ended with code 1" in program.text
    assert "serving" not in program.text
    program.assert_nothing_is_left()


def test_a_port_that_was_asked_for_is_used_or_refused(start: Start) -> None:
    port = str(free_port())
    start("web: python web.py", PORT=port).line_with(f"Beeline is ready: http://127.0.0.1:{port}")
    second = start("web: python web.py", PORT=port, BEELINE_VAR=os.devnull + "/x")
    assert second.exit_code() == 1
    assert "cannot make the folder" in second.text


def test_what_is_set_in_the_environment_wins(start: Start) -> None:
    program = start("web: python web.py", BASE_URL="https://bee.example", SECRET_KEY="short")
    assert program.line_with("serving").endswith("https://bee.example False")


@pytest.mark.parametrize("asked", ["0", "65536", "-1", "http", "8000 "])
def test_an_invalid_port_is_refused(asked: str) -> None:
    with pytest.raises(Refused, match="PORT must be"):
        asked_port({"PORT": asked})


def test_a_taken_port_that_was_asked_for_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(Refused, match="is taken"),
    ):
        asked_port({"PORT": str(taken.getsockname()[1])})


def test_data_is_for_its_owner_only(start: Start, tmp_path: Path) -> None:
    start("worker: python worker.py").line_with("working")
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700


def test_procfile_lines_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# no\nweb: a --b ${C:-d}  \n\nclock:e\nbroken\n")
    lines = read_procfile(tmp_path / "Procfile")
    assert lines == [Line("web", "a --b ${C:-d}"), Line("clock", "e")]


@pytest.mark.parametrize(
    ("command", "script"),
    [("a --b", "exec a --b"), ("a && b", "a && b"), ("a | b", "a | b"), ("a; b", "a; b")],
)
def test_a_plain_command_takes_the_shells_place(command: str, script: str) -> None:
    assert Line("x", command).words() == ["sh", "-c", script]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with code 0"), (137, "was ended by SIGKILL"), (255, "ended with code 255")],
)
def test_exit_codes_are_described_in_words(code: int, words: str) -> None:
    assert describe(code) == words
