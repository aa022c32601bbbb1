"""The worker's side of the block list: reads a whole file for its SHA-256 and acts on the result.

The bytes come in ranges, a few ahead of what is being hashed, so memory is bounded whatever the
size. It may run twice, simultaneously, late, or die anywhere, with the same result: everything that
follows from it is one transaction under the lease.
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
from app.gateways.s3_answers import Source, SourceLost
from app.models import Failure, File, Inspection, State, Transfer, Upload, UploadState
from app.services import abuse, audit, batches, blocklist, checking, completing
from app.services.composing import Composer, Stopped
from app.zip_layout import Data, Layout

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
# Give up after this many failed or killed attempts and show the failure. Outages do not count.
MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class _Sums:
    """The checksums of a whole file."""

    sha256: bytes
    crc32: bytes


def inspect(upload_id: str) -> None:
    """Job: read one file, and compare it with the block list or put it there.

    A file that was held back becomes COMPLETE in any case; if it is on the list, its transfer is
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
            inspection = blocklist.inspection_of(lease.row_id)
            if inspection is None or not completing.note_if_copied(inspection.upload):
                log.error("a file for the block list is not in storage", extra={"key": str(lost)})
                _give_up(lease, is_lost=True)
    # If unfinished, another worker starts from the beginning: a hash cannot be resumed elsewhere.
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
    """Read the whole file. Raises SourceLost, Stopped, and errors.Unavailable."""

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
    """Record how much has been read; sets lease.lost if the file need not be read any more."""
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
            # Clear the problem that the last check reported, if any.
            update(File).where(File.upload_id == upload.id).values(problem=None),
        )
        for statement in completed:
            db.session.execute(statement.execution_options(synchronize_session=False))
        _go_on(inspection.transfer_id)
        crash.point("inspect.3")


def _give_up(lease: leases.Lease, *, is_lost: bool = False) -> None:
    """Stop trying to read a file. One that was to be blocked is marked as failed.

    Of the files held back, one that is not in storage is left to the check, which reports it
    missing. Otherwise the sender is shown that checking failed, and may finish the transfer again:
    an unread file is never given out.
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
    """Continue the check that waits for the file, that of the transfer or of its batch."""
    checking.go_on(transfer_id)
    batches.go_on(transfer_id)


def _take(lease: leases.Lease, inspection: Inspection) -> bool:
    """Delete the inspection if the lease is still ours. Locks the transfer's row first, as
    everywhere.
    """
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
