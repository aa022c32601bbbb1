"""/admin: who gets in and who does not, what an admin sees, and what can be done about a report."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select

from app.db import db, transaction
from app.models import AbuseReport, AuditEvent, Board, FileRequest, Harm
from app.services import abuse, doctor, file_requests
from tests.factories import Machine, Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail
from tests.pages.test_mine import COOKIE, EVE, Person, code_in, grow_old
from tests.pages.test_pages import token_in
from tests.watching import statements

Configure = Callable[..., None]
AT = "/admin"
NOBODY = "There is nothing here"


class Admin(Person):
    """Somebody at a browser who opens the admin page."""

    def open(self, path: str = "") -> Any:
        return self.client.get(AT + path)

    def act(self, number: int, action: str) -> Any:
        """One of the buttons of a report's page."""
        data = {"csrf_token": self.token, "do": action}
        return self.client.post(f"{AT}/reports/{number}", data=data)

    @property
    def token(self) -> str:
        """That of any form of this browser's session."""
        return token_in(self.get().text)


@pytest.fixture
def ada(app: Flask, mail: MailServer, configure: Configure) -> Admin:
    """Somebody whose address is an admin's; not signed in yet."""
    configure(admin_emails=("op@example.org", ADA))
    return Admin(app, mail)


@pytest.fixture
def admin(ada: Admin) -> Admin:
    """An admin who has just signed in."""
    ada.sign_in()
    return ada


def report(sent: Sent, **words: str) -> int:
    """Report it; the admins have been mailed then, so that the next mail is what a test causes."""
    app = sent.client.application
    with app.app_context():
        number = abuse.report(sent.slug, Harm.PHISHING, **words)
    send_mail(app)
    return number


def pages_of(number: int) -> list[str]:
    return ["", "/doctor", f"/reports/{number}"]


def actions(app: Flask) -> list[str]:
    with app.app_context():
        rows = select(AuditEvent.action).order_by(AuditEvent.id)
        return [one for one in db.session.scalars(rows) if "code" not in one and "sign" not in one]


# -- who gets in -----------------------------------------------------------------------------------


def assert_nothing_is_there(person: Admin, number: int) -> None:
    for path in (*pages_of(number), "/reports/999", "/nowhere"):
        answer = person.open(path)
        assert (answer.status_code, NOBODY in answer.text) == (404, True), path
    for path in ("/again", f"/reports/{number}"):
        data = {"csrf_token": token_in(person.client.get("/mine").text), "do": "close"}
        assert person.client.post(AT + path, data=data).status_code == 404, path


def test_s39_for_everybody_but_an_admin_there_is_no_such_page(
    app: Flask, ada: Admin, mail: MailServer, sender: Sender
) -> None:
    number = report(sender.ready())
    before = actions(app)
    assert_nothing_is_there(ada, number)  # who is not signed in
    eve = Admin(app, mail)
    eve.sign_in(EVE)
    assert_nothing_is_there(eve, number)
    assert AT not in eve.get().text
    ada.sign_in()
    word = ada.word
    for change in (word[:-1], "x" + word, word.partition(".")[0], ""):
        eve.client.set_cookie(COOKIE, change)
        assert_nothing_is_there(eve, number)
    ada.post("leave")
    ada.client.set_cookie(COOKIE, word)
    assert_nothing_is_there(ada, number)
    assert actions(app) == before
    assert AT not in ada.client.get("/").text


def test_s39_nobody_is_an_admin_by_default_nor_where_mail_is_off(
    admin: Admin, configure: Configure, sender: Sender
) -> None:
    number = report(sender.ready())
    assert admin.open().status_code == 200
    configure(admin_emails=())
    assert_nothing_is_there(admin, number)
    configure(admin_emails=(ADA,), mail_url="")
    assert {admin.open(path).status_code for path in pages_of(number)} == {404}


def test_an_admin_is_led_there_from_the_own_list(
    app: Flask, admin: Admin, configure: Configure
) -> None:
    assert f'href="{AT}"' in admin.get().text
    page = admin.open()
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert "noindex" in page.text
    assert ADA in page.text
    configure(admin_emails=())
    assert AT not in admin.get().text


# -- signing in again --------------------------------------------------------------------------------


def test_s39_looking_needs_a_sign_in_of_the_last_twelve_hours(
    app: Flask, admin: Admin, sender: Sender
) -> None:
    sent = sender.ready(title="Your bank")
    number = report(sent)
    grow_old(app, hours=11.9)
    for path in pages_of(number):
        assert "Sign in again" not in admin.open(path).text
    grow_old(app, hours=0.2)
    for path in pages_of(number):
        page = admin.open(path).text
        assert "Sign in again" in page
        for secret in ("Your bank", sent.slug, "kept in storage", "PostgreSQL"):
            assert secret not in page
    admin.act(number, "block")
    admin.act(number, "close")
    assert sent.row().quarantined_at is None
    assert admin.is_in, "the own list stays open"


def test_s39_changing_something_needs_one_of_the_last_hour(
    app: Flask, admin: Admin, sender: Sender, mail: MailServer
) -> None:
    sent = sender.ready()
    number = report(sent)
    word = admin.word
    grow_old(app, minutes=59)
    assert 'value="block"' in admin.open(f"/reports/{number}").text
    grow_old(app, minutes=2)
    page = admin.open(f"/reports/{number}").text
    assert "within the last hour" in page
    assert 'name="do"' not in page
    for action in ("block", "unblock", "close"):
        answer = admin.act(number, action)
        assert (answer.status_code, answer.location) == (303, f"{AT}/reports/{number}")
    assert actions(app)[-1] == "report"

    form = {"csrf_token": token_in(page), "report": str(number)}
    asked = admin.client.post(f"{AT}/again", data=form)
    assert (asked.status_code, asked.location) == (303, "/mine")
    send_mail(app)
    assert mail.caught[-1].to == ADA
    assert not admin.client.get_cookie(COOKIE)
    assert 'autocomplete="one-time-code"' in admin.get().text
    came = admin.post("enter", code=code_in(mail))
    assert (came.status_code, came.location) == (303, f"{AT}/reports/{number}")
    assert 'value="block"' in admin.open(f"/reports/{number}").text
    assert admin.act(number, "block").status_code == 303
    assert sent.row().quarantined_at is not None
    # The former sign-in is over, in whatever browser its cookie is.
    other = Admin(app, mail)
    other.client.set_cookie(COOKIE, word)
    assert not other.is_in
    # That was for once.
    admin.post("leave")
    assert admin.sign_in().location == "/mine"


def test_the_link_in_a_mail_leads_to_its_report_after_signing_in_again(
    app: Flask, admin: Admin, sender: Sender, mail: MailServer
) -> None:
    number = report(sender.ready())
    grow_old(app, hours=13)
    page = admin.open(f"/reports/{number}").text
    form = {"csrf_token": token_in(page), "report": str(number)}
    assert f'name="report" value="{number}"' in page
    admin.client.post(f"{AT}/again", data=form)
    send_mail(app)
    assert admin.post("enter", code=code_in(mail)).location == f"{AT}/reports/{number}"


def test_whoever_comes_by_a_web_mail_gets_a_page_that_loads_once_more(app: Flask) -> None:
    """Its link does not bring the cookie. For strangers there is still nothing."""
    browser = app.test_client()
    for site, loads_again in (("cross-site", True), ("same-origin", False), ("none", False)):
        headers = {"Sec-Fetch-Site": site, "Accept": "text/html"}
        page = browser.get(f"{AT}/reports/1", headers=headers)
        assert page.status_code == 404
        assert NOBODY in page.text
        again = f'<meta http-equiv="refresh" content="0;url={AT}/reports/1">'
        assert (again in page.text) == loads_again
        assert "refresh" not in browser.get("/nowhere", headers=headers).text


def test_s39_it_leads_back_to_a_page_of_the_admin_and_nowhere_else(
    app: Flask, admin: Admin, mail: MailServer
) -> None:
    grow_old(app, hours=13)
    for report_number in ("//evil.example", "x", "9" * 5000, ""):
        form = {"csrf_token": admin.token, "report": report_number}
        assert admin.client.post(f"{AT}/again", data=form).status_code == 303
        send_mail(app)
        assert admin.post("enter", code=code_in(mail)).location == AT


def test_whoever_signs_in_with_another_address_instead_is_not_led_to_what_is_not_there(
    app: Flask, admin: Admin
) -> None:
    grow_old(app, hours=13)
    admin.client.post(f"{AT}/again", data={"csrf_token": admin.token, "report": "1"})
    send_mail(app)  # before the next code, as mails come in no order
    assert admin.sign_in("bo@example.org").location == "/mine"
    # That is over for the admin, too.
    admin.post("leave")
    assert admin.sign_in().location == "/mine"


def test_where_too_many_codes_were_mailed_it_says_so_and_nobody_is_signed_out(
    app: Flask, ada: Admin
) -> None:
    ada.sign_in()
    grow_old(app, minutes=50)
    for _ in range(5):
        Person(app, ada.mail).post("code", email=ADA)
    answer = ada.client.post(f"{AT}/again", data={"csrf_token": ada.token})
    assert (answer.status_code, "Try again in an hour" in answer.text) == (429, True)
    assert ada.is_in


def test_s06_no_form_without_its_token_does_anything(
    app: Flask, admin: Admin, sender: Sender, mail: MailServer
) -> None:
    sent = sender.ready()
    number = report(sent)
    before, mailed = actions(app), len(mail.caught)
    for path, data in (("/again", {}), (f"/reports/{number}", {"do": "block"})):
        assert admin.client.post(AT + path, data=data).status_code == 400
    admin.open(f"/reports/{number}?do=block")
    send_mail(app)
    assert (actions(app), len(mail.caught), sent.row().quarantined_at) == (before, mailed, None)


# -- what an admin sees ------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_doctor(admin: Admin, sender: Sender) -> None:
    sender.ready({"a": b"12345", "b": b"1"})
    sender.create()
    page = re.sub(r"<[^>]+>", " ", admin.open().text)
    for said in ("6 bytes in 2 objects", "1 INIT, 0 PROCESSING, 1 READY", "0 waiting, 0 failed"):
        assert said in page
    for name in [one.name for one in doctor.CHECKS if one.group == "Figures"]:
        assert name.capitalize() in page
    assert "There are none." in page


def test_a_report_is_shown_as_the_command_shows_it(admin: Admin, sender: Sender) -> None:
    names = {"invoice.html": b"1", "b/c.txt": b"22"} | {f"{n}.bin": b"" for n in range(49)}
    sent = sender.create(names, title="<b>Your bank</b>", message="Hi\nyou")
    number = report(sent, message="It asks\n<i>for my bank", contact="bo@example.org")
    report(sent)
    row = admin.open().text
    assert f'href="{AT}/reports/{number}"' in row
    assert f"http://localhost/d/{sent.slug}" in row
    page = admin.open(f"/reports/{number}").text
    for said in (
        "Pretends to be someone else", "bo@example.org", "It asks\n&lt;i&gt;for my bank", "On its way",
        f'href="http://localhost/d/{sent.slug}"', "0 downloads", "2 open reports about it", "Hi\nyou",
        "&lt;b&gt;Your bank", "invoice.html", "b/c.txt", "2 bytes", "47.bin", "And more.",
    ):  # fmt: skip
        assert said in page, said
    assert "48.bin" not in page
    assert admin.open("/reports/999999999999999999").status_code == 404
    assert admin.open(f"/reports/{2**63}").status_code == 404


def test_a_report_of_the_block_list_names_the_file(admin: Admin, sender: Sender) -> None:
    number = report(sender.ready())
    with admin.app.app_context(), transaction():
        row = db.session.get_one(AbuseReport, number)
        row.file_sha256, row.message, row.contact = bytes(32), "evil.exe", ""
    page = admin.open(f"/reports/{number}").text
    assert "From the block list" in page
    assert "evil.exe" in page
    assert "0" * 64 in page


def test_reports_are_listed_in_pages_newest_first(
    admin: Admin, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abuse, "PAGE_SIZE", 2)
    sent = sender.ready()
    numbers = [report(sent) for _ in range(5)]

    def listed(path: str) -> list[int]:
        return [int(one) for one in re.findall(r"/admin/reports/(\d+)", admin.open(path).text)]

    assert admin.act(numbers[3], "close").location == AT
    assert listed("") == [numbers[4], numbers[2]]
    (older,) = re.findall(r'href="/admin(\?before=\d+)"', admin.open().text)
    assert listed(older) == [numbers[1], numbers[0]]
    assert 'rel="next"' not in admin.open(older).text
    assert "that are older" in admin.open("?before=1").text
    for nonsense in ("x", "-1", "0", "٣", "9" * 40, "%00"):
        assert listed(f"?before={nonsense}") == [numbers[4], numbers[2]]


def test_a_thousand_reports_cost_no_more_than_one(app: Flask, admin: Admin, sender: Sender) -> None:
    sent, other = sender.ready(), sender.ready()
    report(sent)
    with statements(app) as few:
        admin.open()
    with app.app_context(), transaction():
        rows = [
            {"transfer_id": one.id, "reason": Harm.OTHER, "message": "", "contact": ""}
            for one in (sent, other)
        ]
        db.session.execute(insert(AbuseReport), rows * 500)
    with statements(app) as many:
        page = admin.open().text
    assert len(many) == len(few) == 8
    assert len(set(re.findall(r"/admin/reports/\d+", page))) == abuse.PAGE_SIZE


def test_the_quick_checks_are_run_and_no_others(
    admin: Admin, s3_calls: list[str], mail: MailServer
) -> None:
    connections = mail.connections
    page = re.sub(r"<[^>]+>", " ", admin.open("/doctor").text)
    assert re.search(r"Database\s+OK\s+PostgreSQL \d+ answers", page)
    # Another test may have left a worker's heartbeat.
    assert re.search(r"Worker\s+(OK|Warning|Failed)\s", page)
    for name in ("Lost files", "Clock", "Redis", "Scheduled jobs", "flask doctor"):
        assert name in page
    for name in ("CORS", "Mail server", "Kept in storage"):
        assert name not in page
    assert (s3_calls, mail.connections) == ([], connections)


# -- what an admin does ------------------------------------------------------------------------------


def test_a_link_is_blocked_and_unblocked_and_its_report_closed(
    app: Flask, admin: Admin, sender: Sender
) -> None:
    sent = sender.ready()
    number = report(sent)
    before = actions(app)
    at = f"{AT}/reports/{number}"
    for action, status, state in (("block", 410, "Blocked"), ("unblock", 200, "Ready to download")):
        for _ in range(2):  # each is repeatable
            answer = admin.act(number, action)
            assert (answer.status_code, answer.location) == (303, at)
        assert admin.client.get(f"/d/{sent.slug}").status_code == status
        assert state in admin.open(f"/reports/{number}").text
    for _ in range(2):
        answer = admin.act(number, "close")
        assert (answer.status_code, answer.location) == (303, AT)
    assert at not in admin.open().text
    page = admin.open(f"/reports/{number}").text
    assert "closed" in page
    assert 'value="close"' not in page
    assert actions(app)[len(before) :] == ["quarantine", "release", "close report"]
    with app.app_context():
        told = select(AuditEvent.transfer_id, AuditEvent.address_hash)
        for row in db.session.execute(told.order_by(AuditEvent.id.desc()).limit(3)):
            assert (row[0], len(row[1])) == (sent.id, 32)


def test_a_board_is_blocked_with_its_files(app: Flask, admin: Admin, machine: Machine) -> None:
    board = machine.board("Your bank")
    slug, at = board["url"].rpartition("/")[2], f"/boards/{board['id']}"
    machine.call("POST", f"{at}/links", json=[{"url": "https://evil.example/", "title": "x"}])
    machine.call("POST", f"{at}/files", json=[{"name": "b/invoice.html", "size": 1}])
    with app.app_context():
        number = abuse.report(slug, Harm.PHISHING, of=Board)
    page = admin.open(f"/reports/{number}").text
    for said in ("Your bank", "https://evil.example/", "b/invoice.html", "Block the board"):
        assert said in page
    assert 'href="https://evil.example/' not in page
    admin.act(number, "block")
    assert admin.client.get(f"/b/{slug}").status_code == 410
    admin.act(number, "unblock")
    assert admin.client.get(f"/b/{slug}").status_code == 200
    assert actions(app).count("quarantine") == actions(app).count("release") == 2


def test_a_file_request_is_blocked_and_unblocked(app: Flask, admin: Admin, sender: Sender) -> None:
    with app.app_context():
        request_id = uuid.uuid4()
        file_requests.make(request_id, EVE, title="Your bank", message="Your ID", days=1)
        slug = file_requests.one_of(EVE, request_id).slug
        number = abuse.report(slug, Harm.PHISHING, of=FileRequest)
    sender.ready(file_request=slug)
    assert "File request" in admin.open().text
    page = admin.open(f"/reports/{number}").text
    for said in ("Your bank", "Your ID", EVE, "1 transfer has come", "Block the request"):
        assert said in page
    for action, status, offered in (("block", 410, "Unblock"), ("unblock", 200, "Block")):
        admin.act(number, action)
        assert admin.client.get(f"/r/{slug}").status_code == status
        assert f"{offered} the request</button>" in admin.open(f"/reports/{number}").text
    with app.app_context():
        told = select(AuditEvent.action).where(AuditEvent.subject_id == request_id)
        done = list(db.session.scalars(told.order_by(AuditEvent.id)))
    assert done == ["ask for files", "report", "quarantine", "release"]


def test_a_file_request_is_blocked_with_all_that_came(
    app: Flask, admin: Admin, sender: Sender
) -> None:
    with app.app_context():
        request_id = uuid.uuid4()
        file_requests.make(request_id, EVE, title="Your bank", message="", days=1)
        slug = file_requests.one_of(EVE, request_id).slug
        number = abuse.report(slug, Harm.PHISHING, of=FileRequest)
    path = f"/reports/{number}"
    assert "block_all" not in admin.open(path).text, "nothing has come"
    sent = [sender.ready(file_request=slug), sender.ready(file_request=slug)]
    assert "Block it and all that came</button>" in admin.open(path).text
    admin.act(number, "block")
    page = admin.open(path).text
    assert "Links to 2 transfers that came still work." in page
    assert "Block all that came, too</button>" in page
    assert admin.client.get(f"/d/{sent[0].slug}").status_code == 200
    for _ in range(2):
        assert admin.act(number, "block_all").status_code == 303
    assert "block_all" not in admin.open(path).text
    assert [admin.client.get(f"/d/{one.slug}").status_code for one in sent] == [410, 410]
    admin.act(number, "unblock")
    assert [admin.client.get(f"/d/{one.slug}").status_code for one in sent] == [200, 200]
    assert actions(app).count("quarantine") == actions(app).count("release") == 3
    with app.app_context():
        done = AuditEvent.action.in_(("quarantine", "release"))
        by_whom = set(db.session.scalars(select(AuditEvent.address_hash).where(done)))
    assert len(by_whom) == 1, "each row says from where it was done"
    assert None not in by_whom


def test_what_makes_no_sense_is_refused(app: Flask, admin: Admin, sender: Sender) -> None:
    number = report(sender.ready())
    before = actions(app)
    for action in ("", "delete", "BLOCK", "block_all"):
        assert admin.act(number, action).status_code == 400
    for action in ("block", "unblock", "close"):
        assert admin.act(number + 1, action).status_code == 404
    assert actions(app) == before


def test_s28_neither_addresses_nor_links_are_logged(
    admin: Admin, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    sent = sender.ready()
    number = report(sent, contact="bo@example.org")
    caplog.clear()
    caplog.set_level("DEBUG", logger="app")
    for path in pages_of(number):
        admin.open(path)
    for action in ("block", "unblock", "close", "nonsense"):
        admin.act(number, action)
    admin.client.post(f"{AT}/again", data={"csrf_token": admin.token})
    for secret in (ADA, "bo@example.org", sent.slug):
        assert secret not in caplog.text
