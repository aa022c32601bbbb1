"""Content-Disposition headers for any file name (RFC 6266, RFC 8187).

Names are stored byte for byte; only here is removed what could fool a person or break a header.
"""

import unicodedata
from urllib.parse import quote

# Bidi marks reorder what is shown, so that "gpj.exe" can look like "exe.jpg".
_BIDI = {
    "\u061c", "\u200e", "\u200f", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e",
    "\u2066", "\u2067", "\u2068", "\u2069",
}  # fmt: skip
# RFC 8187 attr-char, without the letters and figures that quote() always keeps.
_ATTR_CHARS = "!#$&+-.^_`|~"


def safe_name(name: str) -> str:
    """The name without separators, control characters and bidi marks; never empty."""
    kept = "".join("_" if char in "/\\" else char for char in without_marks(name)).strip()
    return kept if kept.strip(".") else "file"


def saved_name(name: str) -> str:
    """The safe name to save a file under; never a hidden file.

    `curl -J` and wget would write .curlrc under its own name, in a place where they read it.
    Browsers also prefix such a name.
    """
    safe = safe_name(name)
    return f"_{safe}" if safe.startswith(".") else safe


def name_by_curl(name: str) -> str:
    """The name that `curl -J` saves a file under: it can hold one kind of quotes, not both."""
    saved = saved_name(name)
    return saved.replace('"', "_") if "'" in saved else saved


def without_marks(text: str) -> str:
    """The text without control characters, which a terminal would obey, and without bidi marks."""
    if text.isprintable():  # has none of them; a shortcut for pages of thousands of names
        return text
    return "".join(
        char
        for char in text
        if char not in _BIDI and unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
    )


def attachment(name: str) -> str:
    """The header's value: an ASCII filename for old clients, and the true name in UTF-8."""
    true = saved_name(name)
    plain = unicodedata.normalize("NFKD", true).encode("ascii", "ignore").decode()
    # Clients differ in how they read a quote or a percent sign. Separators are replaced once more
    # because NFKD makes new ones: it turns a full-width slash into "/", and U+2100 into "a/c".
    plain = "".join("_" if char in '"%;/\\' else char for char in plain).strip()
    if not plain.strip("._ ") or plain.startswith("."):
        extension = true.rpartition(".")[2] if "." in true.strip(".") else ""
        plain = f"file.{extension}" if extension.isascii() and extension.isalnum() else "file"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(true, safe=_ATTR_CHARS)}"


def attachment_for_curl(name: str) -> str:
    """The header's value for `curl -J`, which knows no `filename*`, no escapes, and keeps bytes.

    The name is therefore sent as plain UTF-8, which WSGI carries as if it were Latin-1.
    """
    true = name_by_curl(name)
    quotes = "'" if '"' in true else '"'
    return f"attachment; filename={quotes}{true}{quotes}".encode().decode("latin-1")
