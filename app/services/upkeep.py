"""The sweeps: what time alone brings about, and the repair of whatever was left half done.

Each takes no argument, works in batches that several sweeps can share, and may run at any time.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, or_, select, update

from app import clock, jobs, leases, lifecycle
from app.clock import db_now
from app.config import settings
from app.db import db, release, transaction
from app.extensions import storage
from app.gateways.storage import OpenUpload
from app.models import File, State, Transfer, Upload, UploadState
from app.services import uploads

log = logging.getLogger(__name__)

BATCH = 1000
# A reminder is repeated when the last one has had time to be heard.
REQUEUE_AFTER = timedelta(seconds=25)
# While one sweep removes bytes another leaves them alone; the same wait follows a failure.
REMOVE_AGAIN_AFTER = timedelta(minutes=2)
# Storage may accept the last bytes of a request that began while its address was still good.
LATE_BYTES = timedelta(minutes=10)
# A multipart that our rows do not know is left alone so long: its row may be about to be written.
UNKNOWN_FOR = timedelta(hours=1)


def expire_due() -> None:
    """Job: READY transfers past `expires_at` become EXPIRED."""
    _in_batches(
        lambda: lifecycle.move_due(State.EXPIRED, Transfer.expires_at <= db_now(), limit=BATCH)
    )


def delete_expired() -> None:
    """Job: EXPIRED transfers past their grace period become DELETED, and their bytes go."""
    until = db_now() - timedelta(days=settings.grace_in_days)
    _in_batches(lambda: _delete_due(Transfer.state == State.EXPIRED, Transfer.expired_at <= until))


def delete_abandoned() -> None:
    """Job: INIT transfers without progress for the upload window become DELETED."""
    until = db_now() - timedelta(hours=settings.upload_window_in_hours)
    _in_batches(
        lambda: _delete_due(Transfer.state == State.INIT, Transfer.last_activity_at <= until)
    )


def requeue_stuck() -> None:
    """Job: queue every PROCESSING transfer that nobody works on, whatever the queue believes."""
    with transaction():
        stuck = db.session.scalars(
            update(Transfer)
            .where(
                Transfer.state == State.PROCESSING,
                leases.is_free(),
                or_(Transfer.queued_at.is_(None), Transfer.queued_at <= db_now() - REQUEUE_AFTER),
            )
            .values(queued_at=db_now())
            .returning(Transfer.id)
            .execution_options(synchronize_session=False)
        ).all()
        for transfer_id in stuck:
            jobs.PROCESS_TRANSFER.later(transfer_id)


def remove_bytes() -> None:
    """Job: remove what storage holds of ABORTED uploads, and settle those that can get no more.

    While a signed address may still bring bytes, removal is repeated after it has died.
    """
    while batch := _claim_removals():
        removed = uploads.remove(batch)
        _settle_removals(removed)
        if len(batch) < BATCH or len(removed) < len(batch):
            return


def abort_unknown_uploads() -> None:
    """Job: abort multiparts below our prefix that no open upload's row knows.

    They are left when the answer of CreateMultipartUpload is lost; nobody can complete them.
    """
    release()
    before = clock.now() - UNKNOWN_FOR
    for page in storage.open_uploads():
        old = [one for one in page if one.initiated < before]
        for one in _unknown(old):
            log.info("aborting a multipart upload that no row knows")
            storage.abort_upload(one.key, one.s3_upload_id)


def _in_batches(step: Callable[[], Sequence[uuid.UUID]]) -> None:
    while True:
        with transaction():
            done = step()
        if len(done) < BATCH or jobs.stopping.is_set():
            return


def _delete_due(*conditions: ColumnElement[bool]) -> list[uuid.UUID]:
    deleted = lifecycle.move_due(State.DELETED, *conditions, limit=BATCH)
    if deleted:
        uploads.abandon(select(File.upload_id).where(File.transfer_id.in_(deleted)))
        jobs.REMOVE_BYTES.later()
    return deleted


def _claim_removals() -> list[Upload]:
    due = (
        select(Upload.id)
        .where(
            Upload.state == UploadState.ABORTED,
            Upload.removed_at.is_(None),
            Upload.remove_after <= db_now(),
        )
        .order_by(Upload.remove_after)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
        # A CTE is evaluated once; a plain subquery may be run again and lock more than the limit.
        .cte("due")
    )
    with transaction():
        claimed = db.session.scalars(
            update(Upload)
            .where(Upload.id.in_(select(due.c.id)))
            .values(remove_after=db_now() + REMOVE_AGAIN_AFTER)
            .returning(Upload)
            .execution_options(synchronize_session=False, populate_existing=True)
        ).all()
    return list(claimed)


def _settle_removals(removed: Sequence[Upload]) -> None:
    ids = [upload.id for upload in removed]
    dead = or_(Upload.urls_until.is_(None), Upload.urls_until < db_now() - LATE_BYTES)
    with transaction():
        for condition, values in (
            (dead, {"removed_at": db_now()}),
            (~dead, {"remove_after": Upload.urls_until + LATE_BYTES}),
        ):
            db.session.execute(
                update(Upload)
                .where(Upload.id.in_(ids), condition)
                .values(**values)
                .execution_options(synchronize_session=False)
            )


def _unknown(found: Sequence[OpenUpload]) -> list[OpenUpload]:
    if not found:
        return []
    known = set(
        db.session.scalars(
            select(Upload.s3_upload_id).where(
                Upload.s3_upload_id.in_([one.s3_upload_id for one in found]),
                Upload.state == UploadState.OPEN,
            )
        )
    )
    release()
    return [one for one in found if one.s3_upload_id not in known]
