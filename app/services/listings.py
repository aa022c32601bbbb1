"""The paginated list of a workspace's transfers, for programs with an API key."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select, true

from app import lifecycle
from app.db import db
from app.models import File, State, Transfer
from app.services.accounts import Caller


class SortBy(enum.StrEnum):
    """What the list may be sorted by; each has an index."""

    CREATED_AT = "created_at"
    EXPIRES_AT = "expires_at"
    # No limit (NULL) sorts as more than any number.
    MAX_DOWNLOADS = "max_downloads"
    FILE_SIZE = "file_size"


class Order(enum.StrEnum):
    """Ascending or descending."""

    ASC = "ASC"
    DESC = "DESC"


@dataclass(frozen=True)
class Wish:
    """Filter, sorting and pagination of the list."""

    status: State | None = None
    sort_by: SortBy = SortBy.CREATED_AT
    order: Order = Order.DESC
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class Listed:
    """A transfer in the list, with the name and the declared type of its first file."""

    transfer: Transfer
    # By the database's clock, even if the sweep has not run yet.
    status: State
    filename: str | None
    content_type: str | None


@dataclass(frozen=True)
class Page:
    """One page of the list, and the total count."""

    items: Sequence[Listed]
    total_count: int


_COLUMNS: dict[SortBy, Any] = {
    SortBy.CREATED_AT: Transfer.created_at,
    SortBy.EXPIRES_AT: Transfer.expires_at,
    SortBy.MAX_DOWNLOADS: Transfer.max_downloads,
    SortBy.FILE_SIZE: Transfer.total_size,
}


def of_workspace(caller: Caller, wish: Wish) -> Page:
    """A page of all transfers that the caller's keys have made, for any user; two queries."""
    found = db.session.execute(items_query(caller, wish))
    items = [Listed(row, lifecycle.state_of(row), path, kind) for row, path, kind in found]
    return Page(items, db.session.scalar(count_query(caller, wish)) or 0)


def items_query(caller: Caller, wish: Wish) -> Select[Any]:
    """The query for the transfers of one page."""
    first = (
        select(File.path, File.content_type)
        .where(File.transfer_id == Transfer.id)
        .order_by(File.position)
        .limit(1)
        .lateral("first")
    )
    # Both in the same direction, so that an index serves; the id makes the order total.
    by = [_COLUMNS[wish.sort_by], Transfer.id]
    return (
        select(Transfer, first.c.path, first.c.content_type)
        .outerjoin(first, true())
        .where(*_conditions(caller, wish))
        .order_by(*(one.desc() if wish.order is Order.DESC else one.asc() for one in by))
        .limit(wish.limit)
        .offset(wish.offset)
        .execution_options(populate_existing=True)
    )


def count_query(caller: Caller, wish: Wish) -> Select[Any]:
    """The query for the number of transfers on all pages."""
    return select(func.count()).select_from(Transfer).where(*_conditions(caller, wish))


def _conditions(caller: Caller, wish: Wish) -> list[ColumnElement[bool]]:
    mine = Transfer.workspace_id == caller.workspace_id
    if wish.status is None:
        return [mine]
    in_state = Transfer.state == wish.status
    if wish.status is State.READY:
        return [mine, in_state, ~lifecycle.is_due()]
    if wish.status is State.EXPIRED:
        # The index is searched for two states; the condition itself comes after.
        either = Transfer.state.in_([State.READY, State.EXPIRED])
        return [mine, either, or_(in_state, lifecycle.is_due())]
    return [mine, in_state]
