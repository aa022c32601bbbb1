"""One zip of all files of a transfer, composed inside the bucket.

Its layout gives the place of every byte before any exists (app/zip_layout.py), so it is a multipart
upload like any other: a part that lies inside one file is copied by storage itself, one that holds
headers, edges or small files is put together here. Storage is asked which parts exist, so a build
continues wherever the last one died; two concurrent builds would write the same bytes twice.
"""

import logging
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, cast, delete, func, insert, select, update
from sqlalchemy.orm import joinedload

from app import crash, jobs, leases, zip_parts
from app.clock import db_now
from app.config import S3_MAX_OBJECT_SIZE, settings
from app.crc32 import SIZE as CRC32_SIZE
from app.db import changed, db, discard, release, transaction
from app.errors import Gone, NotFound, Unavailable, WrongState, ZipFailed, ZipLacksFile
from app.gateways.s3_answers import NoSuchUpload, PartsRefused, Source, SourceLost
from app.models import Archive, File, Problem, State, Transfer, Upload, UploadState, ZipFailure
from app.services import audit, completing, planning, removal, uploads
from app.services.composing import Composer, Stopped
from app.services.transfers import files_of
from app.zip_layout import Data, Layout, Member
from app.zip_names import names_in_zip

log = logging.getLogger(__name__)

# Turn length. Then the job re-queues itself, so that other zips get a turn.
TURN_SECONDS = 60
PROGRESS_SECONDS = 1.0
WAIT_SECONDS = 0.25
# Give up after this many failed or killed attempts, and show the failure.
MOST_ATTEMPTS = 8
# How long after that the zip may be requested again.
AGAIN_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class Progress:
    """How far the zip of a transfer is: `state` is building, ready or failed."""

    state: str
    size: int
    done_size: int
    failure: ZipFailure | None

    @property
    def percent(self) -> int:
        """Whole percents, never 100 before it is ready."""
        return 100 if self.state == "ready" else min(99, 100 * self.done_size // self.size)


# -- asking for it ---------------------------------------------------------------------------


def find(transfer_id: uuid.UUID) -> Archive | None:
    """The transfer's zip, freshly read from the database; None if there is none."""
    return db.session.scalar(
        select(Archive)
        .where(Archive.transfer_id == transfer_id)
        .options(joinedload(Archive.upload, innerjoin=True))
        .execution_options(populate_existing=True)
    )


def find_made(transfer_id: uuid.UUID) -> Upload | None:
    """The upload of the transfer's zip, if it is ready."""
    archive = find(transfer_id)
    return archive.upload if archive and archive.ready_at else None


def keep(made: Upload, seconds: int) -> bool:
    """Keep a zip's object for this many seconds, even if files are added and forget() drops it.

    Call before handing out a URL that works that long. Returns whether the object was still there.
    """
    until = db_now() + timedelta(seconds=seconds)
    with transaction():
        kept = changed(
            update(Upload)
            .where(Upload.id == made.id, Upload.state == UploadState.COMPLETE)
            .values(urls_until=func.greatest(Upload.urls_until, until))
            .execution_options(synchronize_session=False)
        )
    return kept == 1


def wait_for(transfer_id: uuid.UUID, seconds: float) -> Upload | None:
    """The upload of the transfer's zip once it is ready; None if it is not after `seconds`."""
    ends_at = time.monotonic() + seconds
    while (made := find_made(transfer_id)) is None and time.monotonic() < ends_at:
        release()
        time.sleep(WAIT_SECONDS)
    return made


def progress(transfer_id: uuid.UUID) -> Progress | None:
    """How far the zip is; None if it was not requested yet."""
    archive = find(transfer_id)
    if archive is None:
        return None
    state = "ready" if archive.ready_at else "failed" if archive.failed_at else "building"
    return Progress(state, archive.upload.size, archive.done_size, archive.failure)


def request(transfer_id: uuid.UUID) -> None:
    """Have the zip made, unless it is ready or being made. Repeatable: one build for all requests.

    One that was given up is started again after a minute; before that, raises ZipFailed or
    ZipLacksFile. Raises Gone unless the transfer is READY, NotFound for a single file, WrongState
    for more bytes than S3 takes in one object.
    """
    with transaction():
        # Locked, so that the transfer cannot end meanwhile: its end also ends its zip.
        found = db.session.scalar(
            select(Transfer.id)
            .where(Transfer.id == transfer_id, Transfer.state == State.READY)
            .with_for_update()
        )
        if found is None:
            raise Gone
        archive = find(transfer_id)
        if archive is not None:
            if archive.failed_at is None:
                return
            if not _may_be_renewed(archive):
                is_lost = archive.failure is ZipFailure.FILE_LOST
                raise ZipLacksFile if is_lost else ZipFailed
            forget(transfer_id)
        files = files_of(transfer_id)
        if len(files) < 2:
            raise NotFound("There is only one file, so there is no zip.")
        size = Layout(_members(files)).size
        if size > S3_MAX_OBJECT_SIZE:
            raise WrongState("Together, the files are too large for one zip.")
        _plan(transfer_id, size)


def request_at_once(transfer_id: uuid.UUID) -> None:
    """Request the zip of a transfer that has just become READY, or larger, if it can have one.

    Call in the transaction that made it so.
    """
    files = files_of(transfer_id)
    size = Layout(_members(files)).size
    if len(files) > 1 and size <= S3_MAX_OBJECT_SIZE:
        _plan(transfer_id, size)


def _plan(transfer_id: uuid.UUID, size: int) -> None:
    upload = planning.plan_whole(size)
    db.session.add(upload)
    # flush(): the rows that follow refer to this one.
    db.session.flush()
    db.session.execute(insert(Archive).values(transfer_id=transfer_id, upload_id=upload.id))
    audit.note("zip", transfer_id)
    _remind(Archive.transfer_id == transfer_id)


def forget(transfer_id: uuid.UUID) -> bool:
    """Drop the zip, as the files have changed; returns whether there was one.

    It may be requested again. Its object stays as long as the URLs that were handed out for it
    work, but not longer than the files. Call in transaction().
    """
    # Lock the archive's row first, as the job that builds it does, to avoid deadlocks.
    gone = db.session.scalars(
        delete(Archive)
        .where(Archive.transfer_id == transfer_id)
        .returning(Archive.upload_id)
        .execution_options(synchronize_session=False)
    ).all()
    later = timedelta(seconds=settings.download_url_ttl_in_seconds)
    removal.abandon(gone, later, kept_for=transfer_id)
    jobs.REMOVE_BYTES.later()
    return bool(gone)


def renew(transfer_id: uuid.UUID) -> None:
    """Drop the zip after files were added, and request a new one if there was one.

    With `settings.zip_at_once` a new one is requested in any case. Call in transaction(), under the
    transfer's lock.
    """
    if forget(transfer_id) or settings.zip_at_once:
        request_at_once(transfer_id)


def _may_be_renewed(archive: Archive) -> bool:
    return bool(
        db.session.scalar(
            select(Archive.failed_at <= db_now() - AGAIN_AFTER).where(
                Archive.transfer_id == archive.transfer_id
            )
        )
    )


def is_wanted() -> ColumnElement[bool]:
    """The condition that a zip is neither ready nor given up, and its transfer is READY."""
    return and_(
        Archive.ready_at.is_(None),
        Archive.failed_at.is_(None),
        select(Transfer.id)
        .where(Transfer.id == Archive.transfer_id, Transfer.state == State.READY)
        .exists(),
    )


def is_stuck(queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a zip is wanted, no worker is at it, and it was not queued since."""
    return and_(is_wanted(), leases.is_unattended(Archive, queued_before))


def waiting() -> leases.Waiting:
    """How many zips wait for workers and for how long, and how many are being made."""
    return leases.waiting(Archive, is_wanted())


def remind_stuck(queued_before: ColumnElement[Any]) -> int:
    """Queue every zip that is stuck; returns how many."""
    return leases.remind_stuck(Archive, is_stuck(queued_before), jobs.BUILD_ARCHIVE.again)


def _remind(*conditions: ColumnElement[bool]) -> None:
    """Queue the wanted zips for which these conditions hold. Call in transaction()."""
    leases.remind(Archive, and_(is_wanted(), *conditions), jobs.BUILD_ARCHIVE.again)


# -- making it -------------------------------------------------------------------------------


def build(transfer_id: str) -> None:
    """Job: make the zip of a transfer, or as much of it as fits in one turn.

    If storage has lost a file, the zip fails and says so; it is never made without it. A file whose
    object was only copied is found again by its new ETag, and one that storage failed to find once
    is tried again. Safe to run twice, concurrently, and again after a crash: it makes the same zip.
    """
    with leases.hold(Archive, uuid.UUID(transfer_id), is_wanted()) as lease:
        if lease is None:
            return
        if lease.attempt > MOST_ATTEMPTS:
            _give_up(lease, ZipFailure.INTERNAL)
            return
        try:
            _build(lease)
        except Stopped:
            lease.forgive()
        except SourceLost:
            _look_for_files(lease)
    # If it is not finished, the next free worker continues from what storage holds.
    with transaction():
        _remind(Archive.transfer_id == lease.transfer_id, leases.is_free(Archive))


def _look_for_files(lease: leases.Lease) -> None:
    """Storage has said that a file's object is gone or another: check whether that is so.

    Raises Unavailable if all objects are as their rows say: then only this attempt has failed, and
    the parts that were made stay.
    """
    try:
        copied = completing.copied_anew([file.upload for file in files_of(lease.transfer_id)])
    except SourceLost as lost:
        log.error("a file of a zip is not in storage", extra={"key": str(lost)})
        _give_up(lease, ZipFailure.FILE_LOST)
        return
    if not copied:
        raise Unavailable("Storage did not find a file that it has.")
    # Drop the parts first: their headers may hold CRC32s that note_copied() clears.
    archive = find(lease.transfer_id)
    if archive is not None and _drop_parts(lease, archive.upload):
        completing.note_copied(copied)


def _build(lease: leases.Lease) -> None:
    archive = find(lease.transfer_id)
    if archive is None:
        return
    upload, turn = archive.upload, _Turn(lease)
    files = files_of(lease.transfer_id)
    _learn_crc32s(files, turn)
    layout = Layout(_members(files))
    sizes = _part_sizes(upload, layout)
    try:
        _begin(upload)
        crash.point("archive.1")
        _make_parts(upload, layout, sizes, files, turn)
        crash.point("archive.2")
    except WrongState:
        return  # The transfer has ended, which takes care of the bytes.
    except NoSuchUpload:
        # Perhaps completed before, and not recorded: complete() verifies the object.
        log.warning("the multipart of a zip is gone", extra={"upload": str(upload.id)})
    try:
        outcome = completing.complete(upload, sizes)
    except PartsRefused:
        _start_over_with_equal_parts(lease, upload)
        return
    crash.point("archive.3")
    if outcome.etag is not None:
        _settle(lease, upload, outcome.etag)
    elif outcome.problem is not Problem.MISSING:
        _start_over(lease, upload)
    crash.point("archive.5")


class _Turn:
    """One turn of a worker at a zip: when it is over, and how far it has come."""

    def __init__(self, lease: leases.Lease) -> None:
        self._lease = lease
        self._ends_at = time.monotonic() + TURN_SECONDS
        self._told_at = 0.0

    def is_told_to_stop(self) -> bool:
        """Whether the process has to end, the lease is lost, or the zip is not wanted any more."""
        return jobs.stopping.is_set() or self._lease.lost.is_set()

    def is_over(self) -> bool:
        """Whether to stop, or the turn's time is up and other zips should have theirs."""
        return self.is_told_to_stop() or time.monotonic() > self._ends_at

    def tell(self, done_size: int) -> None:
        """Store how much is done, at most once a second, and notice if the zip is not wanted."""
        if time.monotonic() < self._told_at + PROGRESS_SECONDS:
            return
        self._told_at = time.monotonic()
        with transaction():
            told = changed(self._lease.mine.where(is_wanted()).values(done_size=done_size))
        if told == 0:
            self._lease.lost.set()


def _learn_crc32s(files: Sequence[File], turn: _Turn) -> None:
    """Compute missing CRC32s by reading the files, and store them for this and later uses.

    A file that was begun is read to the end, however long that takes: if it were cut short, each
    attempt would start it again. Raises SourceLost, Stopped, and errors.Unavailable.
    """
    unknown = [file for file in files if file.upload.crc32 is None]
    if not unknown:
        return
    release()
    whole = [Data(index, 0, file.size) for index, file in enumerate(unknown)]
    sums = [0] * len(unknown)
    learned: list[Upload] = []
    sources = [_source(file) for file in unknown]
    with Composer(Layout([]), sources, turn.is_told_to_stop) as composer:
        try:
            for piece, chunk in composer.read(whole):
                sums[piece.index] = zlib.crc32(chunk, sums[piece.index])
                upload = unknown[piece.index].upload
                if piece.start + piece.size == upload.size:
                    upload.crc32 = sums[piece.index].to_bytes(CRC32_SIZE, "big")
                    learned.append(upload)
                    if turn.is_over():
                        raise Stopped
        finally:
            _keep_crc32s(learned)


def _keep_crc32s(learned: Sequence[Upload]) -> None:
    crc32s = {upload.id: upload.crc32 for upload in learned}
    if not crc32s:
        return
    with transaction():
        db.session.execute(
            update(Upload)
            .where(Upload.id.in_(crc32s), Upload.crc32.is_(None))
            .values(crc32=cast(case(crc32s, value=Upload.id), Upload.crc32.type))
            .execution_options(synchronize_session=False)
        )


def _begin(upload: Upload) -> None:
    """Open the multipart upload, and record until when parts may arrive.

    Raises WrongState if the upload was removed.
    """
    uploads.begin([upload])
    with transaction():
        uploads.note_signing([upload.id])


def _part_sizes(upload: Upload, layout: Layout) -> list[int]:
    """The parts' sizes: always the same for the same row and files, so that stored parts fit."""
    if upload.part_size == planning.ANY_PART_SIZE:
        return zip_parts.cut(layout)
    return zip_parts.equal(layout.size, upload.part_size)


def _make_parts(
    upload: Upload, layout: Layout, sizes: Sequence[int], files: Sequence[File], turn: _Turn
) -> None:
    release()
    held = {part.number: part.size for part in uploads.held_parts(upload, sizes)}
    done_size = sum(held.values())
    sources = [_source(file) for file in files]
    with Composer(layout, sources, turn.is_over) as composer:
        for size in composer.make_parts(upload.key, upload.s3_upload_id or "", sizes, held):
            done_size += size
            turn.tell(done_size)


def _settle(lease: leases.Lease, upload: Upload, etag: str) -> None:
    with transaction():
        settled = changed(
            lease.mine.where(is_wanted()).values(ready_at=db_now(), done_size=upload.size)
        )
        crash.point("archive.4")
        if settled:
            db.session.execute(
                update(Upload)
                .where(Upload.id == upload.id, Upload.state == UploadState.OPEN)
                .values(state=UploadState.COMPLETE, etag=etag)
                .execution_options(synchronize_session=False)
            )


def _start_over(lease: leases.Lease, upload: Upload, part_size: int | None = None) -> bool:
    """Forget the multipart upload: the next attempt opens another, and starts from nothing.

    With a `part_size`, in parts of that size. Returns whether the lease was still ours; otherwise
    the parts are left to whoever goes on with them.
    """
    with transaction():
        # The archive's row first, as in forget(), to avoid deadlocks.
        is_mine = changed(lease.mine.values(done_size=0)) == 1
        if is_mine:
            uploads.forget_multipart(upload, part_size)
    return is_mine


def _drop_parts(lease: leases.Lease, upload: Upload, part_size: int | None = None) -> bool:
    """Start over, and abort the multipart upload, as its parts are of no use any more.

    The rest is as in _start_over().
    """
    if not _start_over(lease, upload, part_size):
        return False
    if upload.s3_upload_id is not None:
        removal.abort([(upload.key, upload.s3_upload_id)])
    return True


def _start_over_with_equal_parts(lease: leases.Lease, upload: Upload) -> None:
    """Start over with equal parts: storage has refused the whole list, perhaps for its sizes.

    Raises PartsRefused again if they were equal already: then the attempt has failed.
    """
    if upload.part_size != planning.ANY_PART_SIZE:
        raise PartsRefused
    log.warning("storage wants equal parts: S3_EQUAL_PARTS=on would save making zips twice")
    _drop_parts(lease, upload, planning.equal_part_size_for(upload.size))


def _give_up(lease: leases.Lease, failure: ZipFailure) -> None:
    log.error("making a zip was given up", extra={"transfer": str(lease.transfer_id)})
    discard()
    with transaction():
        if changed(lease.mine.values(failed_at=db_now(), failure=failure)):
            removal.abandon(
                select(Archive.upload_id).where(Archive.transfer_id == lease.transfer_id)
            )
            jobs.REMOVE_BYTES.later()


def _members(files: Sequence[File]) -> list[Member]:
    names = names_in_zip(file.path for file in files)
    return [
        Member(name, file.size, file.modified_at or file.upload.created_at, file.upload.crc32)
        for name, file in zip(names, files, strict=True)
    ]


def _source(file: File) -> Source:
    return Source(file.upload.key, file.upload.etag or "")
