"""Abuse reports about links, and quarantine, by the operator or because of the block list.

A quarantined transfer keeps its state and is swept like any other, but nothing of it is given out:
each page and each counted download checks the row. Quarantining a board also quarantines the files
on it.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Select, func, or_, select, update

from app import links
from app.clock import db_now
from app.db import changed, db, transaction
from app.errors import Gone, NotFound
from app.models import AbuseReport, BlockedFile, Board, BoardItem, File, Harm, State, Transfer
from app.services import audit, delivery, dropped_mail, file_requests
from app.services.transfers import is_at

log = logging.getLogger(__name__)

About = TypeVar("About", Transfer, Board)

LONGEST_MESSAGE = 2000
LONGEST_CONTACT = 254
# A listing shows at most this many, oldest first: those have waited longest.
MOST_LISTED = 500
# A page has this many, newest first.
PAGE_SIZE = 50
# At most this many files of what a report is about are named.
MOST_NAMES = 50


# -- reporting ---------------------------------------------------------------------------------


def check_reportable(slug: str) -> None:
    """Raise NotFound for an unknown link, Gone if its transfer is deleted or quarantined."""
    _reportable(slug)


def report(slug: str, reason: Harm, message: str = "", contact: str = "") -> int:
    """Record a report for the operator; returns its number. Raises what check_reportable() raises.

    Needs no password: the page that asks for one may itself be used to phish visitors' passwords.
    """
    return _note(
        AbuseReport(
            transfer_id=_reportable(slug).id, reason=reason, message=message, contact=contact
        )
    )


def report_board(slug: str, reason: Harm, message: str = "", contact: str = "") -> int:
    """Record a report about a board; returns its number. Raises what reportable_board() raises."""
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
    """The board with this slug; raises NotFound, and Gone if it is quarantined."""
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
    """Reports with the transfer or board they are about, oldest first, at most MOST_LISTED."""
    query = _with_what_it_is_about().order_by(AbuseReport.id)
    if not handled_too:
        query = query.where(AbuseReport.handled_at.is_(None))
    return [(row[0], row[1] or row[2]) for row in db.session.execute(query.limit(MOST_LISTED))]


def newest_reports(
    before: int | None = None,
) -> tuple[list[tuple[AbuseReport, Transfer | Board]], int | None]:
    """PAGE_SIZE open reports, newest first, from those older than report `before`, if it is given.

    Also returns the `before` of the next page, None after the last one. One query, by the index of
    open reports.
    """
    query = _with_what_it_is_about().where(AbuseReport.handled_at.is_(None))
    if before is not None:
        query = query.where(AbuseReport.id < before)
    rows = db.session.execute(query.order_by(AbuseReport.id.desc()).limit(PAGE_SIZE + 1)).all()
    found = [(row[0], row[1] or row[2]) for row in rows[:PAGE_SIZE]]
    return found, found[-1][0].id if len(rows) > PAGE_SIZE else None


def report_of(number: int) -> tuple[AbuseReport, Transfer | Board]:
    """One report with the transfer or board it is about; raises NotFound."""
    found = db.session.execute(_with_what_it_is_about().where(AbuseReport.id == number)).first()
    if found is None:
        raise NotFound(f"There is no report {number}.")
    return found[0], found[1] or found[2]


def _with_what_it_is_about() -> Select[AbuseReport, Any, Any]:
    """Either the transfer or the board is None, which SQLAlchemy's types do not express."""
    return (
        select(AbuseReport, Transfer, Board)
        .outerjoin(Transfer, AbuseReport.transfer_id == Transfer.id)
        .outerjoin(Board, AbuseReport.board_id == Board.id)
    )


def link_of(about: Transfer | Board) -> str:
    """The public URL of what a report is about."""
    is_board = isinstance(about, Board)
    return links.board_url(about.slug) if is_board else links.transfer_url(about.slug)


def close(number: int) -> bool:
    """Mark a report as handled; False if it was already. Raises NotFound."""
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
    """How many reports about a transfer or a board are open."""
    is_about = or_(AbuseReport.transfer_id == about_id, AbuseReport.board_id == about_id)
    found = db.session.scalar(
        select(func.count())
        .select_from(AbuseReport)
        .where(is_about, AbuseReport.handled_at.is_(None))
    )
    return found or 0


# -- quarantine --------------------------------------------------------------------------------


def find(link: str) -> Transfer:
    """The transfer of a link, of any URL below it, or of a slug alone; raises NotFound."""
    path = _path(link)
    slug = path.partition("/d/")[2] or path
    return _where(Transfer, is_at(slug.strip("/").partition("/")[0].partition(".")[0]))


def find_board(link: str) -> Board | None:
    """The board of a URL, or of any URL below it; None for a transfer's link. Raises NotFound."""
    before, _, slug = _path(link).partition("/b/")
    # A file of a transfer may be in a folder named "b".
    is_board = slug and "/d/" not in f"{before}/"
    return _where(Board, Board.slug == slug.partition("/")[0]) if is_board else None


def _path(link: str) -> str:
    try:
        return urlsplit(link.strip()).path
    except ValueError:  # an invalid host
        return ""


def block(about: Transfer | Board) -> bool:
    """Quarantine a transfer, or a board with its files. True if it was not. Repeatable."""
    return (quarantine_board if isinstance(about, Board) else quarantine)(about.id)


def unblock(about: Transfer | Board) -> bool:
    """End the quarantine of a transfer, or of a board with its files. True if there was one.

    Repeatable.
    """
    return (lift_board_quarantine if isinstance(about, Board) else lift_quarantine)(about.id)


def quarantine(transfer_id: uuid.UUID) -> bool:
    """Give out nothing of a transfer from now on. True if it was not quarantined. Repeatable.

    One that was only quarantined with its board counts as not quarantined, and stays so when the
    board is released.
    """
    is_new = or_(Transfer.quarantined_at.is_(None), _was_stopped_with_its_board())
    return _set_quarantine(transfer_id, is_new, db_now(), "quarantine")


def lift_quarantine(transfer_id: uuid.UUID) -> bool:
    """Let its link work again, as far as its state allows. True if it was quarantined. Repeatable.

    Recipients whose mail was dropped because of the quarantine are mailed now, and so is who asked
    for the files.
    """
    with transaction():
        is_blocked = Transfer.quarantined_at.is_not(None)
        is_lifted = _set_quarantine(transfer_id, is_blocked, None, "release")
        if is_lifted:
            dropped_mail.take_up_left_out(transfer_id)
            file_requests.announce_left_out(transfer_id)
    return is_lifted


def quarantine_board(board_id: uuid.UUID) -> bool:
    """Give out nothing of a board and its files from now on. True if it was not quarantined.

    Repeatable.
    """
    with transaction():
        now = db.session.scalar(select(db_now()))
        is_new = _set_board_quarantine(board_id, Board.quarantined_at.is_(None), now, "quarantine")
        if is_new:
            for transfer_id in _on_board(board_id):
                _set_quarantine(transfer_id, Transfer.quarantined_at.is_(None), now, "quarantine")
    return is_new


def lift_board_quarantine(board_id: uuid.UUID) -> bool:
    """Release a board and the files that were quarantined with it. True if it was quarantined.

    Repeatable. Recipients whose mail was dropped because of the quarantine are mailed now.
    """
    with transaction():
        since = db.session.scalar(select(Board.quarantined_at).where(Board.id == board_id))
        is_it = (Board.quarantined_at == since) & Board.quarantined_at.is_not(None)
        is_lifted = _set_board_quarantine(board_id, is_it, None, "release")
        if is_lifted:
            for transfer_id in _on_board(board_id):
                if _set_quarantine(transfer_id, Transfer.quarantined_at == since, None, "release"):
                    dropped_mail.take_up_left_out(transfer_id)
    return is_lifted


def _was_stopped_with_its_board() -> ColumnElement[bool]:
    """The condition that a transfer was quarantined at the very instant that its board was."""
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
        # In a fixed order, so that two transactions that do this cannot deadlock.
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
    """Quarantine a transfer that has a file of the block list, and report it to the operator.

    If it is quarantined already, this is only noted in the audit log. Call in transaction().
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
        raise NotFound("This link does not lead anywhere.")
    return found
