"""The sweeps: changes that only time brings about, and the repair of work left half done.

Each needs no argument, works in batches, may run at any time and in parallel with itself (runs
share the batches or take turns), and returns how many items it dealt with. dry_runs.py counts what
they would find.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, and_, case, cast, func, or_, select, update

from app import clock, crash, jobs, lifecycle
from app.clock import db_now
from app.config import settings
from app.db import db, in_own_session, release, transaction
from app.extensions import storage
from app.gateways.s3_answers import OpenUpload
from app.models import State, Transfer, Upload, UploadState
from app.services import (
    archives,
    audit,
    batches,
    blocklist,
    checking,
    extension_requests,
    heartbeats,
    locks,
    previews,
    reconciling,
    removal,
    thumbnails,
    uploads,
    webhook_news,
)
from app.services.heartbeats import noted
from app.services.reconciling import Differences
from app.services.removal import Removable
from app.services.transfers import uploads_of

log = logging.getLogger(__name__)

# Called now and then with what is being done and how many are done, to show progress.
Tell = Callable[[str, int], None]

BATCH = 1000
# Each batch has to skip the rows that earlier batches left in the table, so use few, large ones.
EXPIRE_BATCH = 10_000
# Uploads to remove that are read at a time, and batches of them that are removed in parallel.
REMOVE_BATCH, REMOVE_AHEAD = 10_000, 3
# Deleting a transfer changes its files in the same statement, thousands of them at worst; that must
# end long before the database's statement_timeout, or it would never succeed.
DELETE_BATCH = 25
# When a reminder is repeated. One that still waits in the queue is not (gateways/queue.py), so this
# only leaves time for a job that was just taken from it. It is also how long work rests if its
# reminder is lost with Redis, or with the worker that took it.
REQUEUE_AFTER = timedelta(seconds=10)
# No user waits for previews, and each turn of making them queues the next.
REQUEUE_PREVIEWS_AFTER = timedelta(minutes=1)
# After this time, removal is tried again where storage refused it.
REMOVE_AGAIN_AFTER = timedelta(minutes=2)
# A run that has not renewed its turn for this long counts as dead, and another may start.
REMOVE_TURN = timedelta(minutes=2)
# Storage may still accept the last bytes of a request that began before its URL expired.
LATE_BYTES = timedelta(minutes=10)
# A multipart upload without a row is left alone this long: its row may be about to be written.
UNKNOWN_FOR = timedelta(hours=1)
# The same for an object. Its row is always written first; this only allows for clock skew.
ORPHAN_FOR = timedelta(days=1)
# How long a job compares bucket and rows before other jobs get their turn.
COMPARE_SECONDS = 60
# What a comparison that has not ended after this time found at its beginning is too old to count.
COMPARE_FOR = timedelta(days=7)
# A sweep that has not finished this long after it was due is queued again, whatever the queue
# believes. While it keeps failing, it is queued once in this many seconds or in this part of its
# interval: one that lists the whole bucket must not do so every minute.
OVERDUE_SECONDS = 60
LEAST_RETRY_SECONDS = 60
RETRIES_IN_AN_INTERVAL = 24
# The heartbeat that keeps a comparison of bucket and rows that has not ended.
COMPARISON = "remove_orphans"
# The heartbeat that records how many complete uploads have no object.
LOST_OBJECTS = "lost_objects"
# This many may always be removed, whatever their share, so that a small bucket can be tidied. It is
# low on purpose: usually there are none, and the wrong database may belong to few files.
ALWAYS_ALLOWED = 10


class UnreasonableShare(Exception):
    """A sweep would have removed so much that a mistake of ours is more likely.

    An empty or older database, or one bucket and prefix used by two installations, make every live
    object look like an orphan. Nothing was removed.
    """


def untold(what: str, count: int) -> None:
    """A Tell that reports to no one."""


@noted
def expire_due(tell: Tell = untold) -> int:
    """Job: READY transfers past `expires_at` become EXPIRED."""
    return _by_two(_expire, EXPIRE_BATCH, tell)


@noted
def delete_expired(tell: Tell = untold) -> int:
    """Job: EXPIRED transfers past their grace period become DELETED, and their bytes go."""
    return in_batches(lambda: _delete(lifecycle.is_past_grace()), tell)


@noted
def delete_abandoned(tell: Tell = untold) -> int:
    """Job: INIT transfers without progress for the upload window become DELETED.

    A READY transfer only loses its abandoned batch: the files that are there stay.
    """
    count = in_batches(lambda: _delete(is_abandoned()), tell)
    return count + in_batches(lambda: batches.drop_abandoned(DELETE_BATCH), tell)


@noted
def requeue_stuck(tell: Tell = untold) -> int:
    """Job: queue the work on transfers, batches, zips and files that is due but not being done.

    The rows decide, whatever the queue holds. Also queues overdue sweeps, which failed or were lost
    with the queue and would otherwise wait for their next turn, maybe until tomorrow, and previews
    whose reminder was lost.
    """
    before = db_now() - REQUEUE_AFTER
    count: int = sum(one.remind_stuck(before) for one in (checking, batches, archives, blocklist))
    _requeue_overdue()
    # Last, so that a fault in previews cannot keep checks from being queued.
    previews.remind_lost(queued_before=db_now() - REQUEUE_PREVIEWS_AFTER)
    thumbnails.remind_lost(queued_before=db_now() - REQUEUE_PREVIEWS_AFTER)
    return count


@noted
def remove_bytes(tell: Tell = untold) -> int:
    """Job: remove ABORTED uploads from storage, and settle those that can receive no more bytes.

    While a presigned URL may still bring bytes, the removal is repeated after the URL has expired.
    What storage refuses to remove is retried after REMOVE_AGAIN_AFTER and does not hold up the
    rest. Does nothing while another run is active; if that dies, its turn lapses, and what it had
    not settled is removed again, which is harmless.
    """
    count = 0
    with heartbeats.alone("remove_bytes", REMOVE_TURN) as renew:
        has_more = True
        while renew and has_more:
            due = _due_removals()
            has_more = len(due) == REMOVE_BATCH
            with closing(_asking_ahead(due)) as asked:
                for batch, asking in asked:
                    count += _settle_removals(batch, asking)
                    tell("removed", count)
                    if jobs.stopping.is_set() or not renew():
                        return count
    crash.point("remove.4")
    return count


@noted
def abort_unknown_uploads(tell: Tell = untold, *, force: bool = False) -> int:
    """Job: abort multipart uploads below our prefix that belong to no open upload's row.

    They remain if the response to CreateMultipartUpload is lost, and can never be completed. Raises
    UnreasonableShare, unless `force`; those that storage refuses to abort stay for the next run.
    """
    found = find_unknown_uploads(tell)
    if jobs.stopping.is_set():
        return 0
    check_share("multipart uploads", len(found.strangers), found.listed_count, force=force)
    count = 0
    for batch in _batches(found.unknown):
        done = removal.abort([(one.key, one.s3_upload_id) for one in batch])
        count += sum(done)
        tell("aborted", count)
        if not all(done):
            log.warning("storage kept %d of %d multiparts", len(done) - sum(done), len(done))
        if jobs.stopping.is_set():
            break
    return count


@noted
def remove_orphans(
    tell: Tell = untold, *, force: bool = False, in_turns: bool = True
) -> int | None:
    """Job: remove objects below our prefix, older than a day, whose bytes no row needs.

    Counts all of them before it removes any, and raises UnreasonableShare, unless `force`. Also
    counts complete uploads without an object, for people to see: they cannot be repaired here.

    Works for a turn of COMPARE_SECONDS, alone, and returns None if more is to be done:
    requeue_stuck() queues the next turn, which goes on from there, also after a stop. Not
    `in_turns` it begins anew and works to the end, whatever other runs do, which is harmless.
    """
    if not in_turns:
        return _remove_orphans(_begin_comparison(), tell, jobs.stopping.is_set, force=force)
    with heartbeats.alone(COMPARISON, REMOVE_TURN) as renew:
        if renew is None:
            return None
        found = _left_off() or _begin_comparison()
        turn_ends = time.monotonic() + COMPARE_SECONDS

        def is_over() -> bool:
            is_late = found.can_be_continued and time.monotonic() > turn_ends
            return is_late or jobs.stopping.is_set() or not renew()

        try:
            count = _remove_orphans(found, tell, is_over, force=force)
        except UnreasonableShare:
            heartbeats.note_progress(COMPARISON, None)
            raise
        if count is None and renew():
            kept = asdict(found) if found.can_be_continued else None
            heartbeats.note_progress(COMPARISON, kept)
        return count


def trigger() -> None:
    """Queue the sweeps that end transfers and remove bytes, in that order; repeatable."""
    for job in (jobs.EXPIRE_DUE, jobs.DELETE_EXPIRED, jobs.DELETE_ABANDONED, jobs.REMOVE_BYTES):
        job.later()


# -- what each sweep looks for; dry_runs.py counts by the same conditions ------------------------


def is_abandoned() -> ColumnElement[bool]:
    """The condition that a transfer's sender has not been active for the upload window."""
    until = db_now() - timedelta(hours=settings.upload_window_in_hours) - uploads.NOTED_FOR
    return and_(Transfer.state == State.INIT, Transfer.last_activity_at <= until)


def is_stuck() -> ColumnElement[bool]:
    """The condition that a transfer waits to be checked and has no recent reminder."""
    return checking.is_stuck(queued_before=db_now() - REQUEUE_AFTER)


def is_removable() -> ColumnElement[bool]:
    """The condition that an upload's bytes are to be removed now."""
    return and_(
        Upload.state == UploadState.ABORTED,
        Upload.removed_at.is_(None),
        Upload.remove_after <= db_now(),
    )


@dataclass
class UnknownUploads:
    """Multipart uploads that belong to no open upload's row; `strangers` have keys not in our rows.

    A known key means that a response to us was lost. A stranger is more likely another program's.
    """

    listed_count: int = 0
    unknown: list[OpenUpload] = field(default_factory=list)
    strangers: list[OpenUpload] = field(default_factory=list)


def find_unknown_uploads(tell: Tell = untold) -> UnknownUploads:
    """List storage's multipart uploads page by page, with one query per page. Changes nothing."""
    release()
    before = clock.now() - UNKNOWN_FOR
    found = UnknownUploads()
    for page in storage.open_uploads():
        if jobs.stopping.is_set():
            break
        old = [one for one in page if one.initiated < before]
        keys, open_ids = _known_uploads(old)
        found.listed_count += len(page)
        found.unknown += [one for one in old if one.s3_upload_id not in open_ids]
        found.strangers += [one for one in old if one.key not in keys]
        tell("multipart uploads looked at", found.listed_count)
    return found


def _known_uploads(found: Sequence[OpenUpload]) -> tuple[set[str], set[str]]:
    """Of these, the keys that have a row, and the upload ids that an open upload still uses."""
    if not found:
        return set(), set()
    rows = db.session.execute(
        select(Upload.key, Upload.s3_upload_id, Upload.state).where(
            Upload.key.in_({one.key for one in found})
        )
    ).all()
    release()
    open_ids = {s3_id for _, s3_id, state in rows if s3_id and state is UploadState.OPEN}
    return {key for key, _, _ in rows}, open_ids


def find_orphans(tell: Tell = untold) -> Differences:
    """Compare the whole bucket with the rows, both ways, in one pass. Changes nothing."""
    found = _new_comparison()
    _compare(found, tell, jobs.stopping.is_set)
    return found


def is_unreasonable(count: int, listed_count: int) -> bool:
    """Whether removing `count` of `listed_count` needs an operator's consent."""
    share = listed_count * settings.sweep_max_share_in_percent // 100
    return count > max(ALWAYS_ALLOWED, share)


def check_share(what: str, count: int, listed_count: int, *, force: bool) -> None:
    """Raise UnreasonableShare if removing `count` of `listed_count` needs `force`."""
    if force or not is_unreasonable(count, listed_count):
        return
    refusal = (
        f"refused to remove {count:,} of {listed_count:,} {what} that no row knows: is this the "
        "right database for this bucket and prefix? Look with `flask sweep --dry-run`; "
        "`flask sweep --force` removes them."
    )
    log.error(refusal)
    raise UnreasonableShare(refusal)


# -- how ---------------------------------------------------------------------------------------


def _requeue_overdue() -> None:
    now = clock.now().timestamp()
    for (seconds, job), run in zip(jobs.SCHEDULE, heartbeats.runs(), strict=True):
        is_overdue = run.age_seconds > seconds + OVERDUE_SECONDS
        # This job is not overdue: it is running.
        if job is jobs.REQUEUE_STUCK or not (is_overdue or run.is_unfinished):
            continue
        retry_seconds = max(LEAST_RETRY_SECONDS, seconds // RETRIES_IN_AN_INTERVAL)
        if run.is_unfinished:
            retry_seconds = LEAST_RETRY_SECONDS
        job.once(int(now // retry_seconds), retry_seconds)


def _left_off() -> Differences | None:
    """The comparison that an earlier run did not finish; None if there is none, or it is too old.

    Nor does one of another bucket count, which the settings named before, or one of a release that
    noted something else.
    """
    kept, new = heartbeats.progress_of(COMPARISON), _new_comparison()
    if kept is None or kept.keys() != asdict(new).keys():
        return None
    found = Differences(**kept)
    is_young = new.begun_at - found.begun_at < COMPARE_FOR.total_seconds()
    return found if is_young and found.place == new.place else None


def _begin_comparison() -> Differences:
    previews.end_left_over()
    return _new_comparison()


def _new_comparison() -> Differences:
    place = f"{settings.s3_endpoint_url} {settings.s3_bucket} {settings.s3_prefix}"
    return Differences(begun_at=clock.now().timestamp(), place=place)


def _remove_orphans(
    found: Differences, tell: Tell, is_over: Callable[[], bool], *, force: bool
) -> int | None:
    """Compare the rest, then remove the orphans; returns how many, or None if the turn `is_over`.

    Raises UnreasonableShare, unless `force`.
    """
    if not found.is_compared:
        if not _compare(found, tell, is_over):
            return None
        _tell_lost(found)
        check_share("objects", found.orphan_count, found.listed_count, force=force)
    if found.orphan_count:
        old_before = _old_before(found)
        if not reconciling.remove(found, old_before, partial(tell, "removed"), is_over):
            return None
    return found.removed_count


def _compare(found: Differences, tell: Tell, is_over: Callable[[], bool]) -> bool:
    return reconciling.compare(
        found, _old_before(found), partial(tell, "objects looked at"), is_over
    )


def _old_before(found: Differences) -> datetime:
    """Objects younger than this are not judged: their age counts at the comparison's beginning."""
    return datetime.fromtimestamp(found.begun_at, UTC) - ORPHAN_FOR


def _tell_lost(found: Differences) -> None:
    if found.lost_count is None:
        return
    heartbeats.note_run(LOST_OBJECTS, found.lost_count)
    if found.lost_count:
        log.error(
            "%d complete uploads have no object in storage, such as %s",
            found.lost_count,
            ", ".join(found.lost),
        )


def in_batches(step: Callable[[], int], tell: Tell) -> int:
    """Repeat the step, each in its own transaction, until it finds nothing; returns the total."""
    count = 0
    while done := _committed(step):
        count += done
        tell("done", count)
        if jobs.stopping.is_set():
            break
    return count


def _by_two(step: Callable[[], int], full: int, tell: Tell) -> int:
    """Run in_batches(), in a second session too as soon as one batch was `full`.

    A session uses one CPU of the database server, which is the bottleneck when there are many rows.
    """
    if settings.database_pool_size == 1:
        return in_batches(step, tell)
    counts, telling = [0, 0], threading.Lock()
    helping: Future[int] | None = None
    with ThreadPoolExecutor(1) as beside:

        def tell_of_both(number: int, what: str, count: int) -> None:
            with telling:
                counts[number] = count
                tell(what, sum(counts))

        def tell_here(what: str, count: int) -> None:
            nonlocal helping
            tell_of_both(0, what, count)
            if helping is None and count >= full:
                helping = beside.submit(in_own_session(in_batches), step, partial(tell_of_both, 1))

        count = in_batches(step, tell_here)
        return count + (helping.result() if helping else 0)


def _committed(step: Callable[[], int]) -> int:
    with transaction():
        done = step()
        crash.point("sweep.1")
    crash.point("sweep.2")
    return done


def _batches(found: Iterable[Any]) -> Iterable[list[Any]]:
    waiting = iter(found)
    while batch := list(islice(waiting, BATCH)):
        yield batch


def _expire() -> int:
    due = lifecycle.moving_due(State.EXPIRED, lifecycle.is_due(), limit=EXPIRE_BATCH)
    return audit.note_each("expire", *webhook_news.telling_expired(due))


def _delete(condition: ColumnElement[bool]) -> int:
    deleted = lifecycle.move_due(State.DELETED, condition, limit=DELETE_BATCH)
    if deleted:
        removal.abandon(uploads_of(deleted))
        previews.end(deleted)
        locks.forget_tries(*deleted)
        extension_requests.forget(*deleted)
        audit.note_all("delete", deleted)
        jobs.REMOVE_BYTES.later()
    return len(deleted)


def _due_removals() -> Sequence[Removable]:
    # Columns, not objects: loading thousands of ORM objects would take longer than storage does.
    due = db.session.execute(
        select(Upload.key, Upload.s3_upload_id, Upload.etag)
        .where(is_removable())
        .order_by(Upload.remove_after)
        .limit(REMOVE_BATCH)
    ).all()
    release()
    return due


def _asking_ahead(
    due: Iterable[Removable],
) -> Generator[tuple[list[Removable], Future[Any]]]:
    """Submit removals ahead, while earlier ones are settled; yields batches with their futures."""
    asked: deque[tuple[list[Removable], Future[Any]]] = deque()
    with ThreadPoolExecutor(REMOVE_AHEAD) as beside:
        for batch in _batches(due):
            crash.point("remove.1")
            asked.append((batch, beside.submit(copy_context().run, removal.remove, batch)))
            if len(asked) == REMOVE_AHEAD:
                yield asked.popleft()
        yield from asked


def _settle_removals(batch: Sequence[Removable], asking: Future[list[Removable]]) -> int:
    """Wait for storage and record the result; returns how many it removed.

    The others wait for REMOVE_AGAIN_AFTER, also if the removal failed.
    """
    keys, gone = {upload.key for upload in batch}, set[str]()
    try:
        gone = {upload.key for upload in asking.result()}
        crash.point("remove.3")
        is_dead = or_(Upload.urls_until.is_(None), Upload.urls_until < db_now() - LATE_BYTES)
        _change_uploads(
            gone,
            removed_at=case((is_dead, db_now())),
            remove_after=case((is_dead, Upload.remove_after), else_=Upload.urls_until + LATE_BYTES),
        )
    finally:
        if kept := keys - gone:
            log.warning("storage kept %d of %d uploads", len(kept), len(keys))
            _change_uploads(kept, remove_after=db_now() + REMOVE_AGAIN_AFTER)
    return len(gone)


def _change_uploads(keys: Iterable[str], **values: Any) -> None:
    with transaction():
        db.session.execute(
            update(Upload)
            .where(Upload.key == func.any(cast(list(keys), ARRAY(Text))))
            .values(**values)
            .execution_options(synchronize_session=False)
        )
