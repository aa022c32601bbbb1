"""Sizes and dates as people read them; pages and mails speak alike."""

from datetime import UTC, datetime

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def filesize(size: int) -> str:
    """Decimal units, as people's file managers show them: 999 bytes, 1.2 MB, 15 GB."""
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if value < 9.95 else f"{value:.0f} {_UNITS[unit]}"


def plain_date(instant: datetime) -> str:
    """For a reader without JavaScript: day, time and zone."""
    return f"{instant.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def counted(number: int, one: str, many: str) -> str:
    """1 file, 2,000 files."""
    return f"{number:,} {one if number == 1 else many}"
