"""Static files: minified and compressed once per process, served under a hashed path."""

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from wsgiref.headers import Headers

from flask import Flask
from whitenoise import WhiteNoise

STATIC = Path(__file__).parent.parent / "static"
SQUEEZE = Path(__file__).with_name("squeeze_child.py")
SQUEEZABLE = (".js", ".css")


def init_app(app: Flask, headers: Mapping[str, str]) -> None:
    """Serve the static files, each with these headers too; they are built at the first request.

    Not before, because commands, jobs and the clock serve no pages.
    """
    inner = app.wsgi_app

    @cache
    def served() -> WhiteNoise:
        return _whitenoise(inner, headers)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answered: Iterable[bytes] = served()(environ, start_response)
        return answered

    app.wsgi_app = answer  # type: ignore[method-assign]
    app.add_template_global(asset, "asset")


def get_ready() -> None:
    """Build the files now, so that the first page need not wait."""
    _built()


def asset(name: str) -> str:
    """The URL path of a static file; raises LookupError for an unknown name."""
    built = _built()
    if name not in built.names:
        raise LookupError(f"there is no static file {name}")
    return built.prefix + name


def htmx() -> Path:
    """The path of htmx in its package, pinned by requirements.txt and a test of its hash."""
    found = importlib.util.find_spec("js_lib_htmx")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("django-js-lib-htmx is not installed: pip install -r requirements.txt")
    folder = Path(found.submodule_search_locations[0])
    return next(folder.rglob("htmx.min.js"))


def squeezed() -> dict[str, bytes]:
    """The files of static/ by name, minified one by one: a module stays a module."""
    files = {
        f"{path.relative_to(STATIC)}": path.read_bytes()
        for path in STATIC.rglob("*")
        if path.is_file()
    }
    texts = {name: content.decode() for name, content in files.items() if name.endswith(SQUEEZABLE)}
    done = subprocess.run(
        [sys.executable, "-I", str(SQUEEZE)],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return files | {name: text.encode() for name, text in json.loads(done.stdout).items()}


def _whitenoise(inner: Any, headers: Mapping[str, str]) -> WhiteNoise:
    def add_headers(given: Headers, path: str, url: str) -> None:
        for name, value in headers.items():
            given[name] = value

    built = _built()
    served = WhiteNoise(
        inner,
        # Only files below the hashed prefix are served, so none of them ever changes.
        immutable_file_test=lambda path, url: True,
        add_headers_function=add_headers,
    )
    for name in built.names:
        served.add_file_to_dictionary(built.prefix + name, f"{built.folder.name}/{name}")
    return served


@dataclass(frozen=True)
class _Built:
    """The files as they are served, in a folder that is deleted when the process ends.

    They share one prefix, a hash of all of them, instead of one hash per file: so ES modules can
    import each other by relative path, and still be cached for ever.
    """

    folder: TemporaryDirectory[str]
    names: set[str]
    prefix: str


@cache
def _built() -> _Built:
    """Minify and compress the files, once per process."""
    files = squeezed()
    files["vendor/htmx.min.js"] = htmx().read_bytes()
    folder = TemporaryDirectory(prefix="beeline-static-")
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
        place = Path(folder.name, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        # WhiteNoise finds it by its name, and sends it to clients that accept gzip.
        Path(f"{place}.gz").write_bytes(gzip.compress(content, mtime=0))
    return _Built(folder, set(files), f"/static/{digest.hexdigest()[:16]}/")
