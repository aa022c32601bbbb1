"""Encodes a letter to many people only once, and fills in what differs for each as bytes.

The email library needs some milliseconds for a letter, mostly to encode what is the same for all.
A stencil keeps that part, and encodes only the lines that differ and each letter's own headers.
The output is what the library would have written, except for the order of the headers.
"""

import re
import secrets
from collections.abc import Callable, Hashable, Mapping
from email import quoprimime
from email.message import EmailMessage, MIMEPart
from email.policy import EmailPolicy
from typing import NamedTuple

from markupsafe import escape

CTE = "quoted-printable"
# A header value of only these characters is written verbatim: it has no line break, no encoded
# word, and nothing that the library would spell differently.
_PLAIN = re.compile(r"[\w.+@<>:/, -]+", re.ASCII)


class _Line(NamedTuple):
    """A line that differs between letters, and the placeholder word for it in the stencil."""

    word: str
    text: str
    is_html: bool


class Stencil:
    """One letter, cut at the lines that contain marks; can be filled in any number of times."""

    def __init__(self, letter: EmailMessage, marks: Mapping[str, str]) -> None:
        """Take over the letter. `marks`, by name, are ASCII strings found nowhere else in it."""
        self._letter = letter
        self._marks = marks
        self._lines: list[_Line] = []
        self._pieces: dict[EmailPolicy, list[bytes]] = {}
        for part in letter.walk():
            if part.get_content_maintype() == "text":
                self._cut(part)

    def fill(self, headers: Mapping[str, str], values: Mapping[str, str]) -> "Filled":
        """The letter with these headers added, and each mark replaced by the value of its name.

        Raises ValueError for a header that contains a line break.
        """
        rules = self._letter.policy
        own = {
            name: value if _PLAIN.fullmatch(value) else rules.header_store_parse(name, value)[1]
            for name, value in headers.items()
        }
        return Filled(self, own, values)

    def written(
        self, headers: Mapping[str, str], values: Mapping[str, str], policy: EmailPolicy
    ) -> bytes:
        """The bytes of a filled-in letter; `headers` are those that fill() has prepared."""
        if policy not in self._pieces:
            self._pieces[policy] = self._around_lines(self._letter.as_bytes(policy=policy))
        first, *others = self._pieces[policy]
        made = [_header(name, value, policy) for name, value in headers.items()]
        made.append(first)
        for line, piece in zip(self._lines, others, strict=True):
            made += [self._filled(line, values, policy), piece]
        return b"".join(made)

    def _cut(self, part: MIMEPart) -> None:
        """Replace each line that contains a mark by a placeholder word.

        Quoted-printable works line by line, so such a line can later be encoded by itself.
        """
        kind = part.get_content_subtype()
        lines = part.get_content().split("\n")
        for at, line in enumerate(lines):
            if any(mark in line for mark in self._marks.values()):
                # Too short to be wrapped, and of characters that are not encoded.
                lines[at] = secrets.token_hex(16)
                self._lines.append(_Line(lines[at], line, kind == "html"))
        # Not part.set_content(): an EmailMessage's would add a MIME-Version to the part.
        MIMEPart.set_content(part, "\n".join(lines), subtype=kind, cte=CTE)

    def _around_lines(self, raw: bytes) -> list[bytes]:
        pieces = []
        for line in self._lines:
            before, _, raw = raw.partition(line.word.encode())
            pieces.append(before)
        return [*pieces, raw]

    def _filled(self, line: _Line, values: Mapping[str, str], policy: EmailPolicy) -> bytes:
        text = line.text
        for name, mark in self._marks.items():
            value = str(escape(values[name])) if line.is_html else values[name]
            text = text.replace(mark, value)
        # body_encode() wants one character for each byte.
        octets = text.encode().decode("latin-1")
        assert policy.max_line_length is not None  # our policies keep the library's default
        return quoprimime.body_encode(octets, policy.max_line_length, policy.linesep).encode()


class Filled:
    """A filled-in stencil: a Letter for app/gateways/mailer.py."""

    def __init__(
        self, stencil: Stencil, headers: Mapping[str, str], values: Mapping[str, str]
    ) -> None:
        self._stencil, self._headers, self._values = stencil, headers, values

    def __getitem__(self, name: str) -> str:
        """One of its own headers."""
        return self._headers[name]

    def as_bytes(self, *, policy: EmailPolicy) -> bytes:
        """The whole letter."""
        return self._stencil.written(self._headers, self._values, policy)


class Drawer:
    """Caches the last stencil; used for one batch of mails, in which similar ones are adjacent."""

    def __init__(self) -> None:
        self._about: Hashable = None
        self._stencil: Stencil | None = None

    def take(self, about: Hashable, cut: Callable[[], Stencil]) -> Stencil:
        """The cached stencil if it is for `about`; otherwise a new one, made by cut()."""
        if self._stencil is None or about != self._about:
            self._stencil = None
            self._stencil, self._about = cut(), about
        return self._stencil


def _header(name: str, value: str, policy: EmailPolicy) -> bytes:
    if _PLAIN.fullmatch(value):
        return f"{name}: {value}{policy.linesep}".encode()
    return policy.fold_binary(name, value)
