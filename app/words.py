"""Sizes, percentages, names and dates as people read them; pages and mails speak alike."""

import re
from datetime import UTC, datetime

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
# Letters that join their neighbours, or change with them, are not parted.
_END = re.compile(r"[ -~]{1,10}\Z")


def filesize(size: int) -> str:
    """Decimal units, as people's file managers show them: 999 bytes, 1.2 MB, 15 GB."""
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if value < 9.95 else f"{value:.0f} {_UNITS[unit]}"


def end_of_name(name: str) -> str:
    """What stays in sight of a name that may be cut; nothing of one that is short anyway."""
    found = _END.search(name) if len(name) > 14 else None
    return found[0] if found else ""


def plain_date(instant: datetime) -> str:
    """For a reader without JavaScript: day, time and zone."""
    return f"{instant.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def percent_of(done: int, whole: int) -> int:
    """Whole percents, rounded down and never above 100; 0 of nothing."""
    return min(100, 100 * done // whole) if whole else 0


def counted(number: int, one: str, many: str) -> str:
    """1 file, 2,000 files."""
    return f"{number:,} {one if number == 1 else many}"
