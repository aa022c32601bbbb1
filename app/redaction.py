"""What must not be written down where operators look: cut from what others put into words."""

import re

_SECRETS = (
    # A signed address is a key, and so may be any other query.
    (re.compile(r"\?[^\s\"'<>)]*=[^\s\"'<>)]*"), "?..."),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;)]+"), r"\1 ..."),
    # An API key but for the beginning that its owner is shown too, and a signed token.
    (re.compile(r"\b(bee_[a-z0-9]{12})_[A-Za-z0-9_-]+"), r"\1_..."),
    # What webhooks are signed with.
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), "whsec_..."),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+"), "eyJ..."),
    (re.compile(r"(?i)(x-api-key\W+)[^\s'\",;)]+"), r"\1..."),
    (re.compile(r"/(d|b|m/extend|m|u|s3/as)/[A-Za-z0-9_.-]{8,}"), r"/\1/..."),
    (re.compile(r"://[^/\s@]*@"), "://...@"),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*KEY-----|\Z)", re.DOTALL
        ),
        "a private key ...",
    ),
    # PostgreSQL repeats the row that a constraint refused.
    (
        re.compile(r"DETAIL: .*?(?=\n\[SQL|\n\(Background|\nThe above exc|\Z)", re.DOTALL),
        "DETAIL: ...",
    ),
    # gunicorn repeats the header that it could not read.
    (re.compile(r"(Invalid request from ip=[^:\s]*:).*", re.DOTALL), r"\1 ..."),
)


def redacted(text: str) -> str:
    """The text without what could be a key to somebody's files, or what they are about."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
