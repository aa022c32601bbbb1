"""The list of all transfers that were sent from one address, for the person who has proven it.

It has those transfers whose news, with a link to manage them, may be mailed to that address; or
those that have come for one of its file requests.
"""

import enum
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute

from app import lifecycle
from app.clock import db_now
from app.config import settings
from app.db import db
from app.models import Arrival, File, FileRequest, State, Transfer
from app.services import mail_links

PAGE_SIZE = 50
# Each word is looked for in each file's name.
MOST_WORDS = 8


class Shown(enum.StrEnum):
    """What a transfer in the list is now, for a person: one word for each."""

    UPLOADING = "uploading"
    PROCESSING = "processing"
    READY = "ready"
    LIMIT_REACHED = "limit_reached"
    EXPIRED = "expired"
    BLOCKED = "blocked"


class Sort(enum.StrEnum):
    """What the list may be sorted by."""

    NEWEST = "newest"
    # What has expired comes last.
    EXPIRES_SOON = "expires"
    LARGEST = "largest"
    NAME = "name"


@dataclass(frozen=True)
class Wish:
    """Search, filter, order, and the number of the page, from 1."""

    text: str = ""
    state: Shown | None = None
    sort: Sort = Sort.NEWEST
    page: int = 1
    # One of the address's file requests: what has come for it, instead of what was sent.
    request_id: uuid.UUID | None = None


@dataclass(frozen=True)
class Item:
    """A transfer in the list."""

    title: str
    # The path of its first file, if it has any.
    first_path: str | None
    file_count: int
    size: int
    state: Shown
    created_at: datetime
    expires_at: datetime
    download_count: int
    max_downloads: int | None
    slug: str
    # Opens its manage page; None for what somebody else has sent.
    word: str | None


@dataclass(frozen=True)
class Page:
    """One page of the list, and the totals of what was searched for, on all pages together."""

    items: Sequence[Item]
    number: int
    page_count: int
    total_count: int
    total_size: int
    ready_count: int


# By the database's clock, even if the sweep has not run yet.
_state = case(
    (Transfer.quarantined_at.is_not(None), Shown.BLOCKED.value),
    (Transfer.state == State.INIT, Shown.UPLOADING.value),
    (Transfer.state == State.PROCESSING, Shown.PROCESSING.value),
    (or_(Transfer.state == State.EXPIRED, lifecycle.is_due()), Shown.EXPIRED.value),
    (Transfer.is_used_up, Shown.LIMIT_REACHED.value),
    else_=Shown.READY.value,
)
_IS_OF_TRANSFER = and_(File.transfer_id == Transfer.id, File.batch.is_not(None))


def of_email(email: str, wish: Wish) -> Page:
    """A page of the transfers of this address, which the caller must have proven; two queries.

    A number beyond the last page gives the last page.
    """
    count, size, ready_count = db.session.execute(totals_query(email, wish)).one()
    page_count = max(1, ceil(count / PAGE_SIZE))
    number = min(wish.page, page_count)
    query = items_query(email, wish).limit(PAGE_SIZE).offset((number - 1) * PAGE_SIZE)
    is_own = wish.request_id is None
    items = [_item(row, is_own) for row in db.session.execute(query)]
    return Page(items, number, page_count, count, int(size), ready_count)


def _item(row: Any, is_own: bool) -> Item:
    told = row._asdict()
    transfer_id = told.pop("id")
    word = mail_links.manage_token(transfer_id) if is_own else None
    return Item(**told | {"state": Shown(row.state), "word": word})


def items_query(email: str, wish: Wish) -> Select[Any]:
    """The query for the transfers in order, of which a page is a part."""
    first = (
        select(File.path).where(_IS_OF_TRANSFER).order_by(File.position).limit(1).lateral("first")
    )
    count = select(func.count()).select_from(File).where(_IS_OF_TRANSFER).scalar_subquery()
    return (
        select(
            Transfer.id,
            Transfer.slug,
            Transfer.title,
            first.c.path.label("first_path"),
            count.correlate(Transfer).label("file_count"),
            Transfer.total_size.label("size"),
            _state.label("state"),
            Transfer.created_at,
            Transfer.expires_at,
            Transfer.download_count,
            Transfer.max_downloads,
        )
        .outerjoin(first, true())
        .where(*_conditions(email, wish))
        # The newest of the same come first; the id makes the order total.
        .order_by(*_order(wish.sort, first.c.path), Transfer.created_at.desc(), Transfer.id.desc())
    )


def _order(sort: Sort, first_path: ColumnElement[str]) -> list[Any]:
    if sort is Sort.EXPIRES_SOON:
        return [Transfer.expires_at <= db_now(), Transfer.expires_at]
    if sort is Sort.LARGEST:
        return [Transfer.total_size.desc()]
    if sort is Sort.NAME:
        return [func.lower(func.coalesce(func.nullif(Transfer.title, ""), first_path))]
    return []


def totals_query(email: str, wish: Wish) -> Select[int, int, int]:
    """The query for the number and size of all that was found, and how many can be downloaded."""
    return select(
        func.count(),
        func.coalesce(func.sum(Transfer.total_size), 0),
        func.count().filter(_state == Shown.READY.value),
    ).where(*_conditions(email, wish))


def _conditions(email: str, wish: Wish) -> list[ColumnElement[bool]]:
    whose = _was_sent_by(email) if wish.request_id is None else _came_for(email, wish.request_id)
    found = [whose, Transfer.state != State.DELETED]
    if wish.state is not None:
        found.append(_state == wish.state.value)
    return found + [_has_word(word) for word in wish.text.split()[:MOST_WORDS]]


def _was_sent_by(email: str) -> ColumnElement[bool]:
    return and_(
        Transfer.sender_email == email,
        Transfer.sender_confirmed_at.is_not(None),
        # The installation's own address, which speaks for every workspace, is nobody's.
        Transfer.sender_email != settings.own_email,
    )


def _came_for(email: str, request_id: uuid.UUID) -> ColumnElement[bool]:
    mine = (
        select(Arrival.transfer_id)
        .join(FileRequest)
        .where(
            FileRequest.id == request_id,
            FileRequest.email == email,
            FileRequest.quarantined_at.is_(None),
        )
    )
    return Transfer.id.in_(mine)


def _has_word(word: str) -> ColumnElement[bool]:
    """The condition that this word is part of the title, or of a file's path, in any case."""
    has_file = select(File.id).where(_IS_OF_TRANSFER, _contains(File.path, word))
    return or_(_contains(Transfer.title, word), has_file.correlate(Transfer).exists())


def _contains(column: InstrumentedAttribute[str], word: str) -> ColumnElement[bool]:
    # Names of files from a Mac spell "ü" as two characters. Both spellings are looked for, because
    # normalising the names instead would take ten times as long.
    spellings = {unicodedata.normalize(form, word) for form in ("NFC", "NFD")}
    return or_(*(column.icontains(one, autoescape=True) for one in sorted(spellings)))
