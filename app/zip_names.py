"""Names in a zip that every system can unpack, none of them outside the target folder.

A path stays as its sender wrote it wherever that is safe; anything that could escape the folder,
fool a person or be refused by a file system is replaced, and no two names are the same.
"""

import re
import unicodedata
from collections.abc import Iterable

from app.dispositions import safe_name

# Characters that Windows refuses in a name; its own unpacker stops at them.
_REFUSED = re.compile(r'[<>:"|?*]')
# Device names on Windows, with any extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])( *\.|$)", re.IGNORECASE)
_MOST_BYTES = 255


def names_in_zip(paths: Iterable[str]) -> list[str]:
    """A name for each path: relative, safe, and unique on file systems that ignore case."""
    safe = [_safe_path(path) for path in paths]
    # A file cannot have the name of a folder.
    taken = {_as_seen(folder) for path in safe for folder in _folders(path)}
    counts: dict[str, int] = {}
    return [_unique(path, taken, counts) for path in safe]


def _safe_path(path: str) -> str:
    pieces = [piece for piece in re.split(r"[/\\]", path) if piece.strip(". ")]
    return "/".join(_safe_piece(piece) for piece in pieces) or "file"


def _safe_piece(piece: str) -> str:
    kept = _REFUSED.sub("_", safe_name(piece)).rstrip(". ") or "file"
    kept = f"_{kept}" if _DEVICE.match(kept) else kept
    # Some senders' systems limit the characters of a name; most file systems limit its bytes.
    return kept if len(kept.encode()) <= _MOST_BYTES else _ended(kept, "").rstrip(". ")


def _folders(path: str) -> list[str]:
    pieces = path.split("/")
    return ["/".join(pieces[:count]) for count in range(1, len(pieces))]


def _as_seen(name: str) -> str:
    """A key that is equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unique(path: str, taken: set[str], counts: dict[str, int]) -> str:
    first = seen = _as_seen(path)
    name = path
    while seen in taken:
        # Go on at the last number, so that ten thousand files of the same name are not slow.
        counts[first] = counts.get(first, 1) + 1
        name = _numbered(path, counts[first])
        seen = _as_seen(name)
    taken.add(seen)
    return name


def _numbered(path: str, number: int) -> str:
    """`notes.txt` as `notes (2).txt`, cut where the name would become too long."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{_ended(name, f' ({number})')}"


def _ended(name: str, end: str) -> str:
    """The name with `end` before its extension, cut where it would become too long."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _MOST_BYTES - len(end) - 5:
        stem, dot, extension = name, "", ""
    end = f"{end}{dot}{extension}"
    room = _MOST_BYTES - len(end.encode())
    stem = stem.encode()[: max(1, room)].decode(errors="ignore") or "file"
    return f"{stem}{end}"
