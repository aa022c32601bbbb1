"""Look up every pinned dependency in the public advisories: `make audit`.

Exits with 1 if a vulnerability is known, and with 0 otherwise. What could not be looked up, because
there is no network or a mirror without advisories, is reported as such and is no failure, unless
`--strict`. A finding that does not concern us is listed in ACCEPTED with its reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
# WeTransfer's own client, as old as the programs that use it: only the tests run it.
_OLD_CLIENT = ("@wetransfer/js-sdk", "async", "axios", "debug", "follow-redirects", "lodash")
# Advisory or Node package -> why it does not concern us. Should be empty.
ACCEPTED: dict[str, str] = dict.fromkeys(
    _OLD_CLIENT, "only in tests, where it asks nobody but a server of ours on loopback"
)
LIMIT_SECONDS = 180

# The findings, and what could not be looked up, as lines to print.
Verdict = tuple[list[str], list[str]]


def judge_python(answer: str) -> Verdict:
    """Read the output of `pip-audit --format json`."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [], ["no Python package could be looked up"]
    found = [
        f"{one['name']} {one['version']}: {bug['id']}, mended in "
        f"{', '.join(bug.get('fix_versions') or []) or 'no version yet'}"
        for one in packages
        for bug in one.get("vulns", [])
        if not {bug["id"], *bug.get("aliases", [])} & set(ACCEPTED)
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if not packages or len(skipped) == len(packages):
        return found, ["no Python package could be looked up"]
    return found, [f"{name} could not be looked up" for name in skipped]


def judge_node(answer: str) -> Verdict:
    """Read the output of `npm audit --json`."""
    try:
        bugs: dict[str, dict[str, Any]] = json.loads(answer)["vulnerabilities"]
    except (ValueError, KeyError, TypeError):
        return [], ["no Node package could be looked up"]
    return [
        f"{name} {bug.get('range', '')}: {bug['severity']}"
        for name, bug in sorted(bugs.items())
        if name not in ACCEPTED
    ], []


def answer_of(*command: str | Path) -> str:
    """The output of a command; empty if it cannot be run or does not end in time."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def main(words: list[str]) -> int:
    """Audit each list, print the results, and return the exit code."""
    commands: dict[str, tuple[str | Path, ...]] = {
        name: (BIN / "pip-audit", "-r", name, "--disable-pip", "--no-deps", "-f", "json")
        for name in REQUIREMENTS
    }
    commands["package-lock.json"] = (BIN / "npm", "audit", "--json")
    with ThreadPoolExecutor() as pool:  # each only waits for the network
        answers = pool.map(lambda command: answer_of(*command), commands.values())
    verdicts = {
        name: judge_python(answer) if name in REQUIREMENTS else judge_node(answer)
        for name, answer in zip(commands, answers, strict=True)
    }
    for name, (found, unknown) in verdicts.items():
        for line in found:
            print(f"{name}: VULNERABLE {line}")
        for line in unknown:
            print(f"{name}: not checked: {line}")
        if not found and not unknown:
            print(f"{name}: nothing is known against it")
    is_bad = any(found for found, _ in verdicts.values())
    is_unknown = any(unknown for _, unknown in verdicts.values())
    return int(is_bad or (is_unknown and "--strict" in words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
