"""What somebody reports about a link, and what is done about it: quarantine, by the operator or
because of the block list.

A quarantined transfer keeps its state and its place in every sweep, but nobody is given anything
of it: each look and each counted download asks the row. With a board so are the files on it.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Select, func, or_, select, update

from app.clock import db_now
from app.db import changed, db, transaction
from app.errors import Gone, NotFound
from app.models import AbuseReport, BlockedFile, Board, BoardItem, File, Harm, State, Transfer
from app.services import audit, delivery, unsent
from app.services.transfers import is_at

log = logging.getLogger(__name__)

About = TypeVar("About", Transfer, Board)

LONGEST_MESSAGE = 2000
LONGEST_CONTACT = 254
# A listing shows so many, the oldest first: they have waited longest.
MOST_LISTED = 500


# -- reporting ---------------------------------------------------------------------------------


def check_reportable(slug: str) -> None:
    """Raise NotFound for a link that leads nowhere, Gone where there is nothing any more."""
    _reportable(slug)


def report(slug: str, reason: Harm, message: str = "", contact: str = "") -> int:
    """Note a report for the operator; its number. Raises as check_reportable() does.

    Needs no password: whoever is shown a form for one may have been sent here to type his own.
    """
    return _note(
        AbuseReport(
            transfer_id=_reportable(slug).id, reason=reason, message=message, contact=contact
        )
    )


def report_board(slug: str, reason: Harm, message: str = "", contact: str = "") -> int:
    """As report(), of a board. Raises as reportable_board() does."""
    board_id = reportable_board(slug).id
    return _note(AbuseReport(board_id=board_id, reason=reason, message=message, contact=contact))


def _note(made: AbuseReport) -> int:
    made.address_hash = audit.actor.get()
    with transaction():
        db.session.add(made)
        # flush(): the mail names the report's number.
        db.session.flush()
        audit.note("report", made.transfer_id, subject_id=made.board_id)
        delivery.tell_operator(made)
    log.warning("a link was reported: %s, report %d", made.reason.value, made.id)
    return made.id


def reportable_board(slug: str) -> Board:
    """The board at an address; raises NotFound, and Gone for one that is blocked."""
    board = _where(Board, Board.slug == slug)
    if board.quarantined_at is not None:
        raise Gone("This is not available.", reason="unavailable")
    return board


def _reportable(slug: str) -> Transfer:
    transfer = _where(Transfer, is_at(slug))
    if transfer.state is State.DELETED:
        raise Gone(reason="deleted")
    if transfer.quarantined_at is not None:
        raise Gone("This is not available.", reason="unavailable")
    return transfer


# -- what the operator sees --------------------------------------------------------------------


def reports(*, handled_too: bool = False) -> Sequence[tuple[AbuseReport, Transfer | Board]]:
    """Reports with what they are about, the oldest first, at most MOST_LISTED."""
    query = _with_what_it_is_about().order_by(AbuseReport.id)
    if not handled_too:
        query = query.where(AbuseReport.handled_at.is_(None))
    return [(row[0], row[1] or row[2]) for row in db.session.execute(query.limit(MOST_LISTED))]


def report_of(number: int) -> tuple[AbuseReport, Transfer | Board]:
    """One report with what it is about; raises NotFound."""
    found = db.session.execute(_with_what_it_is_about().where(AbuseReport.id == number)).first()
    if found is None:
        raise NotFound(f"There is no report {number}.")
    return found[0], found[1] or found[2]


def _with_what_it_is_about() -> Select[AbuseReport, Any, Any]:
    """Of a transfer and a board one is None, which SQLAlchemy's types do not tell."""
    return (
        select(AbuseReport, Transfer, Board)
        .outerjoin(Transfer, AbuseReport.transfer_id == Transfer.id)
        .outerjoin(Board, AbuseReport.board_id == Board.id)
    )


def close(number: int) -> bool:
    """Note that a report has been dealt with; True for the one who did. Raises NotFound."""
    closed = (
        update(AbuseReport)
        .where(AbuseReport.id == number, AbuseReport.handled_at.is_(None))
        .values(handled_at=db_now())
        .execution_options(synchronize_session=False)
    )
    found, _ = report_of(number)
    with transaction():
        is_closed = changed(closed) == 1
        if is_closed:
            audit.note("close report", found.transfer_id, subject_id=found.board_id)
    return is_closed


def open_count(about_id: uuid.UUID) -> int:
    """How many reports of a transfer, or a board, are open."""
    is_about = or_(AbuseReport.transfer_id == about_id, AbuseReport.board_id == about_id)
    found = db.session.scalar(
        select(func.count())
        .select_from(AbuseReport)
        .where(is_about, AbuseReport.handled_at.is_(None))
    )
    return found or 0


# -- quarantine --------------------------------------------------------------------------------


def find(link: str) -> Transfer:
    """The transfer that a link, any address below it, or a slug alone names; raises NotFound."""
    path = _path(link)
    slug = path.partition("/d/")[2] or path
    return _where(Transfer, is_at(slug.strip("/").partition("/")[0].partition(".")[0]))


def find_board(link: str) -> Board | None:
    """The board that its address, or any below it, names; None for a link. Raises NotFound."""
    before, _, slug = _path(link).partition("/b/")
    # A link's file may lie in a folder of that name.
    is_board = slug and "/d/" not in f"{before}/"
    return _where(Board, Board.slug == slug.partition("/")[0]) if is_board else None


def _path(link: str) -> str:
    try:
        return urlsplit(link.strip()).path
    except ValueError:  # a host that is none
        return ""


def quarantine(transfer_id: uuid.UUID) -> bool:
    """Nobody is given anything of it from now on. True if it was not so before. Repeatable.

    What was only stopped with its board is new, and stays when the board is released.
    """
    is_new = or_(Transfer.quarantined_at.is_(None), _was_stopped_with_its_board())
    return _set_quarantine(transfer_id, is_new, db_now(), "quarantine")


def lift_quarantine(transfer_id: uuid.UUID) -> bool:
    """Its link works again, for as long as its state lets it. True if it did not. Repeatable.

    Whom it has kept from their mail gets it now.
    """
    with transaction():
        is_blocked = Transfer.quarantined_at.is_not(None)
        is_lifted = _set_quarantine(transfer_id, is_blocked, None, "release")
        if is_lifted:
            unsent.take_up_left_out(transfer_id)
    return is_lifted


def quarantine_board(board_id: uuid.UUID) -> bool:
    """Nobody is given anything of it from now on, nor of the files on it. As quarantine()."""
    with transaction():
        now = db.session.scalar(select(db_now()))
        is_new = _set_board_quarantine(board_id, Board.quarantined_at.is_(None), now, "quarantine")
        if is_new:
            for transfer_id in _on_board(board_id):
                _set_quarantine(transfer_id, Transfer.quarantined_at.is_(None), now, "quarantine")
    return is_new


def lift_board_quarantine(board_id: uuid.UUID) -> bool:
    """Its address works again, and the files that were blocked with it. As lift_quarantine()."""
    with transaction():
        since = db.session.scalar(select(Board.quarantined_at).where(Board.id == board_id))
        is_it = (Board.quarantined_at == since) & Board.quarantined_at.is_not(None)
        is_lifted = _set_board_quarantine(board_id, is_it, None, "release")
        if is_lifted:
            for transfer_id in _on_board(board_id):
                if _set_quarantine(transfer_id, Transfer.quarantined_at == since, None, "release"):
                    unsent.take_up_left_out(transfer_id)
    return is_lifted


def _was_stopped_with_its_board() -> ColumnElement[bool]:
    """The condition that a transfer is blocked since the very instant that its board is."""
    return (
        select(Board.id)
        .join(BoardItem, BoardItem.board_id == Board.id)
        .join(File, File.id == BoardItem.file_id)
        .where(File.transfer_id == Transfer.id, Board.quarantined_at == Transfer.quarantined_at)
        .exists()
    )


def _on_board(board_id: uuid.UUID) -> Sequence[uuid.UUID]:
    return db.session.scalars(
        select(File.transfer_id)
        .join(BoardItem, BoardItem.file_id == File.id)
        .where(BoardItem.board_id == board_id)
        # In one order, so that of two who do this neither waits for the other.
        .order_by(File.transfer_id)
    ).all()


def _set_board_quarantine(
    board_id: uuid.UUID, is_other: ColumnElement[bool], at: datetime | None, action: str
) -> bool:
    change = (
        update(Board)
        .where(Board.id == board_id, is_other)
        .values(quarantined_at=at)
        .execution_options(synchronize_session=False)
    )
    is_changed = changed(change) == 1
    if is_changed:
        audit.note(action, subject_id=board_id)
    return is_changed


def quarantine_blocked(transfer_id: uuid.UUID, entry: BlockedFile, path: str) -> None:
    """A file of it is on the block list: as quarantine(), and a report to the operator of our own.

    Nothing new where quarantine() finds nothing new. Call in transaction().
    """
    audit.note("blocked file", transfer_id)
    if not quarantine(transfer_id):
        return
    made = AbuseReport(
        transfer_id=transfer_id,
        reason=entry.reason,
        message=path[:LONGEST_MESSAGE],
        file_sha256=entry.sha256,
    )
    db.session.add(made)
    # flush(): the mail names the report's number.
    db.session.flush()
    delivery.tell_operator(made)
    log.warning("a file of the block list was sent: %s, report %d", entry.reason.value, made.id)


def _set_quarantine(
    transfer_id: uuid.UUID,
    is_other: ColumnElement[bool],
    at: ColumnElement[object] | datetime | None,
    action: str,
) -> bool:
    change = (
        update(Transfer)
        .where(Transfer.id == transfer_id, is_other)
        .values(quarantined_at=at)
        .execution_options(synchronize_session=False)
    )
    with transaction():
        is_changed = changed(change) == 1
        if is_changed:
            audit.note(action, transfer_id)
    return is_changed


def _where(kind: type[About], condition: ColumnElement[bool]) -> About:
    found = db.session.scalar(
        select(kind).where(condition).execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound("This link does not lead to anything.")
    return found
