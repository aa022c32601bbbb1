"""Crowds over three web processes: of any number at once exactly as many win as may.

One round in the suite; ROUNDS and CLICKS in the environment reach the figures that
docs/reliability.md names.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.lab import Lab, running
from tests.lab.people import Answer, Sent

ROUNDS = int(os.environ.get("ROUNDS", "1"))
FINALIZERS = 50
CLICKS = int(os.environ.get("CLICKS", "120"))
# Requests under way at one time: more than all web processes have threads.
AT_ONCE = 60


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running("web", "web.2", "web.3", "worker", "clock") as made:
        yield made


def all_at_once(count: int, act: Callable[[int], Answer]) -> Counter[int]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(answer.status for answer in pool.map(act, range(count)))


def ready(lab: Lab, **options: int) -> Sent:
    sent = lab.person().send(**options)
    lab.truth.wait_until_ready([sent], 60)
    return sent


def test_f17_fifty_finalizers_have_one_effect(lab: Lab) -> None:
    for _ in range(ROUNDS):
        person = lab.person()
        sent = person.upload(person.begin({"a": b"1", "b": b"2"}))
        headers = {"Authorization": f"Bearer {sent.json['owner_token']}"}
        path = f"/transfers/{sent.id}/complete"
        statuses = all_at_once(
            FINALIZERS, lambda _, p=path, h=headers: lab.person().insist("POST", p, {}, **h)
        )
        assert set(statuses) <= {200, 202, 409}
        lab.truth.wait_until_ready([sent], 60)
        done = "SELECT count(*) FROM audit_events WHERE action = 'complete' AND transfer_id = %s"
        assert lab.truth.rows(done, sent.id) == [(1,)]
        lab.truth.check([sent])


@pytest.mark.parametrize("limit", [1, 7])
def test_f53_a_crowd_of_clicks_gets_exactly_what_is_left(lab: Lab, limit: int) -> None:
    for _ in range(ROUNDS):
        sent = ready(lab, max_downloads=limit)
        path = f"{sent.page}/files/{sent.json['files'][0]['id']}"
        statuses = all_at_once(
            CLICKS, lambda _, p=path: lab.person().insist("GET", p, **{"User-Agent": "curl/8"})
        )
        assert statuses == {303: limit, 410: CLICKS - limit}
        counted = "SELECT download_count FROM transfers WHERE id = %s"
        assert lab.truth.rows(counted, sent.id) == [(limit,)]
        rows = "SELECT count(*) FROM downloads WHERE transfer_id = %s"
        assert lab.truth.rows(rows, sent.id) == [(limit,)]
