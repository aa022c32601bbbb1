"""Mail that came back, and complaints: who gets no more, who is marked, and who is told. S29."""

import json
from typing import Any

import pytest
from flask import Flask

from app import config
from app.db import db
from app.extensions import mailer
from app.models import AuditEvent, NoMail
from app.services import bounces, mail_links, outbox, suppression
from tests.factories import Sender, Sent
from tests.lab.cloud import REGION, Cloud
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, pass_time, send_mail, states
from tests.services.test_delivery import download, slug_of
from tests.services.test_mail_topic import listen, publish

BO, CY = "bo@example.org", "cy@example.org"
GONE = "smtp; 550 5.1.1 <bo@example.org>... user unknown"


def bounce(kind: str = "Permanent", form: str = "notificationType", message_id: str = "1") -> Any:
    """As SES says it: of feedback on an identity, or (`eventType`) of a configuration set."""
    return {
        form: "Bounce",
        "bounce": {
            "bounceType": kind,
            "bounceSubType": "General",
            "bouncedRecipients": [
                {"emailAddress": f"Bo <{BO}>", "status": "5.1.1", "diagnosticCode": GONE}
            ],
            "timestamp": "2026-01-01T00:00:00.000Z",
            "feedbackId": "f",
        },
        "mail": {"messageId": message_id, "destination": [BO], "source": "bee@send.example.org"},
    }


COMPLAINT = {
    "notificationType": "Complaint",
    "complaint": {
        "complainedRecipients": [{"emailAddress": BO}],
        "complaintFeedbackType": "abuse",
    },
    "mail": {"messageId": "1", "destination": [BO]},
}


def told_of(mail: MailServer, app: Flask) -> list[str]:
    """What the sender has heard of that was not delivered."""
    pass_time(app, minutes=3)
    send_mail(app)
    return [one.body("plain") for one in mail.to(ADA) if one.subject.startswith("Not delivered to")]


def reason_of(app: Flask, email: str = BO) -> NoMail | None:
    with app.app_context():
        return suppression.reason_of(email)


def failure_of(sent: Sent, email: str = BO) -> str | None:
    return next(one["failure"] for one in sent.show()["recipients"] if one["email"] == email)


@pytest.mark.parametrize("form", ["notificationType", "eventType"])
@pytest.mark.parametrize("is_raw", [False, True], ids=["envelope", "raw"])
def test_a_permanent_bounce_is_shown_told_once_and_ends_mail_to_the_address(
    app: Flask, sender: Sender, cloud: Cloud, mail: MailServer, form: str, is_raw: bool
) -> None:
    first, second = (addressed(sender.ready(), BO, CY) for _ in range(2))
    publish(app)
    assert listen(app) == 4
    download(app, second, slug_of(app, second, BO))
    send_mail(app)
    if is_raw:
        cloud.deliver_raw()
    for _ in range(2):
        cloud.publish(bounce(form=form))
        assert listen(app) == 1
        assert states(first) == {BO: "failed", CY: "sent"}
        assert states(second) == {BO: "downloaded", CY: "sent"}
    assert failure_of(first) == "smtp; 550 5.1.1 <...>... user unknown"
    (told,) = told_of(mail, app)
    assert BO in told
    assert "user unknown" in told
    # Whoever names it next is told as well, and nothing goes there.
    third = addressed(sender.ready(), BO, CY)
    publish(app)
    listen(app)
    assert states(third) == {BO: "failed", CY: "sent"}
    assert failure_of(third) == "Earlier e-mails to this address came back."
    assert len(told_of(mail, app)) == 2
    assert len(mail.to(BO)) == 2


def test_a_transient_bounce_marks_the_one_mail_and_suppresses_nobody(
    app: Flask, sender: Sender, cloud: Cloud, configure: Any
) -> None:
    configure(mail_url=f"ses://{REGION}", max_mails_per_recipient_per_hour=9)
    mailer.bind(config.current())
    first, second = (addressed(sender.ready(), BO, notifications=[]) for _ in range(2))
    publish(app)
    assert listen(app) == 2
    link = f"/d/{slug_of(app, second, BO)}"
    (its_id,) = (one.id for one in cloud.mails if link in one.raw_data.replace("=\n", ""))
    cloud.send(bounce("Transient", message_id=its_id))
    assert listen(app) == 1
    assert (states(first), states(second)) == ({BO: "sent"}, {BO: "failed"})
    assert reason_of(app) is None
    # Of one whose id is not known, what was handed over lately is meant.
    cloud.send(bounce("Transient", message_id="unknown"))
    assert listen(app) == 1
    assert states(first) == {BO: "failed"}


def test_a_complaint_is_taken_for_an_opt_out(
    app: Flask, sender: Sender, cloud: Cloud, mail: MailServer
) -> None:
    sent = addressed(sender.ready(), BO, CY)
    publish(app)
    listen(app)
    cloud.send(COMPLAINT)
    assert listen(app) == 1
    assert failure_of(sent) == "This person wants no e-mails from this site."
    assert reason_of(app) is NoMail.COMPLAINED
    with app.app_context():
        assert mail_links.has_opted_out(BO) is False, "on the page they may still say so"
        mail_links.opt_out(BO)
        bounces.came_back(BO)
        assert mail_links.has_opted_out(BO)


@pytest.mark.parametrize("is_first", [False, True])
def test_a_complaint_and_an_opt_out_stand_beside_each_other_and_one_can_be_taken_back(
    app: Flask, inside: None, is_first: bool
) -> None:
    if is_first:
        bounces.complained(BO)
    mail_links.opt_out(BO)
    if not is_first:
        bounces.complained(BO)
    assert suppression.reason_of(BO) is NoMail.COMPLAINED
    assert mail_links.has_opted_out(BO)
    assert [bounces.allow(BO) for _ in range(2)] == [True, False]
    assert suppression.reason_of(BO) is NoMail.ASKED
    bounces.complained(CY)
    assert bounces.allow(CY)
    assert suppression.reason_of(CY) is None


def test_a_sender_whose_mailbox_is_gone_gets_codes_only_and_one_of_them_lifts_it(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    with app.app_context():
        bounces.came_back(ADA, "no such user")
    addressed(sender.ready(), BO)
    assert send_mail(app) == 1
    assert mail.to(ADA) == []
    sender.client.post("/senders/code", json={"email": ADA})
    assert send_mail(app) == 1
    code = next(word for word in mail.to(ADA)[0].body("plain").split() if word.isdigit())
    answer = sender.client.post("/senders/confirm", json={"email": ADA, "code": code})
    assert answer.status_code == 200, answer.json
    assert reason_of(app, ADA) is None


def test_word_that_is_quicker_than_we_note_the_mail_stays(
    app: Flask, sender: Sender, mail: MailServer, monkeypatch: Any
) -> None:
    sent = addressed(sender.ready(), BO, notifications=[])
    settle = outbox.settle

    def settle_late(row: Any, outcome: Any) -> None:
        bounces.came_back(BO, "no such user")
        settle(row, outcome)

    monkeypatch.setattr(outbox, "settle", settle_late)
    assert send_mail(app) == 1
    assert states(sent) == {BO: "failed"}


def test_an_operator_says_so_by_a_command(app: Flask, sender: Sender, mail: MailServer) -> None:
    sent = addressed(sender.ready(), BO, CY)
    send_mail(app)
    run = app.test_cli_runner().invoke
    done = run(args=["mail", "bounced", BO.upper(), "--reason", "full\x00\r\nBcc: x@y.org"])
    assert (done.exit_code, "1 recipient was marked." in done.output) == (0, True), done.output
    assert failure_of(sent) == "full Bcc: x@y.org"
    assert states(sent) == {BO: "failed", CY: "sent"}
    assert len(told_of(mail, app)) == 1
    assert "gets e-mails again" in run(args=["mail", "allow", BO]).output
    assert "no bounce or complaint" in run(args=["mail", "allow", BO]).output
    assert run(args=["mail", "bounced", "nobody"]).exit_code == 1
    with app.app_context():
        noted = [one.action for one in db.session.query(AuditEvent).order_by(AuditEvent.id)]
    assert {"no mail: bounced", "allow mail"} <= set(noted)


def test_the_dump_knows_no_address(app: Flask, inside: None) -> None:
    bounces.came_back(BO)
    (kept,) = db.session.execute(db.text("SELECT email_hash, reason FROM opt_outs")).all()
    assert BO not in json.dumps([bytes(kept[0]).hex(), kept[1]])
