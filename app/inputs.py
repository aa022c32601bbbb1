"""Read and validate what a client sent, JSON or form alike, collecting every complaint.

    with Inputs(body) as given:
        title = given.text("title", longest=200)

Leaving the block raises errors.Invalid with all complaints, by full path (`files.1.size`); reading
raises nothing else. An unknown field is a complaint too.
"""

import base64
import enum
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from app.errors import Invalid

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)
# C0, DEL and C1 controls; NUL among them, which PostgreSQL cannot store at all.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROLS_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)")
# The file systems in use allow 255 bytes for a name; the whole path must fit an index entry.
LONGEST_NAME_BYTES = 255
LONGEST_PATH_BYTES = 2000


class Inputs:
    """The fields of one object, each read once, by the method for what it must be."""

    def __init__(
        self, given: Any, prefix: str = "", complaints: dict[str, str] | None = None
    ) -> None:
        self._prefix = prefix
        self.complaints: dict[str, str] = {} if complaints is None else complaints
        self._read: set[str] = set()
        self._given: dict[str, Any] = given if isinstance(given, dict) else {}
        if not isinstance(given, dict):
            self.complaints[prefix.rstrip(".") or "body"] = "must be an object"

    def __enter__(self) -> "Inputs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._refuse_unknown()
        if self.complaints and (error is None or isinstance(error, Invalid)):
            raise Invalid(self.complaints)

    def has(self, name: str) -> bool:
        """Whether the field was sent at all."""
        return name in self._given

    def text(self, name: str, *, default: str = "", longest: int, lines: bool = False) -> str:
        """A string of at most `longest` characters, without control characters.

        With `lines` it may hold line ends; CRLF is returned as LF.
        """
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            return self._complain(name, "must be text", default)
        if lines:
            value = value.replace("\r\n", "\n")
        if reason := bad_text(value, lines=lines):
            return self._complain(name, reason, default)
        if len(value) > longest:
            return self._complain(name, f"must be at most {longest} characters", default)
        return value

    def needed(self, name: str) -> bool:
        """Whether the field was sent and is not empty; adds a complaint if not."""
        if self._take(name) not in (None, ""):
            return True
        return self._complain(name, "is required", False)

    def needed_text(self, name: str, *, longest: int) -> str:
        """A string as `text` reads it, which must not be empty."""
        return self.text(name, longest=longest) if self.needed(name) else ""

    def complain(self, name: str, reason: str) -> None:
        """Add a complaint about something that the caller has found wrong."""
        self._complain(name, reason, None)

    def whole(self, name: str, *, least: int, most: int, default: int | None = None) -> int:
        """A whole number from `least` to `most`; required when there is no default."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        return self._whole(name, value, least, most)

    def optional_whole(self, name: str, *, least: int, most: int) -> int | None:
        """A whole number from `least` to `most`; None when absent or null."""
        value = self._take(name)
        return None if value is None else self._whole(name, value, least, most)

    def instant(self, name: str) -> datetime | None:
        """An RFC 3339 instant with its zone, as aware UTC; None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str) or not _RFC3339.fullmatch(value):
            return self._complain(name, "must be a time such as 2030-01-31T12:00:00Z", None)
        try:
            return datetime.fromisoformat(value.upper().replace(" ", "T")).astimezone(UTC)
        except (ValueError, OverflowError):
            return self._complain(name, "is not a time that exists", None)

    def path(self, name: str) -> str:
        """A relative file path, as on a person's computer, returned byte for byte."""
        value = self._take(name)
        reason = "is required" if value is None else _bad_path(value)
        return self._complain(name, reason, "") if reason else value

    def name(self, name: str, *, longest_bytes: int) -> str:
        """One file's name without folders, required, returned byte for byte."""
        value = self.path(name)
        if "/" in value:
            return self._complain(name, "must be a name, without /", "")
        if len(value.encode()) > longest_bytes:
            return self._complain(name, f"must be at most {longest_bytes} bytes", "")
        return value

    def ids(self, name: str, *, most: int) -> tuple[uuid.UUID, ...]:
        """A list of at most `most` different UUIDs; empty when absent or null."""
        read = [
            uuid_of(one) or self._complain(f"{name}.{index}", "must be an id", uuid.UUID(int=index))
            for index, one in enumerate(self._list(name, 0, most))
        ]
        if len(set(read)) != len(read):
            self._complain(name, "must not repeat an id", None)
        return tuple(read)

    def uuid(self, name: str) -> uuid.UUID:
        """A UUID, required."""
        return uuid_of(self._take(name)) or self._complain(name, "must be an id", uuid.UUID(int=0))

    def numbers(self, name: str, *, least: int, most: int, longest: int) -> tuple[int, ...]:
        """A list of 1 to `longest` different whole numbers from `least` to `most`."""
        value = self._list(name, 1, longest)
        numbers = [self._whole(f"{name}.{i}", one, least, most) for i, one in enumerate(value)]
        if len(set(numbers)) != len(numbers):
            self._complain(name, "must not repeat a number", None)
        return tuple(numbers)

    def digests(self, name: str, *, size: int, count: int) -> tuple[bytes, ...] | None:
        """A list of `count` base64 digests of `size` bytes each; None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            return self._complain(name, f"must be a list of {count}", None)
        return tuple(self._digest(f"{name}.{i}", one, size) for i, one in enumerate(value))

    def _digest(self, name: str, value: Any, size: int) -> bytes:
        try:
            raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except ValueError:
            raw = b""
        # It must encode to what was sent: base64 has several spellings of the same bytes.
        if len(raw) != size or base64.b64encode(raw).decode() != value:
            return self._complain(name, f"must be the base64 of {size} bytes", bytes(size))
        return raw

    def flag(self, name: str) -> bool:
        """True or false; false when absent or null."""
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        return self._complain(name, "must be true or false", False)

    def one_of(self, name: str, kind: Iterable[E]) -> E | None:
        """A member of an enumeration, or of part of one, by its value; None when absent or null."""
        value = self._take(name)
        known = {member.value: member for member in kind}
        if value is None or (isinstance(value, str) and value in known):
            return known.get(value)
        return self._complain(name, f"must be {' or '.join(map(str, known))}", None)

    def switch(self, name: str) -> bool:
        """True or false, required."""
        value = self._take(name)
        if not isinstance(value, bool):
            return self._complain(name, "must be true or false", False)
        return value

    def password(self, name: str, *, shortest: int, longest: int) -> str | None:
        """A newly chosen password, as it was typed; None when absent, null or empty."""
        value = self.text(name, longest=longest)
        if value and len(value) < shortest:
            reason = f"must be at least {shortest} characters"
            return self._complain(name, reason, None)
        return value or None

    def each(self, name: str, read: Callable[["Inputs"], T], *, least: int, most: int) -> list[T]:
        """A list of `least` to `most` objects, each read by `read`."""
        items = []
        for index, one in enumerate(self._list(name, least, most)):
            inner = Inputs(one, f"{self._prefix}{name}.{index}.", self.complaints)
            items.append(read(inner))
            inner._refuse_unknown()
        return items

    def texts(self, name: str, *, longest: int, most: int) -> list[str]:
        """A list of at most `most` strings of 1 to `longest` characters; empty when absent."""
        given = enumerate(self._list(name, 0, most))
        return [self._one_text(f"{name}.{index}", value, longest) for index, value in given]

    def pairs(self, name: str, *, longest: int, most: int) -> dict[str, str]:
        """An object of at most `most` named texts, each text and name at most `longest` characters.

        Empty when absent or null.
        """
        value = self._take(name)
        value = {} if value is None else value
        if not isinstance(value, dict) or len(value) > most:
            return self._complain(name, f"must be an object of at most {most} texts", {})
        for key, one in value.items():
            if not isinstance(one, str) or len(key) > longest or len(one) > longest:
                return self._complain(name, f"must have texts of at most {longest} characters", {})
            if reason := _bad_text(key, _CONTROLS) or _bad_text(one, _CONTROLS_BUT_LINES):
                return self._complain(name, reason, {})
        return value

    def some_of(self, name: str, known: Sequence[E]) -> list[E] | None:
        """A list of some of the known members, by their values; None when absent or null."""
        if self._take(name) is None:
            return None
        given = enumerate(self._list(name, 0, len(known)))
        return [self._member(f"{name}.{index}", value, known) for index, value in given]

    def _member(self, name: str, value: Any, known: Sequence[E]) -> E:
        values = {member.value: member for member in known}
        if isinstance(value, str) and value in values:
            return values[value]
        return self._complain(name, f"must be one of {', '.join(values)}", known[0])

    def _one_text(self, name: str, value: Any, longest: int) -> str:
        if not isinstance(value, str) or not value:
            return self._complain(name, "must be text", "")
        reason = _bad_text(value, _CONTROLS)
        if len(value) > longest:
            reason = f"must be at most {longest} characters"
        return self._complain(name, reason, "") if reason else value

    def _list(self, name: str, least: int, most: int) -> list[Any]:
        value = self._take(name)
        value = [] if value is None else value
        if not isinstance(value, list):
            return self._complain(name, "must be a list", [])
        if not least <= len(value) <= most:
            reason = (
                "must not be empty" if len(value) < least else f"must have at most {most} items"
            )
            return self._complain(name, reason, [])
        return value

    def _whole(self, name: str, value: Any, least: int, most: int) -> int:
        number = whole_of(value)
        if number is None:
            return self._complain(name, "must be a whole number", least)
        if not least <= number <= most:
            return self._complain(name, f"must be from {least} to {most}", least)
        return number

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self._given.get(name)

    def _complain(self, name: str, reason: str, instead: T) -> T:
        self.complaints.setdefault(f"{self._prefix}{name}", reason)
        return instead

    def _refuse_unknown(self) -> None:
        for name in sorted(set(self._given) - self._read, key=str)[:20]:
            shown = name if _bad_text(name, _CONTROLS) is None and len(name) < 64 else "a field"
            self._complain(shown, "is not a known field", None)


def uuid_of(value: Any) -> uuid.UUID | None:
    """The id that a string of 36 characters spells, or None."""
    if not isinstance(value, str) or len(value) != 36:
        return None
    try:
        return uuid.UUID(value)
    except ValueError:
        return None


def whole_of(value: Any) -> int | None:
    """The JSON value as an int, or None: JSON has no integers, so 3.0 is 3 as well."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def bad_text(value: str, *, lines: bool = False) -> str | None:
    """Why a string cannot be stored as text; None if it can."""
    if lines:
        return _bad_text(value.replace("\r\n", "\n"), _CONTROLS_BUT_LINES)
    return _bad_text(value, _CONTROLS)


def _bad_text(value: str, controls: re.Pattern[str]) -> str | None:
    if controls.search(value):
        return "must not contain control characters"
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: valid JSON, but not text
        return "must be valid Unicode"
    return None


def _bad_path(value: Any) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    if reason := _bad_text(value, _CONTROLS):
        return reason
    if not value.strip():
        return "must not be empty"
    if value.startswith("/") or re.match(r"[A-Za-z]:[\\/]", value):
        return "must not be absolute"
    pieces = value.split("/")
    if any(piece in ("", ".", "..") for piece in pieces):
        return "must not contain empty parts, . or .."
    if any(len(piece.encode()) > LONGEST_NAME_BYTES for piece in pieces):
        return f"must not contain a name longer than {LONGEST_NAME_BYTES} bytes"
    if len(value.encode()) > LONGEST_PATH_BYTES:
        return f"must be at most {LONGEST_PATH_BYTES} bytes"
    return None
