"""One minute of the soak in every test run; `make soak MINUTES=480` is the long one."""

import os
import subprocess
import sys

from tests.soak.plan import Plan

# Any seed will do, and each finds something else; a fixed one makes two runs comparable.
SEED = os.environ.get("SOAK_SEED", "7")


def test_one_minute_of_everything_at_once_leaves_nothing_out_of_place() -> None:
    """In a process of its own: it starts a whole Beeline, and ends it whatever happens."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "1", "--seed", SEED],
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
