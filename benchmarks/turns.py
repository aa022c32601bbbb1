"""Takes turns (A B A B ...), so that other load on the machine affects all contestants alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.knobs import knobs


@dataclass(frozen=True)
class Turn:
    """How long one turn took; `more` holds further figures, such as CPU seconds."""

    seconds: float
    more: Mapping[str, float] = field(default_factory=dict)


Contestant = Callable[[], Turn]
Rounds = dict[str, list[Turn]]


def say(line: str) -> None:
    """Print one line of progress immediately."""
    print(line, flush=True)


def take_turns(contestants: Mapping[str, Contestant], rounds: int | None = None) -> Rounds:
    """Run every contestant once in each round; a failure is printed, and retried in the next round.

    Stops early if one more round would take it past LIMIT_MINUTES.
    """
    given = knobs()
    count = rounds or given.rounds
    chosen = {n: c for n, c in contestants.items() if not given.only or _is_named(n, given.only)}
    done: Rounds = {name: [] for name in chosen}
    began = time.monotonic()
    for number in range(1, count + 1):
        told = []
        for name, contestant in chosen.items():
            try:
                turn = contestant()
            except Exception as error:
                say(f"   {name} failed: {type(error).__name__}: {str(error)[:400]}")
                continue
            done[name].append(turn)
            told.append(f"{name} {turn.seconds:.2f} s")
        say(f"   round {number}/{count}: {', '.join(told)}")
        passed = (time.monotonic() - began) / 60
        if number < count and passed * (number + 1) / number > given.minutes:
            say(f"   the time is over after {number} rounds (LIMIT_MINUTES={given.minutes:g})")
            break
    return done


def _is_named(name: str, words: Sequence[str]) -> bool:
    return any(word.lower() in name.lower() for word in words)


def median(turns: Sequence[Turn], name: str = "") -> float | None:
    """The median of the seconds, or of the named figure; None if there is none."""
    values = [
        turn.more[name] if name else turn.seconds for turn in turns if not name or name in turn.more
    ]
    return statistics.median(values) if values else None


def ratio(value: float | None, base: float | None) -> str:
    """How many times `base`; a dash if one of them is missing."""
    return f"{value / base:.2f}" if value and base else "-"


def figure(value: float | None, places: int = 0) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:,.{places}f}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table; the first column is words, the others are figures."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    say(f"\n   {title}")
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        say("   " + "  ".join(cells))
    say("")
