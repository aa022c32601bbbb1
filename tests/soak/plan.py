"""What people will do and what will break: all of it follows from the seed, before anything runs."""

import random
from dataclasses import dataclass

MIB = 1024**2
PART = 8 * MIB
NAMES = ("a.txt", "Größe 1.bin", "photos/é .jpg", "x/y/z", "r\u202etxt.exe", "日本.pdf")

# What becomes of a transfer, and how often.
KINDS = {
    "send": 46,  # everything arrives
    "interrupted": 10,  # a part is missing at first
    "rearranged": 8,  # a file is taken out and another put in
    "cancelled": 9,  # deleted in the middle of the upload
    "late bytes": 6,  # deleted, and then bytes arrive for it
    "deleted at once": 8,  # deleted while it is being checked
    "abandoned": 7,  # never finished, and swept
    "unfinished": 6,  # never finished, and still allowed to be
}
ENDINGS = {"keep": 5, "delete": 3, "expire": 2, "expire and go": 2}
STRIKES = {
    "worker parent killed": 4,
    "worker family killed": 4,
    "worker told to leave": 2,
    "web killed": 3,
    "web told to leave": 1,
    "maker killed": 3,
    "maker told to leave": 1,
    "clock killed": 1,
    "redis flushed": 3,
    "redis down": 2,
    "redis hanging": 1,
    "postgres sessions ended": 3,
    "postgres down": 2,
    "storage down": 3,
    "storage resets": 2,
    "storage slow": 1,
    "storage says slow down": 2,
    "storage loses answers": 3,
    "storage lies about complete": 2,
    "browsers cut off from storage": 2,
}


@dataclass(frozen=True)
class FilePlan:
    """One file to send; its bytes follow from the seed too."""

    path: str
    size: int
    seed: str

    @property
    def is_verified(self) -> bool:
        """Whether its sender asks for checksums."""
        return random.Random(f"{self.seed}/verified").random() < 0.5

    def content(self) -> bytes:
        """Different in every file, and at every MiB of it."""
        block = random.Random(self.seed).randbytes(4096)
        whole, rest = divmod(self.size, MIB)
        pieces = [n.to_bytes(8, "big") + block * 255 + block[:4088] for n in range(whole)]
        return b"".join(pieces) + (block * (rest // 4096 + 1))[:rest]


@dataclass(frozen=True)
class Life:
    """What one transfer will go through."""

    number: int
    kind: str
    files: tuple[FilePlan, ...]
    extra: FilePlan
    max_downloads: int | None
    visits: int
    is_crowded: bool
    is_edited: bool
    wants_zip: bool
    ending: str


@dataclass(frozen=True)
class Strike:
    """Something that breaks, when, and for how long."""

    at: float
    kind: str
    target: str
    seconds: float


class Plan:
    """Everything that follows from a seed."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed = seed
        self.seconds = seconds
        self.strikes = list(self._strikes())

    def life(self, number: int) -> Life:
        """The n-th transfer; the same whoever sends it, and however many come before."""
        dice = random.Random(f"{self.seed}/life/{number}")
        kind = _pick(dice, KINDS)
        count = dice.choice((1, 1, 1, 2, 3, 6))
        return Life(
            number,
            kind,
            files=tuple(
                self._file(dice, number, n) for n in range(max(count, kind == "rearranged"))
            ),
            extra=self._file(dice, number, 99),
            max_downloads=dice.choice((None, None, 1, 2, 5)),
            visits=dice.choice((0, 1, 1, 2, 3)),
            is_crowded=dice.random() < 0.25,
            is_edited=dice.random() < 0.3,
            wants_zip=count > 1 and dice.random() < 0.6,
            ending=_pick(dice, ENDINGS),
        )

    def _file(self, dice: random.Random, number: int, index: int) -> FilePlan:
        size = dice.choices(
            (
                0,
                dice.randint(1, 2000),
                dice.randint(2000, 400_000),
                PART + dice.choice((-1, 0, 1)),
                2 * PART + dice.randint(0, 5),
            ),
            (8, 50, 30, 8, 4),
        )[0]
        path = f"{index}/{dice.choice(NAMES)}"
        return FilePlan(path, size, f"{self.seed}/{number}/{index}")

    def _strikes(self) -> list[Strike]:
        dice = random.Random(f"{self.seed}/strikes")
        strikes, at = [], 3.0
        # None comes twice before each has come once: a short run sees as many as it can.
        to_come = dict(STRIKES)
        while at < self.seconds - 2:
            kind = _pick(dice, to_come or STRIKES)
            to_come.pop(kind, None)
            target = dice.choice(("", ".2"))
            strikes.append(Strike(at, kind, target, dice.uniform(1, 4)))
            at += dice.uniform(4, 7)
        return strikes


def _pick(dice: random.Random, weights: dict[str, int]) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]
