"""Walking sorted keys: prefix, delimiter, pages. Keys sort by their UTF-8 bytes, as in S3."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Bound = tuple[str, str]
"""Where a list continues: rows with a greater key, or with the same key and a greater id."""

Fetch = Callable[[Bound], Iterator[sqlite3.Row]]
LAST_ID = "~"
"""Greater than every id."""


@dataclass
class Page:
    """One page: rows, common prefixes of grouped keys, and where the next page begins, if any."""

    rows: list[sqlite3.Row] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    next_bound: Bound | None = None
    last: Bound = ("", "")

    def __len__(self) -> int:
        return len(self.rows) + len(self.prefixes)


def walk(fetch: Fetch, prefix: str, delimiter: str, bound: Bound, limit: int) -> Page:
    """A page of at most `limit` entries after `bound`; keys with a common prefix are one entry."""
    page = Page()
    rows = fetch(bound)
    while limit and (row := next(rows, None)):
        if len(page) == limit:
            page.next_bound = bound
            break
        group = group_of(row["key"], prefix, delimiter)
        if group:
            page.prefixes.append(group)
            page.last = (group, "")
            bound = after_group(group)
            rows = fetch(bound)
        else:
            page.rows.append(row)
            page.last = bound = (row["key"], row["id"])
    return page


def group_of(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix under which a key is listed; empty if it is listed itself."""
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else ""


def marker_bound(marker: str, prefix: str, delimiter: str) -> Bound:
    """Where a list continues after a marker, which is a key or a common prefix."""
    if not marker:
        return ("", "")
    if group_of(marker, prefix, delimiter) == marker:
        return after_group(marker)
    return (marker, LAST_ID)


def after_group(prefix: str) -> Bound:
    """Where a list continues after all keys that begin with `prefix`."""
    return (successor(prefix) or "\U0010ffff" * 300, "")


def successor(prefix: str) -> str:
    """The first text greater than everything that begins with `prefix`; empty if there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    following = ord(kept[-1]) + 1
    if following == 0xD800:  # UTF-8 has no surrogates
        following = 0xE000
    return kept[:-1] + chr(following)
