"""The loop of `worker.py sqs`: receives messages from the event queue and acts on them.

A message is deleted only when everything it asks for is settled, so a worker that dies leaves it
to the next one. It may come twice, late, and in any order: the rows know what was done. A message
that can never be processed is left to the queue's redrive policy, which moves it to a dead-letter
queue.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil

from sqlalchemy import ColumnElement, and_, false, func, or_, select

from app import crash, jobs
from app.clock import db_now
from app.db import db, discard, is_away, release
from app.errors import Outage
from app.extensions import events
from app.gateways.events import Arrived
from app.models import MailKind, MailState, OutboxMail, Transfer
from app.services import bounces, event_messages, outbox
from app.services.event_messages import CameBack, Complained, Other, Shared, Unreadable
from app.services.heartbeats import noted

log = logging.getLogger(__name__)

# How long to wait for messages (long polling), and so how long a stop may take. Shorter than
# heartbeats.QUICK_SECONDS, so that an empty turn is not logged.
WAIT_SECONDS = 8
# The visibility timeout of received messages; renewed while they are worked on.
HIDDEN_SECONDS = 60
# When to look again if a mail is due but was not sent: probably a quota is used up.
SHARE_WAIT_SECONDS = 300


def check_queue() -> None:
    """Log a warning if the queue has no dead-letter queue for messages that cannot be processed."""
    try:
        if not events.has_dead_letters():
            log.warning(
                "the queue has no dead-letter queue: what cannot be read comes again for days"
            )
    except Outage as error:
        log.warning("whether there is a dead-letter queue is not known: %s", error)


@dataclass
class _Turn:
    """The messages received together, and what is to become of each."""

    arrived: Sequence[Arrived]
    done: list[Arrived] = field(default_factory=list)
    # Not done yet: hidden for this many more seconds.
    later: list[tuple[Arrived, int]] = field(default_factory=list)


@noted
def take_messages() -> int:
    """Wait for messages and act on them; returns how many are done with. Raises Outage."""
    arrived = events.receive(WAIT_SECONDS, HIDDEN_SECONDS)
    if jobs.stopping.is_set():
        events.hide(arrived, 0)
        return 0
    turn = _Turn(arrived)
    with _hidden(turn):
        _work(turn)
    crash.point("listen.1")
    events.remove(turn.done)
    for one, seconds in turn.later:
        events.hide([one], seconds)
    return len(turn.done)


@contextmanager
def _hidden(turn: _Turn) -> Iterator[None]:
    """Keep the messages hidden from other consumers while they are worked on."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HIDDEN_SECONDS / 3):
            try:
                events.hide(turn.arrived, HIDDEN_SECONDS)
            except Outage as error:
                log.warning("messages may come again too soon: %s", error)

    heart = threading.Thread(target=beat, daemon=True)
    if turn.arrived:
        heart.start()
    try:
        yield
    finally:
        over.set()
        if turn.arrived:
            heart.join()


def _work(turn: _Turn) -> None:
    """Act on each message. One that fails does not affect the others, and stays in the queue."""
    shared: list[tuple[Arrived, Shared]] = []
    for one in turn.arrived:
        try:
            notice = event_messages.read(one.body)
            if isinstance(notice, Shared):
                _check_transfer(notice)
                shared.append((one, notice))
            else:
                _note(notice)
                turn.done.append(one)
        except Unreadable as error:
            log.error(
                "message %s cannot be worked on, and has been had %d times: %s",
                one.id,
                one.count,
                error,
            )
        except Exception as error:
            if is_away(error):
                raise
            log.exception("message %s has failed", one.id)
            discard()
    _send(turn, shared)


def _note(notice: CameBack | Complained | Other) -> None:
    if isinstance(notice, CameBack):
        for email, reason in notice.reasons:
            bounces.came_back(
                email, reason, is_for_good=notice.is_for_good, server_id=notice.server_id
            )
    elif isinstance(notice, Complained):
        for email in notice.emails:
            bounces.complained(email)


def _check_transfer(notice: Shared) -> None:
    known = db.session.scalar(select(Transfer.id).where(Transfer.id == notice.transfer_id))
    release()
    if known is None:
        raise Unreadable("no transfer has this id")


def _send(turn: _Turn, shared: Sequence[tuple[Arrived, Shared]]) -> None:
    """Hand over all requested mails on one connection, then check what became of each."""
    rows = select(OutboxMail.id).where(or_(false(), *(_is_named(notice) for _, notice in shared)))
    mail_ids = db.session.scalars(rows.where(OutboxMail.state == MailState.WAITING)).all()
    release()
    outbox.send_these(mail_ids)
    for one, notice in shared:
        seconds = _waits(notice)
        if seconds is None:
            turn.done.append(one)
        else:
            turn.later.append((one, seconds))


def _is_named(notice: Shared) -> ColumnElement[bool]:
    return and_(
        OutboxMail.kind == MailKind.FILES_FOR_YOU,
        OutboxMail.transfer_id == notice.transfer_id,
        OutboxMail.email.in_(notice.emails),
    )


def _waits(notice: Shared) -> int | None:
    """After how many seconds to look at the message again; None once all its mails are settled.

    Addresses that are not, or no longer, the transfer's recipients get nothing: only the rows
    count.
    """
    left = func.extract("epoch", OutboxMail.due_at - db_now())
    soonest = db.session.scalar(
        select(func.min(left)).where(_is_named(notice), OutboxMail.state == MailState.WAITING)
    )
    release()
    if soonest is None:
        return None
    if jobs.stopping.is_set():
        return 0
    return ceil(soonest) + 1 if soonest > 0 else SHARE_WAIT_SECONDS
