"""Hands over mail, one letter to one address at a time, and reports the outcome.

The only file that imports smtplib. Depending on MAIL_URL a letter goes to an SMTP server, to SES,
or into a folder. An outcome distinguishes a permanent refusal of the address from a server that is
busy or unreachable; callers never see an exception of a library.
"""

import contextlib
import enum
import logging
import os
import re
import secrets
import smtplib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.header import Header
from email.policy import EmailPolicy, Policy
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from app.config import Settings
from app.gateways import aws
from app.gateways.plain_http import why

log = logging.getLogger(__name__)

# For connecting, and for each answer.
TIMEOUT_SECONDS = 10.0
# RFC 5322's recommended line length, without the line end.
_LONGEST_LINE = 78
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# SES errors that are about the letter. All others are about our account and may pass.
_REFUSED_BY_SES = {"MessageRejected", "BadRequestException"}
# The exception, by API and by SMTP: SES has not verified MAIL_FROM or, while our account is in the
# sandbox, the recipient's address.
_UNVERIFIED = "Email address is not verified"


class Fate(enum.Enum):
    """TAKEN: a server has accepted it. REFUSED: no server ever will. LATER: try again."""

    TAKEN = "taken"
    REFUSED = "refused"
    LATER = "later"


@dataclass(frozen=True)
class Outcome:
    """The outcome for one letter, and the server's reason in its own words."""

    fate: Fate
    reason: str = ""
    # For LATER: whether it is certain that no server has accepted it.
    is_certain: bool = True
    # The id that the server has given it, if it reports one.
    server_id: str | None = None


class Letter(Protocol):
    """What can be sent: the library's EmailMessage, or anything that serialises like one."""

    def __getitem__(self, name: str) -> Any:
        """Return a header."""

    def as_bytes(self, *, policy: EmailPolicy) -> bytes:
        """Serialise the whole message by this policy."""


class Subject(str):
    """A subject that arrives exactly as it was written, with every space.

    Where the library encodes and wraps a subject, it drops some spaces and doubles others; a word
    that merely looks like an encoded word it would decode.
    """

    # By this attribute the library recognises a header object and calls its fold().
    name = "Subject"

    def fold(self, *, policy: Policy) -> str:
        """Return the header with its line end, in ASCII whatever the policy."""
        line = f"{self.name}: {self}"
        if not line.isascii() or "=?" in line or len(line) > _LONGEST_LINE:
            text = Header(self, "utf-8", header_name=self.name).encode(linesep=policy.linesep)
            line = f"{self.name}: {text}"
        return f"{line}{policy.linesep}"


class _Form(EmailPolicy):
    """Serialises letters without folding the headers that programs read.

    The library would wrap a long URL or encode it as if it were text, and no mail program would
    find the link then.
    """

    def fold(self, name: str, value: Any) -> str:
        """Return one header with its line end."""
        if name.lower() in ("list-unsubscribe", "message-id"):
            return f"{name}: {value}{self.linesep}"
        folded: str = super().fold(name, value)
        return folded

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Return what fold() does, as bytes."""
        return self.fold(name, value).encode("utf-8" if self.utf8 else "ascii", "surrogateescape")


_PLAIN = _Form(linesep="\r\n")
_UTF8 = _Form(linesep="\r\n", utf8=True)


class Away(Exception):
    """The server is unreachable or takes no mail from us: there is no point in trying the next."""


class Mailer:
    """The mail transport that MAIL_URL names, configured by bind()."""

    def bind(self, settings: Settings) -> None:
        """Take the settings; opens no connection."""
        self._open = _opener(settings) if settings.mail_url else None
        self.sender = settings.mail_sender
        self.envelope = parseaddr(settings.mail_sender)[1]

    @property
    def is_on(self) -> bool:
        """Whether mail is configured."""
        return self._open is not None

    @contextlib.contextmanager
    def line(self) -> Iterator["Line"]:
        """Yield one connection for many letters; it is opened when the first is sent."""
        assert self._open is not None
        line = Line(self._open, self.envelope)
        try:
            yield line
        finally:
            line.close()


class Line:
    """One connection, reopened if it breaks.

    Once it cannot be opened, or has broken at two letters in a row, all others are LATER.
    """

    def __init__(self, open_: "Callable[[], _Post]", envelope: str) -> None:
        self._open = open_
        self._envelope = envelope
        self._post: _Post | None = None
        self._is_away = ""
        self._breaks = 0

    def open(self) -> str:
        """Connect and log in now; returns why that is not possible, or an empty text. Repeatable.

        SES is only asked when a letter is sent.
        """
        try:
            if not self._is_away:
                self._post = self._post or self._open()
        except (Away, OSError, UnicodeError, smtplib.SMTPException, BotoCoreError) as error:
            self._is_away = _told(error)
            log.warning("mail cannot be handed over: %s", self._is_away)
        return self._is_away

    def send(self, letter: Letter, to: str) -> Outcome:
        """Hand over one letter; never raises for what a mail server does or does not do."""
        if reason := self.open():
            return Outcome(Fate.LATER, reason)
        assert self._post is not None
        outcome = self._post.send(letter, self._envelope, to)
        self._breaks = 0 if self._post.is_alive else self._breaks + 1
        if self._breaks:
            self.close()
        if self._breaks > 1:
            self._is_away = outcome.reason
        return outcome

    def close(self) -> None:
        """Close the connection, properly where that is possible."""
        post, self._post = self._post, None
        if post is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                post.close()


class _Post:
    """A transport for letters."""

    is_alive = True

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """Hand over one letter to one address. A failure is an outcome, never an exception."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection, if the transport has one."""


def _opener(settings: Settings) -> Callable[[], _Post]:
    parts = urlsplit(settings.mail_url)
    if parts.scheme == "file":
        return lambda: _Folder(Path(unquote(parts.path)))
    if parts.scheme == "ses":
        return lambda: _Ses(parts.hostname or "", settings)
    server = _Server(
        host=parts.hostname or "",
        port=parts.port or (465 if parts.scheme == "smtps" else 25),
        is_tls=parts.scheme == "smtps",
        must_be_tls=settings.mail_require_tls,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )
    return lambda: _Smtp(server)


# -- SMTP ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Server:
    host: str
    port: int
    is_tls: bool
    must_be_tls: bool
    user: str = field(repr=False)
    password: str = field(repr=False)


class _Smtp(_Post):
    """An SMTP connection, greeted and, where configured, encrypted and logged in."""

    def __init__(self, server: _Server) -> None:
        """Connect; raises Away, OSError or SMTPException."""
        kind: Any = smtplib.SMTP_SSL if server.is_tls else smtplib.SMTP
        more = {"context": ssl.create_default_context()} if server.is_tls else {}
        self._smtp = kind(server.host, server.port, timeout=TIMEOUT_SECONDS, **more)
        try:
            self._greet(server)
        except BaseException:
            self._smtp.close()
            raise

    def _greet(self, server: _Server) -> None:
        self._smtp.ehlo_or_helo_if_needed()
        is_safe = server.is_tls or server.host in _LOOPBACK
        if not server.is_tls and self._smtp.has_extn("starttls"):
            # On loopback nobody can eavesdrop, and servers have self-signed certificates.
            context = ssl.create_default_context()
            if server.host in _LOOPBACK:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._smtp.starttls(context=context)
            self._smtp.ehlo()
            is_safe = True
        elif not server.is_tls and server.must_be_tls:
            raise Away("the mail server offers no TLS, and MAIL_REQUIRE_TLS is set")
        if server.user:
            if not is_safe:
                raise Away("the mail server offers no TLS, and a password must not go without")
            self._smtp.login(server.user, server.password)

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """Send one letter to one recipient: every recipient has a link of their own."""
        options: list[str] = []
        form = _PLAIN
        if not to.isascii():
            options, form = ["SMTPUTF8", "BODY=8BITMIME"], _UTF8
        try:
            self._smtp.sendmail(envelope, [to], letter.as_bytes(policy=form), options)
        except smtplib.SMTPRecipientsRefused as error:
            return _answered(*next(iter(error.recipients.values())))
        except smtplib.SMTPSenderRefused as error:
            # This is about our own address and says nothing about the recipient's.
            return Outcome(Fate.LATER, _words(error.smtp_code, error.smtp_error))
        except smtplib.SMTPNotSupportedError:
            return Outcome(Fate.REFUSED, "The mail server only accepts ASCII addresses.")
        except smtplib.SMTPResponseException as error:
            return _answered(error.smtp_code, error.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            # The server may have accepted it; it is sent again, under the same Message-ID.
            self.is_alive = False
            return Outcome(Fate.LATER, _told(error), is_certain=False)
        finally:
            # smtplib closes the socket itself when the server announces that it will.
            self.is_alive = self.is_alive and self._smtp.sock is not None
        return Outcome(Fate.TAKEN)

    def close(self) -> None:
        """QUIT, unless the connection is dead."""
        if self.is_alive:
            self._smtp.quit()
        self._smtp.close()


def _answered(code: int, said: bytes | str) -> Outcome:
    return _judged(_words(code, said), is_refusal=500 <= code < 600)


def _judged(said: str, *, is_refusal: bool) -> Outcome:
    """Return what an answer means for a letter; a problem that an operator can fix is LATER."""
    if _UNVERIFIED in said:
        log.error("mail waits: SES has not verified MAIL_FROM, or we are still in its sandbox")
        is_refusal = False
    return Outcome(Fate.REFUSED if is_refusal else Fate.LATER, said)


def _words(code: int, said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return re.sub(r"\s+", " ", f"{code} {text}").strip()[:300]


def _told(error: BaseException) -> str:
    """Describe an error without any credentials of ours that it may repeat."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"the mail server does not let us in ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPResponseException):
        return _words(error.smtp_code, error.smtp_error)
    if isinstance(error, Away):
        return str(error)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the mail server offers no login here, and MAIL_URL has a user"
    if isinstance(error, UnicodeError):
        return "MAIL_URL has a host, a user or a password that no mail server can be told"
    return f"the mail server does not answer ({why(error)})"


# -- other transports ----------------------------------------------------------------------------


class _Folder(_Post):
    """Writes each letter to a file, to be read or to be sent by another program."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """Write the letter atomically, under its Message-ID: repeating overwrites the file."""
        name = re.sub(r"[^\w.-]", "_", str(letter["Message-ID"]).strip("<>"))
        half = self._folder / f".{name}.{secrets.token_hex(4)}"
        try:
            half.write_bytes(letter.as_bytes(policy=_UTF8))
            os.replace(half, self._folder / f"{name}.eml")
        except OSError as error:
            return Outcome(Fate.LATER, type(error).__name__)
        return Outcome(Fate.TAKEN)


class _Ses(_Post):
    """Sends by Amazon's SES API."""

    def __init__(self, region: str, settings: Settings) -> None:
        self.client = aws.client(
            "sesv2",
            region,
            settings,
            endpoint_url=settings.aws_endpoint_url,
            read_seconds=TIMEOUT_SECONDS,
        )

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """Send the raw letter; SES replaces its Message-ID."""
        try:
            answer = self.client.send_email(
                FromEmailAddress=envelope,
                Destination={"ToAddresses": [to]},
                Content={"Raw": {"Data": letter.as_bytes(policy=_PLAIN)}},
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            said = f"{code}: {error.response['Error'].get('Message', '')}"[:300]
            return _judged(said, is_refusal=code in _REFUSED_BY_SES)
        except BotoCoreError as error:
            return Outcome(Fate.LATER, _told(error))
        return Outcome(Fate.TAKEN, server_id=answer.get("MessageId"))
