"""What `worker.py sqs` does: hears the event queue, and does what it says.

A message is removed when all that it asks for is settled, and not before, so whoever dies here
leaves it to the next. It may come twice, late, and in any order: the rows know what was done. What
nobody can ever work on is left, and the queue's own rule puts it aside.
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
from app.services import bounces, notices, outbox
from app.services.heartbeats import noted
from app.services.notices import CameBack, Complained, Other, Shared, Unreadable

log = logging.getLogger(__name__)

# So long is waited for something to arrive, and so long a stop may take. Shorter than a turn that
# did nothing may take before heartbeats.py finds it worth a line in the log.
WAIT_SECONDS = 8
# What was received is ours so long, and again, as long as it is worked on.
HIDDEN_SECONDS = 60
# A mail that is due and could not be had: somebody has had a share of mail that is used up.
SHARE_WAIT_SECONDS = 300


def check_queue() -> None:
    """Tell whoever reads the log of a queue that keeps what nobody can work on."""
    try:
        if not events.has_dead_letters():
            log.warning(
                "the queue has no dead-letter queue: what cannot be read comes again for days"
            )
    except Outage as error:
        log.warning("whether there is a dead-letter queue is not known: %s", error)


@dataclass
class _Turn:
    """What was received together, and what is to become of each."""

    arrived: Sequence[Arrived]
    done: list[Arrived] = field(default_factory=list)
    # Not yet: hidden for so many seconds more.
    later: list[tuple[Arrived, int]] = field(default_factory=list)


@noted
def take_messages() -> int:
    """Wait for messages, and do what they say; how many are done with. Raises Outage."""
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
    """Nobody else gets these while they are worked on."""
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
    """Read each, and do it. One that fails keeps no other, and is left as it is."""
    shared: list[tuple[Arrived, Shared]] = []
    for one in turn.arrived:
        try:
            notice = notices.read(one.body)
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
    """Hand over all that these ask for on one connection; then see what has become of each."""
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
    """After how many seconds to look again; None when each mail is settled.

    Whoever the transfer is not for, or not any more, gets none: only rows are believed.
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
