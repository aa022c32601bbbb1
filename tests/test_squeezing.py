"""Browsers get minified versions of the files in static/, which must behave the same."""

import gzip
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

from app import static_files

JS_TESTS = Path("tests/js")
NODE = Path(sys.prefix, "bin", "node")
# The scripts that every upload loads: the entry, the view it imports once idle, and the worker.
ORDINARY = ("js/upload.js", "js/sender/view.js", "js/upload/checksum-worker.js")

# Only parses the scripts, without running them; the engine reports where a syntax error is.
READ = """
const { SourceTextModule } = require('node:vm');
for (const identifier of process.argv.slice(1)) {
  new SourceTextModule(require('node:fs').readFileSync(identifier, 'utf8'), { identifier });
}
"""


def test_the_squeezed_scripts_pass_the_tests_of_the_browser_s_code(tmp_path: Path) -> None:
    put_squeezed(tmp_path)
    shutil.copytree(JS_TESTS, tmp_path / JS_TESTS)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [NODE, "--test", f"{JS_TESTS}/*.test.js"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "\nℹ pass 0\n" not in done.stdout


def test_every_squeezed_script_is_a_module_that_can_be_read(tmp_path: Path) -> None:
    scripts = [name for name in put_squeezed(tmp_path) if name.endswith(".js")]
    command = [NODE, "--experimental-vm-modules", "--no-warnings", "-e", READ, *scripts]
    done = subprocess.run(command, cwd=tmp_path / "static", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def put_squeezed(folder: Path) -> set[str]:
    """Write the files as they would be served to static/ in this folder; returns their names."""
    squeezed = static_files.squeezed()
    for name, content in squeezed.items():
        place = folder / "static" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return set(squeezed)


def test_the_squeezed_files_are_smaller_and_all_there() -> None:
    squeezed = static_files.squeezed()
    here = {f"{path.relative_to(static_files.STATIC)}": path.stat().st_size for path in files()}
    assert squeezed.keys() == here.keys()
    for name, content in squeezed.items():
        if name.endswith((".js", ".css")):
            assert b"/*" not in content, name
            assert len(content) < 0.9 * here[name], name


def test_the_uploader_does_not_grow_unnoticed() -> None:
    """The limits are just above the current sizes; docs/speed.md has the budget."""
    squeezed = static_files.squeezed()
    ordinary = set(ORDINARY)
    for _ in squeezed:
        ordinary |= {other for name in ordinary for other in imported(name, squeezed[name])}
    every = {name for name in squeezed if name.startswith(("js/upload", "js/sender/"))}
    assert ordinary < every
    assert len(ordinary) <= 20, ordinary
    assert zipped(squeezed, ordinary) <= 30_100
    assert zipped(squeezed, every) <= 37_570


def imported(name: str, script: bytes) -> set[str]:
    """The file names of a script's static imports."""
    folder = posixpath.dirname(name)
    found = re.findall(r"""(?:from|import) ?["'](\.[^"']+)["']""", script.decode())
    return {posixpath.normpath(f"{folder}/{path}") for path in found}


def zipped(squeezed: dict[str, bytes], names: set[str]) -> int:
    """The total size in bytes of these files, each compressed by gzip -9."""
    return sum(len(gzip.compress(squeezed[name], 9)) for name in names)


def files() -> list[Path]:
    return [path for path in static_files.STATIC.rglob("*") if path.is_file()]
