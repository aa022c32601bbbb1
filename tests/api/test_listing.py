"""GET /transfers: a workspace's list, by filters, orders and pages, and what it costs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from app import clock
from app.db import db
from app.models import State
from app.services import accounts, listings
from app.services.listings import Order, SortBy, Wish
from tests.factories import Machine, Sent
from tests.watching import statements


def listed(machine: Machine, query: str = "") -> Any:
    answer = machine.native("GET", f"?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.fixture
def made(machine: Machine) -> list[Any]:
    """Three in different states, sizes, limits and dates, the oldest first."""
    soon, later, last = ((clock.now() + timedelta(days=days)).isoformat() for days in (1, 2, 3))
    first = machine.put_one(b"x" * 5, "a.txt", expires_at=last, max_downloads=1)
    files = [{"path": name, "size": 500} for name in ("one", "two")]
    second = machine.make(files=files, expires_at=soon)
    third = machine.make(expires_at=later, max_downloads=9)
    for age, one in enumerate((third, second, first)):
        Sent(machine.client, one).set(created_at=clock.now() - timedelta(minutes=age))
    return [first, second, third]


def test_the_newest_first_fifty_at_a_time(machine: Machine, made: list[Any]) -> None:
    page = listed(machine)
    assert (page["limit"], page["offset"], page["total_count"]) == (50, 0, 3)
    assert [one["id"] for one in page["items"]] == [one["id"] for one in reversed(made)]
    first = page["items"][-1]
    assert first == {name: made[0][name] for name in first} | {"created_at": first["created_at"]}
    empty = page["items"][0]
    assert (empty["filename"], empty["file_size"], empty["uploaded_at"]) == (None, None, None)
    two = page["items"][1]
    assert (two["filename"], two["file_size"], two["status"]) == ("one", 1000, "INIT")


@pytest.mark.parametrize(
    ("sort_by", "order"),
    [
        ("created_at", [0, 1, 2]),
        ("expires_at", [1, 2, 0]),
        ("max_downloads", [0, 2, 1]),
        ("file_size", [2, 0, 1]),
    ],
)
def test_sorted_both_ways(
    machine: Machine, made: list[Any], sort_by: str, order: list[int]
) -> None:
    expected = [made[at]["id"] for at in order]
    for word, ids in (("ASC", expected), ("desc", expected[::-1])):
        page = listed(machine, f"sort_by={sort_by}&order={word}")
        assert [one["id"] for one in page["items"]] == ids


def test_a_file_that_is_taken_out_counts_no_more(machine: Machine, made: list[Any]) -> None:
    file = made[1]["files"][0]["id"]
    assert machine.native("DELETE", f"/{made[1]['id']}/files/{file}").status_code == 204
    sizes = {one["id"]: one["file_size"] for one in listed(machine)["items"]}
    assert sizes[made[1]["id"]] == 500


def test_pages_hold_each_once(machine: Machine) -> None:
    ids = [machine.make()["id"] for _ in range(7)]
    now = clock.now()
    for one in ids:
        Sent(machine.client, {"id": one}).set(created_at=now)
    pages = [listed(machine, f"limit=3&offset={at}") for at in (0, 3, 6, 9)]
    assert [len(page["items"]) for page in pages] == [3, 3, 1, 0]
    assert sorted(one["id"] for page in pages for one in page["items"]) == sorted(ids)
    assert {page["total_count"] for page in pages} == {7}


def test_filtered_by_what_it_is_now(machine: Machine, made: list[Any]) -> None:
    def ids(status: str) -> list[str]:
        page = listed(machine, f"status={status}")
        assert page["total_count"] == len(page["items"])
        assert {one["status"] for one in page["items"]} <= {status}
        return [one["id"] for one in page["items"]]

    assert ids("READY") == [made[0]["id"]]
    assert ids("INIT") == [made[2]["id"], made[1]["id"]]
    # Past its date it is EXPIRED, whether or not the sweep has come.
    Sent(machine.client, made[0]).set(expires_at=clock.now() - timedelta(seconds=1))
    assert (ids("READY"), ids("EXPIRED")) == ([], [made[0]["id"]])
    machine.native("DELETE", f"/{made[0]['id']}")
    assert (ids("EXPIRED"), ids("DELETED")) == ([], [made[0]["id"]])


def test_every_dialect_tells_the_state_by_the_databases_clock(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine.ready()
    Sent(machine.client, made).set(expires_at=clock.now() - timedelta(seconds=1))
    for seconds in (-20, 0, 20):  # how wrong the clock of this process is
        there = datetime.now(UTC) + timedelta(seconds=seconds)
        monkeypatch.setattr(clock, "now", lambda there=there: there)
        assert listed(machine)["items"][0]["status"] == "EXPIRED"
        assert machine.native("GET", f"/{made['id']}").json["status"] == "EXPIRED"
        machine.token = machine.authorize()  # by the same clock
        shown = machine.call("GET", f"/transfers/{made['id']}").json
        assert (shown["state"], shown["url"]) == ("expired", None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=٣", "limit"),
        ("offset=-1", "offset"),
        ("offset=1e3", "offset"),
        ("offset=99999999999", "offset"),
        ("status=GONE", "status"),
        ("status=ready", "status"),
        ("sort_by=id", "sort_by"),
        ("order=up", "order"),
    ],
)
def test_nothing_is_clamped_or_guessed(machine: Machine, query: str, field: str) -> None:
    answer = machine.native("GET", f"?{query}")
    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json["error"]["fields"]] == [field]


def test_what_is_left_empty_is_as_if_it_was_left_out(machine: Machine, made: list[Any]) -> None:
    """A page with a form sends all of its fields, also those that nobody filled in."""
    fields = ("status", "limit", "offset", "sort_by", "order")
    assert listed(machine, "&".join(f"{name}=" for name in fields)) == listed(machine)


@pytest.mark.parametrize("query", ["limit=1", "limit=100", "offset=0", "offset=2147483647", "x=1"])
def test_the_edges_are_taken(machine: Machine, query: str) -> None:
    listed(machine, query)


# -- what it costs -------------------------------------------------------------------------------


@pytest.fixture
def many(machine: Machine) -> accounts.Caller:
    """A workspace of some hundreds beside others of many more."""
    caller = accounts.authenticate(machine.key)
    db.session.execute(
        text(
            "INSERT INTO workspaces (id, name)"
            " SELECT gen_random_uuid(), 'w' || n FROM generate_series(1, 40) n"
        )
    )
    db.session.execute(
        text(
            "INSERT INTO transfers (id, slug, owner_token_hash, state, created_at, expires_at,"
            " ready_at, expired_at, max_downloads, total_size, workspace_id)"
            " SELECT gen_random_uuid(), 's' || n || w.name, sha256(w.name::bytea),"
            " (ARRAY['READY', 'INIT', 'EXPIRED'])[1 + n % 3]::transfer_state,"
            " now() - n * interval '1 minute', now() + n * interval '1 minute', now(), now(),"
            " n, n, w.id FROM workspaces w, generate_series(1, 400) n"
        )
    )
    db.session.execute(text("ANALYZE transfers"))
    return caller


def plan_of(query: Any) -> str:
    compiled = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    return "\n".join(db.session.scalars(text(f"EXPLAIN {compiled}".replace(":", "\\:"))))


def test_every_order_reads_one_index_and_sorts_nothing(inside: None, many: accounts.Caller) -> None:
    for sort_by in SortBy:
        for order in Order:
            plan = plan_of(listings.items_query(many, Wish(sort_by=sort_by, order=order)))
            column = "total_size" if sort_by is SortBy.FILE_SIZE else sort_by.value
            assert re.search(rf"Index Scan.* using ix_transfers_listed_{column} ", plan), plan
            # That of the first file's position alone.
            assert "Seq Scan on transfers" not in plan
            assert plan.index("Limit") < plan.index("ix_transfers_listed_")
            assert "Sort" not in plan.partition("ix_transfers_listed_")[0], plan


@pytest.mark.parametrize("status", [None, *State])
def test_counting_and_filtering_read_an_index(
    inside: None, many: accounts.Caller, status: State | None
) -> None:
    wish = Wish(status=status)
    for query in (listings.items_query(many, wish), listings.count_query(many, wish)):
        plan = plan_of(query)
        assert "Seq Scan on transfers" not in plan, plan
        # Of a state that nobody's is in, whichever index says so is as good.
        if status not in (State.PROCESSING, State.DELETED):
            assert "ix_transfers_listed_" in plan, plan


def test_a_page_is_two_queries_however_long(
    app: Flask, machine: Machine, made: list[Any], inside: None
) -> None:
    def cost(run: Callable[[], Any]) -> int:
        with statements(app) as said:
            run()
        return sum("FROM transfers" in one for one in said)

    caller = accounts.authenticate(machine.key)
    costs = [cost(lambda n=n: listings.of_workspace(caller, Wish(limit=n))) for n in (1, 3)]
    assert costs == [2, 2]
    assert all(a == b for a, b in pairwise(costs))
