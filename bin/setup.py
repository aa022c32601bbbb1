"""Set up what Beeline needs in this folder; run by the Makefile, with whatever Python is there.

    python3 bin/setup.py [python] [node] [chromium]

`python` creates .venv with the pinned packages, `node` creates node_modules with the tools that
check the browser's code, `chromium` installs the browser and the programs that the tests use, while
the others are set up. What is up to date is left alone; what was interrupted starts over. Standard
library only, and parsable by Pythons that are too old for everything else, so that it can say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
VENV_STATE = VENV / ".beeline-setup.json"
REQUIREMENTS = ROOT / "requirements-dev.txt"
NODE_MODULES = ROOT / "node_modules"
NODE_STATE = NODE_MODULES / ".beeline-setup"
OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
UNREACHABLE = re.compile(
    "Failed to establish|Name or service not known|Temporary failure in name resolution|"
    "Connection refused|Network is unreachable|timed out|ProxyError|SSLError|CERTIFICATE_VERIFY"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The fonts are for the tests' pages: Latin letters to measure text, and emoji in file names.
BROWSER_PACKAGES = ("chromium", "fonts-liberation", "fonts-noto-color-emoji")
# Programs that recipients use in a terminal, and the tests too, with their Debian packages.
PROGRAMS = {
    "curl": "curl",
    "wget": "wget",
    "cksfv": "cksfv",
    "rhash": "rhash",
    "unzip": "unzip",
    "7z": "p7zip-full",
    "bsdtar": "libarchive-tools",
}


class SetupError(Exception):
    """Why the set-up cannot continue, and how to fix that."""


def say(line: str) -> None:
    """Print one line of progress, on a terminal or not."""
    print("set-up   | " + line, flush=True)


def as_root(command: str) -> str:
    """The command as this user has to type it to run it as root."""
    return command if os.geteuid() == 0 else "sudo " + command


def use_a_new_enough_python() -> None:
    """Restart in a newer Python if ours is too old; raises SetupError if there is none."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for name in NEWER_PYTHONS:
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *sys.argv])  # noqa: S606 - no shell is wanted
    raise SetupError(
        "Beeline needs Python 3.11 or newer, and this is {}.\nOn Debian 12 or later:  {}".format(
            platform.python_version(), as_root("apt-get install -y python3 python3-venv")
        )
    )


def set_up_python() -> None:
    """Make .venv match requirements-dev.txt."""
    wanted = {
        "requirements": _digest(REQUIREMENTS),
        "python": sys.implementation.cache_tag,
        "path": str(VENV),  # Its scripts contain this path, so a moved or copied one is useless.
    }
    had = _state_of_venv()
    if had == wanted:
        return
    began = time.monotonic()
    if {**had, "requirements": ""} != {**wanted, "requirements": ""}:
        _make_venv()
    # Until the state is written again, the next run knows that it must start over.
    _write(VENV_STATE, "{}")
    _install_packages()
    _write(VENV_STATE, json.dumps(wanted))
    say(f"Python packages are in place after {time.monotonic() - began:.0f} s")


def _state_of_venv() -> dict[str, str]:
    if not VENV_PYTHON.exists():
        return {}
    try:
        return dict(json.loads(VENV_STATE.read_text()))
    except (OSError, ValueError):
        return {}


def _make_venv() -> None:
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and importlib.util.find_spec("pip") is None:
        raise SetupError(
            "Python's venv module is not complete here (ensurepip is missing).\n"
            "On Debian and Ubuntu:  " + as_root("apt-get install -y python3-venv")
        )
    say(f"making .venv with Python {platform.python_version()}")
    options = ["--clear"] if with_pip else ["--clear", "--without-pip"]
    done = subprocess.run(
        [sys.executable, "-m", "venv", *options, str(VENV)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetupError(
            f"Making .venv failed:\n{done.stdout}\n"
            "On Debian and Ubuntu this may help:  " + as_root("apt-get install -y python3-venv")
        )


def pip_command() -> list[str]:
    """Pip for .venv: its own, or the system's if Debian left out ensurepip."""
    if list(VENV.glob("lib/python3*/site-packages/pip/__main__.py")):
        return [str(VENV_PYTHON), "-I", "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(VENV_PYTHON)]


def _install_packages() -> None:
    total = len(re.findall(r"^[a-z0-9]\S*==", REQUIREMENTS.read_text(), flags=re.MULTILINE))
    say(f"fetching about {total} Python packages, which takes a minute or so")
    options = ["--require-hashes", "--only-binary=:all:", "--no-deps", "--no-input"]
    options += ["--disable-pip-version-check", "--progress-bar=off", "--no-warn-script-location"]
    command = [*pip_command(), "install", *options, "-r", str(REQUIREMENTS)]
    count = 0

    def shown(line: str) -> str | None:
        nonlocal count
        collected = re.match(r"\s*Collecting ([^\s;]+)", line)
        if collected:
            count += 1
            return f"[{count}/{total}] {collected[1].replace('==', ' ')}"
        return "installing them" if line.startswith("Installing collected") else None

    code, log = _run(command, shown, env={"PIP_USER": "0"})
    if code:
        raise SetupError(_why_pip_failed(log))


def _why_pip_failed(log: list[str]) -> str:
    text = "\n".join(log)
    missing = re.search(r"No matching distribution found for (\S+)", text)
    if UNREACHABLE.search(text) or not re.search("Downloading|Using cached", text):
        why = "The package registry cannot be reached. PIP_INDEX_URL can name another one."
    elif missing:
        why = (
            f"There is no ready-made {missing[1]} for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}.\nBeeline runs on CPython 3.11 to 3.14, "
            "on Linux with glibc (x86-64, arm64) and on macOS.\nOn Debian 12 or later:  "
            + as_root("apt-get install -y python3 python3-venv")
        )
    else:
        why = "Installing the Python packages failed. The next run begins afresh."
    return "\n".join([*log[-15:], "", why])


def set_up_node() -> None:
    """Make node_modules match package-lock.json. Node itself is one of the Python packages."""
    wanted = _digest(ROOT / "package.json") + _digest(ROOT / "package-lock.json")
    if NODE_STATE.exists() and NODE_STATE.read_text() == wanted:
        return
    say("fetching what checks the browser's code")
    path = os.pathsep.join([str(VENV / "bin"), os.environ.get("PATH", os.defpath)])
    npm = [str(VENV / "bin" / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    code, log = _run(npm, lambda _: None, env={"PATH": path})
    if code:
        raise SetupError("\n".join([*log[-15:], "", "Installing the npm packages failed."]))
    _write(NODE_STATE, wanted)


def set_up_chromium() -> None:
    """Install Debian's Chromium if there is no browser, and the recipients' programs."""
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if not any(shutil.which(name) for name in BROWSERS):
        missing += BROWSER_PACKAGES
    if not missing:
        return
    install = "apt-get install -y --no-install-recommends " + " ".join(missing)
    by_hand = "The tests need programs that are not installed.\n" + as_root(install)
    if not shutil.which("apt-get"):
        raise SetupError(f"The tests need these programs: {', '.join(missing)}.")
    prefix: list[str] = []
    if os.geteuid() != 0:
        prefix = ["sudo", "-n"]
        if not shutil.which("sudo") or subprocess.call(
            [*prefix, "true"], stderr=subprocess.DEVNULL
        ):
            raise SetupError(by_hand)
    size = ", about 150 MB" if "chromium" in missing else ""
    say(f"installing {', '.join(missing)} with apt-get{size}")
    for words in (["apt-get", "update"], install.split()):
        command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *words]
        code, log = _run([*command, "-q", "-o", "DPkg::Lock::Timeout=300"], _shown_by_apt)
        if code:
            raise SetupError("\n".join([*log[-15:], "", by_hand]))


def _shown_by_apt(line: str) -> str | None:
    return line if line.startswith(("Fetched", "Setting up chromium")) else None


def _run(
    command: list[str], shown: Callable[[str], str | None], env: dict[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a command and print what `shown` makes of each line; returns exit code and all lines."""
    log: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line.rstrip())
            text = shown(log[-1])
            if text:
                say(text)
    return process.returncode, log


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    fd, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.replace(name, path)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Allow one set-up of this folder at a time; others wait."""
    fd = os.open(ROOT, os.O_RDONLY)
    # Our children hold the lock too: if we are killed, the next run waits for a pip still writing.
    os.set_inheritable(fd, True)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


STEPS = {"python": set_up_python, "node": set_up_node, "chromium": set_up_chromium}


def main(names: list[str]) -> int:
    """Run the named steps; returns 0 when all is in place, 1 on an error, 130 on Ctrl-C."""
    try:
        use_a_new_enough_python()
        with alone(), ThreadPoolExecutor() as beside:
            # apt-get needs nothing of the others, and mostly waits.
            browsers = [beside.submit(STEPS[name]) for name in names if name == "chromium"]
            for name in names:
                if name != "chromium":
                    STEPS[name]()
            for browser in browsers:
                browser.result()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
