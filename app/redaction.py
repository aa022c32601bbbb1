"""What must not be written down where operators look: cut from what others put into words."""

import re

_SECRETS = (
    # A signed address is a key, and so may be any other query.
    (re.compile(r"\?[^\s\"'<>)]*=[^\s\"'<>)]*"), "?..."),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;)]+"), r"\1 ..."),
    (re.compile(r"/d/[A-Za-z0-9_-]{8,}"), "/d/..."),
    (re.compile(r"://[^/\s@]*@"), "://...@"),
    # PostgreSQL repeats the row that a constraint refused; whoever cites it may indent it.
    (re.compile(r"DETAIL: .*?(?=\n\s*\[SQL|\n\s*\(Background|\n\s*The above exc|\Z)", re.DOTALL), "DETAIL: ..."),
    # gunicorn repeats the header that it could not read.
    (re.compile(r"(Invalid request from ip=[^:\s]*:).*", re.DOTALL), r"\1 ..."),
)  # fmt: skip


def redacted(text: str) -> str:
    """The text without what could be a key to somebody's files, or what they are about."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
