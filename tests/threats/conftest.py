"""What the threats' tests share: further applications, and a real web server to be rude to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import config, create_app
from app.extensions import queue, storage
from tests.lab.stack import Stack

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(
    app: Flask, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeApp]:
    """Build another application on the same services: make_app(TRUSTED_PROXIES="1")."""
    before = config.current()
    # Both are for all applications of a process, and bound to the same services already.
    monkeypatch.setattr(storage, "bind", lambda settings: None)
    monkeypatch.setattr(queue, "bind", lambda settings: None)
    yield lambda **changes: create_app(environ | changes)
    config.bind(before)


def through_router(app: Flask, **said: str) -> Flask:
    """Put a router before an application of ours: it ends TLS and says so in these headers."""
    inner = app.wsgi_app

    def routed(environ: dict[str, Any], start_response: Any) -> Any:
        return inner(environ | said, start_response)

    app.wsgi_app = routed  # type: ignore[method-assign]
    return app


class LoggedStack(Stack):
    """The Procfile's processes, with all that they say kept in one file."""

    def __init__(self, environ: Mapping[str, str], output: Path) -> None:
        super().__init__(environ)
        self.output = output
        self._commands = {
            name: f"{command} >>{output} 2>&1" for name, command in self._commands.items()
        }

    def wait_until_ready(self, url: str | None = None) -> None:
        """As the stack does, but patiently: other tests may keep the machine busy."""
        for _ in range(2):
            with suppress(AssertionError):
                return super().wait_until_ready(url)
        return super().wait_until_ready(url)

    def said(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""
