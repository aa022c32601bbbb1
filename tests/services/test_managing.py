"""Two people manage one transfer at the same moment: nothing is lost without a word."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.errors import AppError, ChangedMeanwhile
from app.models import MailKind
from app.services import managing, transfers
from app.services.marks import mark_of
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import addressed

pytestmark = pytest.mark.real_commits
ROUNDS = 8


def at_once(app: Flask, *acts: Callable[[], Any]) -> list[Any]:
    """Each in a thread and with a session of its own; what it gives, or what it raises."""
    start = threading.Barrier(len(acts))
    told: list[Any] = [None] * len(acts)

    def run(index: int, act: Callable[[], Any]) -> None:
        with app.app_context():
            start.wait()
            try:
                told[index] = act()
            except AppError as error:
                told[index] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def marks(sent: Sent) -> dict[str, str]:
    return managing.marks_of(sent.row())


def edit(sent: Sent, seen: dict[str, str], **changes: Any) -> Callable[[], Any]:
    return lambda: managing.edit(transfers.of_id(sent.id), changes, seen)


def test_of_two_who_change_the_same_field_one_is_told(app: Flask, sender: Sender) -> None:
    for _ in range(ROUNDS):
        sent = sender.ready(title="as it was")
        seen = marks(sent)
        told = at_once(app, edit(sent, seen, title="one"), edit(sent, seen, title="two"))
        (lost,) = [one for one in told if isinstance(one, ChangedMeanwhile)]
        assert lost.details == {"changed": ["title"]}
        (won,) = [one for one in told if one is not lost]
        assert won.title == sent.row().title


def test_two_who_change_different_fields_both_do(app: Flask, sender: Sender) -> None:
    for _ in range(ROUNDS):
        sent = sender.ready(title="as it was")
        seen = marks(sent)
        told = at_once(app, edit(sent, seen, title="one"), edit(sent, seen, message="two"))
        assert not [one for one in told if isinstance(one, AppError)]
        assert (sent.row().title, sent.row().message) == ("one", "two")


def test_of_two_new_passwords_one_is_told(app: Flask, sender: Sender) -> None:
    sent = sender.ready()
    seen = marks(sent)
    told = at_once(app, edit(sent, seen, password="one one"), edit(sent, seen, password="two two"))
    assert [type(one) for one in told].count(ChangedMeanwhile) == 1


def test_whoever_two_people_add_at_once_are_all_there(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), "bo@example.org")

    def add(email: str) -> Callable[[], Any]:
        return lambda: managing.add_recipients(transfers.of_id(sent.id), [email])

    for number in range(ROUNDS):
        at_once(app, add(f"a{number}@example.org"), add(f"b{number}@example.org"))
    states = {one["state"] for one in sent.show()["recipients"]}
    assert len(sent.show()["recipients"]) == 1 + 2 * ROUNDS
    assert states == {"waiting"}


def test_of_two_who_choose_mails_one_is_told(app: Flask, sender: Sender, mail: MailServer) -> None:
    sent = addressed(sender.ready())
    seen = mark_of(sent.row().muted)

    def choose(*kinds: MailKind) -> Callable[[], Any]:
        return lambda: managing.choose_news(transfers.of_id(sent.id), kinds, seen)

    told = at_once(app, choose(MailKind.SENT), choose(MailKind.DOWNLOADED))
    assert [type(one) for one in told].count(ChangedMeanwhile) == 1
