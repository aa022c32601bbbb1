"""The list of everything that was sent from one address: what is in it, in which order, at what cost."""

import re
import unicodedata
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from app import clock
from app.config import settings
from app.db import db
from app.services import abuse, accounts, own_transfers, program_access
from app.services.own_transfers import Page, Shown, Sort, Wish
from tests.api.test_listing import plan_of
from tests.factories import Machine, Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, word_of
from tests.watching import statements

pytestmark = pytest.mark.usefixtures("mail")


def own(sent: Sent, email: str = ADA) -> Sent:
    """As if the sender had confirmed this address for it."""
    return sent.set(sender_email=email, sender_confirmed_at=clock.now())


def listed(email: str = ADA, **wish: Any) -> Page:
    return own_transfers.of_email(email, Wish(**wish))


def titles(**wish: Any) -> list[str]:
    return [one.title or one.first_path or "" for one in listed(**wish).items]


def test_a_transfer_is_listed_once_its_address_is_confirmed(inside: None, sender: Sender) -> None:
    contents = {"film/a.mov": b"12345", "film/b.mov": b"1", "c.txt": b"1"}
    sent = sender.create(contents, max_downloads=7)
    sent.call("PATCH", json={"sender_email": ADA})
    assert listed().items == []
    # In whatever spelling.
    proof = {"sender_email": "Ada@Example.org", "sender_token": word_of()}
    assert sent.call("PATCH", json=proof).status_code == 200
    (item,) = listed().items
    row = sent.row()
    assert item == own_transfers.Item(
        title="",
        first_path="film/a.mov",
        file_count=3,
        size=7,
        state=Shown.UPLOADING,
        created_at=row.created_at,
        expires_at=row.expires_at,
        download_count=0,
        max_downloads=7,
        slug=sent.slug,
        word=item.word,
    )
    assert sender.client.get(f"/m/{item.word}").status_code == 200
    # Naming another address takes it away.
    sent.call("PATCH", json={"sender_email": "eve@example.org"})
    assert listed().items == listed("eve@example.org").items == []


def test_nothing_of_others_is_listed_nor_what_is_deleted(inside: None, sender: Sender) -> None:
    own(sender.create(title="of eve"), "eve@example.org")
    own(sender.create(title="of ada's namesake"), "ada@example.org.evil.example")
    sender.create(title="of nobody")
    own(sender.create(title="deleted")).call("DELETE")
    assert listed() == Page([], 1, 1, 0, 0, 0)


def test_what_a_workspaces_program_sent_is_only_listed_for_who_has_proven_the_address(
    inside: None, machine: Machine, sender: Sender
) -> None:
    """A program that speaks for its workspace names the installation as the sender."""
    proven = machine.put_one(title="by a program")
    own(Sent(machine.client, machine.put_one()), "bo@example.org").set(sender_confirmed_at=None)
    vouched = Sent(machine.client, machine.put_one())
    caller = accounts.authenticate(machine.key)
    program_access.share(vouched.row(), ["cy@example.org"], None, caller)
    assert vouched.row().sender_confirmed_at is not None
    for email in (settings.own_email, "bo@example.org", "cy@example.org"):
        assert listed(email).items == []
    proof = {"sender_email": ADA, "sender_token": word_of()}
    assert machine.native("PATCH", f"/{proven['id']}", json=proof).status_code == 200
    assert titles() == ["by a program"]


def test_each_state_is_told_filtered_by_and_counted(inside: None, sender: Sender) -> None:
    past = clock.now() - timedelta(seconds=1)
    own(sender.create(title="uploading"))
    own(sender.create(title="processing").upload().complete())
    own(sender.ready(title="ready"))
    own(sender.ready(title="limit_reached", max_downloads=1)).set(download_count=1)
    own(sender.ready(title="expired")).set(expires_at=past)  # the sweep has not come yet
    abuse.quarantine(own(sender.ready(title="blocked")).id)
    assert {one.title: one.state.value for one in listed().items} == {
        state.value: state.value for state in Shown
    }
    for state in Shown:
        page = listed(state=state)
        assert [one.title for one in page.items] == [state.value]
        assert (page.total_count, page.total_size) == (1, 5)
        assert page.ready_count == (state is Shown.READY)
    assert (listed().total_count, listed().total_size, listed().ready_count) == (6, 30, 1)


def test_sorted_in_each_way(inside: None, sender: Sender) -> None:
    now = clock.now()
    for age, (title, days, size) in enumerate(
        [("", 3, 2), ("Öl", 1, 4), ("apple", 2, 3), ("Banana", -1, 1), ("apple", 4, 1)]
    ):
        sent = own(sender.create({"b.txt": b"x" * size}, title=title))
        sent.set(created_at=now - timedelta(minutes=age), expires_at=now + timedelta(days=days))
        if days < 0:
            sent.upload().complete().process().set(expires_at=now - timedelta(days=1))
    assert titles() == ["b.txt", "Öl", "apple", "Banana", "apple"]
    assert titles(sort=Sort.EXPIRES_SOON) == ["Öl", "apple", "b.txt", "apple", "Banana"]
    assert [one.size for one in listed(sort=Sort.LARGEST).items] == [4, 3, 2, 1, 1]
    assert titles(sort=Sort.NAME) == ["apple", "apple", "b.txt", "Banana", "Öl"]
    # Of the same, the newer first.
    assert [one.size for one in listed(sort=Sort.NAME).items][:2] == [3, 1]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("wedding", ["Wedding 100 %"]),
        ("WEDDING zip", ["Wedding 100 %"]),
        ("Über", ["b_c"]),
        ("über", ["b_c"]),
        ("ÜBER mich", ["b_c"]),
        (unicodedata.normalize("NFD", "über"), ["b_c"]),
        ("grün", ["Wedding 100 %"]),
        ("%", ["Wedding 100 %"]),
        ("0 % w", ["Wedding 100 %"]),
        ("_", ["b_c"]),
        ("/", ["b_c"]),
        ("\\", []),
        ("'", []),
        ("zzz", []),
        ("  ", ["Wedding 100 %", "b_c"]),
        ("", ["Wedding 100 %", "b_c"]),
    ],
)
def test_searched_by_title_and_file_names(
    inside: None, sender: Sender, asked: str, found: list[str]
) -> None:
    of_a_mac = unicodedata.normalize("NFD", "Grünes.zip")
    own(sender.create({of_a_mac: b"1", "b": b"1"}, title="Wedding 100 %"))
    other = own(sender.create({"Trip/Über mich.txt": b"1"}, title="b_c"))
    other.set(created_at=clock.now() - timedelta(hours=1))
    page = listed(text=asked)
    assert ([one.title for one in page.items], page.total_count) == (found, len(found))


def test_pages_hold_each_once_and_the_last_is_the_last(
    inside: None, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_transfers, "PAGE_SIZE", 3)
    now = clock.now()
    for _ in range(7):
        own(sender.create()).set(created_at=now)
    pages = [listed(page=number) for number in (1, 2, 3, 4, 10**8)]
    assert [len(page.items) for page in pages] == [3, 3, 1, 1, 1]
    assert [page.number for page in pages] == [1, 2, 3, 3, 3]
    assert {page.page_count for page in pages} == {3}
    assert len({one.word for page in pages for one in page.items}) == 7


# -- what it costs -------------------------------------------------------------------------------


@pytest.fixture
def many(app: Flask, inside: None) -> None:
    """Some hundreds of Ada's among many more of others."""
    db.session.execute(
        text(
            "INSERT INTO transfers (id, slug, owner_token_hash, state, created_at, expires_at,"
            " ready_at, total_size, sender_email, sender_confirmed_at)"
            " SELECT gen_random_uuid(), 's' || n || e, sha256(e::bytea), 'READY',"
            " now() - n * interval '1 minute', now() + n * interval '1 minute', now(), n, e, now()"
            " FROM generate_series(1, 400) n, (SELECT 'ada@example.org' AS e UNION ALL"
            " SELECT 'p' || m || '@example.org' FROM generate_series(1, 40) m) emails"
        )
    )
    db.session.execute(text("ANALYZE transfers"))


def test_every_search_reads_only_that_senders_rows(many: None) -> None:
    wishes = [Wish(sort=sort) for sort in Sort]
    wishes += [Wish(state=Shown.READY), Wish(text="x 100 words")]
    for wish in wishes:
        items = own_transfers.items_query(ADA, wish).limit(50)
        for query in (items, own_transfers.totals_query(ADA, wish)):
            plan = plan_of(query)
            assert "Seq Scan on transfers" not in plan, plan
            assert re.search("Scan.* (using|on) ix_transfers_of_sender", plan), plan


def test_the_newest_are_read_in_order_and_nothing_is_sorted(many: None) -> None:
    plan = plan_of(own_transfers.items_query(ADA, Wish()).limit(50))
    assert "Sort" not in plan.partition("ix_transfers_of_sender")[0], plan


def test_a_page_is_two_queries_however_long(
    app: Flask, inside: None, sender: Sender, mail: MailServer
) -> None:
    def cost() -> int:
        with statements(app) as said:
            listed()
        return len(said)

    own(sender.create())
    first = cost()
    own(sender.create({"a": b"1", "b": b"1"}))
    own(sender.create())
    assert first == cost() == 2
