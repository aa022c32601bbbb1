"""What may be set from outside, by environment variables; docs/speed.md lists them."""

import os
from dataclasses import dataclass

MIB, GIB = 1024**2, 1024**3
_UNITS = {"K": 1024, "M": MIB, "G": GIB}


def size_of(words: str) -> int:
    """A number of bytes as people write it: 512M, 4G."""
    digits, unit = (words[:-1], words[-1].upper()) if words[-1:].isalpha() else (words, "")
    return int(float(digits) * (_UNITS[unit] if unit else 1))


def text(name: str, default: str) -> str:
    """What the environment says, or the default."""
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
        """How large the file is that is sent there."""
        return self.paced_size if line == "paced" else self.size

    def words_for(self, line: str) -> str:
        """A line as its table calls it."""
        return {
            "loopback": "loopback",
            "sink": "loopback, storage that forgets",
            "paced": f"paced line x {self.pace:g}, storage that forgets",
        }[line]


def knobs() -> Knobs:
    """As the environment says now."""
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
