"""What every answer tells a browser: security headers, and static files under hashed names."""

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from wsgiref.headers import Headers

from flask import Flask, Response, request
from whitenoise import WhiteNoise

from app.config import settings
from app.extensions import storage

STATIC = Path(__file__).parent.parent / "static"
SQUEEZE = Path(__file__).with_name("squeeze_child.py")
SQUEEZABLE = (".js", ".css")


def init_app(app: Flask) -> None:
    """Serve static files and set the headers."""
    _serve_static(app)
    app.after_request(_set_headers)


def htmx() -> Path:
    """htmx as its package brings it, pinned by requirements.txt and a test on its hash."""
    found = importlib.util.find_spec("js_lib_htmx")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("django-js-lib-htmx is not installed: pip install -r requirements.txt")
    folder = Path(found.submodule_search_locations[0])
    return next(folder.rglob("htmx.min.js"))


def _serve_static(app: Flask) -> None:
    """Every file under one folder named by the hash of all: they may be cached for ever.

    One folder and not one hash for each name, so that ES modules can import each other by
    relative path.
    """
    built = _built()
    served = WhiteNoise(
        app.wsgi_app,
        # Only what lies below the hashed prefix is served, so all of it never changes.
        immutable_file_test=lambda path, url: True,
        add_headers_function=_add_headers,
    )
    for name in built.names:
        served.add_file_to_dictionary(built.prefix + name, f"{built.folder.name}/{name}")
    app.wsgi_app = served  # type: ignore[method-assign]
    app.add_template_global(built.asset, "asset")


@dataclass(frozen=True)
class _Built:
    """The static files as they are served: in a folder that goes when the process ends."""

    folder: TemporaryDirectory[str]
    names: set[str]
    prefix: str

    def asset(self, name: str) -> str:
        """The path of a static file for a page; raises LookupError."""
        if name not in self.names:
            raise LookupError(f"there is no static file {name}")
        return self.prefix + name


def squeezed() -> dict[str, bytes]:
    """The files of static/ by their names, squeezed one by one: a module stays a module."""
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


@cache
def _built() -> _Built:
    """What is served: squeezed, and everything compressed once instead of never."""
    files = squeezed()
    files["vendor/htmx.min.js"] = htmx().read_bytes()
    folder = TemporaryDirectory(prefix="beeline-static-")
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
        place = Path(folder.name, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        # WhiteNoise finds it by its name, and gives it to whoever accepts gzip.
        Path(f"{place}.gz").write_bytes(gzip.compress(content, mtime=0))
    return _Built(folder, set(files), f"/static/{digest.hexdigest()[:16]}/")


_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # no-referrer would make Chromium send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "X-Frame-Options": "DENY",
}


def _add_headers(headers: Headers, path: str, url: str) -> None:
    for name, value in _ALWAYS.items():
        headers[name] = value


def _content_security_policy() -> str:
    """Scripts and styles from files of ours only; bytes to and from storage, or CloudFront.

    Both are in form-action too: Chromium otherwise blocks a form whose 303 leads there.
    """
    store = " ".join(dict.fromkeys((storage.origin, storage.download_origin)))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src 'self' data: {store}",
            f"media-src 'self' {store}",
            f"connect-src 'self' {store}",
            f"form-action 'self' {store}",
            "base-uri 'none'",
            "object-src 'none'",
            "frame-ancestors 'none'",
        )
    )


def _set_headers(answer: Response) -> Response:
    for name, value in _ALWAYS.items():
        answer.headers.setdefault(name, value)
    answer.headers["Content-Security-Policy"] = _content_security_policy()
    if settings.is_https:
        answer.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    if request.path != "/":
        # Everything but the front page is somebody's: neither kept by caches nor found by search.
        answer.headers.setdefault("Cache-Control", "no-store")
        answer.headers["X-Robots-Tag"] = "noindex, nofollow"
    return answer
