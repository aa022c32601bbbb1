"""45 seconds of the soak in every test run; `make soak MINUTES=480` is the long one."""

import os
import re
import subprocess
import sys
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from tests.factories import Sender
from tests.lab.people import Answer, Sent
from tests.lab.truth import Truth
from tests.soak.people import Living, Memory
from tests.soak.plan import PART, STRIKES, Plan
from tests.soak.rows import explain, tell_queue, tell_row

# Any seed will do, and each finds something else; a fixed one makes two runs comparable.
SEED = os.environ.get("SOAK_SEED", "7")


def test_everything_at_once_for_a_while_leaves_nothing_out_of_place() -> None:
    """In a process of its own: it starts a whole Beeline, and ends it whatever happens."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.75", "--seed", SEED],
        capture_output=True,
        text=True,
        timeout=420,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak: nothing out of place" in done.stdout


def test_the_same_seed_is_the_same_plan() -> None:
    one, same, other = Plan(1, 60), Plan(1, 60), Plan(2, 60)
    lives = [[plan.life(n) for n in range(300)] for plan in (one, same, other)]
    assert (one.strikes, lives[0]) == (same.strikes, lives[1])
    assert (one.strikes, lives[0]) != (other.strikes, lives[2])
    file = lives[0][0].files[0]
    assert file.content() == lives[1][0].files[0].content()


def test_every_strike_comes_before_any_comes_again() -> None:
    """So 45 seconds have seven different ones at least, and each is one of the long run's too."""
    kinds = [strike.kind for strike in Plan(4, 600).strikes]
    assert set(kinds[: len(STRIKES)]) == set(STRIKES)
    assert all(len({one.kind for one in Plan(seed, 45).strikes}) >= 7 for seed in range(99))


def test_a_plan_holds_every_kind_of_life_and_of_file() -> None:
    lives = [Plan(3, 60).life(n) for n in range(1000)]
    sizes = {file.size for life in lives for file in life.files}
    assert {0} < sizes
    assert {8 * 2**20 - 1, 8 * 2**20, 8 * 2**20 + 1} < sizes
    assert max(sizes) > 2 * 8 * 2**20
    for file in lives[0].files + lives[1].files:
        assert len(file.content()) == file.size
    assert len({life.kind for life in lives}) == 8
    assert len({life.ending for life in lives}) == 4
    assert all(len(life.files) >= 1 for life in lives)
    verified = [file.is_verified for life in lives for file in life.files]
    assert 0.4 < sum(verified) / len(verified) < 0.6


def test_whoever_leaves_before_a_part_arrived_is_not_expected_to_be_ready() -> None:
    """It comes back to them however late it is checked; whether they still wait does not matter."""
    life = next(life for n in count() if (life := Plan(8, 60).life(n)).kind == "interrupted")
    living = Living(SimpleNamespace(stack=SimpleNamespace(url="http://x")), life, Memory())  # type: ignore[arg-type]
    files = [{"path": file.path} for file in life.files]
    living.sent = Sent({"id": "1", "slug": "s", "owner_token": "o", "files": files}, {})

    def leave(*states: str) -> dict[str, Any]:
        raise AssertionError("still PROCESSING")

    living._upload = lambda files, without_last=False: None  # type: ignore[method-assign]
    living._name = lambda files: None  # type: ignore[method-assign]
    living._call = lambda *asked: Answer("POST", 202, 0.1, 0.0)  # type: ignore[method-assign]
    living._wait_for = leave  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="still PROCESSING"):
        living._send_with_an_interruption()
    assert living.memory.fates == {"1": {"INIT"}}


@pytest.mark.real_commits
def test_a_finding_tells_all_there_is_to_know(sender: Sender, environ: dict[str, str]) -> None:
    contents = {"a.txt": b"hello", "big.bin": b"b" * (PART + 3)}
    sent = sender.create(contents, verified=True)
    sent.upload(without=(("big.bin", 2),)).complete().process()
    told = explain(Truth(environ), str(sent.id)).splitlines()
    assert "INIT" in told[0]
    assert re.search(r"0 attempts, 1 reminders, the last \d+ s ago, held by nobody", told[0])
    assert "COMPLETE single, problem none, checksum CRC32, an object, no multipart" in told[1]
    assert "OPEN multipart, problem missing, checksum CRC32, no object, multipart open" in told[2]
    assert re.search(r"events: create \d+ s ago, complete \d+ s ago$", told[3])
    assert "no transfer" in explain(Truth(environ), "00000000-0000-0000-0000-000000000000")
    lab: Any = SimpleNamespace(environ=environ, truth=Truth(environ))
    assert "INIT" in tell_row(lab, str(sent.id))
    assert re.search(r"sweep \d+, default \d+.*; workers: ", tell_queue(lab))
