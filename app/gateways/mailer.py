"""Mail in our words: one letter to one address, and what became of it.

The only file that imports smtplib. By MAIL_URL a letter goes to an SMTP server, to SES, or into a
folder. An address that is refused for good is told from a server that has no time just now, and
from one that is not there at all; who asked never sees an exception of a library.
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

log = logging.getLogger(__name__)

# For connecting, and for each answer.
TIMEOUT_SECONDS = 10.0
# What mail programs take without any trouble.
_LONGEST_LINE = 78
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# What SES says of one letter; whatever else it says is about us, and may be over tomorrow.
_REFUSED_BY_SES = {"MessageRejected", "BadRequestException"}
# But for this, by its API and by SMTP: it does not know MAIL_FROM as ours, or, while it only lets
# us try it out (its sandbox), whom we write to.
_UNVERIFIED = "Email address is not verified"


class Fate(enum.Enum):
    """TAKEN: a server answers for it now. REFUSED: it will never be. LATER: try again."""

    TAKEN = "taken"
    REFUSED = "refused"
    LATER = "later"


@dataclass(frozen=True)
class Outcome:
    """What became of a letter, and the server's reason in its own words."""

    fate: Fate
    reason: str = ""
    # Whether it is known that no server has it.
    is_certain: bool = True
    # What the server calls it from now on, where it says so.
    server_id: str | None = None


class Letter(Protocol):
    """What can be handed over: the library's EmailMessage, or what can be written down as that."""

    def __getitem__(self, name: str) -> Any:
        """A header."""

    def as_bytes(self, *, policy: EmailPolicy) -> bytes:
        """All of it, by these rules."""


class Subject(str):
    """A subject that is read as it was written, to the last blank.

    The library would drop some of them, and double others, where it wraps what it has to encode;
    and of a word that looks encoded it would write what that stands for.
    """

    # By this the library knows that it is a header already, and asks it to write itself down.
    name = "Subject"

    def fold(self, *, policy: Policy) -> str:
        """The header with its line end, in ASCII whatever the policy."""
        line = f"{self.name}: {self}"
        if not line.isascii() or "=?" in line or len(line) > _LONGEST_LINE:
            text = Header(self, "utf-8", header_name=self.name).encode(linesep=policy.linesep)
            line = f"{self.name}: {text}"
        return f"{line}{policy.linesep}"


class _Form(EmailPolicy):
    """How a letter is written down: headers that programs read stay in one piece.

    The library would wrap a long address and spell it as if it were words; no mail program
    finds the link then.
    """

    def fold(self, name: str, value: Any) -> str:
        """One header with its line end."""
        if name.lower() in ("list-unsubscribe", "message-id"):
            return f"{name}: {value}{self.linesep}"
        folded: str = super().fold(name, value)
        return folded

    def fold_binary(self, name: str, value: Any) -> bytes:
        """As fold()."""
        return self.fold(name, value).encode("utf-8" if self.utf8 else "ascii", "surrogateescape")


_PLAIN = _Form(linesep="\r\n")
_UTF8 = _Form(linesep="\r\n", utf8=True)


class Away(Exception):
    """The server is not there, or wants none of our letters: no reason to try the next one."""


class Mailer:
    """Where letters go, bound late. Binding opens no connection."""

    def bind(self, settings: Settings) -> None:
        """Take the settings."""
        self._open = _opener(settings) if settings.mail_url else None
        self.sender = settings.mail_sender
        self.envelope = parseaddr(settings.mail_sender)[1]

    @property
    def is_on(self) -> bool:
        """Whether there is anywhere to hand mail over."""
        return self._open is not None

    @contextlib.contextmanager
    def line(self) -> Iterator["Line"]:
        """One connection for many letters; it is made when the first one comes."""
        assert self._open is not None
        line = Line(self._open, self.envelope)
        try:
            yield line
        finally:
            line.close()


class Line:
    """One connection, made anew once if it breaks; after that everything is for later."""

    def __init__(self, open_: "Callable[[], _Post]", envelope: str) -> None:
        self._open = open_
        self._envelope = envelope
        self._post: _Post | None = None
        self._is_away = ""
        self._breaks = 0

    def send(self, letter: Letter, to: str) -> Outcome:
        """Hand over one letter; never raises for what a mail server does or fails to do."""
        if self._is_away:
            return Outcome(Fate.LATER, self._is_away)
        try:
            self._post = self._post or self._open()
        except (Away, OSError, UnicodeError, smtplib.SMTPException, BotoCoreError) as error:
            self._is_away = _told(error)
            log.warning("mail cannot be handed over: %s", self._is_away)
            return Outcome(Fate.LATER, self._is_away)
        outcome = self._post.send(letter, self._envelope, to)
        self._breaks = 0 if self._post.is_alive else self._breaks + 1
        if self._breaks:
            self.close()
        if self._breaks > 1:
            self._is_away = outcome.reason
        return outcome

    def close(self) -> None:
        """Hang up, politely where that is possible."""
        post, self._post = self._post, None
        if post is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                post.close()


class _Post:
    """One way of handing letters over."""

    is_alive = True

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """Hand over one letter to one address. A failure is an outcome, never an exception."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to hang up."""


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
    """A connection that has said its name, and who we are."""

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
            # On loopback nobody listens in, and its servers have certificates of nobody.
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
        """One letter, one recipient: each has a link of their own."""
        options: list[str] = []
        form = _PLAIN
        if not to.isascii():
            options, form = ["SMTPUTF8", "BODY=8BITMIME"], _UTF8
        try:
            self._smtp.sendmail(envelope, [to], letter.as_bytes(policy=form), options)
        except smtplib.SMTPRecipientsRefused as error:
            return _answered(*next(iter(error.recipients.values())))
        except smtplib.SMTPSenderRefused as error:
            # It says nothing about who should get it: our own address is not liked.
            return Outcome(Fate.LATER, _words(error.smtp_code, error.smtp_error))
        except smtplib.SMTPNotSupportedError:
            return Outcome(Fate.REFUSED, "The mail server knows no addresses beyond ASCII.")
        except smtplib.SMTPResponseException as error:
            return _answered(error.smtp_code, error.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            # Whether it has been taken nobody knows; it goes again, under the same Message-ID.
            self.is_alive = False
            return Outcome(Fate.LATER, _told(error), is_certain=False)
        finally:
            # smtplib hangs up by itself when the server has said that it will.
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
    """What an answer means for a letter; what an operator can mend is no refusal."""
    if _UNVERIFIED in said:
        log.error("mail waits: SES has not verified MAIL_FROM, or we are still in its sandbox")
        is_refusal = False
    return Outcome(Fate.REFUSED if is_refusal else Fate.LATER, said)


def _words(code: int, said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return re.sub(r"\s+", " ", f"{code} {text}").strip()[:300]


def _told(error: BaseException) -> str:
    """Without what it may repeat of our credentials."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"the mail server does not let us in ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPResponseException):
        return _words(error.smtp_code, error.smtp_error)
    if isinstance(error, Away):
        return str(error)
    if isinstance(error, UnicodeError):
        return "MAIL_URL has a host, a user or a password that no mail server can be told"
    return f"the mail server does not answer ({type(error).__name__})"


# -- elsewhere -----------------------------------------------------------------------------------


class _Folder(_Post):
    """Each letter as a file, for looking at or for another program to send."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """The same letter again is the same file; nobody sees half of one."""
        name = re.sub(r"[^\w.-]", "_", str(letter["Message-ID"]).strip("<>"))
        half = self._folder / f".{name}.{secrets.token_hex(4)}"
        try:
            half.write_bytes(letter.as_bytes(policy=_UTF8))
            os.replace(half, self._folder / f"{name}.eml")
        except OSError as error:
            return Outcome(Fate.LATER, type(error).__name__)
        return Outcome(Fate.TAKEN)


class _Ses(_Post):
    """Amazon's own API."""

    def __init__(self, region: str, settings: Settings) -> None:
        self.client = aws.client(
            "sesv2",
            region,
            settings,
            endpoint_url=settings.aws_endpoint_url,
            read_seconds=TIMEOUT_SECONDS,
        )

    def send(self, letter: Letter, envelope: str, to: str) -> Outcome:
        """The raw letter; SES gives it a Message-ID of its own."""
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
