"""Compares the bucket with the rows, both ways, in one pass over its listing.

Objects that no row needs may be removed. Complete uploads that have no object are only counted:
they cannot be repaired here, and must not be hidden.

A pass over a bucket of many millions of objects takes hours. So it can be left off after any page
and continued later, by another process: all there is to know are the last key and some counts.
The keys of the orphans are not kept, because with the wrong database there would be as many as
objects. Usually there are none; where there are, another pass over the listing removes them, which
cannot begin before the first has counted them all.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select

from app.config import settings
from app.db import db, release
from app.extensions import storage
from app.gateways.s3_answers import Listed
from app.models import Upload, UploadState
from app.services import removal

log = logging.getLogger(__name__)

# Rows that are read per query.
BATCH = 1000
# At most this many missing objects are looked up one by one in one go, to be sure: what changed
# while the list was read concerns few.
MOST_ASKED_AGAIN = 1000
# How many uploads without an object are named.
MOST_NAMED = 10


@dataclass
class Differences:
    """How the bucket and the rows differ, as far as they have been compared.

    All its values can be kept as JSON, and the comparison goes on from there.
    """

    # Seconds since 1970.
    begun_at: float
    # The bucket that is compared. Counts of one say nothing of another.
    place: str
    # The key that was looked at last, by compare(), or by remove() once `is_compared`.
    after: str = ""
    is_compared: bool = False
    listed_count: int = 0
    orphan_count: int = 0
    # Bytes of all orphans.
    orphan_size: int = 0
    removed_count: int = 0
    # Complete uploads without an object; None where storage lists in no order, so that it cannot
    # be known.
    lost_count: int | None = 0
    # The ids of the first of them.
    lost: list[str] = field(default_factory=list)

    @property
    def can_be_continued(self) -> bool:
        """Whether what comes after a key is what was not listed before it."""
        return self.lost_count is not None


# Asked after each page.
IsOver = Callable[[], bool]
Tell = Callable[[int], None]


def compare(found: Differences, old_before: datetime, tell: Tell, is_over: IsOver) -> bool:
    """List the rest of the bucket, with one query per page, and read the complete uploads' rows.

    An object is an orphan if it is older than `old_before` and no row needs it: rows are always
    written first. Adds to `found` and changes nothing else. Returns False if the turn `is_over`
    before the end of the list; then `found` is as good for going on as it was before. If this
    raises, it is not.
    """
    release()
    expected = _Expected(found.after)
    for page in storage.objects(found.after):
        orphans = orphans_in(page, old_before)
        found.listed_count += len(page)
        found.orphan_count += len(orphans)
        found.orphan_size += sum(one.size for one in orphans)
        if not expected.strike_off(page):
            found.lost_count = None
        tell(found.listed_count)
        # A turn gets further by a page at least, or it would never come to the end.
        if page:
            found.after = page[-1].key
            if is_over():
                break
    else:
        expected.end()
        found.is_compared, found.after = True, ""
    if found.lost_count is None:
        log.warning("storage lists objects in no order: what is missing cannot be known")
    else:
        lost, lost_count = expected.lost()
        found.lost_count += lost_count
        found.lost = [*found.lost, *(str(one) for one in lost)][:MOST_NAMED]
    return found.is_compared


def remove(found: Differences, old_before: datetime, tell: Tell, is_over: IsOver) -> bool:
    """Remove the orphans that compare() has counted; never more than these.

    Returns False if the turn `is_over` before all are gone. Those that storage refuses to remove
    stay. Repeatable: an orphan stays an orphan, and removing a missing object succeeds.
    """
    release()
    for page in storage.objects(found.after):
        allowed_count = found.orphan_count - found.removed_count
        orphans = orphans_in(page, old_before)[:allowed_count]
        refused = storage.delete([one.key for one in orphans])
        if refused:
            log.warning("storage kept %d of %d orphans", len(refused), len(orphans))
        found.removed_count += len(orphans) - len(refused)
        tell(found.removed_count)
        if found.removed_count == found.orphan_count:
            return True
        if page:
            found.after = page[-1].key
            if is_over():
                return False
    return True


def orphans_in(page: Sequence[Listed], old_before: datetime) -> list[Listed]:
    """Of these objects, those older than `old_before` whose bytes no row needs."""
    old = [one for one in page if one.modified_at < old_before]
    wanted = _wanted_keys(old)
    return [one for one in old if one.key not in wanted]


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
    """The complete uploads after a key, which are struck off as their objects are listed.

    Both come in the order of their keys, so neither is held in memory: the column's collation is
    bytewise, like S3's order.
    """

    def __init__(self, after: str) -> None:
        self._rows = _complete_rows(after)
        self._next = next(self._rows, None)
        self._last_listed = after
        self._is_in_order = True
        self._missing: list[_Row] = []
        self._missing_count = 0

    def strike_off(self, page: Sequence[Listed]) -> bool:
        """Strike off these objects; a row that sorts before them and is left has no object.

        Returns whether all objects were listed in order so far. Some stores do not.
        """
        for one in page:
            self._is_in_order &= self._last_listed < one.key
            self._last_listed = one.key
            while self._is_in_order and self._next and self._next.key < one.key:
                self._miss()
            if self._next and self._next.key == one.key:
                self._next = next(self._rows, None)
        return self._is_in_order

    def end(self) -> None:
        """Note that there are no more objects: all rows that are left have none."""
        while self._is_in_order and self._next:
            self._miss()

    def lost(self) -> tuple[list[uuid.UUID], int]:
        """The first uploads of those passed by that have no object, and how many there are."""
        lost = _still_lost(self._missing)
        if self._missing_count > MOST_ASKED_AGAIN and lost:
            return lost, self._missing_count
        return lost, len(lost)

    def _miss(self) -> None:
        if self._next and self._missing_count < MOST_ASKED_AGAIN:
            self._missing.append(self._next)
        self._missing_count += 1
        self._next = next(self._rows, None)


def _complete_rows(after: str) -> Iterator[_Row]:
    """The complete uploads below our prefix after a key, in order; each batch is one query."""
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
