"""A real SMTP server in this process that accepts mail, and misbehaves on demand."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Caught:
    """One mail as it arrived."""

    sender: str
    to: str
    raw: bytes
    connection: int
    message: EmailMessage = field(init=False)

    def __post_init__(self) -> None:
        parsed = message_from_bytes(self.raw, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.message = parsed

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    def body(self, kind: str) -> str:
        """Its `plain` or `html` body."""
        part = self.message.get_body((kind,))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


class MailServer:
    """Accepts all mail unless told otherwise; `caught` are those accepted (250)."""

    def __init__(self, **options: Any) -> None:
        """`options` are aiosmtpd's own: TLS, authentication, extensions."""
        self._options = {"enable_SMTPUTF8": True, "hostname": "mail.test"} | options
        self.caught: list[Caught] = []
        self.connections = 0
        # The replies for an address: each entry once, the last one from then on.
        self.answers: dict[str, list[str]] = {}
        # Addresses whose mail is accepted, but the connection aborted before the reply; each once.
        self.drops: list[str] = []
        self.delay_seconds = 0.0
        self.was_tls = False
        self.attempts: Counter[str] = Counter()
        self._asked = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def to(self, address: str) -> list[Caught]:
        """The mails that have arrived for one address."""
        return [one for one in self.caught if one.to == address]

    def wait_for(self, address: str, count: int = 1) -> list[Caught]:
        """The mails for one address, once there are this many; AssertionError after 30 seconds."""
        deadline = time.monotonic() + 30
        while len(self.to(address)) < count:
            assert time.monotonic() < deadline, [(one.to, one.subject) for one in self.caught]
            time.sleep(0.1)
        return self.to(address)

    def wait_for_attempt(self, seconds: float) -> None:
        """Wait until a client tries to deliver a mail."""
        assert self._asked.wait(seconds)

    def __enter__(self) -> "MailServer":
        return self

    def __exit__(self, *error: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- aiosmtpd's hooks ------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        self.attempts[address] += 1
        self._asked.set()
        self.was_tls = session.ssl is not None
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        answers = self.answers.get(address, [])
        answer = answers.pop(0) if len(answers) > 1 else (answers or ["250 fine"])[0]
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        number = server.number  # type: ignore[attr-defined]
        for to in envelope.rcpt_tos:
            self.caught.append(Caught(envelope.mail_from or "", to, envelope.content, number))
            if to in self.drops:
                self.drops.remove(to)
                assert server.transport is not None
                server.transport.abort()
        return "250 taken"

    async def _listen(self) -> asyncio.Server:
        def connection() -> SMTP:
            self.connections += 1
            made = SMTP(self, **self._options)
            made.number = self.connections  # type: ignore[attr-defined]
            return made

        return await self._loop.create_server(connection, "127.0.0.1", 0)
