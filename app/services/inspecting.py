"""The worker's side of the block list: one file read from beginning to end, and what follows.

Its bytes come in ranges, a few ahead of what is being hashed, so memory is bounded whatever its
size. It runs twice, at once, late, or dies anywhere to the same end: everything that follows is one
transaction under the lease.
"""

import hashlib
import logging
import time
import uuid
import zlib
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from app import crash, jobs, leases, lifecycle
from app.clock import db_now
from app.crc32 import SIZE as CRC32_SIZE
from app.db import changed, db, discard, release, transaction
from app.gateways.stored import Source, SourceLost
from app.models import Failure, File, Inspection, State, Transfer, Upload, UploadState
from app.services import abuse, audit, batches, blocklist, checking
from app.services.composing import Composer, Stopped
from app.zip_layout import Data, Layout

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
# So many failed or killed attempts, and whoever waits is told instead. Outages do not count.
MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class _Sums:
    """What all bytes of a file come to."""

    sha256: bytes
    crc32: bytes


def inspect(upload_id: str) -> None:
    """Job: read one file, and compare it with the block list, or put it there.

    One that is not on the list becomes COMPLETE; so does one that is, with its transfer
    quarantined in the same transaction.
    """
    with leases.hold(Inspection, uuid.UUID(upload_id), blocklist.is_wanted()) as lease:
        if lease is None:
            return
        if lease.attempt > MOST_ATTEMPTS:
            log.error("reading a file for the block list was given up")
            _give_up(lease)
            return
        try:
            _inspect(lease)
        except Stopped:
            lease.forgive()
        except SourceLost as lost:
            log.error("a file for the block list is not in storage", extra={"key": str(lost)})
            _give_up(lease, is_lost=True)
    # If it is not over, whoever is free begins anew: a hash cannot be continued elsewhere.
    with transaction():
        blocklist.remind((Inspection.upload_id == lease.row_id) & leases.is_free(Inspection))


def _inspect(lease: leases.Lease) -> None:
    inspection = blocklist.inspection_of(lease.row_id)
    if inspection is None:
        return
    release()
    crash.point("inspect.1")
    sums = _read(lease, inspection.upload)
    crash.point("inspect.2")
    _settle(lease, inspection, sums)
    crash.point("inspect.4")


def _read(lease: leases.Lease, upload: Upload) -> _Sums:
    """Read it whole. Raises SourceLost, Stopped, and errors.Unavailable."""

    def is_over() -> bool:
        return jobs.stopping.is_set() or lease.lost.is_set()

    sha256, crc32 = hashlib.sha256(), 0
    told_at = time.monotonic()
    source = Source(upload.key, upload.etag or "")
    with Composer(Layout([]), [source], is_over) as composer:
        for piece, chunk in composer.read([Data(0, 0, upload.size)]):
            sha256.update(chunk)
            crc32 = zlib.crc32(chunk, crc32)
            if time.monotonic() > told_at + PROGRESS_SECONDS:
                told_at = time.monotonic()
                _tell(lease, piece.start + piece.size)
    return _Sums(sha256.digest(), crc32.to_bytes(CRC32_SIZE, "big"))


def _tell(lease: leases.Lease, done_size: int) -> None:
    """Show how much is read; notices when nobody wants it any more."""
    with transaction():
        told = changed(lease.mine.where(blocklist.is_wanted()).values(done_size=done_size))
    if told == 0:
        lease.lost.set()


def _settle(lease: leases.Lease, inspection: Inspection, sums: _Sums) -> None:
    upload = inspection.upload
    with transaction():
        if not _take(lease, inspection):
            return
        if inspection.block_as is not None:
            blocklist.add(sums.sha256, upload.size, inspection.block_as, sums.crc32)
            return
        if entry := blocklist.find(sums.sha256):
            abuse.quarantine_blocked(inspection.transfer_id, entry, _path_of(upload))
        completed = (
            update(Upload)
            .where(Upload.id == upload.id, Upload.state == UploadState.OPEN)
            .values(state=UploadState.COMPLETE, crc32=func.coalesce(Upload.crc32, sums.crc32)),
            # What the last check had named, if there was one.
            update(File).where(File.upload_id == upload.id).values(problem=None),
        )
        for statement in completed:
            db.session.execute(statement.execution_options(synchronize_session=False))
        _go_on(inspection.transfer_id)
        crash.point("inspect.3")


def _give_up(lease: leases.Lease, *, is_lost: bool = False) -> None:
    """It could not be read. What was to be blocked says so; what was held back is its sender's.

    One that is not there is found missing by the check, and named. Otherwise its sender is told
    that checking has failed, and may say "that is all" again: it is never given out unread.
    """
    discard()
    inspection = blocklist.inspection_of(lease.row_id)
    if inspection is None:
        return
    transfer_id = inspection.transfer_id
    with transaction():
        if inspection.block_as is not None:
            db.session.execute(lease.mine.values(failed_at=db_now()))
            return
        if not _take(lease, inspection):
            return
        if is_lost:
            db.session.execute(
                update(Upload)
                .where(Upload.id == inspection.upload_id, Upload.state == UploadState.OPEN)
                .values(etag=None, crc32=None)
                .execution_options(synchronize_session=False)
            )
            _go_on(transfer_id)
        elif batches.give_up(transfer_id) or lifecycle.move(
            transfer_id, State.INIT, failure=Failure.INTERNAL
        ):
            audit.note("give up", transfer_id)


def _go_on(transfer_id: uuid.UUID) -> None:
    """Whoever checks its files, the first ones or a batch, looks again."""
    checking.go_on(transfer_id)
    batches.go_on(transfer_id)


def _take(lease: leases.Lease, inspection: Inspection) -> bool:
    """Its row goes, if it is still ours. Its transfer's is locked first, as by everybody."""
    transfer = select(Transfer.id).where(Transfer.id == inspection.transfer_id)
    db.session.execute(transfer.with_for_update())
    taken = changed(
        delete(Inspection)
        .where(Inspection.upload_id == lease.row_id, lease.is_mine)
        .execution_options(synchronize_session=False)
    )
    return taken == 1


def _path_of(upload: Upload) -> str:
    return db.session.scalar(select(File.path).where(File.upload_id == upload.id)) or ""
