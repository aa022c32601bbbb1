"""One zip of all files of a transfer, put together inside the bucket.

Its layout says where every byte lies before any exists (app/zip_layout.py), so it is a multipart
upload like any other: a part that lies inside one file is copied by storage itself, one that
holds headers, edges or small files is put together here. Which parts exist is asked from storage,
so a build goes on wherever the last one died; two at once would write the same bytes twice.
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
from app.gateways.stored import NoSuchUpload, PartsRefused, Source, SourceLost
from app.models import Archive, File, Problem, State, Transfer, Upload, UploadState, ZipFailure
from app.services import audit, planning, removal, uploads
from app.services.composing import Composer, Stopped
from app.services.transfers import files_of
from app.zip_layout import Data, Layout, Member
from app.zip_names import names_in_zip

log = logging.getLogger(__name__)

# After so long it goes to the end of the queue: others want their zip too.
TURN_SECONDS = 60
PROGRESS_SECONDS = 1.0
WAIT_SECONDS = 0.25
# So many failed or killed attempts, and whoever waits is told instead.
MOST_ATTEMPTS = 8
# One that was given up may be asked for again after so long.
AGAIN_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class Waiting:
    """How many zips are wanted that nobody is at, how long the oldest of them has been, and how
    many are being made."""

    count: int
    oldest_seconds: float | None
    being_made_count: int


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
    """The transfer's zip as its row says now."""
    return db.session.scalar(
        select(Archive)
        .where(Archive.transfer_id == transfer_id)
        .options(joinedload(Archive.upload, innerjoin=True))
        .execution_options(populate_existing=True)
    )


def find_made(transfer_id: uuid.UUID) -> Upload | None:
    """The object that is the transfer's zip, if it is made."""
    archive = find(transfer_id)
    return archive.upload if archive and archive.ready_at else None


def keep(made: Upload, seconds: int) -> bool:
    """Have a zip stay for so long although files may come (forget()); whether it was still there.

    Before an address leaves that works for so long.
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
    """As find_made(), but gives it so many seconds to be made."""
    ends_at = time.monotonic() + seconds
    while (made := find_made(transfer_id)) is None and time.monotonic() < ends_at:
        release()
        time.sleep(WAIT_SECONDS)
    return made


def progress(transfer_id: uuid.UUID) -> Progress | None:
    """How far it is; None while nobody has asked for it."""
    archive = find(transfer_id)
    if archive is None:
        return None
    state = "ready" if archive.ready_at else "failed" if archive.failed_at else "building"
    return Progress(state, archive.upload.size, archive.done_size, archive.failure)


def request(transfer_id: uuid.UUID) -> None:
    """Have the zip made, unless it is, or is being made. Repeatable; one build for all who ask.

    One that was given up is begun anew after a minute, and raises ZipFailed or ZipLacksFile before.
    Raises Gone unless the transfer is READY, NotFound for one file, WrongState for more bytes than
    S3 takes in one object.
    """
    with transaction():
        # Locked, so that its end cannot come between: whoever ends it also ends its zip.
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
            raise NotFound("There is one file, and no zip of it.")
        size = Layout(_members(files)).size
        if size > S3_MAX_OBJECT_SIZE:
            raise WrongState("All of it together is more than one file can hold.")
        _plan(transfer_id, size)


def request_at_once(transfer_id: uuid.UUID) -> None:
    """As request(), for one that has just become READY, or larger; nothing where no zip can be.

    Call in the transaction that made it so.
    """
    files = files_of(transfer_id)
    size = Layout(_members(files)).size
    if len(files) > 1 and size <= S3_MAX_OBJECT_SIZE:
        _plan(transfer_id, size)


def _plan(transfer_id: uuid.UUID, size: int) -> None:
    upload = planning.plan_whole(size)
    db.session.add(upload)
    # flush(): the rows that follow count on this one.
    db.session.flush()
    db.session.execute(insert(Archive).values(transfer_id=transfer_id, upload_id=upload.id))
    audit.note("zip", transfer_id)
    _remind(Archive.transfer_id == transfer_id)


def forget(transfer_id: uuid.UUID) -> bool:
    """The files have changed: their zip goes, and may be asked for anew. Whether there was one.

    Its object stays as long as the addresses that were handed out for it, but not longer than the
    files. Call in transaction().
    """
    # Its row first, as whoever makes it does: so nobody waits for each other.
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
    """More files are there: whoever wanted the zip of those before wants that of all.

    Call in transaction(), under the transfer's lock.
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
    """The condition that a zip is not made yet, and that its transfer can be downloaded."""
    return and_(
        Archive.ready_at.is_(None),
        Archive.failed_at.is_(None),
        select(Transfer.id)
        .where(Transfer.id == Archive.transfer_id, Transfer.state == State.READY)
        .exists(),
    )


def is_stuck(queued_before: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a zip is wanted, nobody makes it, and nobody was told of it since."""
    return and_(is_wanted(), leases.is_unattended(Archive, queued_before))


def waiting() -> Waiting:
    """What makers have before them, and whether there are any."""
    is_held = and_(Archive.lease_token.is_not(None), Archive.lease_until >= db_now())
    waits_for = func.extract("epoch", db_now() - func.min(Archive.created_at).filter(~is_held))
    row = db.session.execute(
        select(func.count().filter(~is_held), waits_for, func.count().filter(is_held))
        .select_from(Archive)
        .where(is_wanted())
    ).one()
    release()
    return Waiting(row[0], None if row[1] is None else float(row[1]), row[2])


def remind_stuck(queued_before: ColumnElement[Any]) -> int:
    """Queue every zip that is stuck; returns how many."""
    return leases.remind_stuck(Archive, is_stuck(queued_before), jobs.BUILD_ARCHIVE.again)


def _remind(*conditions: ColumnElement[bool]) -> None:
    """Queue the zips that are wanted and for which these hold. Call in transaction()."""
    leases.remind(Archive, and_(is_wanted(), *conditions), jobs.BUILD_ARCHIVE.again)


# -- making it -------------------------------------------------------------------------------


def build(transfer_id: str) -> None:
    """Job: make the zip of a transfer, or as much of it as fits in one turn.

    A file that storage has lost is an error that says so, never a zip without it; one that was only
    copied anew is found again, and one that storage failed to find once is tried again. Runs twice,
    at once and after a death anywhere to the same zip.
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
    # If it is not over, whoever is free goes on from what storage holds.
    with transaction():
        _remind(Archive.transfer_id == lease.transfer_id, leases.is_free(Archive))


def _look_for_files(lease: leases.Lease) -> None:
    """Storage has said that a file is gone or another: find out whether that is so.

    Raises Unavailable if all files are as their rows say: then only this attempt has failed, and
    the parts that were made stay.
    """
    try:
        copied = uploads.copied_anew([file.upload for file in files_of(lease.transfer_id)])
    except SourceLost as lost:
        log.error("a file of a zip is not in storage", extra={"key": str(lost)})
        _give_up(lease, ZipFailure.FILE_LOST)
        return
    if not copied:
        raise Unavailable("Storage did not find a file that it has.")
    # The parts go first: their headers may hold CRC32s that are forgotten with the former ETags.
    _drop_parts(lease)
    uploads.note_copied(copied)


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
        return  # Its transfer has ended; whoever ended it has seen to the bytes.
    except NoSuchUpload:
        # Completed before, and that was not noted? What lies there must prove itself.
        log.warning("the multipart of a zip is gone", extra={"upload": str(upload.id)})
    try:
        outcome = uploads.complete(upload, sizes)
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
        """Whether the process has to end, or somebody else is at it, or nobody wants it."""
        return jobs.stopping.is_set() or self._lease.lost.is_set()

    def is_over(self) -> bool:
        """Whether to stop, also because others wait for their turn."""
        return self.is_told_to_stop() or time.monotonic() > self._ends_at

    def tell(self, done_size: int) -> None:
        """Show how much is done, once a second at most; notices when nobody wants it any more."""
        if time.monotonic() < self._told_at + PROGRESS_SECONDS:
            return
        self._told_at = time.monotonic()
        with transaction():
            told = changed(self._lease.mine.where(is_wanted()).values(done_size=done_size))
        if told == 0:
            self._lease.lost.set()


def _learn_crc32s(files: Sequence[File], turn: _Turn) -> None:
    """Read what has no CRC32 yet, and keep what it comes to, for this zip and for whoever asks.

    A file that was begun is read to its end, however long that takes: cut short, it would begin
    anew each time. Raises SourceLost, Stopped, and errors.Unavailable.
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
    """Open its multipart, and note until when parts may come; raises WrongState if it is over."""
    uploads.begin([upload])
    with transaction():
        uploads.note_signing([upload.id])


def _part_sizes(upload: Upload, layout: Layout) -> list[int]:
    """Of the same row and files always the same: parts that are held must lie where they lay."""
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


def _start_over(lease: leases.Lease, upload: Upload) -> None:
    """The multipart is gone, or is to go: a new one, from nothing, in the next attempt."""
    with transaction():
        uploads.forget_multipart(upload)
        db.session.execute(lease.mine.values(done_size=0))


def _drop_parts(lease: leases.Lease) -> None:
    """What is made of it so far is of no use any more: as _start_over()."""
    archive = find(lease.transfer_id)
    if archive is None or archive.upload.s3_upload_id is None:
        return
    _start_over(lease, archive.upload)
    removal.abort([(archive.upload.key, archive.upload.s3_upload_id)])


def _start_over_with_equal_parts(lease: leases.Lease, upload: Upload) -> None:
    """All parts are there and storage will not have them: perhaps it wants them to be equal.

    Raises PartsRefused again if they were: that is an attempt that failed.
    """
    if upload.part_size != planning.ANY_PART_SIZE:
        raise PartsRefused
    log.warning("storage wants equal parts: S3_EQUAL_PARTS=on would save making zips twice")
    with transaction():
        uploads.forget_multipart(upload, planning.equal_part_size_for(upload.size))
        db.session.execute(lease.mine.values(done_size=0))
    removal.abort([(upload.key, upload.s3_upload_id or "")])


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
