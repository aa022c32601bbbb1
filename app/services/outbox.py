"""From the outbox to a mail server: claimed by one worker, handed over, settled, row by row.

A mail that was handed over just before this process died goes once more, under the same
Message-ID: that cannot be helped, and costs at most one for each death. Everything else is at
most once.
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
from app.services import claims, delivery, letters, shares, suppression
from app.services.claims import BACKOFF_SECONDS, is_due
from app.services.heartbeats import noted
from app.services.mail_pictures import Album
from app.services.stencils import Drawer
from app.services.upkeep import Tell, untold

log = logging.getLogger(__name__)

# Handed over one after the other on one connection.
BATCH = 50
# After so long it is another job's turn.
TURN_SECONDS = 100
# What was published is expected to be heard within this time of being due.
PUBLISHED_FOR = timedelta(hours=1)
# A mail that was claimed so often without a word on what became of it.
SUSPECT = 3
# Whoever gets these has not asked for them: other people decide how many they are.
_UNASKED = [*delivery.TO_RECIPIENT, MailKind.CODE]
# What is noted of each mail that was taken, before the next one goes: one statement, made once, as
# letters.py does it.
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
# And of its recipient, whose row comes after the mail's as everywhere, because it depends on that.
_taken = _TAKEN.returning(_mails.c.recipient_id).cte("taken")
# Word that it has come back may be quicker than we are, and stays.
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
    """Job: hand over every mail that is due; how many were taken. Repeatable at any time.

    After TURN_SECONDS it is somebody else's turn, and the rest is queued again. What goes by way of
    a topic is left to services/sharing.py.
    """
    ends = time.monotonic() + TURN_SECONDS
    count = 0
    while mailer.is_on and settings.sends_mail and (batch := _claim_to_send(~goes_by_topic())):
        taken, is_done = _send(batch, ends)
        count += taken
        tell("handed over", count)
        if not is_done:
            jobs.SEND_MAIL.later()
            break
    return count


def send_these(mail_ids: Sequence[uuid.UUID]) -> int:
    """Hand over those of these mails that are due and nobody is at; how many were taken."""
    if not (mailer.is_on and mail_ids):
        return 0
    batch = _claim_to_send(OutboxMail.id.in_(mail_ids))
    return _send(batch, time.monotonic() + TURN_SECONDS)[0]


def goes_by_topic() -> ColumnElement[bool]:
    """The condition that a mail is told to a topic, and sent by whoever hears of it there."""
    return OutboxMail.kind == MailKind.FILES_FOR_YOU if settings.publishes_shares else false()


def is_to_send() -> ColumnElement[bool]:
    """The condition that send_due() would hand it over, were it not for anybody's share."""
    return and_(is_due(OutboxMail), ~goes_by_topic())


# -- claiming ------------------------------------------------------------------------------------


def _claim_to_send(which: ColumnElement[bool]) -> list[OutboxMail]:
    """The next mails, for this process alone until their claim has lapsed."""
    claimed = claim(which, handed_at=db_now(), **claims.for_a_while(OutboxMail))
    # Of one transfer together, and codes, for which somebody waits, before all others.
    return sorted(claimed, key=lambda m: (m.kind is not MailKind.CODE, str(m.transfer_id), m.kind))


def claim(which: ColumnElement[bool], **values: Any) -> Sequence[OutboxMail]:
    """The next mails that are due and that `which` is true of; these values are written to them."""
    with transaction():
        # One at a time: what each address gets in an hour is counted before anything is taken.
        shares.hold()
        chosen = _without_suspects(_next(min(BATCH, shares.left_to_hand_over()), which))
        return claims.write(OutboxMail, chosen, which, **values)


def _without_suspects(chosen: Any) -> Sequence[uuid.UUID]:
    """Whoever claimed a mail again and again never came to its end: such a one goes alone, lest it
    take the others along."""
    rows = db.session.execute(
        select(OutboxMail.id, OutboxMail.attempt_count, OutboxMail.failure).where(
            OutboxMail.id.in_(chosen)
        )
    ).all()
    suspects = [one for one, count, failure in rows if count >= SUSPECT and failure is None]
    return [one for one, _, _ in rows if one not in suspects] or suspects[:1]


def _next(limit: int, which: ColumnElement[bool]) -> Any:
    """What is due, the longest first, without what would be too much for somebody in one hour."""
    earlier, share = aliased(OutboxMail), _share_of(OutboxMail)
    had = (
        select(func.count())
        .where(
            earlier.email == OutboxMail.email,
            _share_of(earlier) == share,
            earlier.handed_at > db_now() - shares.HOUR,
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
    """Which of its address's shares a mail counts to. Reports have their own: behind those, which
    strangers write, the operator's codes would never have their turn."""
    return case(
        (mail.kind == MailKind.REPORTED, "reported"),
        (mail.kind.in_(_UNASKED), "unasked"),
        else_="asked",
    )


# -- sending -------------------------------------------------------------------------------------


def _send(batch: Sequence[OutboxMail], ends: float) -> tuple[int, bool]:
    """Hand over a batch; how many were taken, and whether there was time for all of it."""
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
        settle(mail, Outcome(Fate.LATER, "Every attempt ended before its end."))
        return False
    try:
        letter = letters.compose(mail, album.of(mail), drawer)
        release()
    except Exception:
        # A mail that cannot be written must keep nobody else's.
        log.exception("a mail could not be written")
        discard()
        settle(mail, Outcome(Fate.LATER, "It could not be written."))
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
    """Whoever comes next may have them at once."""
    with transaction():
        claims.give_back(OutboxMail, [mail.id for mail in mails], handed_at=None)


# -- settling ------------------------------------------------------------------------------------


def settle(mail: OutboxMail, outcome: Outcome) -> None:
    """Record what became of it. That it was taken is true whoever says so, and however late."""
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
        # Its own row first: whoever locks the transfer and then a recipient must not meet us.
        delivery.tell_sender(mail.transfer_id, MailKind.UNDELIVERABLE)
        _change_recipient(mail, failed_at=db_now(), failure=reason, failure_told_in=None)


def _settle_later(mail: OutboxMail, outcome: Outcome) -> None:
    values: dict[str, Any] = {
        "due_at": db_now() + claims.backoff(mail.attempt_count),
        "failure": outcome.reason,
    }
    if mail.publish_after is not None:
        # The event is still in the queue, and comes again by then.
        values["publish_after"] = values["due_at"] + PUBLISHED_FOR
    if outcome.is_certain:
        # Nobody got anything, so it counts as nothing.
        values["handed_at"] = None
    _change(mail, OutboxMail.attempt_count == mail.attempt_count, **values)


def put_off(mail: OutboxMail, reason: str) -> None:
    """It has not even left here, which is certain: that was one more attempt."""
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
    """It is no longer true, or not wanted: whoever reads the rows sees that it was not sent."""
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
