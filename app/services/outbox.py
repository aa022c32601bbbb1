"""Sends the outbox: a worker claims due mails, hands them to a mail server and settles each row.

A mail is sent again, under the same Message-ID, if its outcome is unknown: the process died right
after handing it over (at most one mail for each crash) or the connection broke before the answer.
Every other mail is sent at most once.
"""

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, false, func, select, update
from sqlalchemy.orm import aliased

from app import addresses, crash, jobs
from app.clock import db_now
from app.config import settings
from app.db import changed, db, discard, release, transaction
from app.extensions import mailer
from app.gateways.mailer import Fate, Line, Outcome
from app.models import MailKind, MailState, NoMail, OutboxMail, Recipient
from app.services import claims, delivery, mail_quotas, mail_rendering, suppression
from app.services.claims import BACKOFF_SECONDS, is_due
from app.services.heartbeats import noted
from app.services.mail_pictures import Album
from app.services.mail_templates import Drawer
from app.services.upkeep import Tell, untold

log = logging.getLogger(__name__)

# Mails claimed together and handed over one after the other on one connection.
BATCH = 50
# Turn length. Then the job re-queues itself so that other jobs get a turn.
TURN_SECONDS = 100
# A published mail should be handled within this time; then it is published again.
PUBLISHED_FOR = timedelta(hours=1)
# A mail claimed this often without a recorded outcome may be what kills the workers.
SUSPECT = 3
# Kinds that their recipients did not ask for: other people decide how many are sent.
_UNASKED = [*delivery.TO_RECIPIENT, MailKind.CODE]
# Recorded for each mail that was accepted, before the next one is sent: one statement, built only
# once, as in mail_rendering.py.
_mails, _recipients = OutboxMail.__table__, Recipient.__table__
_TAKEN = (
    update(_mails)
    .where(_mails.c.id == bindparam("mail_id"), _mails.c.state == MailState.WAITING)
    .values(
        state=MailState.SENT,
        sent_at=db_now(),
        words="",
        failure=None,
        server_id=bindparam("taken_as"),
    )
)
# The same with its recipient. The CTE makes sure that the mail's row is locked before the
# recipient's, as everywhere.
_taken = _TAKEN.returning(_mails.c.recipient_id).cte("taken")
# A bounce may be recorded before we get here; then it is kept.
_is_newer = _recipients.c.failed_at > bindparam("handed")
_TAKEN_AND_TOLD = (
    update(_recipients)
    .where(_recipients.c.id == _taken.c.recipient_id)
    .values(
        sent_at=func.coalesce(_recipients.c.sent_at, db_now()),
        failed_at=case((_is_newer, _recipients.c.failed_at)),
        failure=case((_is_newer, _recipients.c.failure)),
    )
)


@noted
def send_due(tell: Tell = untold) -> int:
    """Job: hand over every due mail; returns how many were accepted. Repeatable at any time.

    After TURN_SECONDS the rest is left to a new job. Mails that go through a topic are left to
    services/mail_topic.py.
    """
    count, is_done = _send_all(~goes_by_topic(), tell)
    if not is_done:
        jobs.SEND_MAIL.later()
    return count


def send_these(mail_ids: Sequence[uuid.UUID]) -> int:
    """Hand over those of these mails that are due and unclaimed; returns how many were accepted.

    After TURN_SECONDS the rest is left as it is.
    """
    return _send_all(OutboxMail.id.in_(mail_ids), untold)[0] if mail_ids else 0


def _send_all(which: ColumnElement[bool], tell: Tell) -> tuple[int, bool]:
    """Hand over the due mails for which `which` holds, batch by batch, for TURN_SECONDS at most.

    Returns how many were accepted, and whether there was time for all.
    """
    ends = time.monotonic() + TURN_SECONDS
    count = 0
    while mailer.is_on and settings.sends_mail and (batch := _claim_to_send(which)):
        taken, is_done = _send(batch, ends)
        count += taken
        tell("handed over", count)
        if not is_done:
            return count, False
    return count, True


def goes_by_topic() -> ColumnElement[bool]:
    """The condition that a mail is published to a topic, and sent by what subscribes to it."""
    return OutboxMail.kind == MailKind.FILES_FOR_YOU if settings.publishes_shares else false()


def is_to_send() -> ColumnElement[bool]:
    """The condition that send_due() would hand a mail over, quotas aside."""
    return and_(is_due(OutboxMail), ~goes_by_topic())


# -- claiming ------------------------------------------------------------------------------------


def _claim_to_send(which: ColumnElement[bool]) -> list[OutboxMail]:
    """Claim the next mails for this process; others leave them alone until the claim lapses."""
    claimed = claim(which, handed_at=db_now(), **claims.for_a_while(OutboxMail))
    # Codes first, because people are waiting for them; then the mails of one transfer together.
    return sorted(claimed, key=lambda m: (m.kind is not MailKind.CODE, str(m.transfer_id), m.kind))


def claim(which: ColumnElement[bool], **values: Any) -> Sequence[OutboxMail]:
    """Write these values to the next due mails for which `which` holds; returns the mails."""
    with transaction():
        # Serialised: what each address got in the last hour is counted before mails are taken.
        mail_quotas.take_lock()
        chosen = _without_suspects(_next(min(BATCH, mail_quotas.left_to_hand_over()), which))
        return claims.write(OutboxMail, chosen, which, **values)


def _without_suspects(chosen: Any) -> Sequence[uuid.UUID]:
    """The chosen mails without suspects; if there are only suspects, the first of them.

    A suspect was claimed repeatedly and never settled. It is sent alone, so that a crash that it
    may cause does not affect other mails.
    """
    rows = db.session.execute(
        select(OutboxMail.id, OutboxMail.attempt_count, OutboxMail.failure).where(
            OutboxMail.id.in_(chosen)
        )
    ).all()
    suspects = [one for one, count, failure in rows if count >= SUSPECT and failure is None]
    return [one for one, _, _ in rows if one not in suspects] or suspects[:1]


def _next(limit: int, which: ColumnElement[bool]) -> Any:
    """Due mails within each address's hourly quota: codes first, then the longest due."""
    earlier, share = aliased(OutboxMail), _share_of(OutboxMail)
    had = (
        select(func.count())
        .where(
            earlier.email == OutboxMail.email,
            _share_of(earlier) == share,
            earlier.handed_at > db_now() - mail_quotas.HOUR,
        )
        .scalar_subquery()
    )
    turn = func.row_number().over(
        partition_by=(OutboxMail.email, share), order_by=(OutboxMail.due_at, OutboxMail.id)
    )
    due = (
        select(
            OutboxMail.id,
            OutboxMail.due_at,
            case((OutboxMail.kind == MailKind.CODE, 0), else_=1).label("rank"),
            case((share == "asked", 0), else_=had + turn).label("would_have_had"),
        )
        .where(is_due(OutboxMail), which)
        .subquery()
    )
    return (
        select(due.c.id)
        .where(due.c.would_have_had <= settings.max_mails_per_recipient_per_hour)
        .order_by(due.c.rank, due.c.due_at)
        .limit(limit)
    )


def _share_of(mail: Any) -> ColumnElement[str]:
    """Which of its address's quotas a mail counts against.

    Reports have their own, and so has what comes for a file request: strangers decide how many
    there are, and could otherwise keep the same address's codes waiting forever.
    """
    return case(
        (mail.kind == MailKind.REPORTED, "reported"),
        (mail.kind == MailKind.RECEIVED, "received"),
        (mail.kind.in_(_UNASKED), "unasked"),
        else_="asked",
    )


# -- sending -------------------------------------------------------------------------------------


def _send(batch: Sequence[OutboxMail], ends: float) -> tuple[int, bool]:
    """Hand over a batch; returns how many were accepted, and whether there was time for all."""
    taken, album, drawer = 0, Album(), Drawer()
    with mailer.line() as line:
        for at, mail in enumerate(batch):
            if jobs.stopping.is_set() or time.monotonic() > ends:
                _give_back(batch[at:])
                return taken, False
            taken += _send_one(line, mail, album, drawer)
    return taken, True


def _send_one(line: Line, mail: OutboxMail, album: Album, drawer: Drawer) -> bool:
    if mail.attempt_count > len(BACKOFF_SECONDS) + 1:
        settle(mail, Outcome(Fate.LATER, "Every attempt to send it was cut off."))
        return False
    try:
        letter = mail_rendering.compose(mail, album.of(mail), drawer)
        release()
    except Exception:
        # A mail that cannot be composed must not hold up the others.
        log.exception("a mail could not be written")
        discard()
        settle(mail, Outcome(Fate.LATER, "The e-mail could not be written."))
        return False
    if letter is None:
        drop(mail)
        return False
    crash.point("mail.1")
    outcome = line.send(letter, addresses.on_the_wire(mail.email))
    crash.point("mail.2")
    settle(mail, outcome)
    crash.point("mail.3")
    return outcome.fate is Fate.TAKEN


def _give_back(mails: Sequence[OutboxMail]) -> None:
    """Release claimed mails, so that the next worker can take them immediately."""
    with transaction():
        claimed = [(mail.id, mail.attempt_count) for mail in mails]
        claims.give_back(OutboxMail, claimed, handed_at=None)


# -- settling ------------------------------------------------------------------------------------


def settle(mail: OutboxMail, outcome: Outcome) -> None:
    """Record the outcome of an attempt. An acceptance is recorded even after the claim lapsed."""
    is_over = mail.attempt_count > len(BACKOFF_SECONDS)
    with transaction():
        if outcome.fate is Fate.TAKEN:
            _settle_taken(mail, outcome)
        elif outcome.fate is Fate.REFUSED or is_over:
            _settle_failed(mail, outcome.reason)
        else:
            _settle_later(mail, outcome)


def _settle_taken(mail: OutboxMail, outcome: Outcome) -> None:
    values = {"mail_id": mail.id, "taken_as": outcome.server_id}
    if mail.kind is MailKind.FILES_FOR_YOU:
        db.session.execute(_TAKEN_AND_TOLD, {**values, "handed": mail.handed_at})
    else:
        db.session.execute(_TAKEN, values)


def _settle_failed(mail: OutboxMail, reason: str) -> None:
    log.warning("a mail (%s) was given up: %s", mail.kind, _without_address(reason, mail.email))
    if not _change(mail, state=MailState.FAILED, failure=reason, words=""):
        return
    if mail.recipient_id is not None and mail.transfer_id is not None:
        # Before the recipient's row is locked: no deadlock with a transaction that locks the
        # transfer and then a recipient.
        delivery.tell_sender(mail.transfer_id, MailKind.UNDELIVERABLE)
        _change_recipient(mail, failed_at=db_now(), failure=reason, failure_told_in=None)


def _settle_later(mail: OutboxMail, outcome: Outcome) -> None:
    values: dict[str, Any] = {
        "due_at": db_now() + claims.backoff(mail.attempt_count),
        "failure": outcome.reason,
    }
    if mail.publish_after is not None:
        # The event is still in the queue and is delivered again by then.
        values["publish_after"] = values["due_at"] + PUBLISHED_FOR
    if outcome.is_certain:
        # Certainly not sent, so it does not count against any quota.
        values["handed_at"] = None
    _change(mail, OutboxMail.attempt_count == mail.attempt_count, **values)


def put_off(mail: OutboxMail, reason: str) -> None:
    """Count a failed attempt in which the mail certainly did not leave us, and retry it later."""
    with transaction():
        counted = db.session.scalar(
            update(OutboxMail)
            .where(OutboxMail.id == mail.id, _is_waiting())
            .values(attempt_count=OutboxMail.attempt_count + 1, publish_after=None)
            .returning(OutboxMail)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        if counted is not None:
            settle(counted, Outcome(Fate.LATER, reason))


def drop(mail: OutboxMail) -> None:
    """Mark a mail as DROPPED: it is no longer true, or not wanted.

    A recipient whose address is suppressed is marked as failed; after a bounce the sender is told.
    """
    with transaction():
        if not _change(mail, state=MailState.DROPPED, words="", handed_at=None):
            return
        why = suppression.reason_of(mail.email)
        if mail.kind is MailKind.FILES_FOR_YOU and why is not None:
            if why is NoMail.BOUNCED and mail.transfer_id is not None:
                delivery.tell_sender(mail.transfer_id, MailKind.UNDELIVERABLE)
            is_new = Recipient.failed_at.is_(None)
            _change_recipient(
                mail,
                is_new,
                failed_at=db_now(),
                failure=suppression.WORDS[why],
                failure_told_in=None,
            )


def _change(mail: OutboxMail, *conditions: Any, **values: Any) -> bool:
    done = changed(
        update(OutboxMail)
        .where(OutboxMail.id == mail.id, _is_waiting(), *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return done == 1


def _change_recipient(mail: OutboxMail, *conditions: Any, **values: Any) -> None:
    db.session.execute(
        update(Recipient)
        .where(Recipient.id == mail.recipient_id, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _is_waiting() -> Any:
    return OutboxMail.state == MailState.WAITING


def _without_address(reason: str, email: str) -> str:
    return reason.replace(email, "...")
