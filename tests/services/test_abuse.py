"""Reports, and quarantine: what it stops, what it leaves alone."""

import uuid
from datetime import timedelta

import pytest
from flask import Flask

from app import clock
from app.db import transaction
from app.errors import Blocked, Gone, NotFound
from app.models import BlockedFile, Board, FileRequest, Harm, State
from app.services import (
    abuse,
    boards,
    delivery,
    downloads,
    file_requests,
    mail_links,
    transfer_view,
    transfers,
    upkeep,
)
from tests.factories import Machine, Sender
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, send_mail, states
from tests.services.test_audit import actions
from tests.watching import statements

pytestmark = pytest.mark.usefixtures("inside")


def test_a_report_is_kept_until_it_is_closed(sender: Sender) -> None:
    sent = sender.ready()
    number = abuse.report(sent.slug, Harm.PHISHING, "It asks for my bank", "eve@example.org")
    ((report, transfer),) = abuse.reports()
    assert (report.id, transfer.id) == (number, sent.id)
    assert (report.reason, report.message) == (Harm.PHISHING, "It asks for my bank")
    assert report.contact == "eve@example.org"
    assert report.handled_at is None
    assert abuse.open_count(sent.id) == 1
    assert [abuse.close(number) for _ in range(3)] == [True, False, False]
    assert abuse.reports() == []
    assert [report.id for report, _ in abuse.reports(handled_too=True)] == [number]
    assert abuse.open_count(sent.id) == 0
    assert actions(sent.id)[-2:] == ["report", "close report"]
    for wrong in (abuse.close, abuse.report_of):
        with pytest.raises(NotFound):
            wrong(number + 1)


def test_the_operator_is_mailed_where_there_is_an_address(
    app: Flask, sender: Sender, mail: MailServer, configure
) -> None:
    sent = addressed(sender.ready(title="Rushes"), "bo@example.org")
    send_mail(app)
    (own,) = delivery.recipients_of(sent.id)
    configure(abuse_contact="https://example.org/abuse")
    abuse.report(sent.slug, Harm.OTHER)
    assert send_mail(app) == 0
    configure(abuse_contact="operator@example.org")
    # A recipient has a link of their own, and reports that.
    number = abuse.report(own.slug, Harm.PHISHING, "See https://evil.example", "eve@example.org")
    abuse.quarantine(abuse.find(f"https://x.example/d/{own.slug}").id)
    send_mail(app)
    (letter,) = mail.to("operator@example.org")
    assert letter.subject == f"Report {number}: phishing"
    for body in (letter.body("plain"), letter.body("html")):
        assert f"flask reports show {number}" in body
        assert "evil.example" not in body
        assert own.slug not in body


def test_all_admins_are_mailed_where_there_is_no_other_address_and_the_mail_leads_to_their_page(
    app: Flask, sender: Sender, machine: Machine, mail: MailServer, configure
) -> None:
    board = machine.board("Our bank")["url"].rpartition("/")[2]
    configure(abuse_contact="https://example.org/abuse", admin_emails=("op@example.org", ADA))
    numbers = [
        abuse.report(sender.ready().slug, Harm.OTHER),
        abuse.report(board, Harm.PHISHING, of=Board),
    ]
    send_mail(app)
    for email in ("op@example.org", ADA):
        # In no order: both were written in this test's one transaction, at the same time.
        told = {one.subject: one for one in mail.to(email)}
        subjects = (f"Report {numbers[0]}: other", f"Report {numbers[1]}: phishing")
        assert set(told) == set(subjects)
        for number, subject in zip(numbers, subjects, strict=True):
            for kind in ("plain", "html"):
                assert f"http://localhost/admin/reports/{number}" in told[subject].body(kind)
    configure(abuse_contact="operator@example.org")
    abuse.report(board, Harm.PHISHING, of=Board)
    assert send_mail(app) == 1
    assert "/admin/reports/" in mail.to("operator@example.org")[0].body("plain")
    configure(admin_emails=())
    abuse.report(board, Harm.PHISHING, of=Board)
    assert send_mail(app) == 1
    assert "/admin" not in mail.to("operator@example.org")[1].body("plain")


def test_the_operator_is_mailed_a_report_of_a_board(
    app: Flask, machine: Machine, mail: MailServer, configure
) -> None:
    configure(abuse_contact="operator@example.org")
    board = machine.board("Our bank")
    number = abuse.report(board["url"].rpartition("/")[2], Harm.PHISHING, "It lies", of=Board)
    assert abuse.open_count(uuid.UUID(board["id"])) == 1
    send_mail(app)
    (letter,) = mail.to("operator@example.org")
    assert letter.subject == f"Report {number}: phishing"
    for body in (letter.body("plain"), letter.body("html")):
        for words in ("Our bank", "It lies", f"flask transfers quarantine {board['url']}"):
            assert words in body
    assert abuse.close(number)
    assert abuse.reports() == []


def test_the_operator_is_mailed_a_report_of_a_file_request(
    app: Flask, mail: MailServer, configure
) -> None:
    configure(abuse_contact="operator@example.org")
    request_id, slug = _request("Our bank")
    abuse.report(slug, Harm.PHISHING, "It lies", of=FileRequest)
    assert abuse.open_count(request_id) == 1
    send_mail(app)
    (letter,) = mail.to("operator@example.org")
    stop = f"flask transfers quarantine http://localhost/r/{slug}"
    for body in (letter.body("plain"), letter.body("html")):
        for words in ("Our bank", "It lies", f"It asks for files for {ADA}", stop):
            assert words in body


def test_the_operator_can_copy_the_address_of_who_reports_and_no_other_link(
    app: Flask, sender: Sender, mail: MailServer, configure
) -> None:
    configure(abuse_contact="operator@example.org")
    sent = sender.ready()
    numbers = [
        abuse.report(sent.slug, Harm.OTHER, contact=given)
        for given in ("eve@mail.example.org", "evil.example/eve@mail.example.org")
    ]
    send_mail(app)
    told = {one.subject: one for one in mail.to("operator@example.org")}
    reachable, odd = (told[f"Report {number}: other"] for number in numbers)
    for kind in ("plain", "html"):
        assert "eve@mail.example.org" in reachable.body(kind)
        assert "evil.\u200bexample" in odd.body(kind)


def test_a_board_gives_back_only_the_files_that_were_stopped_with_it(machine: Machine) -> None:
    board_id, (evil, good) = _board_of(machine, 2)
    assert abuse.quarantine(evil)
    for is_new in (True, False):
        assert abuse.quarantine_board(board_id) is is_new
    assert transfers.of_id(good).quarantined_at is not None
    for is_new in (True, False):
        assert abuse.lift_board_quarantine(board_id) is is_new
    assert transfers.of_id(good).quarantined_at is None
    assert transfers.of_id(evil).quarantined_at is not None


def test_a_board_does_not_give_back_a_file_that_was_stopped_by_itself_since(
    machine: Machine,
) -> None:
    board_id, (evil, good) = _board_of(machine, 2)
    abuse.quarantine_board(board_id)
    assert [abuse.quarantine(evil) for _ in range(2)] == [True, False]
    abuse.lift_board_quarantine(board_id)
    assert transfers.of_id(good).quarantined_at is None
    assert transfers.of_id(evil).quarantined_at is not None
    assert abuse.lift_quarantine(evil)


def test_what_the_block_list_finds_on_a_stopped_board_is_reported_and_stays_stopped(
    machine: Machine,
) -> None:
    board_id, (evil, _) = _board_of(machine, 2)
    abuse.quarantine_board(board_id)
    for _ in range(2):
        with transaction():
            entry = BlockedFile(sha256=bytes(32), size=1, reason=Harm.MALWARE)
            abuse.quarantine_blocked(evil, entry, "a")
    ((report, about),) = abuse.reports()
    assert (report.reason, report.message, about.id) == (Harm.MALWARE, "a", evil)
    abuse.lift_board_quarantine(board_id)
    assert transfers.of_id(evil).quarantined_at is not None


def test_a_board_is_stopped_and_given_back_by_as_many_statements_however_many_files_it_has(
    app: Flask, machine: Machine
) -> None:
    counts = []
    for file_count in (2, 7):
        board_id, _ = _board_of(machine, file_count)
        with statements(app) as sent:
            assert abuse.quarantine_board(board_id)
            assert abuse.lift_board_quarantine(board_id)
        counts.append(len(sent))
    assert counts[0] == counts[1]


def _board_of(machine: Machine, file_count: int) -> tuple[uuid.UUID, list[uuid.UUID]]:
    """A board, and the transfers of the files on it."""
    board = machine.board()
    files = [{"name": f"{number}.txt", "size": 1} for number in range(file_count)]
    machine.call("POST", f"/boards/{board['id']}/files", json=files)
    board_id = uuid.UUID(board["id"])
    return board_id, [one.file.transfer_id for one in boards.items_of(board_id) if one.file]


def _request(title: str = "Your papers") -> tuple[uuid.UUID, str]:
    """A file request of Ada's: its id and slug."""
    request_id = uuid.uuid4()
    file_requests.make(request_id, ADA, title=title, message="", days=1)
    return request_id, file_requests.one_of(ADA, request_id).slug


def test_what_came_is_stopped_with_its_request_and_given_back_with_it(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    request_id, slug = _request()
    came = addressed(sender.ready(file_request=slug), "bo@example.org")
    begun, other = sender.create(file_request=slug), sender.ready(file_request=_request()[1])
    request = abuse.find_any(f"http://localhost/r/{slug}")
    assert abuse.free_count(request_id) == 2
    assert abuse.block_what_came(request_id) == 0, "only with the request"
    assert abuse.block(request)
    assert [abuse.block_what_came(request_id) for _ in range(2)] == [2, 0]
    assert abuse.free_count(request_id) == 0
    assert [one.row().quarantined_at is None for one in (came, begun, other)] == [
        False,
        False,
        True,
    ]
    send_mail(app)
    assert mail.to("bo@example.org") == []
    assert [abuse.unblock(request) for _ in range(2)] == [True, False]
    assert [one.row().quarantined_at for one in (came, begun)] == [None, None]
    for one in (came, begun):
        assert [a for a in actions(one.id) if a in ("quarantine", "release")] == [
            "quarantine",
            "release",
        ]
    send_mail(app)
    assert len(mail.to("bo@example.org")) == 1


def test_a_request_gives_back_only_what_was_stopped_with_it(
    sender: Sender, mail: MailServer
) -> None:
    request_id, slug = _request()
    before, since, with_it = (sender.ready(file_request=slug) for _ in range(3))
    request = abuse.find_any(f"http://localhost/r/{slug}")
    abuse.quarantine(before.id)
    abuse.block(request)
    assert abuse.block_what_came(request_id) == 2
    assert [abuse.quarantine(since.id) for _ in range(2)] == [True, False]
    assert not abuse.quarantine(before.id)
    abuse.unblock(request)
    assert with_it.row().quarantined_at is None
    for sent in (before, since):
        assert sent.row().quarantined_at is not None
        assert abuse.lift_quarantine(sent.id)


def test_nobody_is_mailed_a_link_that_is_blocked(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), "bo@example.org")
    send_mail(app)
    abuse.quarantine(sent.id)
    for change in ({"recipients": ["cy@example.org"]}, {"notifications": []}):
        answer = sent.call("PATCH", json=change)
        assert (answer.status_code, answer.json["error"]["code"]) == (403, "blocked")
    (own,) = delivery.recipients_of(sent.id)
    transfer = transfers.of_id(sent.id)
    with pytest.raises(Blocked):
        delivery.send_again(transfer, own.id)
    past = clock.now() - timedelta(seconds=1)
    for state in (State.READY, State.EXPIRED):
        sent.set(state=state, expires_at=past, expired_at=past)
        with pytest.raises(Blocked):
            mail_links.extend(transfer)
    assert send_mail(app) == 0


def test_whom_a_quarantine_has_kept_from_their_mail_gets_it_after_it(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), "bo@example.org")
    abuse.quarantine(sent.id)
    assert send_mail(app) == 0
    assert abuse.lift_quarantine(sent.id)
    send_mail(app)
    assert (len(mail.to("bo@example.org")), states(sent)) == (1, {"bo@example.org": "sent"})
    abuse.quarantine(sent.id)
    abuse.lift_quarantine(sent.id)
    assert send_mail(app) == 0


def test_every_stage_can_be_reported_but_what_is_gone(sender: Sender) -> None:
    past = clock.now() - timedelta(seconds=1)
    for sent in (
        sender.create(),
        sender.ready(),
        sender.ready(password="open sesame"),
        sender.ready().set(expires_at=past),
        sender.ready(max_downloads=1).set(download_count=1),
    ):
        assert abuse.report(sent.slug, Harm.OTHER)
    deleted, blocked = sender.ready(), sender.ready()
    transfers.delete(deleted.id)
    abuse.quarantine(blocked.id)
    for sent in (deleted, blocked):
        with pytest.raises(Gone):
            abuse.report(sent.slug, Harm.OTHER)
    with pytest.raises(NotFound):
        abuse.report("x" * 32, Harm.OTHER)


def test_quarantine_and_release_are_repeatable_and_leave_one_row_each(sender: Sender) -> None:
    sent = sender.ready()
    assert [abuse.quarantine(sent.id) for _ in range(2)] == [True, False]
    assert transfer_view.view(sent.slug).state == "unavailable"
    assert [abuse.lift_quarantine(sent.id) for _ in range(2)] == [True, False]
    assert transfer_view.view(sent.slug).state == "ready"
    assert actions(sent.id)[-2:] == ["quarantine", "release"]


@pytest.mark.parametrize("form", ["{}", "/d/{}", "http://localhost/d/{}", " https://x/d/{}.json?a=b",
    "http://localhost/d/{}/files/1", "http://localhost/d/{}/", "d/{}", "https://x/d/{}#top"])  # fmt: skip
def test_a_transfer_is_found_by_any_way_to_write_its_link(sender: Sender, form: str) -> None:
    sent = sender.create()
    if form == "d/{}":
        with pytest.raises(NotFound):
            abuse.find(form.format(sent.slug))
        return
    assert abuse.find(form.format(sent.slug)).id == sent.id


@pytest.mark.parametrize("form", ["", "/", "http://[bad/d/x", "/d/", "nobody"])
def test_what_is_no_link_is_not_found(sender: Sender, form: str) -> None:
    sender.create()
    with pytest.raises(NotFound):
        abuse.find(form)


def test_expired_and_deleted_stay_what_they_are(sender: Sender) -> None:
    """Only that nothing of the sender's words is shown any more."""
    past = clock.now() - timedelta(seconds=1)
    expired = sender.ready(title="Rushes").set(expires_at=past)
    deleted = sender.ready()
    transfers.delete(deleted.id)
    assert transfer_view.view(expired.slug).title == "Rushes"
    for sent, state in ((expired, "expired"), (deleted, "deleted")):
        abuse.quarantine(sent.id)
        shown = transfer_view.view(sent.slug)
        assert (shown.state, shown.title) == (state, "")


def test_a_quarantined_transfer_expires_and_is_deleted_in_its_time(sender: Sender) -> None:
    sent = sender.ready()
    abuse.quarantine(sent.id)
    sent.set(expires_at=clock.now() - timedelta(seconds=1))
    upkeep.expire_due()
    assert sent.row().state is State.EXPIRED
    sent.set(expired_at=clock.now() - timedelta(days=4))
    upkeep.delete_expired()
    assert sent.row().state is State.DELETED
    abandoned = sender.create()
    abuse.quarantine(abandoned.id)
    abandoned.set(last_activity_at=clock.now() - timedelta(days=2))
    upkeep.delete_abandoned()
    assert abandoned.row().state is State.DELETED


@pytest.mark.parametrize("visitor", [None, "ada"])
def test_s31_counting_itself_asks_whether_it_is_blocked(
    sender: Sender, visitor: str | None
) -> None:
    """Whatever was true a moment ago, and also for a visitor who has been counted before."""
    sent = sender.ready()
    file_id = uuid.UUID(sent.files[0]["id"])
    downloads.count_once(sent.id, file_id, visitor)
    abuse.quarantine(sent.id)
    with pytest.raises(Gone) as caught:
        downloads.count_once(sent.id, file_id, visitor)
    assert caught.value.details == {"reason": "unavailable"}
    assert caught.value.title == "This is not available."
    assert sent.row().download_count == 1
