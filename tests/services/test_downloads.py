"""What a link shows, and what counts as a download."""

import uuid
from datetime import datetime, timedelta

import pytest

from app import clock
from app.config import MIB
from app.db import db
from app.errors import Gone, NotFound, WrongState
from app.models import Download
from app.services import downloads, options, transfer_view, upkeep
from tests.factories import Machine, Sender, Sent, http

pytestmark = pytest.mark.usefixtures("inside")


def url_of(sent, visitor: str | None = None, path: str | None = None) -> str:
    file = next(f for f in sent.files if path in (None, f["path"]))
    return downloads.file_url(sent.slug, uuid.UUID(file["id"]), visitor)


def began(**ago: float) -> datetime:
    """Let the only download have begun so long ago; returns when that was."""
    row = db.session.query(Download).one()
    row.created_at = clock.now() - timedelta(**ago)
    db.session.commit()
    return row.created_at


def test_every_state_is_shown_in_its_own_word(sender: Sender) -> None:
    past = clock.now() - timedelta(seconds=1)
    cases = {
        "uploading": sender.create(),
        "processing": sender.create().upload().complete(),
        "ready": sender.ready(),
        "limit_reached": sender.ready(max_downloads=1).set(download_count=1),
        "expired": sender.ready().set(expires_at=past),
        "deleted": sender.ready(),
    }
    cases["deleted"].call("DELETE")
    for state, sent in cases.items():
        view = transfer_view.view(sent.slug)
        assert view.state == state
        assert view.has_ended == (state in ("limit_reached", "expired", "deleted"))
        assert view.is_moving == (state in ("uploading", "processing"))
        assert bool(view.files) != view.has_ended
    with pytest.raises(NotFound):
        transfer_view.view("x" * 32)


def test_what_is_fetched_is_the_file_under_its_name(sender: Sender) -> None:
    sent = sender.ready({"dir/naïve ☕.txt": b"content"})
    answer = http.request("GET", url_of(sent))
    assert (answer.status, answer.data) == (200, b"content")
    disposition = answer.headers["Content-Disposition"]
    assert disposition.startswith('attachment; filename="naive')
    assert "filename*=UTF-8''na%C3%AFve%20%E2%98%95.txt" in disposition
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_f56_one_browser_within_the_hour_is_one_download(sender: Sender) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}, max_downloads=1)
    for path in ("a", "b", "a"):
        assert url_of(sent, "ada", path)
    assert sent.row().download_count == 1
    with pytest.raises(Gone) as caught:
        url_of(sent, "bob")
    assert caught.value.details == {"reason": "limit_reached"}
    assert transfer_view.view(sent.slug, "ada").state == "ready"
    assert transfer_view.view(sent.slug, "bob").state == "limit_reached"


def test_after_the_hour_it_is_another_download(sender: Sender) -> None:
    sent = sender.ready(max_downloads=2)
    url_of(sent, "ada")
    sent.set(ready_at=began(minutes=61))
    url_of(sent, "ada")
    assert sent.row().download_count == 2


def test_who_goes_on_with_what_takes_longer_than_an_hour_is_not_counted_again(
    sender: Sender,
) -> None:
    sent = sender.ready(max_downloads=1).set(total_size=5 * 3600 * MIB)
    url_of(sent, "ada")
    for hours, is_it in ((4.9, True), (5.1, False)):
        sent.set(ready_at=began(hours=hours))
        assert (transfer_view.view(sent.slug, "ada").state == "ready") is is_it
    assert transfer_view.view(sent.slug, "bob").state == "limit_reached"


def test_f56_the_hour_of_who_comes_early_does_not_end_before_all_is_there(sender: Sender) -> None:
    sent = sender.create({"a": b"1", "b": b"2"}, max_downloads=1).upload().name("a").unlock()
    url_of(sent, "ada", "a")

    def pass_time(**given: datetime) -> None:
        row = db.session.query(Download).one()
        row.created_at -= timedelta(minutes=61)
        db.session.commit()
        sent.set(**given)

    pass_time()
    assert transfer_view.view(sent.slug, "ada").state == "uploading"
    sent.complete().process()
    assert url_of(sent, "ada", "b")
    assert transfer_view.view(sent.slug, "bob").state == "limit_reached"
    pass_time(ready_at=clock.now() - timedelta(minutes=61))
    with pytest.raises(Gone):
        url_of(sent, "ada", "b")
    assert sent.row().download_count == 1


def test_reviving_a_transfer_begins_no_new_hour_for_who_downloaded_before(sender: Sender) -> None:
    sent = sender.ready(max_downloads=1)
    url_of(sent, "ada")
    began(days=2)
    was_ready_at = clock.now() - timedelta(days=3)
    sent.set(ready_at=was_ready_at, expires_at=clock.now())
    assert upkeep.expire_due() == 1
    options.edit(sent.row(), {"expires_at": clock.now() + timedelta(days=1)})
    assert sent.row().ready_at == was_ready_at
    assert transfer_view.view(sent.slug, "ada").state == "limit_reached"
    with pytest.raises(Gone):
        url_of(sent, "ada")


def test_without_cookies_each_fetch_counts(sender: Sender) -> None:
    sent = sender.ready()
    url_of(sent)
    url_of(sent)
    assert sent.row().download_count == 2
    assert db.session.query(Download).count() == 2


def test_f23_nothing_is_handed_out_after_the_end(sender: Sender) -> None:
    sent = sender.ready()
    with pytest.raises(NotFound):
        downloads.file_url(sent.slug, uuid.uuid4(), None)
    sent.set(expires_at=clock.now() - timedelta(milliseconds=1))
    with pytest.raises(Gone) as caught:
        url_of(sent)
    assert caught.value.details == {"reason": "expired"}
    # The last guard, for the moment between looking and counting.
    with pytest.raises(Gone):
        downloads.count_once(sent.id, uuid.UUID(sent.files[0]["id"]), None)
    assert sent.row().download_count == 0


def test_f23_a_date_that_passes_while_files_are_sent_ends_nothing(
    sender: Sender, machine: Machine
) -> None:
    """Its link lives on once they are there, so it must not seem dead before."""
    past = clock.now() - timedelta(days=1)
    sent = sender.create({"a": b"1", "b": b"2"})
    sent.set(created_at=past - timedelta(days=2), expires_at=past)
    assert transfer_view.view(sent.slug).state == "uploading"
    sent.upload().name("a").unlock()
    assert url_of(sent, "ada", "a")
    shown = transfer_view.version(sent.slug)
    assert b"Expires" not in sent.client.get(f"/d/{sent.slug}").data
    sent.set(expires_at=clock.now() + timedelta(days=1))
    assert transfer_view.version(sent.slug) != shown
    assert b"Expires" in sent.client.get(f"/d/{sent.slug}").data
    sent.set(expires_at=past).complete()
    assert transfer_view.view(sent.slug).state == "processing"
    assert url_of(sent, "bob", "a")
    assert transfer_view.view(sent.process().slug).state == "ready"
    # What comes by one PUT must have come in time.
    alone = Sent(machine.client, machine.make()).set(expires_at=past)
    assert transfer_view.view(alone.row().slug).state == "expired"


def test_nothing_is_handed_out_before_ready(sender: Sender) -> None:
    for sent in (sender.create(), sender.create().upload().complete()):
        with pytest.raises(WrongState):
            url_of(sent)
        assert sent.row().download_count == 0


def test_a_file_of_another_transfer_is_not_found(sender: Sender) -> None:
    mine, other = sender.ready(), sender.ready()
    with pytest.raises(NotFound):
        downloads.file_url(mine.slug, uuid.UUID(other.files[0]["id"]), None)
