"""From the outbox to a mail server: claimed by one worker, handed over, settled, row by row.

A mail that was handed over just before this process died goes once more, under the same
Message-ID: that cannot be helped, and costs at most one for each death. Everything else is at
most once.
"""

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import aliased

from app import addresses, crash, jobs
from app.clock import db_now
from app.config import settings
from app.db import db, discard, release, transaction
from app.extensions import mailer
from app.gateways.mailer import Fate, Line, Outcome
from app.models import MailKind, MailState, OutboxMail, Recipient
from app.services import claims, delivery, letters, mail_links, shares
from app.services.claims import BACKOFF_SECONDS, is_due
from app.services.heartbeats import noted

log = logging.getLogger(__name__)

# Handed over one after the other on one connection.
BATCH = 50
# After so long it is another job's turn.
TURN_SECONDS = 100
# A mail that was claimed so often without a word on what became of it.
SUSPECT = 3
# Whoever gets these has not asked for them.
_UNASKED = [*delivery.TO_RECIPIENT, MailKind.CODE]


@noted
def send_due() -> int:
    """Job: hand over every mail that is due; how many were taken. Repeatable at any time.

    After TURN_SECONDS it is somebody else's turn, and the rest is queued again.
    """
    ends = time.monotonic() + TURN_SECONDS
    count = 0
    while mailer.is_on and settings.sends_mail and (batch := _claim()):
        release()
        taken, is_done = _send(batch, ends)
        count += taken
        if not is_done:
            jobs.SEND_MAIL.later()
            break
    return count


# -- claiming ------------------------------------------------------------------------------------


def _claim() -> list[OutboxMail]:
    """The next mails, for this process alone until their claim has lapsed."""
    with transaction():
        # One at a time: what each address gets in an hour is counted before anything is taken.
        shares.hold()
        chosen = _without_suspects(_next(min(BATCH, shares.left_to_hand_over())))
        claimed = claims.take(OutboxMail, chosen, handed_at=db_now())
    # Of one transfer together, and codes, for which somebody waits, before all others.
    return sorted(claimed, key=lambda m: (m.kind is not MailKind.CODE, str(m.transfer_id), m.kind))


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


def _next(limit: int) -> Any:
    """What is due, the longest first, without what would be too much for somebody in one hour."""
    earlier = aliased(OutboxMail)
    had = (
        select(func.count())
        .where(
            earlier.email == OutboxMail.email,
            earlier.kind.in_(_UNASKED),
            earlier.handed_at > db_now() - shares.HOUR,
        )
        .scalar_subquery()
    )
    is_unasked = OutboxMail.kind.in_(_UNASKED)
    turn = func.row_number().over(
        partition_by=(OutboxMail.email, is_unasked), order_by=(OutboxMail.due_at, OutboxMail.id)
    )
    due = (
        select(
            OutboxMail.id,
            OutboxMail.due_at,
            case((OutboxMail.kind == MailKind.CODE, 0), else_=1).label("rank"),
            case((is_unasked, had + turn), else_=0).label("would_have_had"),
        )
        .where(is_due(OutboxMail))
        .subquery()
    )
    return (
        select(due.c.id)
        .where(due.c.would_have_had <= settings.max_mails_per_recipient_per_hour)
        .order_by(due.c.rank, due.c.due_at)
        .limit(limit)
    )


# -- sending -------------------------------------------------------------------------------------


def _send(batch: Sequence[OutboxMail], ends: float) -> tuple[int, bool]:
    """Hand over a batch; how many were taken, and whether there was time for all of it."""
    taken = 0
    with mailer.line() as line:
        for at, mail in enumerate(batch):
            if jobs.stopping.is_set() or time.monotonic() > ends:
                _give_back(batch[at:])
                return taken, False
            taken += _send_one(line, mail)
    return taken, True


def _send_one(line: Line, mail: OutboxMail) -> bool:
    if mail.attempt_count > len(BACKOFF_SECONDS) + 1:
        _settle(mail, Outcome(Fate.LATER, "Every attempt ended before its end."))
        return False
    try:
        letter = letters.compose(mail)
        release()
    except Exception:
        # A mail that cannot be written must keep nobody else's.
        log.exception("a mail could not be written")
        discard()
        _settle(mail, Outcome(Fate.LATER, "It could not be written."))
        return False
    if letter is None:
        _drop(mail)
        return False
    crash.point("mail.1")
    outcome = line.send(letter, addresses.on_the_wire(mail.email))
    crash.point("mail.2")
    _settle(mail, outcome)
    crash.point("mail.3")
    return outcome.fate is Fate.TAKEN


def _give_back(mails: Sequence[OutboxMail]) -> None:
    """Whoever comes next may have them at once."""
    with transaction():
        claims.give_back(OutboxMail, [mail.id for mail in mails], handed_at=None)


# -- settling ------------------------------------------------------------------------------------


def _settle(mail: OutboxMail, outcome: Outcome) -> None:
    """Record what became of it. That it was taken is true whoever says so, and however late."""
    is_over = mail.attempt_count > len(BACKOFF_SECONDS)
    with transaction():
        if outcome.fate is Fate.TAKEN:
            _settle_taken(mail)
        elif outcome.fate is Fate.REFUSED or is_over:
            _settle_failed(mail, outcome.reason)
        else:
            _settle_later(mail, outcome)


def _settle_taken(mail: OutboxMail) -> None:
    if _change(mail, state=MailState.SENT, sent_at=db_now(), words="", failure=None):
        sent = func.coalesce(Recipient.sent_at, db_now())
        if mail.kind is MailKind.FILES_FOR_YOU:
            _change_recipient(mail, sent_at=sent, failed_at=None, failure=None)


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
    if outcome.is_certain:
        # Nobody got anything, so it counts as nothing.
        values["handed_at"] = None
    _change(mail, OutboxMail.attempt_count == mail.attempt_count, **values)


def _drop(mail: OutboxMail) -> None:
    """It is no longer true, or not wanted: whoever reads the rows sees that it was not sent."""
    with transaction():
        _change(mail, state=MailState.DROPPED, words="", handed_at=None)
        if mail.kind is MailKind.FILES_FOR_YOU and mail_links.has_opted_out(mail.email):
            _change_recipient(mail, failed_at=db_now(), failure=letters.WANTS_NONE)


def _change(mail: OutboxMail, *conditions: Any, **values: Any) -> bool:
    changed = db.session.execute(
        update(OutboxMail)
        .where(OutboxMail.id == mail.id, _is_waiting(), *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return changed.rowcount == 1


def _change_recipient(mail: OutboxMail, **values: Any) -> None:
    db.session.execute(
        update(Recipient)
        .where(Recipient.id == mail.recipient_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _is_waiting() -> Any:
    return OutboxMail.state == MailState.WAITING


def _without_address(reason: str, email: str) -> str:
    return reason.replace(email, "...")
