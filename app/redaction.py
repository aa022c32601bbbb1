"""Removes secrets from texts that end up in logs and on operators' terminals."""

import re

_SECRETS = (
    # A presigned URL's query string is a key, and so may be any other.
    (re.compile(r"\?[^\s\"'<>)]*=[^\s\"'<>)]*"), "?..."),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;)]+"), r"\1 ..."),
    # An API key, except for the prefix that its owner is shown too.
    (re.compile(r"\b(bee_[a-z0-9]{12})_[A-Za-z0-9_-]+"), r"\1_..."),
    # The secret that a webhook is signed with.
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), "whsec_..."),
    # A signed token (JWT).
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+"), "eyJ..."),
    (re.compile(r"(?i)(x-api-key\W+)[^\s'\",;)]+"), r"\1..."),
    (re.compile(r"/(d|b|r|m/extend|m|u|s3/as)/[A-Za-z0-9_.-]{8,}"), r"/\1/..."),
    (re.compile(r"://[^/\s@]*@"), "://...@"),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*KEY-----|\Z)", re.DOTALL
        ),
        "a private key ...",
    ),
    # PostgreSQL quotes the row that a constraint refused.
    (
        re.compile(r"DETAIL: .*?(?=\n\[SQL|\n\(Background|\nThe above exc|\Z)", re.DOTALL),
        "DETAIL: ...",
    ),
    # gunicorn quotes the header that it could not parse.
    (re.compile(r"(Invalid request from ip=[^:\s]*:).*", re.DOTALL), r"\1 ..."),
)


def redacted(text: str) -> str:
    """The text without anything that may give access to files, or tell what they are about."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
