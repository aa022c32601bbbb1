"""A real Chromium on a line that breaks, hangs and lies between it and storage: F01 to F09 and F61.

Whatever happens in passing, the upload ends by itself, the bytes are the same, and what is sent
twice is at most what the faults cost.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import boto3
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from embedded import services
from tests.browser.steps import MIB, choose, expect_state, link_of, make_files
from tests.conftest import SECRET
from tests.lab.proxy import Proxy
from tests.lab.s3faults import (
    BROKEN,
    SLOW_DOWN,
    Answer,
    Fault,
    Forward,
    Request,
    S3Faults,
    error,
    late,
    lose_answer,
)
from tests.lab.stack import Stack

# As S3 does it, where the bucket's rules admit the page.
READABLE = (("Access-Control-Allow-Origin", "*"),)


@dataclass
class BadLine:
    """The stack, and what stands between browsers and storage: a wire, then S3's own failures."""

    stack: Stack
    wire: Proxy
    storage: S3Faults
    environ: dict[str, str]
    _sums: dict[str, str] = field(default_factory=dict)

    def stored(self) -> set[str]:
        """The SHA-256 of every object in the bucket; each is read once, as no key is used again."""
        client = boto3.client(
            "s3",
            endpoint_url=self.environ["S3_ENDPOINT_URL"],
            region_name=self.environ["S3_REGION"],
            aws_access_key_id=self.environ["S3_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["S3_SECRET_ACCESS_KEY"],
        )
        bucket = self.environ["S3_BUCKET"]
        keys = {one["Key"] for one in client.list_objects_v2(Bucket=bucket).get("Contents", [])}
        for key in keys - self._sums.keys():
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
            self._sums[key] = hashlib.sha256(body.read()).hexdigest()
        return {self._sums[key] for key in keys}

    @property
    def puts(self) -> int:
        """How many pieces reached storage so far, the whole ones and the others."""
        return self.storage.seen("UploadPart") + self.storage.seen("PutObject")


@pytest.fixture(scope="module")
def running() -> Iterator[BadLine]:
    """Browsers reach storage through the wire; the server's own calls do not."""
    with (
        services.started(["postgres", "redis", "s3"]) as environ,
        S3Faults(environ["S3_ENDPOINT_URL"]) as storage,
        Proxy.before(storage.url) as wire,
    ):
        given = {
            "SECRET_KEY": SECRET,
            "LOG_LEVEL": "WARNING",
            "S3_PUBLIC_ENDPOINT_URL": wire.instead(storage.url),
        }
        stack = Stack(environ | given)
        try:
            stack.release()
            for name in ("web", "worker", "clock"):
                stack.start(name)
            yield BadLine(stack, wire, storage, dict(environ))
        finally:
            stack.stop()


@pytest.fixture
def line(running: BadLine) -> Iterator[BadLine]:
    """The line, healed."""
    yield running
    running.wire.up()
    running.storage.heal()


@pytest.fixture
def open_page(chromium: Browser, running: BadLine) -> Iterator[Callable[..., Page]]:
    """The home page in a new profile; at the end no script error."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def open_new(script: str = "") -> Page:
        context = chromium.new_context(base_url=running.stack.url)
        contexts.append(context)
        context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda failed: wrong.append(str(failed)))
        page.goto("/")
        return page

    yield open_new
    for context in contexts:
        context.close()
    assert wrong == []


def readable(fault: Fault) -> Fault:
    """The same answer, and the page may read it."""

    def answer(request: Request, forward: Forward) -> Answer | None:
        given = fault(request, forward)
        return given and replace(given, headers=given.headers + READABLE)

    return answer


class Damage:
    """One bit of the body is another; what arrives is for storage to look at."""

    def __init__(self, line: BadLine) -> None:
        self._line = line

    def __call__(self, request: Request, forward: Forward) -> Answer:
        body = bytearray(request.body)
        body[len(body) // 2] ^= 0x10
        return self._line.storage._forward(replace(request, body=bytes(body)))


SIZES = {"a.bin": 44 * MIB + 3, "b.bin": 9 * MIB, "c.txt": 100, "d.txt": 5}
PIECES = 6 + 2 + 2

FAULTS: dict[str, tuple[str, Callable[[BadLine], Fault], int]] = {
    "f01-500": ("UploadPart", lambda line: readable(BROKEN), 4),
    "f01-503-slow-down": ("UploadPart", lambda line: readable(SLOW_DOWN), 4),
    "f01-500-that-may-not-be-read": ("UploadPart", lambda line: BROKEN, 3),
    "f01-500-of-a-whole-file": ("PutObject", lambda line: readable(BROKEN), 2),
    "f01-answers-that-come-late": ("UploadPart", lambda line: late(3), 5),
    "f02-answers-lost": ("UploadPart", lambda line: lose_answer, 3),
    "f02-answers-lost-of-whole-files": ("PutObject", lambda line: lose_answer, 2),
    "f03-refused-as-expired": (
        "UploadPart",
        lambda line: readable(error(403, "AccessDenied")),
        4,
    ),
    "f09-damaged": ("UploadPart", Damage, 4),
    "f09-damaged-whole-file": ("PutObject", Damage, 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_in_passing_need_nobody(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path, name: str
) -> None:
    """F01, F02, F03, F09: the bytes are equal, and only what failed was sent again."""
    operation, fault, times = FAULTS[name]
    sums = make_files(tmp_path, {f"{name} {file}": size for file, size in SIZES.items()})
    sender = open_page()
    before = line.puts
    line.storage.plan(operation, fault(line), times)
    choose(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done", 90)
    assert line.storage.left(operation) == 0, "the faults came"
    assert line.puts - before <= PIECES + times
    assert set(sums.values()) <= line.stored()


def test_a_fifth_of_all_puts_fail(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    """It ends unaided, and nothing is sent again but what failed."""
    sizes = {f"{n}.bin": 100_000 for n in range(40)} | {"large.bin": 120 * MIB}
    sums = make_files(tmp_path, sizes)
    dice = random.Random(5)
    arrived = failed = 0

    def sometimes(request: Request, forward: Forward) -> Answer | None:
        nonlocal arrived, failed
        if dice.random() < 0.2:
            failed += 1
            fault = dice.choice([readable(BROKEN), BROKEN, readable(SLOW_DOWN), lose_answer])
            return fault(request, forward)
        arrived += len(request.body)
        return forward()

    sender = open_page()
    for operation in ("UploadPart", "PutObject"):
        line.storage.plan(operation, sometimes)
    choose(sender, *sorted(tmp_path.iterdir()))
    expect_state(sender, "done", 120)
    assert set(sums.values()) <= line.stored()
    assert failed
    assert arrived <= sum(sizes.values())


def test_f04_a_line_that_goes_dead_is_given_up_and_used_again_when_it_is_back(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    """Not one byte moves and no error comes: the browser itself would wait for minutes."""
    sums = make_files(tmp_path, {"dead.bin": 70 * MIB})
    sender = open_page()
    before = line.puts
    line.storage.plan("UploadPart", late(1), 3)
    choose(sender, tmp_path / "dead.bin")
    _wait(lambda: line.puts - before >= 3)
    line.wire.blackhole()
    time.sleep(3)
    line.wire.up()  # What was connected stays dead.
    sender.evaluate("dispatchEvent(new Event('online'))")
    expect_state(sender, "done", 120)
    assert set(sums.values()) <= line.stored()


def test_f04_a_storage_that_is_away_says_so_and_goes_on_by_itself(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"away.bin": 70 * MIB})
    sender = open_page()
    before = line.puts
    line.storage.plan("UploadPart", late(0.5))
    choose(sender, tmp_path / "away.bin")
    _wait(lambda: line.puts - before >= 7)  # More than there are connections: some have arrived.
    line.wire.down()
    title = sender.locator("#trouble-title")
    expect(title).to_have_text("The storage cannot be reached.", timeout=20_000)
    expect(sender.locator("#trouble-text")).to_contain_text("is safe")
    line.storage.heal()
    line.wire.up()
    sender.get_by_role("button", name="Try now").click()
    expect_state(sender, "done", 60)
    assert set(sums.values()) <= line.stored()


def test_a_storage_that_does_not_admit_the_site_is_told_from_being_offline(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    """CORS: the browser says the same of it as of a broken cable; the page finds out."""
    make_files(tmp_path, {"blocked.bin": 20 * MIB})
    sender = open_page()
    line.storage.plan("", _without_permission)
    choose(sender, tmp_path / "blocked.bin")
    title = sender.locator("#trouble-title")
    expect(title).to_have_text("The storage does not accept files from this site.", timeout=20_000)
    line.storage.heal()
    expect_state(sender, "done", 60)


def _without_permission(request: Request, forward: Forward) -> Answer:
    given = forward()
    kept = tuple(one for one in given.headers if not one[0].lower().startswith("access-control-"))
    return replace(given, headers=kept)


def test_a_clock_that_is_wrong_is_told(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    make_files(tmp_path, {"late.bin": 20 * MIB})
    sender = open_page()
    line.storage.plan("UploadPart", readable(error(403, "RequestTimeTooSkewed")))
    choose(sender, tmp_path / "late.bin")
    expect_state(sender, "failed", 60)
    expect(sender.locator("#trouble-title")).to_contain_text("two clocks disagree")
    sender.get_by_text("Details", exact=True).click()
    expect(sender.locator("#facts")).to_contain_text("RequestTimeTooSkewed")
    line.storage.heal()
    sender.get_by_role("button", name="Try again").click()
    expect_state(sender, "done", 60)


def test_f61_a_frozen_tab_goes_on_when_it_is_thawed(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path
) -> None:
    sums = make_files(tmp_path, {"frozen.bin": 70 * MIB})
    sender = open_page()
    devtools = sender.context.new_cdp_session(sender)
    before = line.puts
    line.storage.plan("UploadPart", late(1))
    choose(sender, tmp_path / "frozen.bin")
    _wait(lambda: line.puts - before >= 2)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    line.wire.reset()
    time.sleep(5)
    line.storage.heal()
    devtools.send("Page.setWebLifecycleState", {"state": "active"})
    expect_state(sender, "done", 60)
    assert set(sums.values()) <= line.stored()


@pytest.mark.parametrize("years", [-17, 40])
def test_f67_a_computer_whose_clock_is_wrong_by_years(
    open_page: Callable[..., Page], line: BadLine, tmp_path: Path, years: int
) -> None:
    sums = make_files(tmp_path, {f"{years}.bin": 9 * MIB})
    off = int(years * 365.25 * 86_400_000)
    script = f"""
        const Real = Date;
        globalThis.Date = class extends Real {{
            constructor(...given) {{ given.length ? super(...given) : super(Real.now() + {off}); }}
            static now() {{ return Real.now() + {off}; }}
        }};
    """
    sender = open_page(script)
    choose(sender, tmp_path / f"{years}.bin")
    expect_state(sender, "done", 60)
    assert link_of(sender)
    assert set(sums.values()) <= line.stored()


def _wait(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
