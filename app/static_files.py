"""Our scripts, styles and pictures: made ready once, kept in memory, served under hashed names.

Never from the disk: no folder is left behind by a process that is killed, and what is served is
what was hashed, whatever happens to the files meanwhile.
"""

import gzip
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rjsmin import jsmin
from werkzeug.wrappers import Request, Response

STATIC = Path(__file__).parent.parent / "static"
BELOW = "/static/"
# Ten years: a changed file has another name.
_KEPT = "max-age=315360000, public, immutable"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def htmx() -> Path:
    """htmx as its package brings it, pinned by requirements.txt and a test on its hash."""
    found = importlib.util.find_spec("js_lib_htmx")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("django-js-lib-htmx is not installed: pip install -r requirements.txt")
    folder = Path(found.submodule_search_locations[0])
    return next(folder.rglob("htmx.min.js"))


@dataclass(frozen=True)
class _File:
    """One file as it travels."""

    content: bytes
    packed: bytes
    content_type: str

    def answer(self, request: Request) -> Response:
        """The whole, a part of it, or that it has not changed."""
        is_packed = bool(request.accept_encodings["gzip"])
        answer = Response(self.packed if is_packed else self.content)
        answer.headers["Content-Type"] = self.content_type
        answer.headers["Cache-Control"] = _KEPT
        answer.headers["Vary"] = "Accept-Encoding"
        if is_packed:
            answer.headers["Content-Encoding"] = "gzip"
        answer.add_etag()
        return answer.make_conditional(request)


class StaticFiles:
    """Answers for everything below `prefix`; whatever else is asked goes to the application."""

    def __init__(self, app: Callable[..., Iterable[bytes]], headers: Mapping[str, str]) -> None:
        """`headers`: what every answer of ours says."""
        self._app = app
        self._headers = headers

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI wants it."""
        path = environ["PATH_INFO"]
        # Only here, because a process that serves no page needs none of them.
        if not path.startswith(BELOW) or (file := _built().at(path)) is None:
            return self._app(environ, start_response)
        request = Request(environ)
        if request.method in ("GET", "HEAD"):
            answer = file.answer(request)
        else:
            answer = Response(status=405, headers={"Allow": "GET, HEAD"})
        answer.headers.extend(self._headers)
        return answer(environ, start_response)


def asset(name: str) -> str:
    """The path of a static file for a page; raises LookupError."""
    built = _built()
    if name not in built.files:
        raise LookupError(f"there is no static file {name}")
    return built.prefix + name


def get_ready() -> None:
    """Make now what the first page would have to wait for."""
    _built()


@dataclass(frozen=True)
class _Built:
    """Every file under one folder named by the hash of all.

    One folder and not one hash for each name, so that ES modules can import each other by
    relative path.
    """

    files: Mapping[str, _File]
    prefix: str

    def at(self, path: str) -> _File | None:
        """The file with this address."""
        is_below = path.startswith(self.prefix)
        return self.files.get(path[len(self.prefix) :]) if is_below else None


@cache
def _built() -> _Built:
    """Our scripts without their comments, and everything compressed once instead of never."""
    contents = {
        f"{path.relative_to(STATIC)}": path.read_bytes()
        for path in STATIC.rglob("*")
        if path.is_file()
    }
    contents = {
        name: jsmin(content) if name.endswith(".js") else content
        for name, content in contents.items()
    }
    contents["vendor/htmx.min.js"] = htmx().read_bytes()
    digest = hashlib.sha256()
    files = {}
    for name, content in sorted(contents.items()):
        digest.update(name.encode() + b"\0" + content)
        packed = gzip.compress(content, mtime=0)
        files[name] = _File(content, packed, _TYPES[Path(name).suffix])
    return _Built(files, f"{BELOW}{digest.hexdigest()[:16]}/")
