"""What the checks of `flask doctor` find, and a server that answers as it is told."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.services import doctor
from app.services.doctor import Finding, Level

SECRETS = ("a-database-secret", "a-redis-secret", "a-storage-secret", "a-mail-secret")


def look(name: str) -> Finding:
    """What one check finds."""
    chosen = [one for one in doctor.checks() if one.name == name]
    ((_, found),) = doctor.examine(chosen, lambda check: None)
    return found


def assert_found(name: str, level: Level, *words: str) -> None:
    """That a check finds this, in a sentence with these words."""
    found = look(name)
    assert found.level is level, found
    for one in words:
        assert one in found.said, found


def levels_in(output: str) -> dict[str, str]:
    """The level of each check, by its name, as the command has printed them."""
    lines = re.findall(r"^  (OK|warning|failed|skipped) +(\S.{15})  \S", output, re.MULTILINE)
    return {name.strip(): level for level, name in lines}


@contextmanager
def site(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that answers each request like this; yields its URL."""
    methods = dict.fromkeys(("do_GET", "do_PUT", "do_OPTIONS"), answer)
    kind = type("Site", (BaseHTTPRequestHandler,), methods | {"log_message": print})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def sends(status: int, body: bytes = b"", **headers: str) -> Callable[[Any], None]:
    """For site(): answers every request with this; /health as we do."""

    def answer(request: Any) -> None:
        is_health = request.path == "/health"
        request.send_response(200 if is_health and not body else status)
        for name, value in headers.items():
            request.send_header(name, value.format(host=request.headers["Host"]))
        request.end_headers()
        request.wfile.write(body or (b'{"status": "OK"}' if is_health else b""))

    return answer
