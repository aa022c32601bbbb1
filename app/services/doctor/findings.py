"""A check of the installation: what it is about, what it needs, and what it has found."""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad a finding is; each value is what `flask doctor` prints."""

    OK = "OK"
    # Something is not as it should be, and people can be served all the same.
    WARNING = "warning"
    FAILED = "failed"
    # Not tried, because something that it needs has failed.
    SKIPPED = "skipped"
    # Not judged: a number for the operator.
    FIGURE = ""


@dataclass(frozen=True)
class Finding:
    """What a check has found, in sentences: what is so, and if it is not right, what to do."""

    level: Level
    said: str


@dataclass(frozen=True)
class Check:
    """One check; `find` may raise, which counts as failed.

    It is skipped if one of those that it `needs`, by their names, has failed. After `seconds` its
    result is not waited for any longer.
    """

    group: str
    name: str
    find: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    seconds: float = 5.0


def ok(said: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, said)


def warning(said: str) -> Finding:
    """It works, but should be changed."""
    return Finding(Level.WARNING, said)


def failed(said: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAILED, said)


def figure(said: str) -> Finding:
    """A number."""
    return Finding(Level.FIGURE, said)
