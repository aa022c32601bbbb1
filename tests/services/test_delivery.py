"""Recipients and what becomes of them: each known by a link of their own, and by nothing else."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from app import clock
from app.config import settings
from app.db import db
from app.errors import Gone, NotFound, WrongState
from app.models import Download, OutboxMail, Recipient, State
from app.services import delivery, mail_links, mail_rendering, transfers
from tests.factories import Sender, Sent
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail, states, word_of
from tests.pages.test_pages import token_in
from tests.services.test_batches import added
from tests.watching import statements

BO, CY, DI = "bo@example.org", "cy@example.org", "di@example.org"
BROWSER = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html"}


def slug_of(app: Flask, sent: Sent, email: str) -> str:
    with app.app_context():
        mine = (Recipient.transfer_id == sent.id, Recipient.email == email)
        slug = db.session.scalar(select(Recipient.slug).where(*mine))
        assert slug is not None
        return slug


def refused(sent: Sent, **body: Any) -> dict[str, str]:
    """The complaints, by field."""
    answer = sent.call("PATCH", json=body)
    assert answer.status_code == 400, answer.json
    return {one["field"]: one["message"] for one in answer.json["error"]["fields"]}


def download(app: Flask, sent: Sent, slug: str, client: FlaskClient | None = None) -> int:
    client = client or app.test_client()
    return client.post(f"/d/{slug}/files/{sent.files[0]['id']}").status_code


# -- who ---------------------------------------------------------------------------------------


def test_one_person_is_one_recipient_however_the_address_is_written(
    sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.create(), "Bo@Example.ORG", BO, "bo@EXAMPLE.org", "jürgen@exämple.org")
    assert [one["email"] for one in sent.show()["recipients"]] == [BO, "jürgen@exämple.org"]


@pytest.mark.parametrize(
    "given",
    [
        "bo", "bo@", "@example.org", "bo@example", "bo@localhost", "bo@127.0.0.1", "bo@[127.0.0.1]",
        '"bo x"@example.org', "bo@exa mple.org", "Bo <bo@example.org>", "bo@example.org,cy@x.org",
        "bo@example.org>", "bo@-example.org", "b" * 65 + "@example.org", "bo@example..org",
        "bo@example.org\u2028x", "bo\u202e@example.org",
    ],
)  # fmt: skip
def test_what_is_no_address_is_named(sender: Sender, mail: MailServer, given: str) -> None:
    sent = sender.create()
    assert list(refused(sent, recipients=[BO, given], sender_email=ADA)) == ["recipients.1"]
    assert list(refused(sent, sender_email=given)) == ["sender_email"]
    assert sent.show()["recipients"] == []


def test_a_transfer_has_so_many_recipients_and_they_need_a_sender(
    sender: Sender, mail: MailServer, configure: Any
) -> None:
    sent = sender.create()
    many = [f"p{n}@example.org" for n in range(21)]
    assert refused(sent, recipients=many, sender_email=ADA) == {"recipients": "must be at most 20"}
    assert list(refused(sent, recipients=[BO])) == ["sender_email"]
    addressed(sent, *many[:20])
    assert list(refused(sent, sender_email=None)) == ["sender_email"]
    assert list(refused(sent, notifications=["nonsense"])) == ["notifications.0"]
    assert list(refused(sent, recipients="bo@example.org")) == ["recipients"]


def test_who_has_lost_the_link_needs_no_sender(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO)
    send_mail(app)
    assert sent.call("PATCH", json={"recipients": []}).status_code == 200
    assert states(sent) == {BO: "revoked"}
    for body in ({"sender_email": None}, {"notifications": []}):
        assert sent.call("PATCH", json=body).status_code == 200


def test_where_there_is_no_mail_it_is_said(sender: Sender) -> None:
    assert "this site sends no mail" in refused(sender.create(), recipients=[BO])["recipients"]


def test_nobody_is_mailed_for_a_sender_who_is_not_confirmed(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = sender.ready()
    sent.call("PATCH", json={"recipients": [BO], "sender_email": ADA})
    assert states(sent) == {BO: "unconfirmed"}
    assert sent.show()["sender_confirmed"] is False
    wrong = {"sender_email": ADA, "sender_token": word_of("eve@example.org")}
    assert list(refused(sent, **wrong)) == ["sender_token"]
    assert send_mail(app) == 0
    assert sent.call("PATCH", json={"sender_token": word_of(ADA)}).json["sender_confirmed"]
    assert send_mail(app) == 2
    # Another address has to be confirmed as well.
    sent.call("PATCH", json={"sender_email": "eve@example.org"})
    assert sent.show()["sender_confirmed"] is False


def test_who_is_left_out_of_the_list_loses_the_link_and_may_come_back(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO, CY)
    send_mail(app)
    slug = slug_of(app, sent, BO)
    addressed(sent, CY)
    assert states(sent) == {BO: "revoked", CY: "sent"}
    assert app.test_client().get(f"/d/{slug}").status_code == 410
    for _ in range(3):
        addressed(sent, CY)
        addressed(sent, CY, BO)
    assert app.test_client().get(f"/d/{slug}").status_code == 200
    assert send_mail(app) == 0, "not again within the hour"
    pass_time(app, hours=1, seconds=1)
    addressed(sent, CY)
    addressed(sent, CY, BO)
    assert send_mail(app) == 1
    assert [one.to for one in mail.caught].count(BO) == 2
    assert [one.to for one in mail.caught].count(CY) == 1


def test_who_comes_back_before_the_mail_was_sent_is_mailed_once(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO, CY)
    addressed(sent, CY)
    send_mail(app)
    assert mail.to(BO) == []
    for _ in range(3):
        addressed(sent, CY, BO)
        addressed(sent, CY)
    addressed(sent, CY, BO)
    send_mail(app)
    assert [len(mail.to(one)) for one in (BO, CY)] == [1, 1]


@pytest.mark.parametrize("was_tried", [True, False])
def test_who_comes_back_after_an_hour_without_mail_is_mailed_once(
    app: Flask, sender: Sender, mail: MailServer, was_tried: bool
) -> None:
    sent = addressed(sender.ready(), BO)
    addressed(sent)
    if was_tried:
        send_mail(app)
        assert mail.to(BO) == []
    pass_time(app, hours=1, seconds=1)
    addressed(sent, BO)
    send_mail(app)
    assert len(mail.to(BO)) == 1
    assert states(sent) == {BO: "sent"}


@pytest.mark.parametrize("how", ["named", "taken back", "named again", "told of more"])
def test_many_recipients_take_as_many_statements_as_few(
    app: Flask, sender: Sender, mail: MailServer, how: str
) -> None:
    """Meanwhile everybody else's mail waits: the quotas are under one lock."""

    def statement_count(*people: str) -> int:
        sent = sender.ready()
        if how != "named":
            addressed(sent, *people)
        if how == "named again":
            addressed(sent)
        if how == "told of more":
            sent = added(sent).upload()
        pass_time(app, hours=2)
        with statements(app) as told:
            if how == "told of more":
                sent.call("POST", "/complete", json={"tell_recipients": True})
            else:
                addressed(sent, *people if how != "taken back" else ())
        return len(told)

    many = [f"p{n}@example.org" for n in range(12)]
    assert statement_count(*many[:2]) == statement_count(*many[2:])


def test_an_ended_transfer_takes_no_recipients(sender: Sender, mail: MailServer) -> None:
    sent = sender.ready().set(expires_at=clock.now() - timedelta(seconds=1))
    answer = sent.call("PATCH", json={"recipients": [BO], "sender_email": ADA})
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")


# -- their own links -----------------------------------------------------------------------------


def test_a_recipients_link_is_the_transfer_and_its_downloads_are_theirs(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready({"a": b"1", "b": b"2"}), BO, CY)
    send_mail(app)
    slug = slug_of(app, sent, BO)
    reader = app.test_client()
    page = reader.get(f"/d/{slug}", headers=BROWSER)
    assert page.status_code == 200
    assert sent.slug not in page.text, "the transfer's own link is told to no recipient"
    assert sent.slug not in app.test_client().get(f"/d/{slug}.json").text
    assert states(sent) == {BO: "opened", CY: "sent"}
    assert download(app, sent, slug) == 303
    assert states(sent) == {BO: "downloaded", CY: "sent"}
    assert sent.show()["download_count"] == 1
    with app.app_context():
        (row,) = db.session.scalars(select(Download))
        assert row.recipient_id is not None
    assert download(app, sent, sent.slug) == 303
    assert states(sent)[CY] == "sent"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"User-Agent": "curl/8", "Accept": "*/*"},
        {**BROWSER, "Sec-Purpose": "prefetch;prerender"},
        {**BROWSER, "Purpose": "preview"},
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "HX-Request": "true"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)
def test_what_looks_ahead_has_not_opened_it(
    app: Flask, sender: Sender, mail: MailServer, headers: dict[str, str]
) -> None:
    sent = addressed(sender.ready({"a": b"1", "b": b"2"}), BO)
    slug = slug_of(app, sent, BO)
    assert app.test_client().get(f"/d/{slug}", headers=headers).status_code == 200
    assert app.test_client().head(f"/d/{slug}", headers=BROWSER).status_code == 200
    assert sent.show()["recipients"][0]["opened_at"] is None


def test_one_link_is_taken_back_alone(app: Flask, sender: Sender, mail: MailServer) -> None:
    sent = addressed(sender.ready(), BO, CY)
    ids = {one["email"]: one["id"] for one in sent.show()["recipients"]}
    for _ in range(2):
        assert sent.call("DELETE", f"/recipients/{ids[BO]}").status_code == 204
    dead, alive = slug_of(app, sent, BO), slug_of(app, sent, CY)
    for path in ("", ".json", ".svg", f"/files/{sent.files[0]['id']}"):
        got = app.test_client().get(f"/d/{dead}{path}", headers={"User-Agent": "curl/8"})
        assert got.status_code == 410, path
    assert app.test_client().get(f"/d/{dead}.json").json["reason"] == "revoked"
    assert download(app, sent, dead) == 410
    assert sent.show()["download_count"] == 0
    assert app.test_client().get(f"/d/{alive}").status_code == 200
    assert sent.call("DELETE", f"/recipients/{uuid.uuid4()}").status_code == 404
    assert sender.create().call("DELETE", f"/recipients/{ids[CY]}").status_code == 404


def test_password_and_limit_hold_for_a_recipients_link_too(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(password="sesame", max_downloads=1), BO, CY)
    slug = slug_of(app, sent, BO)
    assert app.test_client().get(f"/d/{slug}").status_code == 401
    reader = app.test_client()
    assert reader.post(f"/d/{slug}", data={"password": "sesame"}).status_code == 303
    assert reader.get(f"/d/{slug}.json").json["link"].endswith(slug)
    other = slug_of(app, sent, CY)
    theirs = app.test_client()
    theirs.post(f"/d/{other}", data={"password": "sesame"})
    assert theirs.get(f"/d/{other}.json").status_code == 200
    url = f"/d/{other}/files/{sent.files[0]['id']}"
    assert theirs.get(url, headers={"User-Agent": "curl/8"}).status_code == 303
    assert reader.get(f"/d/{slug}.json").json["reason"] == "limit_reached"


# -- once more -----------------------------------------------------------------------------------


def test_a_recipient_is_mailed_once_more_but_not_twice_in_an_hour(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO)
    send_mail(app)
    again = f"/recipients/{sent.show()['recipients'][0]['id']}/mail"
    assert sent.call("POST", again).status_code == 409
    pass_time(app, hours=1, seconds=1)
    assert sent.call("POST", again).status_code == 202
    assert sent.call("POST", again).status_code == 409
    assert send_mail(app) == 1
    first, second = mail.to(BO)
    assert first.message["Message-ID"] != second.message["Message-ID"]
    assert first.body("plain") == second.body("plain"), "the same link"
    assert sent.call("POST", f"/recipients/{uuid.uuid4()}/mail").status_code == 404


def test_what_people_wrote_from_right_to_left_is_shown_so(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    title, message, name = "عنوان", "مرحبا بكم", "ملف.pdf"
    addressed(sender.ready({name: b"x"}, title=title, message=message), BO)
    send_mail(app)
    page = mail.to(BO)[0].body("html")
    shown = re.findall(r'dir="auto"[^>]*>([^<]+)<', page)
    assert [one.replace("\u200b", "") for one in shown] == [title, message, name]


# -- what the sender hears -----------------------------------------------------------------------


def test_downloads_within_minutes_are_told_in_one_mail_and_each_once(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO, CY, DI)
    send_mail(app)
    mail.caught.clear()
    for email in (BO, CY, BO):
        download(app, sent, slug_of(app, sent, email))
    assert send_mail(app) == 0
    pass_time(app, minutes=6)
    assert send_mail(app) == 1
    assert mail.caught[0].subject == "2 people have downloaded 1 file"
    assert BO in mail.caught[0].body("html")
    download(app, sent, slug_of(app, sent, BO))
    download(app, sent, slug_of(app, sent, DI))
    pass_time(app, minutes=6)
    assert send_mail(app) == 1
    assert mail.caught[1].subject == f"{DI} has downloaded 1 file"
    assert BO not in mail.caught[1].body("plain")


def test_of_the_transfers_own_link_only_the_first_download_is_told(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready())
    send_mail(app)
    for _ in range(3):
        download(app, sent, sent.slug)
        pass_time(app, minutes=6)
        send_mail(app)
    assert [one.subject for one in mail.caught] == ["Ready to share: 1 file", "Downloaded: 1 file"]


def test_a_download_while_the_last_one_is_being_told_is_told_in_the_next(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch: Any
) -> None:
    sent = addressed(sender.ready(), BO, CY)
    send_mail(app)
    download(app, sent, slug_of(app, sent, BO))
    pass_time(app, minutes=6)
    compose = mail_rendering.compose

    def downloads_meanwhile(row: OutboxMail, *more: Any) -> Any:
        letter = compose(row, *more)
        monkeypatch.setattr(mail_rendering, "compose", compose)
        download(app, sent, slug_of(app, sent, CY))
        return letter

    monkeypatch.setattr(mail_rendering, "compose", downloads_meanwhile)
    send_mail(app)
    pass_time(app, minutes=6)
    send_mail(app)
    assert [one.subject for one in mail.to(ADA)][1:] == [
        f"{BO} has downloaded 1 file",
        f"{CY} has downloaded 1 file",
    ]


@pytest.mark.parametrize("kind", ["sent", "downloaded", "somebody_asks", "undeliverable"])
def test_each_mail_to_the_sender_can_be_switched_off(
    app: Flask, sender: Sender, mail: MailServer, kind: str
) -> None:
    mail.answers[CY] = ["550 no"]
    wanted = [one.value for one in delivery.TO_SENDER if one != kind]
    sent = addressed(sender.ready(), BO, CY, notifications=wanted)
    assert sent.show()["notifications"] == wanted
    other = addressed(sender.create(), notifications=[])
    assert other.show()["notifications"] == []
    assert len(addressed(other, notifications=None).show()["notifications"]) == 6
    send_mail(app)
    download(app, sent, slug_of(app, sent, BO))
    with app.app_context():
        delivery.pass_on_question(transfers.of_id(sent.id), "More?")
    pass_time(app, minutes=6)
    send_mail(app)
    heads = {
        "sent": "Sent:",
        "downloaded": BO,
        "somebody_asks": "Someone is asking",
        "undeliverable": "Not delivered",
    }
    told = {
        name
        for name, head in heads.items()
        if any(m.subject.startswith(head) for m in mail.to(ADA))
    }
    assert told == set(heads) - {kind}


def test_a_question_is_passed_on_once_an_hour_and_one_click_extends(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(max_downloads=1), notifications=["somebody_asks"])
    download(app, sent, sent.slug)
    with app.app_context():
        transfer = transfers.of_id(sent.id)
        asked = [delivery.pass_on_question(transfer, f"Please {n}") for n in range(3)]
    assert asked == [True, False, False]
    assert send_mail(app) == 1
    text = mail.caught[0].body("plain")
    assert "Please 0" in text
    path = text.split("one click):\n")[1].split()[0].removeprefix(settings.base_url)
    browser = app.test_client()
    page = browser.get(path)
    assert page.status_code == 200
    assert sent.show()["max_downloads"] == 1, "looking changes nothing"
    assert browser.post(path).status_code == 400, "a form of ours has a token"
    for _ in range(2):
        answer = browser.post(path, data={"csrf_token": token_in(page.text)})
        assert answer.status_code == 200
        assert sent.show()["max_downloads"] == 6


def test_extending_revives_what_has_expired_and_nothing_else(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    past = clock.now() - timedelta(minutes=1)
    sent = sender.ready().set(expires_at=past, state=State.EXPIRED, expired_at=past)
    with app.app_context():
        fresh = mail_links.extend(transfers.of_id(sent.id))
        assert fresh.state is State.READY
        assert fresh.expires_at > clock.now() + timedelta(days=6)
        again = mail_links.extend(fresh)
        assert abs(again.expires_at - fresh.expires_at) < timedelta(minutes=1)
        with pytest.raises(WrongState):
            mail_links.extend(transfers.of_id(sender.create().id))
        with pytest.raises(WrongState):
            mail_links.extend(transfers.of_id(sender.create().upload().complete().id))
        transfers.delete(sent.id)
        with pytest.raises(Gone):
            mail_links.extend(transfers.of_id(sent.id))


def test_a_sealed_word_is_good_for_its_own_purpose_only(app: Flask, sender: Sender) -> None:
    sent = sender.ready()
    with app.app_context():
        transfer = transfers.of_id(sent.id)
        manage, extend = mail_links.manage_token(transfer.id), mail_links.extend_seal(transfer.id)
        assert mail_links.managed(manage).id == mail_links.to_extend(extend).id == sent.id
        for wrong in (extend, manage[:-1], f"{sent.id}", "", "x" * 500, manage.replace("-", "_")):
            with pytest.raises(NotFound):
                mail_links.managed(wrong)
        transfers.delete(sent.id)
        with pytest.raises(Gone):
            mail_links.managed(manage)


# -- who wants none ------------------------------------------------------------------------------


def test_a_recipient_opts_out_for_good(app: Flask, sender: Sender, mail: MailServer) -> None:
    addressed(sender.ready(), BO, CY)
    send_mail(app)
    (one,) = mail.to(BO)
    head = str(one.message["List-Unsubscribe"])
    assert head.startswith(f"<{settings.base_url}/u/")
    assert b"List-Unsubscribe: <http" in one.raw, "in one piece, as programs read it"
    assert one.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    path = head.strip("<>").removeprefix(settings.base_url)
    page = app.test_client().get(path)
    assert BO in page.text
    assert "E-mails stopped" not in page.text
    mail.caught.clear()
    addressed(sender.ready(), BO)
    send_mail(app)
    assert len(mail.to(BO)) == 1, "looking changes nothing"
    # As a mail provider does it: from elsewhere, without a cookie.
    form = {"List-Unsubscribe": "One-Click"}
    for _ in range(2):
        answer = app.test_client().post(path, data=form, headers={"Origin": "https://mail.example"})
        assert answer.status_code == 200
    mail.caught.clear()
    other = addressed(sender.ready(), BO, CY)
    send_mail(app)
    assert {one.to for one in mail.caught} == {CY, ADA}
    assert states(other)[BO] == "failed"
    assert app.test_client().get(f"/u/{'0' * 40}.x").status_code == 404


def test_what_is_kept_of_an_opt_out_is_a_keyed_hash(app: Flask, configure: Any) -> None:
    with app.app_context():
        mail_links.opt_out(BO)
        assert mail_links.has_opted_out(BO)
        assert not mail_links.has_opted_out(CY)
        before = settings.secret_key
        configure(secret_key="another-key-0123456789-abcdefghij", secret_key_fallbacks=(before,))
        assert mail_links.has_opted_out(BO)
        configure(secret_key_fallbacks=())
        assert not mail_links.has_opted_out(BO)


def test_a_former_key_for_opt_outs_knows_who_wants_no_mail_and_opens_no_link(
    app: Flask, configure: Any
) -> None:
    with app.app_context():
        mail_links.opt_out(BO)
        seal = mail_links.opt_out_seal(CY)
        former = settings.secret_key
        configure(secret_key="another-key-0123456789-abcdefghij", opt_out_keys=(former,))
        assert mail_links.has_opted_out(BO)
        with pytest.raises(NotFound):
            mail_links.opting_out(seal)


def test_a_recipients_own_link_names_who_sent_it_until_it_is_taken_back(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), "bob@example.org")
    own = f"/d/{slug_of(app, sent, 'bob@example.org')}"
    assert f"From <bdi>{ADA}</bdi>" in sender.client.get(own).text
    # The transfer's link may be anywhere by now.
    assert ADA not in sender.client.get(f"/d/{sent.slug}").text
    sent.call("PATCH", json={"recipients": []})
    taken_back = sender.client.get(own)
    assert taken_back.status_code == 410
    assert "This link was taken back" in taken_back.text
