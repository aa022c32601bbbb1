"""A new date for what has expired: as long as its bytes are kept it is READY again, whole."""

import io
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from app import clock, lifecycle
from app.config import MIB
from app.db import db
from app.models import AuditEvent, State
from app.services import abuse, archives, downloads, mail_links, managing, options, upkeep
from tests.factories import Sender, Sent, http
from tests.lab.mailserver import MailServer
from tests.mail import addressed, send_mail, states

PEOPLE = [f"{name}@example.org" for name in ("bo", "cy", "di")]
CONTENTS = {"a": b"first", "empty": b"", "folder/big": b"b" * (8 * MIB + 1)}


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def in_days(days: float) -> str:
    return (clock.now() + timedelta(days=days)).isoformat()


def expired(sender: Sender, contents: dict[str, bytes] | None = None) -> Sent:
    """A transfer that the sweep has found past its date."""
    sent = sender.ready(contents).set(expires_at=ago(seconds=1))
    assert upkeep.expire_due() == 1
    return sent


def test_what_has_expired_is_downloaded_at_once_again_byte_for_byte(
    sender: Sender, inside: None
) -> None:
    sent = sender.ready(CONTENTS).zip().set(expires_at=ago(seconds=1))
    upkeep.expire_due()
    upkeep.remove_bytes()
    assert sender.client.get(f"/d/{sent.slug}").status_code == 410
    until = in_days(5)
    answer = sent.call("PATCH", json={"expires_at": until})
    assert (answer.status_code, answer.json["status"]) == (200, "READY")
    assert answer.json["expires_at"][:19] == until[:19]
    assert sent.row().expired_at is None
    for file in sent.files:
        url = downloads.file_url(sent.slug, file["id"], "a visitor")
        assert http.request("GET", url).data == CONTENTS[file["path"]]
    made = http.request("GET", downloads.zip_url(sent.slug, "a visitor").url).data
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == CONTENTS


@pytest.mark.parametrize(
    ("minutes", "is_kept"), [(14, True), (16, False)], ids=["14 minutes ago", "16 minutes ago"]
)
def test_without_a_grace_period_the_page_offers_it_as_long_as_it_can_be_done(
    sender: Sender, inside: None, configure: Any, minutes: int, is_kept: bool
) -> None:
    """That is as long as the addresses that were handed out last."""
    configure(grace_in_days=0, download_url_ttl_in_seconds=900)
    sent = expired(sender).set(expired_at=ago(minutes=minutes))
    assert managing.view(sent.row()).is_editable is is_kept
    answer = sent.call("PATCH", json={"expires_at": in_days(5)})
    assert answer.status_code == (200 if is_kept else 410)


def test_a_zip_that_was_being_made_goes_on(sender: Sender, inside: None) -> None:
    sent = sender.ready(CONTENTS)
    archives.request(sent.id)
    sent.set(expires_at=ago(seconds=1))
    upkeep.expire_due()
    archives.build(str(sent.id))
    assert archives.find_made(sent.id) is None
    options.edit(sent.row(), {"expires_at": clock.now() + timedelta(days=1)})
    archives.build(str(sent.id))
    assert archives.find_made(sent.id) is not None


@pytest.mark.parametrize("is_swept", [False, True])
def test_a_new_date_counts_whether_or_not_the_sweep_has_come(
    sender: Sender, inside: None, is_swept: bool
) -> None:
    sent = sender.ready().set(expires_at=ago(seconds=1))
    if is_swept:
        upkeep.expire_due()
    assert sent.call("PATCH", json={"title": "x"}).status_code == 410
    assert sent.call("PATCH", json={"title": "x", "expires_at": in_days(1)}).status_code == 200
    assert (sent.row().state, sent.row().title) == (State.READY, "x")
    assert upkeep.expire_due() == 0


REVIVALS = {
    "a new date": lambda sent: sent.call("PATCH", json={"expires_at": in_days(1)}),
    "READY again": lambda sent: sent.set(expires_at=ago(days=-1)).call(
        "PATCH", json={"status": "READY"}
    ),
    "more time": lambda sent: mail_links.extend(sent.row()),
}


@pytest.mark.parametrize("how", REVIVALS)
@pytest.mark.parametrize("is_swept", [False, True])
def test_whom_its_end_has_kept_from_their_mail_gets_it(
    app: Flask, sender: Sender, mail: MailServer, inside: None, how: str, is_swept: bool
) -> None:
    sent = addressed(sender.ready(), *PEOPLE, notifications=[])
    one, other, refuses = sent.show()["recipients"]
    mail_links.opt_out(refuses["email"])
    assert sent.call("DELETE", f"/recipients/{other['id']}").status_code == 204
    sent.set(expires_at=ago(seconds=1))
    assert send_mail(app) == 0
    if is_swept or how == "READY again":
        upkeep.expire_due()
    for _ in range(2):
        REVIVALS[how](sent)
        assert sent.row().state is State.READY
        send_mail(app)
    assert [letter.to for letter in mail.caught] == [one["email"]]
    assert states(sent) == dict(zip(PEOPLE, ("sent", "revoked", "failed"), strict=True))


def test_no_date_means_the_usual_one(sender: Sender, inside: None) -> None:
    sent = expired(sender)
    answer = sent.call("PATCH", json={"expires_at": None})
    assert answer.json["status"] == "READY"
    assert answer.json["expires_at"] > in_days(6)


def test_after_the_grace_period_it_is_gone(sender: Sender, inside: None) -> None:
    """Also where the sweep is late: its bytes may go at any moment."""
    sent = expired(sender).set(expired_at=ago(days=3, seconds=1))
    answer = sent.call("PATCH", json={"expires_at": in_days(1)})
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")
    upkeep.delete_expired()
    answer = sent.call("PATCH", json={"expires_at": in_days(1)})
    assert (answer.status_code, answer.json["reason"]) == (409, "deleted")
    assert sent.row().state is State.DELETED


def test_what_is_blocked_is_not_revived(sender: Sender, inside: None) -> None:
    sent = expired(sender)
    abuse.quarantine(sent.id)
    assert sent.call("PATCH", json={"expires_at": in_days(1)}).status_code == 403
    assert sent.row().state is State.EXPIRED
    abuse.lift_quarantine(sent.id)
    assert sent.call("PATCH", json={"expires_at": in_days(1)}).json["status"] == "READY"


def test_bad_values_revive_nothing(sender: Sender, inside: None) -> None:
    sent = sender.ready(max_downloads=5).set(download_count=3, expires_at=ago(seconds=1))
    upkeep.expire_due()
    for bad in (
        {"expires_at": in_days(-1)},
        {"expires_at": in_days(999)},
        {"expires_at": in_days(1), "max_downloads": 2},
    ):
        answer = sent.call("PATCH", json=bad)
        assert answer.status_code == 400
        assert answer.json["error"]["fields"][0]["field"] == list(bad)[-1]
        assert sent.row().state is State.EXPIRED
    assert sent.call("PATCH", json={"expires_at": in_days(1), "max_downloads": 3}).json[
        "status"
    ] == ("READY")


def test_it_is_recorded_once(sender: Sender, inside: None) -> None:
    sent = expired(sender)
    for _ in range(2):
        assert sent.call("PATCH", json={"expires_at": in_days(1)}).status_code == 200
    noted = [
        event.action
        for event in db.session.query(AuditEvent)
        .where(AuditEvent.transfer_id == sent.id)
        .order_by(AuditEvent.id)
    ]
    assert noted[-3:] == ["expire", "revive", "edit"]


def test_a_clock_that_is_moved_loses_nothing(sender: Sender, inside: None, monkeypatch) -> None:
    """The database's, by which rows are judged: forwards, back again, and forwards for good."""
    sent, db_now = sender.ready(), lifecycle.db_now

    def move(days: float) -> None:
        monkeypatch.setattr(lifecycle, "db_now", lambda: db_now() + timedelta(days=days))

    move(8)
    assert (upkeep.expire_due(), upkeep.delete_expired()) == (1, 0)
    move(-30)
    assert (upkeep.expire_due(), upkeep.delete_expired()) == (0, 0)
    assert sent.row().state is State.EXPIRED
    assert sent.call("PATCH", json={"expires_at": in_days(9)}).json["status"] == "READY"
    assert upkeep.expire_due() == 0
    move(10)
    assert (upkeep.expire_due(), upkeep.delete_expired()) == (1, 0)
    move(12.9)
    assert upkeep.delete_expired() == 0
    move(13.1)
    assert upkeep.delete_expired() == 1


def test_f66_a_process_whose_clock_is_wrong_ends_nothing(
    sender: Sender, inside: None, monkeypatch
) -> None:
    live, ended = sender.ready(), expired(sender)
    for days in (-4000, 4000):
        monkeypatch.setattr(clock, "now", lambda now=clock.now, days=days: now() + timedelta(days))
        assert (upkeep.expire_due(), upkeep.delete_expired(), upkeep.delete_abandoned()) == (0,) * 3
        assert upkeep.remove_bytes() == 0
        monkeypatch.undo()
    assert (live.row().state, ended.row().state) == (State.READY, State.EXPIRED)
