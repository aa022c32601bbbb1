"""The small parent process of one command: when it ends, everything below it is killed.

    python -I -S embedded/leash.py [--user UID:GID] [--keep FD] -- command...

Signals are passed on to the command. When the command ends, whatever it left behind is killed and
the leash exits with the command's exit code. When the leash's own parent ends, for any reason,
standard input reaches end of file and everything below is killed immediately. So neither a crash
nor `kill -9` of the parent leaves an orphan: not gunicorn's workers, not RQ's work horse, not
PostgreSQL's backends.

This file runs on its own, so it imports nothing of ours, and little else: every command has a
process of it.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
WATCHED = (*PASSED_ON, signal.SIGCHLD)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_LIMIT_SECONDS = 5.0
ON_LINUX = sys.platform.startswith("linux")


def prctl(option: int, value: int) -> None:
    """Set a process attribute on Linux; does nothing on other systems."""
    if ON_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def children() -> list[int]:
    """The pids of our child processes, including adopted orphans."""
    try:
        listed = Path("/proc/self/task", str(os.getpid()), "children").read_text()
    except OSError:  # A kernel built without that file, or not Linux.
        return [pid for pid in _all_pids() if _parent_of(pid) == os.getpid()]
    return [int(pid) for pid in listed.split()]


def _all_pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return []


def _parent_of(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def kill(pid: int, signum: int) -> None:
    """Send a signal; a process that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def kill_everything_below(command: int) -> None:
    """Kill until no child is left. Orphaned grandchildren become our children in turn."""
    deadline = time.monotonic() + KILL_LIMIT_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command, signal.SIGKILL)  # All we can do without adopting orphans.
    while time.monotonic() < deadline:
        for pid in children():
            kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def spawn(command: list[str], user: str | None, kept: list[int]) -> int:
    """Start the command in its own process group, as another user if asked, and return its pid."""
    # A signal between fork and exec would run our handlers in the child and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(command, user, kept, parent)
        except OSError as error:
            print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    return pid


def _become(command: list[str], user: str | None, kept: list[int], parent: int) -> None:
    os.setpgid(0, 0)
    for fd in kept:
        os.close(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if user:
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # After setuid, which would clear it.
    if os.getppid() != parent:
        os._exit(1)
    for signum in (*WATCHED, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def watch(command: int, signals: int) -> int:
    """Pass signals on until the command or our parent ends, and return the exit code."""
    while True:
        readable, _, _ = select.select([signals, 0], [], [])
        if 0 in readable and not os.read(0, 4096):
            return 128 + signal.SIGKILL
        if signals in readable:
            for signum in os.read(signals, 4096):
                if signum != signal.SIGCHLD:
                    kill(command, signum)
        status = _reap(command)
        if status is not None:
            return status


def _reap(command: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main(words: list[str]) -> int:
    """Run the command after `--` until it ends, and return its exit code."""
    options, command = words[: words.index("--")], words[words.index("--") + 1 :]
    given = list(zip(options[::2], options[1::2], strict=True))
    kept = [int(value) for name, value in given if name == "--keep"]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signum in WATCHED:
        signal.signal(signum, lambda *_: None)
    pid = spawn(command, dict(given).get("--user"), kept)
    try:
        return watch(pid, reader)
    finally:
        kill_everything_below(pid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
