"""Settings in environment variables; docs/speed.md lists them."""

import os
from dataclasses import dataclass

MIB, GIB = 1024**2, 1024**3
_UNITS = {"K": 1024, "M": MIB, "G": GIB}


def size_of(words: str) -> int:
    """The number of bytes in a text such as 512M or 4G."""
    digits, unit = (words[:-1], words[-1].upper()) if words[-1:].isalpha() else (words, "")
    return int(float(digits) * (_UNITS[unit] if unit else 1))


def text(name: str, default: str) -> str:
    """The value of an environment variable, or the default if it is not set."""
    return os.environ.get(name) or default


@dataclass(frozen=True)
class Knobs:
    """How much is measured, and for how long at most."""

    rounds: int
    size: int
    paced_size: int
    minutes: float
    turn_seconds: float
    pace: float
    lines: tuple[str, ...]
    only: tuple[str, ...]

    def size_on(self, line: str) -> int:
        """The size in bytes of the file that is sent over this line."""
        return self.paced_size if line == "paced" else self.size

    def words_for(self, line: str) -> str:
        """The name of a line in its table."""
        return {
            "loopback": "loopback",
            "sink": "loopback, storage that forgets",
            "paced": f"paced line x {self.pace:g}, storage that forgets",
        }[line]


def knobs() -> Knobs:
    """The settings as they are in the environment now."""
    return Knobs(
        rounds=int(text("ROUNDS", "5")),
        size=size_of(text("SIZE", "1G")),
        paced_size=size_of(text("PACED_SIZE", "512M")),
        minutes=float(text("LIMIT_MINUTES", "30")),
        turn_seconds=float(text("TURN_SECONDS", "180")),
        pace=float(text("PACE", "1")),
        lines=tuple(text("WHERE", "loopback sink paced").split()),
        only=tuple(one for one in text("ONLY", "").split(",") if one),
    )
