"""A letter to many people, written down once: what differs is filled in for each as bytes.

The library writes a letter in some milliseconds, most of which go into encoding what is the same
for all. A stencil keeps that, and writes only the lines that differ and the headers that are a
letter's own. What comes out is what the library would have written, but for the headers' order.
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
# Headers of these characters alone are written as they are: they hold no line end, no word that
# anything would decode, and nothing that the library would spell differently.
_PLAIN = re.compile(r"[\w.+@<>:/, -]+", re.ASCII)


class _Line(NamedTuple):
    """A line with something in it that differs, and the word that stands for it in the stencil."""

    word: str
    text: str
    is_html: bool


class Stencil:
    """One letter, cut where the marks in its texts are; filled in as often as is wanted."""

    def __init__(self, letter: EmailMessage, marks: Mapping[str, str]) -> None:
        """Takes the letter over. Marks, by their names, are ASCII that nothing else in it holds."""
        self._letter = letter
        self._marks = marks
        self._lines: list[_Line] = []
        self._pieces: dict[EmailPolicy, list[bytes]] = {}
        for part in letter.walk():
            if part.get_content_maintype() == "text":
                self._cut(part)

    def fill(self, headers: Mapping[str, str], values: Mapping[str, str]) -> "Filled":
        """The letter with these headers too, and these values in place of the marks so named.

        Raises ValueError for a header with a line end in it.
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
        """As fill() has it, in bytes."""
        if policy not in self._pieces:
            self._pieces[policy] = self._around_lines(self._letter.as_bytes(policy=policy))
        first, *others = self._pieces[policy]
        made = [_header(name, value, policy) for name, value in headers.items()]
        made.append(first)
        for line, piece in zip(self._lines, others, strict=True):
            made += [self._filled(line, values, policy), piece]
        return b"".join(made)

    def _cut(self, part: MIMEPart) -> None:
        """Quoted-printable goes line by line: so a line can be taken out and encoded alone."""
        kind = part.get_content_subtype()
        lines = part.get_content().split("\n")
        for at, line in enumerate(lines):
            if any(mark in line for mark in self._marks.values()):
                # Too short to be wrapped, and of characters that stand for themselves.
                lines[at] = secrets.token_hex(16)
                self._lines.append(_Line(lines[at], line, kind == "html"))
        # Not its own: a whole letter's would give a part a version too.
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
        # One character for each byte is how the library's encoder takes them.
        octets = text.encode().decode("latin-1")
        assert policy.max_line_length is not None  # every letter's lines have an end
        return quoprimime.body_encode(octets, policy.max_line_length, policy.linesep).encode()


class Filled:
    """A stencil filled in: a letter as app/gateways/mailer.py takes it."""

    def __init__(
        self, stencil: Stencil, headers: Mapping[str, str], values: Mapping[str, str]
    ) -> None:
        self._stencil, self._headers, self._values = stencil, headers, values

    def __getitem__(self, name: str) -> str:
        """One of its own headers."""
        return self._headers[name]

    def as_bytes(self, *, policy: EmailPolicy) -> bytes:
        """All of it."""
        return self._stencil.written(self._headers, self._values, policy)


class Drawer:
    """Keeps the last stencil; used for one batch of mails, those alike one after the other."""

    def __init__(self) -> None:
        self._about: Hashable = None
        self._stencil: Stencil | None = None

    def take(self, about: Hashable, cut: Callable[[], Stencil]) -> Stencil:
        """The stencil that is about this, cut if it was about something else."""
        if self._stencil is None or about != self._about:
            self._stencil = None
            self._stencil, self._about = cut(), about
        return self._stencil


def _header(name: str, value: str, policy: EmailPolicy) -> bytes:
    if _PLAIN.fullmatch(value):
        return f"{name}: {value}{policy.linesep}".encode()
    return policy.fold_binary(name, value)
