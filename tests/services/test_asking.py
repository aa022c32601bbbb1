"""A recipient asks the sender: when it is possible, and once a day however often it is tried."""

from datetime import timedelta

import pytest

from app import clock
from app.db import db, transaction
from app.errors import Gone, NotFound, PasswordNeeded, WrongState
from app.models import Ending, ExtensionRequest, State
from app.services import (
    abuse,
    asking,
    downloads,
    extension_requests,
    mail_links,
    transfer_view,
    transfers,
    upkeep,
)
from tests.factories import Sender, Sent
from tests.services.test_audit import actions

pytestmark = pytest.mark.usefixtures("inside")
PAST = timedelta(seconds=1)


def expired(sender: Sender, **options: object) -> Sent:
    return sender.ready(**options).set(expires_at=clock.now() - PAST)


def used_up(sender: Sender, **options: object) -> Sent:
    return sender.ready(max_downloads=1, **options).set(download_count=1)


def rows(sent: Sent) -> list[ExtensionRequest]:
    return extension_requests.of_transfer(sent.id)


def test_what_was_asked_is_kept_with_its_reason(sender: Sender) -> None:
    for make, reason in ((expired, Ending.EXPIRED), (used_up, Ending.LIMIT_REACHED)):
        sent = make(sender)
        assert asking.is_open(sent.id)
        assert asking.ask(sent.slug, "ada", None, "Two more days, please", "ada@example.org")
        (asked,) = rows(sent)
        assert (asked.reason, asked.message) == (reason, "Two more days, please")
        assert asked.contact == "ada@example.org"
        assert b"ada" not in asked.asker_hash
        assert extension_requests.count(sent.id) == 1
        assert actions(sent.id)[-1] == "ask sender"


def test_once_a_day_for_each_recipient_and_transfer(sender: Sender) -> None:
    sent, other = expired(sender), expired(sender)
    told = [asking.ask(sent.slug, visitor, None) for visitor in ("ada", "ada", "bob", None, None)]
    assert told == [True, False, True, True, False]
    assert asking.ask(other.slug, "ada", None)
    assert len(rows(sent)) == 3
    assert actions(sent.id).count("ask sender") == 3
    assert asking.has_asked_today(sent.id, "ada")
    # An address is shared: nobody is told what somebody else behind it has asked.
    assert not asking.has_asked_today(sent.id, None)
    with transaction():
        for asked in rows(sent):
            asked.day -= timedelta(days=1)
    assert not asking.has_asked_today(sent.id, "ada")
    assert asking.ask(sent.slug, "ada", None)


def test_the_next_reason_on_the_same_day_is_the_same_question(sender: Sender) -> None:
    sent = used_up(sender)
    assert asking.ask(sent.slug, "ada", None)
    sent.set(expires_at=clock.now() - PAST)
    assert not asking.ask(sent.slug, "ada", None)


def test_nobody_is_asked_for_what_is_here_or_gone(sender: Sender) -> None:
    for sent in (sender.create(), sender.create().upload().complete(), sender.ready()):
        assert not asking.is_open(sent.id)
        with pytest.raises(WrongState):
            asking.ask(sent.slug, "ada", None)
    gone = [expired(sender) for _ in range(3)]
    transfers.delete(gone[0].id)
    abuse.quarantine(gone[1].id)
    upkeep.expire_due()
    gone[2].set(expired_at=clock.now() - timedelta(days=3, seconds=1))
    for sent in gone:
        assert not asking.is_open(sent.id)
        with pytest.raises(Gone):
            asking.ask(sent.slug, "ada", None)
        assert rows(sent) == []
    with pytest.raises(NotFound):
        asking.ask("x" * 32, "ada", None)


def test_within_the_grace_period_whether_or_not_the_sweep_has_come_by(sender: Sender) -> None:
    sent = expired(sender)
    upkeep.expire_due()
    assert sent.row().state is State.EXPIRED
    sent.set(expired_at=clock.now() - timedelta(days=3) + timedelta(minutes=1))
    assert asking.ask(sent.slug, "ada", None)


def test_what_ends_between_look_and_note_is_not_noted(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that writes is the one that looks."""
    sent = expired(sender)
    look = transfer_view.view

    def and_then_it_ends(*given: object) -> transfer_view.TransferView:
        shown = look(*given)
        transfers.delete(sent.id)
        return shown

    monkeypatch.setattr(transfer_view, "view", and_then_it_ends)
    with pytest.raises(Gone):
        asking.ask(sent.slug, "ada", None)
    assert rows(sent) == []


def test_the_password_is_needed_where_the_page_asks_for_it(sender: Sender) -> None:
    sent = used_up(sender, password="open sesame")
    with pytest.raises(PasswordNeeded):
        asking.ask(sent.slug, "ada", None)
    proof = downloads.unlock(sent.slug, "open sesame")
    assert asking.ask(sent.slug, "ada", proof)
    # That it has expired is told to everybody, and everybody may ask.
    assert asking.ask(expired(sender, password="open sesame").slug, "ada", None)


@pytest.mark.parametrize("how", ["by its sender", "by the sweep"])
def test_deleting_the_transfer_forgets_them(sender: Sender, how: str) -> None:
    sent, other = expired(sender), expired(sender)
    for one in (sent, other):
        asking.ask(one.slug, "ada", None, "please", "ada@example.org")
    if how == "by its sender":
        transfers.delete(sent.id)
    else:
        upkeep.expire_due()
        sent.set(expired_at=clock.now() - timedelta(days=4))
        upkeep.delete_expired()
    assert rows(sent) == []
    assert len(rows(other)) == 1


def test_a_listing_has_the_newest_first_and_an_end(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension_requests, "MOST_SHOWN", 3)
    sent = expired(sender)
    for number in range(5):
        asking.ask(sent.slug, f"visitor {number}", None, str(number))
        db.session.query(ExtensionRequest).filter_by(message=str(number)).update(
            {"created_at": clock.now() + timedelta(seconds=number)}
        )
    assert [asked.message for asked in rows(sent)] == ["4", "3", "2"]
    assert extension_requests.count(sent.id) == 5


@pytest.mark.parametrize("is_swept", [False, True])
def test_a_new_date_answers_who_asked_for_time(sender: Sender, is_swept: bool) -> None:
    sent = expired(sender)
    asking.ask(sent.slug, "ada", None)
    if is_swept:
        upkeep.expire_due()
    assert sent.show()["request_count"] == 1
    sent.call("PATCH", json={"max_downloads": 3})
    sent.call("PATCH", json={"expires_at": (clock.now() + timedelta(days=1)).isoformat()})
    assert sent.show()["request_count"] == 0
    (told,) = sent.call("GET", "/requests").json["requests"]
    assert told["settled_at"] >= told["created_at"]
    # Once a day is once a day, whatever was answered.
    sent.set(expires_at=clock.now() - PAST)
    assert not asking.ask(sent.slug, "ada", None)
    assert asking.ask(sent.slug, "bob", None)
    assert sent.show()["request_count"] == 1


def test_a_higher_limit_answers_who_asked_for_downloads_and_more_of_both_answers_all(
    sender: Sender,
) -> None:
    sent = used_up(sender)
    asking.ask(sent.slug, "ada", None)
    sent.call("PATCH", json={"title": "x", "expires_at": None})
    assert extension_requests.count(sent.id) == 1
    # As many as there were give nobody anything.
    sent.call("PATCH", json={"max_downloads": sent.row().download_count})
    assert extension_requests.count(sent.id) == 1
    sent.call("PATCH", json={"max_downloads": 5})
    assert extension_requests.count(sent.id) == 0
    sent.set(download_count=5)
    asking.ask(sent.slug, "bob", None)
    sent.set(expires_at=clock.now() - PAST)
    asking.ask(sent.slug, "cy", None)
    assert extension_requests.count(sent.id) == 2
    mail_links.extend(sent.row())
    assert extension_requests.count(sent.id) == 0


def test_what_could_not_be_given_leaves_the_question_open(sender: Sender) -> None:
    sent = expired(sender)
    asking.ask(sent.slug, "ada", None)
    upkeep.expire_due()
    sent.set(expired_at=clock.now() - timedelta(days=4))
    assert sent.call("PATCH", json={"expires_at": None}).status_code == 410
    with pytest.raises(Gone):
        mail_links.extend(sent.row())
    assert extension_requests.count(sent.id) == 1
