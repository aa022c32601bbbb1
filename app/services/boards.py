"""Boards: collections that stay open, of links and of files that are uploaded independently.

Each file of a board is the only file of a transfer of its own. So everything that holds for
transfers holds for it (checked before it is shown, swept when abandoned, expired by its date), and
it can be downloaded as soon as it is there, whatever else is still on its way.
"""

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, true
from sqlalchemy.orm import joinedload

from app import clock, links
from app.clock import db_now
from app.config import settings
from app.db import db, transaction
from app.errors import Blocked, Invalid, NotAllowed, NotFound
from app.models import Board, BoardItem, File, State, Transfer
from app.services import abuse, audit, checking, creating, idempotency, room, sending
from app.services.accounts import Caller
from app.services.contents import FileSpec, size_of
from app.services.idempotency import Once


@dataclass(frozen=True)
class LinkSpec:
    """A link to be added."""

    url: str
    title: str


@dataclass(frozen=True)
class BoardView:
    """A board as its page shows it: links, and files that are available or on their way."""

    link: str
    name: str
    description: str
    items: Sequence[BoardItem]

    @property
    def is_moving(self) -> bool:
        """Whether a file is still on its way, so that the page will change by itself."""
        return is_waiting(self.items)


def create(caller: Caller, name: str, description: str | None, once: Once | None = None) -> Board:
    """Create an empty board; its link works immediately. Raises KeyReused.

    Each call creates another, except for the same request under the same idempotency key.
    """
    board = Board(
        id=uuid.uuid4(),
        slug=secrets.token_urlsafe(24),
        workspace_id=caller.workspace_id,
        user_identifier=caller.user_identifier,
        name=name,
        description=description,
    )
    with transaction():
        if (before := idempotency.made(once)) is not None:
            return of_caller(before[0], caller)
        db.session.add(board)
        audit.note("create board", subject_id=board.id)
        idempotency.note(once, [board.id])
    return board


def of_caller(board_id: uuid.UUID, caller: Caller) -> Board:
    """The caller's own board; raises NotFound, and NotAllowed for another owner's."""
    board = db.session.get(Board, board_id)
    if board is None:
        raise NotFound("This board does not exist")
    if not caller.owns(board):
        raise NotAllowed(f"You're not a member of this board ({board.id})")
    return board


def items_of(
    board_id: uuid.UUID, *, with_unseen: bool = False, limit: int | None = None
) -> list[BoardItem]:
    """The board's items in the order they were added, without ended or quarantined files.

    `with_unseen` includes those too; it is for the operator only.
    """
    found = db.session.scalars(
        _there(select(BoardItem), board_id, with_unseen=with_unseen)
        .order_by(BoardItem.position)
        .limit(limit)
        .options(joinedload(BoardItem.file).joinedload(File.upload))
        .options(joinedload(BoardItem.file).joinedload(File.transfer))
        .execution_options(populate_existing=True)
    )
    return list(found)


def _there(
    statement: Select[Any], board_id: uuid.UUID, *, with_unseen: bool = False
) -> Select[Any]:
    """Restrict the statement to this board's links and visible files, or to all its items."""
    may_be_seen = and_(_has_not_ended(), Transfer.quarantined_at.is_(None))
    is_there = true() if with_unseen else or_(BoardItem.file_id.is_(None), may_be_seen)
    return (
        statement.outerjoin(File, BoardItem.file_id == File.id)
        .outerjoin(Transfer, File.transfer_id == Transfer.id)
        .where(BoardItem.board_id == board_id, is_there)
    )


def _has_not_ended() -> ColumnElement[bool]:
    return or_(
        Transfer.state.in_([State.INIT, State.PROCESSING]),
        (Transfer.state == State.READY) & (Transfer.expires_at > db_now()),
    )


def is_waiting(items: Sequence[BoardItem]) -> bool:
    """Whether any of these files is still on its way."""
    return any(item.file and item.file.transfer.state is not State.READY for item in items)


def add_links(board: Board, specs: Sequence[LinkSpec], once: Once | None = None) -> list[BoardItem]:
    """Add links at the end; returns the new items.

    Raises Invalid when the board is full, Blocked, KeyReused.
    """
    with transaction():
        if (before := idempotency.made(once)) is not None:
            return _items(board, before)
        items = _add(board, len(specs), lambda at: {"url": specs[at].url, "title": specs[at].title})
        idempotency.note(once, [item.id for item in items])
        return items


def add_files(
    board: Board, caller: Caller, specs: Sequence[FileSpec], once: Once | None = None
) -> list[BoardItem]:
    """Announce files at the end, all of them or none; returns the new items.

    Raises Invalid, Blocked, KeyReused.
    """
    # The longest lifetime allowed: people come back to a board.
    expires_at = clock.now() + timedelta(days=settings.max_expires_in_days)
    with transaction():
        if (before := idempotency.made(once)) is not None:
            return _items(board, before)
        # Before the room, as where files are added to a transfer: its row comes first there, too.
        _lock(board)
        room.reserve(size_of(specs))
        made = [
            creating.create([spec], expires_at=expires_at, caller=caller, has_room=True).transfer
            for spec in specs
        ]
        files = _only_files(made)
        items = _add(board, len(specs), lambda at: {"file_id": files[at].id, "file": files[at]})
        idempotency.note(once, [item.id for item in items])
        return items


def _only_files(made: Sequence[Transfer]) -> list[File]:
    """The one file of each of these transfers, in their order; one query."""
    found = db.session.scalars(
        select(File)
        .where(File.transfer_id.in_([transfer.id for transfer in made]))
        .options(joinedload(File.upload, innerjoin=True))
    )
    of_transfer = {file.transfer_id: file for file in found}
    return [of_transfer[transfer.id] for transfer in made]


def _items(board: Board, ids: Sequence[uuid.UUID]) -> list[BoardItem]:
    """Those of these items that are still there."""
    return [item for item in items_of(board.id) if item.id in ids]


def _lock(board: Board) -> None:
    """Hold the board until the transaction ends, so that items added at once get different
    positions. Repeatable; raises Blocked.
    """
    locked = select(Board.quarantined_at).where(Board.id == board.id).with_for_update()
    if db.session.scalar(locked) is not None:
        raise Blocked("The operator of this site has blocked this board.")


def _add(board: Board, count: int, fields: Callable[[int], dict[str, object]]) -> list[BoardItem]:
    _lock(board)
    last = db.session.scalar(
        select(func.max(BoardItem.position)).where(BoardItem.board_id == board.id)
    )
    first = 0 if last is None else last + 1
    there = db.session.scalar(_there(select(func.count(BoardItem.id)), board.id)) or 0
    if there + count > settings.max_files:
        raise Invalid({"board": f"holds at most {settings.max_files} items"})
    items = [
        BoardItem(id=uuid.uuid4(), board_id=board.id, position=first + at, **fields(at))
        for at in range(count)
    ]
    db.session.add_all(items)
    audit.note("add to board", subject_id=board.id)
    return items


def file_of(board: Board, file_id: uuid.UUID) -> File:
    """A file on this board, with its transfer and upload; raises NotFound."""
    file = db.session.scalar(
        select(File)
        .join(BoardItem, BoardItem.file_id == File.id)
        .join(File.transfer)
        .where(BoardItem.board_id == board.id, File.id == file_id, _has_not_ended())
        .options(joinedload(File.upload), joinedload(File.transfer))
        .execution_options(populate_existing=True)
    )
    if file is None:
        raise NotFound("File not found")
    return file


def sign_part(file: File, number: int) -> str:
    """A presigned URL to PUT one part of a board's file; raises what sending.sign_part() raises."""
    return sending.sign_part(file.transfer, file, number)


def complete_file(file: File) -> None:
    """Have a file that was sent checked and completed in the background. Repeatable.

    Raises PartsMissing, SizeMismatch, Gone.
    """
    checking.finalize_arrived(file.transfer)


def view(slug: str) -> BoardView:
    """What a board's page shows now. Raises NotFound, and Gone if it is quarantined."""
    board = abuse.reportable(Board, slug)
    return BoardView(
        link=links.board_url(board.slug),
        name=board.name,
        description=board.description or "",
        items=items_of(board.id),
    )
