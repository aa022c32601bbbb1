"""Sizes, percentages, names and dates as text for people, the same on pages and in mails."""

import re
from datetime import UTC, datetime

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
# ASCII only: letters that join with their neighbours, or change with them, are not separated.
_END = re.compile(r"[ -~]{1,10}\Z")


def filesize(size: int) -> str:
    """A size in decimal units, as file managers show it: 999 bytes, 1.2 MB, 15 GB."""
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if value < 9.95 else f"{value:.0f} {_UNITS[unit]}"


def end_of_name(name: str) -> str:
    """The end of a long name, which stays visible when the name is cut; empty for a short one."""
    found = _END.search(name) if len(name) > 14 else None
    return found[0] if found else ""


def plain_date(instant: datetime) -> str:
    """Day, time and zone, for readers without JavaScript."""
    return f"{instant.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def percent_of(done: int, whole: int) -> int:
    """Whole percents, rounded down and at most 100; 0 if `whole` is 0."""
    return min(100, 100 * done // whole) if whole else 0


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: 1 file, 2,000 files."""
    return f"{number:,} {one if number == 1 else many}"
