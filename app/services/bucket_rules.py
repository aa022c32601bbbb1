"""The bucket's rules: which other sites' pages may use it, and when it aborts uploads by itself."""

import re
from typing import Any

from app.config import settings
from app.db import release, transaction
from app.errors import Invalid
from app.extensions import storage
from app.gateways.storage import CORS_ID
from app.services import audit

METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_CORSConfiguration.html says 100; one is ours.
MOST_RULES = 99
MOST_WORDS = 100
LONGEST_WORD = 500
# Progress extends an upload's window, so an upload over a slow line may take very long. The
# bucket's lifecycle rule is only a backstop and must outlast any upload; the hourly sweep aborts
# dead ones long before.
ABORT_AFTER_DAYS = 365
_LISTS = ("AllowedOrigins", "AllowedMethods", "AllowedHeaders", "ExposeHeaders")
_PATTERNS = ("AllowedOrigins", "AllowedHeaders")
_HEADER = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")
_KNOWN = {*_LISTS, "ID", "MaxAgeSeconds"}


def read() -> list[dict[str, Any]]:
    """All CORS rules, in the form that S3 uses. Asks storage."""
    release()
    return storage.cors_rules()


def write(given: Any) -> None:
    """Replace all rules but the one for our own pages, which always stays. Repeatable.

    Raises Invalid. Asks storage.
    """
    rules = [rule for rule in _checked(given) if rule.get("ID") != CORS_ID]
    with transaction():
        audit.note("set CORS rules")
    storage.set_cors_rules(rules, settings.origins)


def _checked(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or len(given) > MOST_RULES:
        raise Invalid({"CORSRules": f"must be a list of at most {MOST_RULES} rules"})
    for index, rule in enumerate(given):
        if complaint := _complaint(rule):
            raise Invalid({f"CORSRules.{index}": complaint})
    return given


def _complaint(rule: Any) -> str | None:
    """Why storage would not accept this rule; None if nothing is wrong with it."""
    if not isinstance(rule, dict) or not set(rule) <= _KNOWN:
        return f"must be an object of {', '.join(sorted(_KNOWN))}"
    for name in _LISTS:
        if name in rule and not _is_list_of_words(rule[name]):
            return f"{name} must be a list of words"
    if not rule.get("AllowedOrigins") or not rule.get("AllowedMethods"):
        return "needs AllowedOrigins and AllowedMethods"
    if not set(rule["AllowedMethods"]) <= set(METHODS):
        return f"AllowedMethods must be of {', '.join(METHODS)}"
    if any(word.count("*") > 1 for name in _PATTERNS for word in rule.get(name, ())):
        return "an origin or an allowed header has at most one *"
    if not all(_HEADER.fullmatch(word) for word in rule.get("ExposeHeaders", ())):
        return "ExposeHeaders must be names of headers, without *"
    seconds, name = rule.get("MaxAgeSeconds", 0), rule.get("ID", "")
    if type(seconds) is not int or not 0 <= seconds < 2**31:
        return "MaxAgeSeconds must be a whole number"
    is_name = isinstance(name, str) and len(name) <= 255 and name.isprintable()
    return None if is_name else "ID must be at most 255 characters"


def _is_list_of_words(given: Any) -> bool:
    return (
        isinstance(given, list) and len(given) <= MOST_WORDS and all(_is_word(one) for one in given)
    )


def _is_word(given: Any) -> bool:
    is_text = isinstance(given, str) and 0 < len(given) <= LONGEST_WORD
    return is_text and given.isascii() and given.isprintable() and " " not in given
