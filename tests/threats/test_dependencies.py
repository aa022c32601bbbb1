"""S35: what is installed is what was locked, and what is known against it is told."""

import importlib.util
import json
import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """bin/audit.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("audit", "bin/audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUG = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2"]}


@pytest.mark.parametrize(
    ("packages", "found", "unknown"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, 0),
        ([{"name": "a", "version": "1", "vulns": [BUG]}], 1, 0),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "x"}], 0, 1),
        ([{"name": "b", "skip_reason": "x"}], 0, 1),
        ([], 0, 1),
    ],
)
def test_s35_what_pip_audit_says(
    audit: ModuleType, packages: list[Any], found: int, unknown: int
) -> None:
    """Nothing looked up is never taken for nothing found."""
    verdict = audit.judge_python(json.dumps({"dependencies": packages}))
    assert tuple(map(len, verdict)) == (found, unknown)


@pytest.mark.parametrize("answer", ["", "{", "[]", "null", '{"message": "405"}'])
def test_s35_no_answer_is_told(audit: ModuleType, answer: str) -> None:
    assert audit.judge_python(answer)[1]
    assert audit.judge_node(answer)[1]


def test_s35_what_npm_says(audit: ModuleType) -> None:
    bugs = {"left-pad": {"severity": "high", "range": "<2"}}
    assert audit.judge_node(json.dumps({"vulnerabilities": bugs})) == (["left-pad <2: high"], [])
    assert audit.judge_node(json.dumps({"vulnerabilities": {}})) == ([], [])


@pytest.mark.parametrize(("words", "bad", "code"), [([], 0, 0), (["--strict"], 0, 1), ([], 1, 1)])
def test_s35_how_it_ends(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, words: list[str], bad: int, code: int
) -> None:
    packages = [
        {"name": "a", "version": "1", "vulns": [BUG] * bad},
        {"name": "b", "skip_reason": ""},
    ]
    monkeypatch.setattr(audit, "answer_of", lambda *given: json.dumps({"dependencies": packages}))
    assert audit.main(words) == code


def test_s35_all_are_looked_up_at_once(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = threading.Barrier(3)

    def answer_of(*command: str) -> str:
        all_of_them.wait(10)
        return ""

    monkeypatch.setattr(audit, "answer_of", answer_of)
    assert audit.main([]) == 0


def test_s35_an_accepted_finding_is_no_finding(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2026-1": "not reachable"})
    packages = [{"name": "a", "version": "1", "vulns": [BUG]}]
    assert audit.judge_python(json.dumps({"dependencies": packages}))[0] == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_s35_every_package_is_pinned_with_its_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", Path(name).read_text().strip())
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._\[\],-]+==[^\s;]+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_s35_every_node_package_is_pinned_with_its_hash() -> None:
    packages = json.loads(Path("package-lock.json").read_text())["packages"]
    assert all("integrity" in one for name, one in packages.items() if name)
