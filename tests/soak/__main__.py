"""`python -m tests.soak --minutes 10 --seed 7`: exit code 0 if nothing was out of place."""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from app import jobs
from embedded import services
from tests.lab.lab import Lab, services_behind_proxies
from tests.lab.proxy import Proxy
from tests.soak import invariants
from tests.soak.operator import Operator
from tests.soak.people import Memory, People
from tests.soak.plan import Plan
from tests.soak.rows import ask, queued
from tests.soak.sabotage import PROCESSES, Saboteur

SETTINGS = {
    # Small files go by a single PUT, as they do in production; bigger ones as multiparts.
    "S3_CONDITIONAL_WRITES": "true",
    "PART_URL_TTL_IN_SECONDS": "120",
    "WEB_THREADS": "8",
}
PROGRESS_SECONDS = 5
SETTLE_SECONDS = 120


@contextlib.contextmanager
def laboratory() -> Iterator[Lab]:
    """A whole Beeline of its own, with something to break before everything."""
    with services.started(["postgres", "redis", "s3"]) as environ:
        endpoint = environ["S3_ENDPOINT_URL"]
        with Proxy.before(endpoint) as browsers:
            public = {"S3_PUBLIC_ENDPOINT_URL": browsers.instead(endpoint)}
            with services_behind_proxies(environ, **SETTINGS, **public) as lab:
                lab.browser_line = browsers  # type: ignore[attr-defined]
                lab.stack.release()
                for name in PROCESSES:
                    lab.stack.start(name)
                yield lab


class Soak:
    """One run."""

    def __init__(self, plan: Plan, people: int, out: IO[str]) -> None:
        self._plan, self._people, self._out = plan, people, out
        self.memory = Memory()

    def run(self) -> bool:
        """Whether nothing was out of place."""
        self._say(f"seed {self._plan.seed}, {self._plan.seconds:.0f} s")
        with laboratory() as lab:
            operator = Operator(lab, self.memory)
            self._load(lab, operator)
            began = time.monotonic()
            self._settle(lab, operator)
            self._check(lab, operator)
            self._say(f"settled and checked in {time.monotonic() - began:.0f} s")
        return not self.memory.findings

    def _load(self, lab: Lab, operator: Operator) -> None:
        people = People(lab, self._plan, self.memory, self._people)
        saboteur = Saboteur(lab, self._plan, self.memory)
        self._began = self.memory.began = time.monotonic()
        for one in (people, saboteur, operator):
            one.start()
        while (passed := time.monotonic() - self._began) < self._plan.seconds:
            time.sleep(min(PROGRESS_SECONDS, self._plan.seconds - passed))
            self._tell_progress()
        self.memory.counts["transfers per minute"] = round(
            self.memory.counts["transfers"] / (time.monotonic() - self._began) * 60
        )
        saboteur.stop()
        people.stop()
        operator.stop()

    def _settle(self, lab: Lab, operator: Operator) -> None:
        """Nothing breaks any more: what is being checked comes to its end, and sweeps go round."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            operator.let_grace_pass()
            operator.let_addresses_die()
            operator.sweep(orphans=False)
            # Whoever is still at an early file has a lease, and takes one more after it.
            at_work = (
                "still being checked",
                "a zip that is still being made",
                "a lease on what nobody works on",
            )
            is_busy = any(ask(lab, invariants.IMPOSSIBLE[one]) for one in at_work)
            if (
                not is_busy
                and not queued(lab, jobs.COMPLETE_EARLY.queue)
                and not ask(
                    lab,
                    "SELECT id FROM uploads WHERE state = 'ABORTED' AND removed_at IS NULL"
                    " UNION ALL SELECT id FROM transfers"
                    " WHERE state = 'EXPIRED' AND id = ANY(%s::uuid[])",
                    list(self.memory.to_go),
                )
            ):
                return
            time.sleep(0.5)

    def _check(self, lab: Lab, operator: Operator) -> None:
        invariants.check_rows(lab, self.memory)
        invariants.check_leaks(lab, self.memory)
        operator.judge_strays_at_once()
        operator.sweep()
        invariants.check_bucket(lab, self.memory)
        invariants.check_answers(self.memory)

    def _tell_progress(self) -> None:
        counts = self.memory.counts
        strikes = sum(n for what, n in counts.items() if what.startswith("strike: "))
        self._say(
            f"{time.monotonic() - self._began:5.0f} s  {counts['transfers']} transfers, "
            f"{counts['ready']} ready, {counts['downloads']} downloads, {strikes} strikes, "
            f"{counts['sweeps']} sweeps, {len(self.memory.findings)} findings"
        )

    def tell(self) -> None:
        """The figures, and whatever was out of place."""
        for what, count in sorted(self.memory.counts.items()):
            self._say(f"  {count:>12,}  {what}")
        self._say(f"  {self.memory.heard.slowest:>12.2f}  seconds the slowest answer took")
        waits = sorted(self.memory.waits) or [0.0]
        middle, late = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
        self._say(
            f"  {waits[-1]:>12.2f}  seconds the longest check took; "
            f"of 100 the middle one {middle:.1f}, the 99th {late:.1f}; what was seen meanwhile:"
        )
        for seen in self.memory.longest_wait:
            self._say(f"    {seen}")
        statuses = ", ".join(f"{s}: {n}" for s, n in sorted(self.memory.heard.statuses.items()))
        self._say(f"  answers by status (0 is none): {statuses}")
        self._say(f"strikes: {', '.join(self.memory.strikes)}")
        for finding in self.memory.findings:
            self._say(f"seed {self._plan.seed}: {finding}")

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def main() -> int:
    """Run one soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--people", type=int, default=24, help="how many send at the same time")
    given = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", prefix="soak-", suffix=".log", delete=False) as log:
        # What the processes say while they are sabotaged is of interest only afterwards.
        out = os.fdopen(os.dup(1), "w")
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        soak = Soak(Plan(given.seed, given.minutes * 60), given.people, out)
        is_well = False
        try:
            is_well = soak.run()
        finally:
            soak.tell()
            verdict = "nothing out of place" if is_well else f"FAILED, seed {given.seed}"
            print(f"soak: {verdict}", file=out, flush=True)
            if is_well:
                os.unlink(log.name)
            else:
                print(f"the processes' log: {log.name}", file=out, flush=True)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
