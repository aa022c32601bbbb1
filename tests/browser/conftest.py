"""A whole Beeline, as the Procfile starts it, and a real Chromium that uses it.

Where their tests run alone, screenshots of every state are kept under `var/screenshots`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from embedded import services
from tests.conftest import SECRET
from tests.lab.chromium import FLAGS, path
from tests.lab.mailserver import MailServer
from tests.lab.stack import Stack

# How long a page may take where the machine has much else to do.
expect.set_options(timeout=20_000)


@contextlib.contextmanager
def started(
    names: Sequence[str] = ("web", "worker", "maker", "clock"), **environ: str
) -> Iterator[Stack]:
    """These processes, on services of their own."""
    given = {
        "SECRET_KEY": SECRET,
        "LOG_LEVEL": "WARNING",
        "WEB_CONCURRENCY": "1",
        "MAX_MESSAGES_PER_HOUR": "1000",
        "WEBHOOK_ALLOW_LOOPBACK": "true",
    }
    with services.started(["postgres", "redis", "s3"]) as running:
        stack = Stack(running | given | environ)
        try:
            stack.release()
            for name in names:
                stack.start(name)
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="session")
def live() -> Iterator[Stack]:
    """A Beeline that sends no mail."""
    with started() as stack:
        yield stack


@pytest.fixture(scope="session")
def post() -> Iterator[MailServer]:
    """Takes the mails of `mailing`."""
    with MailServer() as server:
        yield server


@pytest.fixture(scope="session")
def mailing(post: MailServer) -> Iterator[Stack]:
    """A Beeline that sends mail."""
    more = {
        "MAIL_URL": post.url,
        "MAIL_FROM": "Beeline <bee@send.example.org>",
        "ADMIN_EMAILS": "admin@example.org",
        "MAX_SENDS_PER_HOUR": "1000",
        "MAX_CODES_PER_HOUR": "1000",
        "MAX_MAILS_PER_RECIPIENT_PER_HOUR": "1000",
        "MAX_RECIPIENTS_PER_NETWORK_PER_HOUR": "1000",
    }
    with started(**more) as stack:
        yield stack


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or another that is on the PATH."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, live: Stack) -> Iterator[Callable[..., Page]]:
    """Open a page in a new browser profile; at the end no script error and no CSP violation."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def open_new(path: str = "/", **options: object) -> Page:
        given = {"viewport": {"width": 1280, "height": 900}, "base_url": live.url} | options
        contexts.append(chromium.new_context(**given))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda line: (
                wrong.append(line.text) if "Content Security Policy" in line.text else None
            ),
        )
        page.goto(path)
        return page

    yield open_new
    for context in contexts:
        context.close()
    assert wrong == []
