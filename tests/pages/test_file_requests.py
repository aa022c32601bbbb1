"""File requests: made and closed by whoever is signed in; what is sent there, and who is told of it."""

import re
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app import clock
from app.clock import db_now
from app.db import db, transaction
from app.models import AbuseReport, Arrival, FileRequest, Harm, NoMail, OutboxMail
from app.services import abuse, file_requests, own_transfers, suppression, tombstones
from app.services.own_transfers import Wish
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, pass_time, send_mail, word_of
from tests.pages.test_mine import EVE, Person, ada, eve
from tests.pages.test_pages import token_in
from tests.services.test_batches import through

__all__ = ["ada", "eve"]  # fixtures
AT = "/mine/requests"


def make(person: Person, title: str = "Wedding photos", **fields: str) -> Any:
    """The answer to the form."""
    page = person.client.get(AT).text
    once = re.search(r'name="once" value="([^"]+)"', page)
    assert once
    form = {"csrf_token": person.token, "once": once[1], "title": title, "days": "7", **fields}
    return person.client.post(AT, data=form)


def slugs(person: Person) -> list[str]:
    """Those of the open requests in the list, newest first."""
    return re.findall(r'href="[^"]*/r/([\w-]+)"', person.client.get(AT).text)


def close(person: Person, request_id: uuid.UUID) -> Any:
    return person.client.post(f"{AT}/{request_id}/close", data={"csrf_token": person.token})


def ids(app: Flask) -> list[uuid.UUID]:
    with app.app_context():
        return list(db.session.scalars(select(FileRequest.id).order_by(FileRequest.created_at)))


def end(app: Flask, **ago: float) -> None:
    """As if every request had ended this long ago."""
    with app.app_context(), transaction():
        db.session.execute(update(FileRequest).values(ends_at=db_now() - timedelta(**ago)))


@pytest.fixture
def slug(ada: Person) -> str:
    """That of one open request of Ada's."""
    ada.sign_in()
    assert make(ada, message="The big ones,\nplease").status_code == 303
    return slugs(ada)[0]


def arrive(
    sender: Sender, slug: str, contents: dict[str, bytes] | None = None, **more: Any
) -> Sent:
    return sender.ready(contents, file_request=slug, **more)


def test_whoever_has_the_link_sends_and_its_owner_is_told(
    app: Flask, client: FlaskClient, ada: Person, slug: str, sender: Sender, mail: MailServer
) -> None:
    page = client.get(f"/r/{slug}")
    assert page.status_code == 200
    for words in ("Wedding photos", "The big ones,\nplease", ADA, 'content="noindex"'):
        assert words in page.text
    sent = sender.create({"a.jpg": b"1", "b.jpg": b"22"}, file_request=slug, title="From Bo")
    assert "nothing has come yet" in ada.client.get(AT).text
    before = len(mail.caught)
    send_mail(app)
    assert len(mail.caught) == before
    sent.upload().complete().process()
    send_mail(app)
    (told,) = mail.caught[before:]
    assert (told.to, told.subject) == (ADA, "Files have arrived for “Wedding photos”")
    for kind in ("plain", "html"):
        text = told.body(kind)
        for words in ("From Bo", "2 files", f"/d/{sent.slug}"):
            assert words in text
    send_mail(app)
    assert len(mail.caught) == before + 1
    listed = ada.client.get(AT).text
    assert "1 transfer, 3 bytes" in listed
    came = ada.get(f"?request={ids(app)[0]}").text
    assert "From Bo" in came
    assert f'href="/d/{sent.slug}"' in came
    assert "/m/" not in came
    # It is no transfer that Ada has sent.
    assert "From Bo" not in ada.get().text


def test_only_whoever_is_signed_in_has_requests_and_only_their_own(
    app: Flask, ada: Person, eve: Person, slug: str, sender: Sender
) -> None:
    arrive(sender, slug, title="For Ada")
    send_mail(app)
    (request_id,) = ids(app)
    for answer in (eve.client.get(AT), make_signed_out(eve)):
        assert (answer.status_code, answer.location) == (303, "/mine")
    assert close(eve, request_id).status_code == 303
    eve.sign_in(EVE)
    assert "Wedding photos" not in eve.client.get(AT).text
    assert eve.get(f"?request={request_id}").status_code == 404
    with app.app_context():
        found = {
            email: own_transfers.of_email(email, Wish(request_id=request_id)).total_count
            for email in (ADA, EVE)
        }
    assert found == {ADA: 1, EVE: 0}
    assert close(eve, request_id).status_code == 404
    assert slugs(ada) == [slug]
    for no_id in ("no-id", "-" * 36, "a" * 36):
        assert ada.get(f"?request={no_id}").status_code == 200
    assert ada.client.post(AT, data={"title": "Forged", "days": "7"}).status_code == 400


def make_signed_out(person: Person) -> Any:
    return person.client.post(AT, data={"csrf_token": person.token, "title": "x", "days": "7"})


def test_a_closed_request_takes_nothing_more_and_what_began_before_still_arrives(
    app: Flask, ada: Person, slug: str, client: FlaskClient, sender: Sender, mail: MailServer
) -> None:
    begun = sender.create(file_request=slug)
    assert close(ada, ids(app)[0]).status_code == 303
    assert slugs(ada) == []
    page = client.get(f"/r/{slug}")
    assert page.status_code == 410
    assert "This request is closed" in page.text
    for wrong in (slug, "x" * 32):
        refused = client.post(
            "/transfers", json={"files": [{"path": "a", "size": 1}], "file_request": wrong}
        )
        assert (refused.status_code, refused.json["error"]["fields"][0]["field"]) == (
            400,
            "file_request",
        )
    assert client.get(f"/r/{'x' * 32}").status_code == 404
    before = len(mail.caught)
    begun.upload().complete().process()
    send_mail(app)
    assert mail.caught[before].to == ADA
    with app.app_context():
        assert len(list(db.session.scalars(select(Arrival)))) == 1
    # Closing again does not move the date.
    ends_at = [one.ends_at for one in of_ada(app)]
    close(ada, ids(app)[0])
    assert [one.ends_at for one in of_ada(app)] == ends_at


def test_the_operator_closes_any_request(app: Flask, slug: str, client: FlaskClient) -> None:
    runner = app.test_cli_runner()
    told = runner.invoke(args=["requests", "close", f"http://localhost/r/{slug}"])
    assert (told.exit_code, told.output) == (0, f"http://localhost/r/{slug} is closed.\n")
    assert client.get(f"/r/{slug}").status_code == 410
    assert runner.invoke(args=["requests", "close", slug]).exit_code == 0
    assert runner.invoke(args=["requests", "close", "x" * 32]).exit_code == 1


def of_ada(app: Flask) -> Any:
    with app.app_context():
        return file_requests.of_email(ADA)


def test_bad_input_is_told_beside_its_field_and_nothing_is_lost(ada: Person) -> None:
    ada.sign_in()
    for fields in (
        {"title": ""},
        {"title": " \u3000"},
        {"title": "x" * 201},
        {"days": "0"},
        {"days": "91"},
        {"days": "x"},
    ):
        answer = make(ada, **{"message": "Kept words"} | fields)
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.text
        assert "Kept words" in answer.text
    assert slugs(ada) == []


@pytest.mark.parametrize("limit", ["MOST_OPEN", "MOST_A_DAY"])
def test_a_form_that_is_sent_twice_makes_one_request_even_if_it_is_the_last_that_may_be_made(
    ada: Person, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(file_requests, limit, 1)
    ada.sign_in()
    once = str(uuid.uuid4())
    assert {make(ada, once=once).status_code for _ in range(2)} == {303}
    assert len(slugs(ada)) == 1


def test_one_address_has_so_many_open_requests(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_requests, "MOST_OPEN", 2)
    ada.sign_in()
    assert [make(ada).status_code for _ in range(3)] == [303, 303, 422]


def test_closing_requests_makes_no_room_for_any_number_of_others_on_the_same_day(
    app: Flask, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_requests, "MOST_A_DAY", 2)
    ada.sign_in()

    def make_and_close() -> int:
        answer = make(ada)
        for request_id in ids(app):
            close(ada, request_id)
        return answer.status_code

    assert [make_and_close() for _ in range(3)] == [303, 303, 422]
    with app.app_context(), transaction():
        yesterday = db_now() - timedelta(days=1, seconds=1)
        db.session.execute(update(FileRequest).values(created_at=yesterday))
    assert make_and_close() == 303


def test_an_open_request_stays_in_the_list_however_many_others_have_ended_since(
    app: Flask, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_requests, "MOST_LISTED", 2)
    ada.sign_in()
    make(ada, "Still open")
    (still_open,) = ids(app)
    for _ in range(3):
        make(ada, "Soon closed")
    with app.app_context(), transaction():
        # All were made in one transaction, so that their times are equal.
        longer_ago = FileRequest.created_at - timedelta(days=1)
        db.session.execute(
            update(FileRequest).where(FileRequest.id == still_open).values(created_at=longer_ago)
        )
    for request_id in ids(app)[1:]:
        close(ada, request_id)
    assert [(one.title, one.is_open) for one in of_ada(app)] == [
        ("Still open", True),
        ("Soon closed", False),
    ]


def test_a_title_that_could_become_a_link_is_left_out_of_the_mail(
    app: Flask, ada: Person, sender: Sender, mail: MailServer
) -> None:
    ada.sign_in()
    make(ada, "Photos for studio.example")
    arrive(sender, slugs(ada)[0])
    send_mail(app)
    assert mail.caught[-1].subject == "Files have arrived for your file request"
    assert mail.caught[-1].body("plain").startswith("1 transfer has arrived for your file request.")


def test_what_comes_while_a_mail_waits_is_told_in_the_same(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    before = len(mail.caught)
    first, second = (arrive(sender, slug, {name: b"1"}) for name in ("first", "second"))
    assert waiting(app) == 1
    send_mail(app)
    (told,) = mail.caught[before:]
    for words in ("2 transfers have arrived", "first", "second", first.slug, second.slug):
        assert words in told.body("plain")
    third = arrive(sender, slug, {"third": b"1"})
    send_mail(app)
    text = mail.caught[-1].body("plain")
    assert third.slug in text
    assert first.slug not in text


def waiting(app: Flask) -> int:
    with app.app_context():
        found = db.session.scalars(select(OutboxMail).where(OutboxMail.kind == "received"))
        return len([one for one in found if one.state == "WAITING"])


def test_a_crowd_of_strangers_causes_few_mails_and_keeps_no_code_waiting(
    app: Flask, ada: Person, slug: str, sender: Sender, mail: MailServer
) -> None:
    before = len(mail.caught)
    for number in range(8):
        arrive(sender, slug, {f"{number}.raw": b"1"})
        send_mail(app)
    assert len(mail.caught) == before + 5
    ada.post("leave")
    ada.sign_in()  # by a code, which is mailed at once
    pass_time(app, hours=2)
    send_mail(app)
    assert "3 transfers have arrived" in mail.caught[-1].body("plain")


def test_files_that_are_added_later_are_told_too(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    sent = arrive(sender, slug, title="More than once")
    send_mail(app)
    before = len(mail.caught)
    with app.app_context():
        through(sent, {"more.txt": b"more"})
    send_mail(app)
    (told,) = mail.caught[before:]
    assert "2 files" in told.body("plain")


def test_whoever_has_closed_a_request_is_not_told_of_files_that_are_added(
    app: Flask, ada: Person, slug: str, sender: Sender, mail: MailServer
) -> None:
    """Closing it is the way to be left in peace."""
    sent = arrive(sender, slug)
    send_mail(app)
    before = len(mail.caught)
    close(ada, ids(app)[0])
    with app.app_context():
        through(sent, {"more.txt": b"more"})
    send_mail(app)
    assert (len(mail.caught), waiting(app)) == (before, 0)


def test_a_confirmed_sender_is_named_and_a_password_is_told_of(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    arrive(sender, slug, sender_email=EVE, sender_token=word_of(EVE), password="1234 secret")
    arrive(sender, slug, sender_email="not-proven@example.org")
    send_mail(app)
    text = mail.to(ADA)[-1].body("plain")
    assert f"from {EVE}" in text
    assert "protected with a password" in text
    assert "1234" not in text
    assert "not-proven" not in text


def test_nothing_is_mailed_of_what_is_gone_nor_to_whom_mail_bounces(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    before = len(mail.caught)
    deleted, blocked, expired = (arrive(sender, slug) for _ in range(3))
    deleted.call("DELETE")
    # The sweep has not run yet.
    expired.set(expires_at=clock.now() - timedelta(seconds=1))
    with app.app_context():
        abuse.quarantine(blocked.id)
    send_mail(app)
    assert (len(mail.caught), waiting(app)) == (before, 0)
    arrive(sender, slug)
    with app.app_context(), transaction():
        suppression.suppress(ADA, NoMail.BOUNCED)
    send_mail(app)
    assert (len(mail.caught), waiting(app)) == (before, 0)


def test_what_was_blocked_before_its_owner_was_told_is_told_of_once_it_is_released(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    blocked, other, told = (arrive(sender, slug) for _ in range(3))
    before = len(mail.caught)

    def block(sent: Sent, *, again: bool) -> list[str]:
        """Block it or release it, and send what is due; the mails by then."""
        with app.app_context():
            (abuse.quarantine if again else abuse.lift_quarantine)(sent.id)
        pass_time(app, hours=1)
        send_mail(app)
        return [one.body("plain") for one in mail.caught[before:]]

    (text,) = block(blocked, again=True)
    assert [sent.slug in text for sent in (blocked, other, told)] == [False, True, True]
    assert len(block(told, again=True)) == 1
    assert len(block(told, again=False)) == 1
    text = block(blocked, again=False)[1]
    assert [sent.slug in text for sent in (blocked, other, told)] == [True, False, False]
    assert len(block(blocked, again=True)) == 2
    assert len(block(blocked, again=False)) == 2


def test_what_is_blocked_between_two_attempts_to_mail_it_is_told_of_later(
    app: Flask, slug: str, sender: Sender, mail: MailServer
) -> None:
    blocked, other = (arrive(sender, slug) for _ in range(2))
    (request_id,) = ids(app)
    attempts = [uuid.uuid4(), uuid.uuid4()]
    with app.app_context():

        def told(mail_id: uuid.UUID) -> list[str]:
            return [one.slug for one in file_requests.take_untold(request_id, mail_id)]

        assert told(attempts[0]) == [blocked.slug, other.slug]
        abuse.quarantine(blocked.id)
        assert told(attempts[0]) == [other.slug]
        abuse.lift_quarantine(blocked.id)
        assert told(attempts[1]) == [blocked.slug]
        assert told(attempts[0]) == [other.slug]


def test_what_comes_is_kept_as_long_as_the_request_says_unless_its_sender_chooses(
    app: Flask, ada: Person, client: FlaskClient, sender: Sender, configure: Any
) -> None:
    def days(slug: str, **more: Any) -> int:
        left = sender.create(file_request=slug, **more).row().expires_at - clock.now()
        return round(left / timedelta(days=1))

    ada.sign_in()
    assert 'name="keep_days"' in ada.client.get(AT).text
    make(ada)
    (other,) = slugs(ada)
    make(ada, keep_days="30")
    (slug,) = set(slugs(ada)) - {other}
    assert (days(other), days(slug)) == (7, 30)
    chosen = clock.now() + timedelta(days=2)
    assert days(slug, expires_at=chosen.isoformat()) == 2
    page = client.get(f"/r/{slug}").text
    assert "They are kept for 30 days, or up to 90 if you choose." in page
    assert '<option value="30" selected>' in page
    configure(max_expires_in_days=20)
    assert days(slug) == 20
    assert "They are kept for 20 days." in client.get(f"/r/{slug}").text
    for wrong in ("0", "21", "x", ""):
        answer = make(ada, keep_days=wrong)
        assert answer.status_code == 422
        assert 'id="keep-days-said" data-kind="wrong"' in answer.text


def test_the_same_create_again_is_the_same_transfer(slug: str, client: FlaskClient) -> None:
    body = {"files": [{"path": "a", "size": 1}], "file_request": slug}
    key = {"Idempotency-Key": "k" * 32}
    first, second = (client.post("/transfers", json=body, headers=key) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    del body["file_request"]
    assert client.post("/transfers", json=body, headers=key).status_code == 422


def test_a_request_is_dropped_long_after_its_end_but_not_before_what_came(
    app: Flask, slug: str, sender: Sender
) -> None:
    sent = arrive(sender, slug)
    end(app, days=91)

    def drop() -> int:
        with app.app_context():
            tombstones.drop_tombstones()
        return len(ids(app))

    assert drop() == 1
    sent.call("DELETE")
    end(app, days=89)
    assert drop() == 1
    end(app, days=91)
    assert drop() == 0


def test_a_reported_request_stays_until_its_report_is_closed_and_old(
    app: Flask, slug: str, configure: Any
) -> None:
    configure(report_retention_in_days=180)
    with app.app_context():
        number = abuse.report(slug, Harm.OTHER, of=FileRequest)
    end(app, days=1000)

    def is_left(**change: Any) -> bool:
        with app.app_context():
            with transaction():
                db.session.execute(update(FileRequest).values(**change))
            tombstones.drop_tombstones()
        return bool(ids(app))

    assert is_left(quarantined_at=None)
    with app.app_context():
        abuse.close(number)
        with transaction():
            db.session.execute(update(AbuseReport).values(created_at=ago(181)))
    assert is_left(quarantined_at=ago(179))
    assert not is_left(quarantined_at=ago(181))


def ago(days: int) -> datetime:
    return clock.now() - timedelta(days=days)


# -- reports and blocking --------------------------------------------------------------------------


def report_it(app: Flask, slug: str, **words: str) -> Any:
    """Open the page of the link, follow its "Report this", and send the form."""
    browser = app.test_client()
    href = f"/r/{slug}/report"
    assert f'href="{href}"' in browser.get(f"/r/{slug}").text
    form = browser.get(href)
    assert form.status_code == 200
    for secret in ("Wedding photos", ADA):
        assert secret not in form.text
    said = {"csrf_token": token_in(form.text), "reason": "phishing", **words}
    return browser, browser.post(href, data=said)


def test_whoever_gets_the_link_can_report_it(app: Flask, ada: Person, slug: str) -> None:
    browser, answer = report_it(app, slug, message="It is not the bank", contact=EVE)
    assert (answer.status_code, answer.location) == (303, f"/r/{slug}/report")
    thanks = browser.get(answer.location).text
    assert "Your report has been received." in thanks
    assert f'href="/r/{slug}"' in thanks
    assert report_it(app, slug, reason="boring")[1].status_code == 422
    # Also once it is closed: what is wrong may show only later.
    close(ada, ids(app)[0])
    assert report_it(app, slug, reason="other")[1].status_code == 303
    with app.app_context():
        found = abuse.reports()
    assert [(one.reason, about.slug) for one, about in found] == [
        (Harm.PHISHING, slug),
        (Harm.OTHER, slug),
    ]
    assert (found[0][0].message, found[0][0].contact) == ("It is not the bank", EVE)
    assert app.test_client().get(f"/r/{'x' * 32}/report").status_code == 404


def test_a_blocked_request_takes_nothing_and_shows_its_owner_nothing(
    app: Flask, ada: Person, slug: str, client: FlaskClient, sender: Sender, mail: MailServer
) -> None:
    (request_id,) = ids(app)
    begun, came = sender.create(file_request=slug), arrive(sender, slug, title="Secrets")
    before = len(mail.caught)
    set_block(app, slug, True)
    page = client.get(f"/r/{slug}", headers={"Accept": "text/html"})
    assert page.status_code == 410
    assert "Nothing can be sent here." in page.text
    for words in ("Wedding photos", ADA, 'id="sender"'):
        assert words not in page.text
    assert client.get(f"/r/{slug}/report").status_code == 410
    body = {"files": [{"path": "a", "size": 1}], "file_request": slug}
    assert client.post("/transfers", json=body).status_code == 400
    # What was begun is its sender's, who may still share it with others.
    begun.upload().complete().process()
    assert client.get(f"/d/{begun.slug}").status_code == 200
    send_mail(app)
    assert len(mail.caught) == before
    listed = ada.client.get(AT).text
    assert '#i-alert"/></svg>Blocked' in listed
    for words in (f"/r/{slug}", "See what has come"):
        assert words not in listed
    assert ada.get(f"?request={request_id}").status_code == 410
    with app.app_context():
        wish = Wish(request_id=request_id)
        assert own_transfers.of_email(ADA, wish).total_count == 0

    set_block(app, slug, False)
    assert client.get(f"/r/{slug}").status_code == 200
    assert slugs(ada) == [slug]
    assert '#i-done"/></svg>Open' in ada.client.get(AT).text
    send_mail(app)
    (told,) = mail.caught[before:]
    for sent in (begun, came):
        assert sent.slug in told.body("plain")
    assert "Secrets" in ada.get(f"?request={request_id}").text


def set_block(app: Flask, slug: str, is_blocked: bool) -> None:
    """Block or unblock it; repeating that changes nothing."""
    with app.app_context():
        about = abuse.find_any(f"http://localhost/r/{slug}")
        change = abuse.block if is_blocked else abuse.unblock
        assert [change(about) for _ in range(2)] == [True, False]


def test_without_mail_there_are_no_requests(
    ada: Person, slug: str, configure: Any, client: FlaskClient
) -> None:
    configure(mail_url="")
    assert ada.client.get(AT).status_code == 404
    assert client.get(f"/r/{slug}").status_code == 404
    body = {"files": [{"path": "a", "size": 1}], "file_request": slug}
    assert client.post("/transfers", json=body).status_code == 400
