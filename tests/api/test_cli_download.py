"""/cli: the program as it is downloaded, and that it needs nothing but Python 3.9."""

import ast
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.api.cli_download import PROGRAM


def test_it_is_downloaded_with_its_server_filled_in(client: FlaskClient) -> None:
    answer = client.get("/cli")
    assert answer.status_code == 200
    assert answer.mimetype == "text/x-python"
    assert answer.headers["Content-Disposition"] == 'inline; filename="beeline"'
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert answer.text.startswith("#!/usr/bin/env python3\n")
    assert '\nDEFAULT_SERVER = "http://localhost"\n' in answer.text
    assert "    curl -o beeline http://localhost/cli\n" in answer.text
    assert "send.example.org" not in answer.text
    assert loaded(answer.text).DEFAULT_SERVER == "http://localhost"


def loaded(text: str) -> Any:
    """The program as a module."""
    module = sys.modules["beeline"] = ModuleType("beeline")
    try:
        exec(compile(text, "beeline", "exec"), module.__dict__)
    finally:
        del sys.modules["beeline"]
    return module


def test_whoever_has_it_is_told_so(client: FlaskClient) -> None:
    etag = client.get("/cli").headers["ETag"]
    again = client.get("/cli", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert client.head("/cli").headers["ETag"] == etag
    refused = client.post("/cli")
    assert (refused.status_code, refused.mimetype) == (405, "text/plain")


def test_it_needs_nothing_but_python_3_9() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    assert imported <= sys.stdlib_module_names


def _names(node: ast.Import) -> list[str]:
    return [one.name for one in node.names]


def test_it_can_be_installed_as_a_package() -> None:
    """What pipx reads: the module, its version, and what is to be on the path."""
    project = tomllib.loads(Path("cli/pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["beeline"].partition(":")
    assert project["tool"]["setuptools"]["py-modules"] == [module]
    program = loaded(PROGRAM.read_text())
    assert callable(getattr(program, function))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": f"{module}.VERSION"}
    assert program.VERSION


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 8, 130])
def test_every_exit_code_is_documented_in_both_places(code: int) -> None:
    assert f"\n  {code:<4} " in PROGRAM.read_text()
    assert f"\n| {code} |" in Path("docs/cli.md").read_text()
