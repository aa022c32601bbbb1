"""S3 slow, failing, refusing, hanging, and answers that are lost or lie: F13, F14, F19, F24, F27."""

import logging
import os
import secrets
import threading
import time
from datetime import timedelta

import pytest
import urllib3
from flask import Flask

from app import clock
from app.models import State
from app.services import upkeep
from tests.factories import Sender
from tests.lab.lab import Lab
from tests.lab.people import Heard, Sent, crowd
from tests.lab.s3faults import (
    ANY,
    BROKEN,
    FORBIDDEN,
    OK_WITH_ERROR,
    SKEWED,
    SLOW_DOWN,
    Fault,
    late_until,
    lose_answer,
)

# Shown by `pytest --log-cli-level=INFO`: the figures of docs/reliability.md.
log = logging.getLogger("figures")
READY_SECONDS = 120
COMPLETE = "CompleteMultipartUpload"
SLOW_COMPLETE_SECONDS = 40
# ANSWERS in the environment reaches the figure of docs/reliability.md.
LOST_ANSWERS = int(os.environ.get("ANSWERS", "100"))
LIES = int(os.environ.get("ANSWERS", "20"))


def _uploaded(lab: Lab, heard: Heard, count: int = 1) -> Sent:
    person = lab.person(heard)
    contents = {f"{n}.bin": secrets.token_bytes(30) for n in range(count)}
    return person.upload(person.begin(contents))


def test_f13_f19_a_complete_of_40_seconds_and_one_that_lies_twelve_times(lab: Lab) -> None:
    """The web never waits for it, the lease is kept meanwhile, and others go on.

    The other transfer is told "200, and an error inside" until the SDK's own tries run out, twice.
    """
    heard = Heard()
    slow, lied_to = _uploaded(lab, heard), _uploaded(lab, heard)
    over = threading.Event()
    lab.storage.plan(COMPLETE, late_until(over), 1, slow.key)
    lab.storage.plan(COMPLETE, OK_WITH_ERROR, 12, lied_to.key)
    began = time.monotonic()
    for sent in (slow, lied_to):
        lab.person(heard).complete(sent)
    with crowd(lab.stack) as people:
        time.sleep(5)
    others = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    assert lab.truth.states([slow]) == {"PROCESSING": 1}
    lab.truth.wait_until_ready([lied_to], 150)
    lied = time.monotonic() - began
    time.sleep(max(0.0, SLOW_COMPLETE_SECONDS - lied))
    over.set()
    lab.truth.wait_until_ready([slow], READY_SECONDS)
    people.heard.check()
    heard.check()
    # A second runner would have asked again.
    assert lab.storage.seen(COMPLETE, slow.key) == 1
    assert lab.storage.seen(COMPLETE, lied_to.key) == 13
    lab.truth.check([slow, lied_to, *people.sent])
    log.info(
        f"slowest {people.heard.slowest:.1f} s, others ready {others:.1f} s, lied to {lied:.0f} s"
    )


@pytest.mark.parametrize(
    ("fault", "count"), [(lose_answer, LOST_ANSWERS), (OK_WITH_ERROR, LIES)], ids=["lost", "lies"]
)
def test_f13_f14_the_answer_to_every_complete_is_lost_or_lies(
    lab: Lab, fault: Fault, count: int
) -> None:
    """Done and nobody was told, or told "200, and an error inside" and nothing was done.

    What lies there proves itself: never READY without it, and nothing that is there is sent again.
    """
    heard = Heard()
    sent = [_uploaded(lab, heard, count // 4) for _ in range(4)]
    lab.storage.plan(COMPLETE, fault, count)
    for one in sent:
        lab.person(heard).complete(one)
    took = lab.truth.wait_until_ready(sent, READY_SECONDS)
    assert lab.storage.left(COMPLETE) == 0
    heard.check()
    lab.truth.check(sent)
    log.info(f"{count} answers: ready {took:.1f} s")


@pytest.mark.parametrize(
    ("faults", "seconds"),
    [((BROKEN, SLOW_DOWN), 4), ((FORBIDDEN, SKEWED), 2)],
    ids=["failing", "refusing"],
)
def test_storage_refuses_everything_for_a_while(
    lab: Lab, faults: tuple[Fault, ...], seconds: float
) -> None:
    """An honest 503 for what needs storage, pages as ever, and everything READY afterwards."""
    with crowd(lab.stack) as people:
        for fault in faults:
            time.sleep(1)
            lab.storage.plan(ANY, fault)
            time.sleep(seconds)
            lab.storage.heal()
        time.sleep(1)
    people.heard.check()
    assert people.heard.statuses[503]
    _pages_stayed(people.heard)
    lab.truth.skip_waits()
    took = lab.truth.wait_until_ready(people.sent, READY_SECONDS)
    lab.truth.check(people.sent)
    log.info(f"slowest {people.heard.slowest:.1f} s, ready {took:.1f} s")


@pytest.mark.parametrize("fault", ["down", "blackhole"])
def test_storage_away_for_a_while(lab: Lab, fault: str) -> None:
    """Refused, or silent: the same, and nobody waits longer than promised."""
    with crowd(lab.stack) as people:
        time.sleep(1)
        getattr(lab.storage_line, fault)()
        time.sleep(8)
        lab.storage_line.up()
    people.heard.check()
    assert people.heard.statuses[503]
    _pages_stayed(people.heard)
    lab.truth.skip_waits()
    took = lab.truth.wait_until_ready(people.sent, 120)
    lab.truth.check(people.sent, begun_in_vain=True)
    log.info(f"{fault}: slowest {people.heard.slowest:.1f} s, ready {took:.1f} s")


def _pages_stayed(heard: Heard) -> None:
    pages = [answer for answer in heard.answers if answer.asked in ("GET /", "GET /d/<slug>")]
    assert {answer.status for answer in pages} == {200}
    assert max(answer.seconds for answer in pages) < 3


def test_f27_late_parts_change_nothing(lab: Lab) -> None:
    """Every address that was signed dies with the Complete: what was checked stays as it was."""
    person = lab.person()
    sent = person.send({"a.bin": b"what was sent", "b.bin": b"this too"})
    lab.truth.wait_until_ready([sent], 20)
    before = lab.truth.head(sent.key)
    for url, body, headers in sent.urls:
        with urllib3.PoolManager(retries=False) as http:
            answer = http.request("PUT", url, body=b"!" * len(body), headers=headers)
            assert answer.status == 404
    after = lab.truth.head(sent.key)
    assert (after["ETag"], after["LastModified"]) == (before["ETag"], before["LastModified"])
    assert sent.key not in lab.truth.open_keys()
    lab.truth.check([sent])


@pytest.mark.real_commits
@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_f24_a_running_download_survives_the_end(
    app: Flask, sender: Sender, configure, end: str
) -> None:
    """Whoever is in the middle of a download gets all of it, although the bytes are removed."""
    configure(grace_in_days=0)
    body = secrets.token_bytes(4 * 1024**2)
    sent = sender.ready({"a.bin": body})
    with urllib3.PoolManager(retries=False) as http:
        link = _link(sent)
        answer = http.request("GET", link, preload_content=False)
        first = answer.read(64 * 1024)
        if end == "deleted":
            assert sent.call("DELETE").status_code == 204
        else:
            _expire(app, sent, ago=3600)
        with app.app_context():
            upkeep.delete_expired()
            upkeep.remove_bytes()
        assert sent.row().state is State.DELETED
        assert first + answer.read() == body
        assert http.request("GET", link).status == 404


@pytest.mark.real_commits
def test_f24_an_address_handed_out_before_the_expiry_works_for_its_life(
    app: Flask, sender: Sender, configure
) -> None:
    """Even without a period of grace: who clicked in time may fetch, and go on after a break."""
    configure(grace_in_days=0)
    sent = sender.ready({"a.bin": b"what was sent"})
    link = _link(sent)
    _expire(app, sent, ago=0)
    with app.app_context():
        upkeep.delete_expired()
        upkeep.remove_bytes()
    with urllib3.PoolManager(retries=False) as http:
        assert http.request("GET", link).data == b"what was sent"


def _link(sent) -> str:
    file = sent.files[0]["id"]
    agent = {"User-Agent": "curl/8"}
    return sent.client.get(f"/d/{sent.slug}/files/{file}", headers=agent).location


def _expire(app: Flask, sent, ago: float) -> None:
    """Let it expire, so many seconds ago."""
    then = clock.now() - timedelta(seconds=ago)
    sent.set(expires_at=then)
    with app.app_context():
        upkeep.expire_due()
    sent.set(expired_at=then)
