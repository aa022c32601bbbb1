"""Zips under fire: a maker that is killed again and again, and people who only want a file checked."""

import io
import logging
import os
import random
import time
import zipfile
from collections.abc import Iterator

import pytest

from app.config import MIB
from tests.lab.lab import Lab, running
from tests.lab.people import Sent, get
from tests.lab.s3faults import late

log = logging.getLogger(__name__)
KILLS = int(os.environ.get("KILLS", "8"))
SEED = int(os.environ.get("SEED", "1"))
AGENT = {"User-Agent": "curl/8"}
# What a check may take while twenty zips are made: seconds on an idle machine are fewer.
CHECK_SECONDS = 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running("web", "worker", "maker", "clock") as started:
        yield started


@pytest.fixture(autouse=True)
def _healed(lab: Lab) -> Iterator[None]:
    yield
    lab.heal()


def send(lab: Lab, files: dict[str, bytes]) -> Sent:
    sent = lab.person().send(files)
    lab.truth.wait_until_ready([sent], 60)
    return sent


def ask_for_zip(lab: Lab, sent: Sent) -> str | None:
    """Have it made; where it is, once it is. So late a turn is told 503 and does not wait."""
    answer = lab.person().ask("GET", f"{sent.page}/zip?turn=18", **AGENT)
    assert answer.status in (303, 503), answer
    return answer.headers["Location"] if answer.status == 303 else None


def is_made(lab: Lab, sent: Sent) -> bool:
    query = "SELECT ready_at IS NOT NULL FROM archives WHERE transfer_id = %s"
    return lab.truth.rows(query, sent.id) == [(True,)]


def test_a_maker_killed_at_any_moment_leaves_one_valid_zip_and_no_parts(lab: Lab) -> None:
    chance = random.Random(SEED)
    block = chance.randbytes(4096)
    files = {f"{n}.bin": (n.to_bytes(2, "big") + block) * (3 * MIB // 1024) for n in range(3)}
    files |= {f"small/{n}.txt": b"%d" % n for n in range(80)}
    sent = send(lab, files)
    lab.storage.plan("UploadPart", late(0.4))  # a copy is one too
    assert ask_for_zip(lab, sent) is None
    for number in range(KILLS):
        time.sleep(chance.uniform(0.2, 1.5))
        if is_made(lab, sent):
            break
        if number % 2:
            lab.stack.kill("maker")
        else:
            lab.stack.kill_parent("maker")
        lab.stack.start("maker")
    lab.heal()
    deadline = time.monotonic() + 120
    while not is_made(lab, sent):
        assert time.monotonic() < deadline, "the zip is not made"
        time.sleep(0.2)
    where = ask_for_zip(lab, sent)
    assert where is not None
    with zipfile.ZipFile(io.BytesIO(get(where)[1])) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
    (key,) = lab.truth.rows(
        "SELECT u.key FROM archives a JOIN uploads u ON u.id = a.upload_id WHERE a.transfer_id = %s",
        sent.id,
    )[0]
    assert key not in lab.truth.open_keys()


def test_f35_nobody_who_wants_a_file_checked_waits_for_twenty_zips(lab: Lab) -> None:
    zipped = [lab.person().send({"a": b"1" * 100_000, "b": b"2"}) for _ in range(20)]
    lab.truth.wait_until_ready(zipped, 60)
    lab.storage.plan("UploadPart", late(3))
    for sent in zipped:
        assert ask_for_zip(lab, sent) is None
    sent = [lab.person().send() for _ in range(5)]
    took = lab.truth.wait_until_ready(sent, CHECK_SECONDS)
    assert not all(is_made(lab, one) for one in zipped), "the zips were made too soon to tell"
    log.info(f"checked after {took:.1f} s")
