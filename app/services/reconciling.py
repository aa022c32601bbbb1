"""Compares the bucket with the rows, both ways, in one pass over its listing.

Objects that no row needs may be removed (upkeep.py). Complete uploads that have no object are only
counted: they cannot be repaired here, and must not be hidden.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select

from app import jobs
from app.config import settings
from app.db import db, release
from app.extensions import storage
from app.gateways.s3_answers import Listed
from app.models import Upload, UploadState
from app.services import removal

log = logging.getLogger(__name__)

# Rows that are read per query.
BATCH = 1000
# At most this many missing objects are looked up one by one, to be sure: what changed while the
# list was read concerns few.
MOST_ASKED_AGAIN = 1000


@dataclass
class Differences:
    """Where bucket and rows differ, and how many objects there are in all.

    `lost` has the first uploads that are complete but have no object; `lost_count` is None where
    that could not be determined.
    """

    listed_count: int = 0
    orphans: list[Listed] = field(default_factory=list)
    lost: list[uuid.UUID] = field(default_factory=list)
    lost_count: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all orphans."""
        return sum(one.size for one in self.orphans)


def compare(old_before: datetime, tell: Callable[[int], None]) -> Differences:
    """List the whole bucket, with one query per page, and read every complete upload's row.

    An object is an orphan if it is older than `old_before` and no row needs it: rows are always
    written first. Stops early when the process is stopping. Changes nothing.
    """
    release()
    found, expected = Differences(), _Expected()
    for page in storage.objects():
        if jobs.stopping.is_set():
            return found
        old = [one for one in page if one.modified_at < old_before]
        wanted = _wanted_keys(old)
        found.listed_count += len(page)
        found.orphans += [one for one in old if one.key not in wanted]
        expected.strike_off(page)
        tell(found.listed_count)
    found.lost, found.lost_count = expected.left()
    return found


def _wanted_keys(found: Sequence[Listed]) -> set[str]:
    """Of these, the keys with a row that does not say that the bytes are gone."""
    if not found:
        return set()
    wanted = db.session.scalars(
        select(Upload.key).where(
            Upload.key.in_([one.key for one in found]), Upload.removed_at.is_(None)
        )
    ).all()
    release()
    return set(wanted)


class _Row(NamedTuple):
    id: uuid.UUID
    key: str


class _Expected:
    """The complete uploads, which are struck off as their objects are listed.

    Both come in the order of their keys, so neither is held in memory: the column's collation is
    bytewise, like S3's order.
    """

    def __init__(self) -> None:
        self._rows = _complete_rows()
        self._next = next(self._rows, None)
        self._last_listed = ""
        self._is_in_order = True
        self._missing: list[_Row] = []
        self._missing_count = 0

    def strike_off(self, page: Sequence[Listed]) -> None:
        """Strike off these objects; a row that sorts before them and is left has no object."""
        for one in page:
            # Some stores do not list in order.
            self._is_in_order &= self._last_listed < one.key
            self._last_listed = one.key
            while self._is_in_order and self._next and self._next.key < one.key:
                self._miss()
            if self._next and self._next.key == one.key:
                self._next = next(self._rows, None)

    def left(self) -> tuple[list[uuid.UUID], int | None]:
        """The first uploads without an object, and how many there are. Call after the last page."""
        while self._is_in_order and self._next:
            self._miss()
        if not self._is_in_order:
            log.warning("storage lists objects in no order: what is missing cannot be known")
            return [], None
        lost = _still_lost(self._missing)
        if self._missing_count > MOST_ASKED_AGAIN and lost:
            return lost, self._missing_count
        return lost, len(lost)

    def _miss(self) -> None:
        if self._next and self._missing_count < MOST_ASKED_AGAIN:
            self._missing.append(self._next)
        self._missing_count += 1
        self._next = next(self._rows, None)


def _complete_rows() -> Iterator[_Row]:
    """Every complete upload below our prefix, in key order; each batch is a query of its own."""
    after = ""
    while True:
        batch = db.session.execute(
            select(Upload.id, Upload.key)
            .where(
                Upload.state == UploadState.COMPLETE,
                Upload.key > after,
                Upload.key.startswith(settings.s3_prefix, autoescape=True),
            )
            .order_by(Upload.key)
            .limit(BATCH)
        ).all()
        release()
        yield from (_Row(one.id, one.key) for one in batch)
        if len(batch) < BATCH:
            return
        after = batch[-1].key


def _still_lost(missing: Sequence[_Row]) -> list[uuid.UUID]:
    """Those that storage really lacks and whose row is still COMPLETE.

    A concurrent deletion changes the row before it removes the object.
    """
    keys = removal.without_object([row.key for row in missing])
    if not keys:
        return []
    left = db.session.scalars(
        select(Upload.id)
        .where(Upload.key.in_(keys), Upload.state == UploadState.COMPLETE)
        .order_by(Upload.key)
    ).all()
    release()
    return list(left)
