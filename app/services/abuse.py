"""Abuse reports about links, and quarantine, by the operator or because of the block list.

A quarantined transfer keeps its state and is swept like any other, but nothing of it is given out:
each page and each counted download checks the row. Quarantining a board also quarantines the files
on it. Nothing can be sent to a quarantined file request, and its owner is told of nothing more;
what has come belongs to whoever sent it, and stays as it is unless the operator blocks that, too.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update

from app import links
from app.clock import db_now
from app.db import changed, db, transaction
from app.errors import Gone, NotFound
from app.models import (
    AbuseReport,
    Arrival,
    BlockedFile,
    Board,
    BoardItem,
    File,
    FileRequest,
    Harm,
    State,
    Transfer,
)
from app.services import audit, delivery, dropped_mail, file_requests
from app.services.transfers import is_at

log = logging.getLogger(__name__)

# What a report may be about.
Subject = Transfer | Board | FileRequest
About = TypeVar("About", bound=Subject)

LONGEST_MESSAGE = 2000
LONGEST_CONTACT = 254
# A listing shows at most this many, oldest first: those have waited longest.
MOST_LISTED = 500
# A page has this many, newest first.
PAGE_SIZE = 50
# Where the links lead that are not a transfer's.
_OTHERS_AT: dict[str, type[Board | FileRequest]] = {"/b/": Board, "/r/": FileRequest}
# At most this many files of what a report is about are named.
MOST_NAMES = 50


# -- reporting ---------------------------------------------------------------------------------


def reportable(of: type[About], slug: str) -> About:
    """What this slug leads to; raises NotFound, and Gone if it is deleted or quarantined."""
    about = _where(of, is_at(slug) if of is Transfer else of.slug == slug)
    if isinstance(about, Transfer) and about.state is State.DELETED:
        raise Gone(reason="deleted")
    if about.quarantined_at is not None:
        raise Gone("This is not available.", reason="unavailable")
    return about


def report(
    slug: str,
    reason: Harm,
    message: str = "",
    contact: str = "",
    *,
    of: type[Subject] = Transfer,
) -> int:
    """Record a report for the operator; returns its number. Raises what reportable() raises.

    Needs no password: the page that asks for one may itself be used to phish visitors' passwords.
    """
    about = reportable(of, slug)
    made = AbuseReport(
        transfer_id=about.id if of is Transfer else None,
        board_id=about.id if of is Board else None,
        file_request_id=about.id if of is FileRequest else None,
        reason=reason,
        message=message,
        contact=contact,
        address_hash=audit.actor.get(),
    )
    with transaction():
        db.session.add(made)
        # flush(): the mail names the report's number.
        db.session.flush()
        _note("report", made)
        delivery.tell_operator(made)
    log.warning("a link was reported: %s, report %d", made.reason.value, made.id)
    return made.id


def _note(action: str, made: AbuseReport) -> None:
    audit.note(action, made.transfer_id, subject_id=made.board_id or made.file_request_id)


# -- what the operator sees --------------------------------------------------------------------


def reports(*, handled_too: bool = False) -> Sequence[tuple[AbuseReport, Subject]]:
    """Reports with what they are about, oldest first, at most MOST_LISTED."""
    query = _with_subjects().order_by(AbuseReport.id)
    if not handled_too:
        query = query.where(AbuseReport.handled_at.is_(None))
    return [_pair(row) for row in db.session.execute(query.limit(MOST_LISTED))]


def newest_reports(
    before: int | None = None,
) -> tuple[list[tuple[AbuseReport, Subject]], int | None]:
    """PAGE_SIZE open reports, newest first, from those older than report `before`, if it is given.

    Also returns the `before` of the next page, None after the last one. One query, by the index of
    open reports.
    """
    query = _with_subjects().where(AbuseReport.handled_at.is_(None))
    if before is not None:
        query = query.where(AbuseReport.id < before)
    rows = db.session.execute(query.order_by(AbuseReport.id.desc()).limit(PAGE_SIZE + 1)).all()
    found = [_pair(row) for row in rows[:PAGE_SIZE]]
    return found, found[-1][0].id if len(rows) > PAGE_SIZE else None


def report_of(number: int) -> tuple[AbuseReport, Subject]:
    """One report with what it is about; raises NotFound."""
    found = db.session.execute(_with_subjects().where(AbuseReport.id == number)).first()
    if found is None:
        raise NotFound(f"There is no report {number}.")
    return _pair(found)


def _with_subjects() -> Select[AbuseReport, Any, Any, Any]:
    return (
        select(AbuseReport, Transfer, Board, FileRequest)
        .outerjoin(Transfer, AbuseReport.transfer_id == Transfer.id)
        .outerjoin(Board, AbuseReport.board_id == Board.id)
        .outerjoin(FileRequest, AbuseReport.file_request_id == FileRequest.id)
    )


def _pair(row: Any) -> tuple[AbuseReport, Subject]:
    """A row of _with_subjects(), in which all but one of the subjects are None."""
    made, *subjects = row
    return made, next(one for one in subjects if one is not None)


def link_of(about: Subject) -> str:
    """The public URL of what a report is about."""
    if isinstance(about, Board):
        return links.board_url(about.slug)
    if isinstance(about, FileRequest):
        return links.request_url(about.slug)
    return links.transfer_url(about.slug)


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
            _note("close report", found)
    return is_closed


def open_count(about_id: uuid.UUID) -> int:
    """How many reports about a transfer, a board or a file request are open."""
    subjects = (AbuseReport.transfer_id, AbuseReport.board_id, AbuseReport.file_request_id)
    is_about = or_(*(one == about_id for one in subjects))
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


def find_any(link: str) -> Subject:
    """What a URL, or any URL below it, leads to, or the transfer of a slug; raises NotFound."""
    path = _path(link)
    for at, kind in _OTHERS_AT.items():
        before, _, slug = path.partition(at)
        # A file of a transfer may be in a folder named "b".
        if slug and "/d/" not in f"{before}/":
            return _where(kind, kind.slug == slug.partition("/")[0])
    return find(link)


def _path(link: str) -> str:
    try:
        return urlsplit(link.strip()).path
    except ValueError:  # an invalid host
        return ""


def block(about: Subject) -> bool:
    """Quarantine a transfer, a board with its files, or a file request, without what came by it.
    True if it was not. Repeatable.
    """
    if isinstance(about, Board):
        return quarantine_board(about.id)
    if isinstance(about, FileRequest):
        is_new = FileRequest.quarantined_at.is_(None)
        return _set_quarantine(FileRequest, about.id, is_new, db_now())
    return quarantine(about.id)


def unblock(about: Subject) -> bool:
    """End the quarantine that block() began. True if there was one. Repeatable.

    Whoever was not mailed because of it is mailed now.
    """
    if isinstance(about, Board):
        return lift_board_quarantine(about.id)
    if isinstance(about, FileRequest):
        return _lift_request_quarantine(about.id)
    return lift_quarantine(about.id)


def quarantine(transfer_id: uuid.UUID) -> bool:
    """Give out nothing of a transfer from now on. True if it was not quarantined. Repeatable.

    One that was only quarantined with its board, or with the file request that it came by, counts
    as not quarantined, and stays so when that is released.
    """
    is_new = or_(
        Transfer.quarantined_at.is_(None),
        _was_stopped_with_its_board(),
        _was_stopped_with_its_request(),
    )
    return _set_quarantine(Transfer, transfer_id, is_new, db_now())


def lift_quarantine(transfer_id: uuid.UUID) -> bool:
    """Let its link work again, as far as its state allows. True if it was quarantined. Repeatable.

    Recipients whose mail was dropped because of the quarantine are mailed now, and so is who asked
    for the files.
    """
    with transaction():
        is_blocked = Transfer.quarantined_at.is_not(None)
        is_lifted = _set_quarantine(Transfer, transfer_id, is_blocked, None)
        if is_lifted:
            dropped_mail.take_up_left_out(transfer_id)
            file_requests.announce_left_out(Arrival.transfer_id == transfer_id)
    return is_lifted


def quarantine_board(board_id: uuid.UUID) -> bool:
    """Give out nothing of a board and its files from now on. True if it was not quarantined.

    Repeatable.
    """
    with transaction():
        now = db.session.scalar(select(db_now()))
        is_new = _set_quarantine(Board, board_id, Board.quarantined_at.is_(None), now)
        if is_new:
            _set_quarantine_of_all(_is_on(board_id) & Transfer.quarantined_at.is_(None), now)
    return is_new


def lift_board_quarantine(board_id: uuid.UUID) -> bool:
    """Release a board and the files that were quarantined with it. True if it was quarantined.

    Repeatable. Recipients whose mail was dropped because of the quarantine are mailed now.
    """
    with transaction():
        since = db.session.scalar(select(Board.quarantined_at).where(Board.id == board_id))
        is_it = (Board.quarantined_at == since) & Board.quarantined_at.is_not(None)
        is_lifted = _set_quarantine(Board, board_id, is_it, None)
        if is_lifted:
            with_it = _is_on(board_id) & (Transfer.quarantined_at == since)
            dropped_mail.take_up_left_out(*_set_quarantine_of_all(with_it, None))
    return is_lifted


def block_what_came(request_id: uuid.UUID) -> int:
    """Quarantine all that was begun at a quarantined file request's link, until it is released.

    Returns how many transfers were not quarantined. Does nothing unless the request is. Repeatable.
    """
    with transaction():
        if (since := _take_turn(request_id)) is None:
            return 0
        return len(_set_quarantine_of_all(_is_free_of(request_id), since))


def free_count(request_id: uuid.UUID) -> int:
    """How many transfers that were begun at a file request's link are neither quarantined nor
    deleted.
    """
    is_left = Transfer.state != State.DELETED
    count = select(func.count()).select_from(Transfer).where(_is_free_of(request_id), is_left)
    return db.session.scalar(count) or 0


def _is_free_of(request_id: uuid.UUID) -> ColumnElement[bool]:
    return and_(_came_by(request_id), Transfer.quarantined_at.is_(None))


def _came_by(request_id: uuid.UUID) -> ColumnElement[bool]:
    came = select(Arrival.transfer_id).where(Arrival.file_request_id == request_id)
    return Transfer.id.in_(came)


def _take_turn(request_id: uuid.UUID) -> datetime | None:
    """Since when a file request is quarantined; None if it is not.

    Until the transaction ends, no other one stops or releases what came by it: what would be
    stopped just when the request is released would stay stopped, without it.
    """
    # Not the request's row, which is locked only after those of its transfers.
    number = int.from_bytes(request_id.bytes[:8], "big", signed=True)
    db.session.execute(select(func.pg_advisory_xact_lock(number)))
    return db.session.scalar(select(FileRequest.quarantined_at).where(FileRequest.id == request_id))


def _lift_request_quarantine(request_id: uuid.UUID) -> bool:
    with transaction():
        if (since := _take_turn(request_id)) is None:
            return False
        # The transfers come first: what makes one READY locks it before its request.
        with_it = _came_by(request_id) & (Transfer.quarantined_at == since)
        dropped_mail.take_up_left_out(*_set_quarantine_of_all(with_it, None))
        is_it = FileRequest.quarantined_at == since
        is_lifted = _set_quarantine(FileRequest, request_id, is_it, None)
        if is_lifted:
            file_requests.announce_left_out(Arrival.file_request_id == request_id)
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


def _was_stopped_with_its_request() -> ColumnElement[bool]:
    """The condition that a transfer was quarantined with the file request that it came by."""
    return (
        select(Arrival.transfer_id)
        .join(FileRequest)
        .where(
            Arrival.transfer_id == Transfer.id,
            FileRequest.quarantined_at == Transfer.quarantined_at,
        )
        .exists()
    )


def _is_on(board_id: uuid.UUID) -> ColumnElement[bool]:
    on_it = (
        select(File.transfer_id)
        .join(BoardItem, BoardItem.file_id == File.id)
        .where(BoardItem.board_id == board_id)
    )
    return Transfer.id.in_(on_it)


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
    of: type[Subject],
    about_id: uuid.UUID,
    is_other: ColumnElement[bool],
    at: ColumnElement[object] | datetime | None,
) -> bool:
    change = (
        update(of)
        .where(of.id == about_id, is_other)
        .values(quarantined_at=at)
        .execution_options(synchronize_session=False)
    )
    action = "release" if at is None else "quarantine"
    with transaction():
        is_changed = changed(change) == 1
        if is_changed and of is Transfer:
            audit.note(action, about_id)
        elif is_changed:
            audit.note(action, subject_id=about_id)
    return is_changed


def _set_quarantine_of_all(which: ColumnElement[bool], at: datetime | None) -> Sequence[uuid.UUID]:
    """Set it for these transfers, in one statement; returns their ids. Call in transaction()."""
    # In a fixed order, so that two transactions that do this cannot deadlock.
    locked = select(Transfer.id).where(which).order_by(Transfer.id).with_for_update().cte("locked")
    changed_ids = db.session.scalars(
        update(Transfer)
        .where(Transfer.id.in_(select(locked.c.id)))
        .values(quarantined_at=at)
        .returning(Transfer.id)
        .execution_options(synchronize_session=False)
    ).all()
    audit.note_all("release" if at is None else "quarantine", changed_ids)
    return changed_ids


def _where(kind: type[About], condition: ColumnElement[bool]) -> About:
    found = db.session.scalar(
        select(kind).where(condition).execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound("This link does not lead anywhere.")
    return found
