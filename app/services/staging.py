"""Transfers of one file that is sent by one PUT, to a presigned URL.

Such a URL can be used again until it expires, so it never leads to a transfer's file, but to a
staging key. Completing looks at the object there, has storage copy exactly that (by its ETag) to
the file's own key, and makes the transfer READY; the staging object is then removed, and once more
after the URL has expired. Safe to run twice, concurrently, and again after a crash at any point.
"""

import uuid

from sqlalchemy import func, select, update

from app import crash, jobs, leases, lifecycle
from app.clock import db_now
from app.config import MIB, S3_MAX_PART_SIZE, settings
from app.db import db, release, transaction
from app.errors import (
    AppError,
    Invalid,
    NotNow,
    TransferExpired,
    UploadNotValid,
    WrongState,
)
from app.extensions import storage
from app.gateways.s3_answers import NoSuchUpload, NotOffered, Source, SourceLost
from app.leases import Lease
from app.models import File, Method, Staging, State, Transfer, Upload, UploadState
from app.services import audit, checking, completing, contents, planning, removal, room, uploads
from app.services.completing import Outcome
from app.services.transfers import not_deleted, of_id, refuse_blocked

# As in the documented flow: a client that asks for a URL has the file at hand.
URL_SECONDS = 300
# Part size of a copy; storage copies many parts in parallel, and 5 GiB are 80 of them.
COPY_PART_SIZE = 64 * MIB
# The alternative, named in errors where one PUT is not enough.
IN_PARTS = "name the file in POST /transfers and send it in parts, by POST /transfers/{id}/parts"


def awaits_file(transfer: Transfer) -> bool:
    """Whether the transfer was made without files, and its one file is not complete yet."""
    return transfer.state is State.INIT and is_by_one_put(transfer)


def is_by_one_put(transfer: Transfer) -> bool:
    """Whether its one file comes, or came, by one PUT; False once others were added in parts."""
    found = select(Staging.transfer_id).where(Staging.transfer_id == transfer.id)
    return db.session.scalar(found) is not None


def upload_url(
    transfer: Transfer, filename: str, content_type: str, size: int | None
) -> tuple[str, str]:
    """A URL to PUT the transfer's one file to within URL_SECONDS, and the object's key.

    The last call wins: what was sent to earlier URLs is removed. If `size` is given, storage
    accepts no other. Raises Invalid, TooMany, TransferExpired, Gone, NotNow, Blocked.
    """
    if size is not None:
        _check_size(size, "file_size")
    with transaction():
        _held_in_init(transfer.id)
        if _has_files(transfer.id):
            raise NotNow("The files of this transfer are sent in parts, by POST .../parts.")
        if size is not None:
            contents.check_open_quota(transfer.address_hash, size, transfer.id)
        staging = db.session.get(Staging, transfer.id, populate_existing=True)
        if staging is None:
            staging = Staging(transfer_id=transfer.id)
            db.session.add(staging)
        if staging.upload_id is not None:
            removal.abandon([staging.upload_id])
            jobs.REMOVE_BYTES.later()
        if size is None:
            room.reserve_some(None, "file_size")
        else:
            room.reserve(size, "file_size")
        upload = _planned(size)
        db.session.add(upload)
        # flush(): the row that refers to it has to come after it.
        db.session.flush()
        staging.upload_id, staging.filename, staging.content_type = (
            upload.id,
            filename,
            content_type,
        )
        db.session.flush()
        uploads.note_signing([upload.id])
    return storage.urls.staging(upload.key, content_type, size, URL_SECONDS), upload.key


def complete(transfer: Transfer) -> Transfer:
    """Make what was PUT the transfer's file, and the transfer READY. Asks storage.

    Raises Gone, TransferExpired, Blocked, UploadNotValid; NotNow if no URL was asked for or it has
    been completed; Invalid for a file that is too large, which is removed; and WrongState if it is
    being completed or was changed by another request.
    """
    with transaction():
        _held_in_init(transfer.id)
        asked = _asked_for(transfer.id)
        if asked is None:
            raise NotNow("Upload not started: ask for an upload URL first.")
    failure: AppError | None = None
    with leases.hold(Transfer, transfer.id, Transfer.state == State.INIT) as lease:
        if lease is None:
            failure = WrongState("Someone else is completing this transfer right now.")
        else:
            try:
                _take(lease, *asked)
            except (Invalid, UploadNotValid, WrongState) as error:
                # Not a failure of ours, so it is not counted as one.
                lease.forgive()
                failure = error
    if failure is not None:
        raise failure
    return of_id(transfer.id)


def _take(lease: Lease, staging: Staging, upload: Upload) -> None:
    """Copy exactly the object that is at the staging key now, and record it."""
    release()
    stored = storage.head(upload.key)
    if stored is None:
        raise UploadNotValid
    try:
        _check_size(stored.size, "file")
        copy = _planned_copy(lease, upload, stored.size)
    except Invalid:
        _clear(lease, upload.id)
        raise
    crash.point("stage.1")
    try:
        uploads.copy_from(copy, Source(upload.key, stored.etag))
        crash.point("stage.2")
        outcome = completing.complete(copy)
    except (SourceLost, NoSuchUpload) as error:
        raise WrongState("What was uploaded has since changed. Complete it again.") from error
    except NotOffered as error:
        raise WrongState(f"This storage cannot take a file this way: {IN_PARTS}.") from error
    if outcome.problem is not None:
        raise UploadNotValid("upload validation failed: what arrived could not be kept")
    crash.point("stage.3")
    _settle(lease, staging, upload, outcome)
    crash.point("stage.5")


def _clear(lease: Lease, upload_id: uuid.UUID) -> None:
    """Abandon what was PUT: the client has to ask for another URL."""
    with transaction():
        copy_id = _check_still(lease, upload_id)  # of an attempt that crashed or failed
        db.session.execute(
            update(Staging)
            .where(Staging.transfer_id == lease.transfer_id)
            .values(upload_id=None, copy_id=None)
            .execution_options(synchronize_session=False)
        )
        removal.abandon([one for one in (upload_id, copy_id) if one is not None])
        jobs.REMOVE_BYTES.later()


def _settle(lease: Lease, staging: Staging, upload: Upload, outcome: Outcome) -> None:
    """In one transaction, make the copy the transfer's file, and the transfer READY."""
    transfer_id = lease.transfer_id
    with transaction():
        _check_still(lease, upload.id)
        checking.record_completed(lease, [outcome])
        db.session.add(
            File(
                transfer_id=transfer_id,
                upload_id=outcome.upload_id,
                position=0,
                path=staging.filename,
                content_type=staging.content_type,
            )
        )
        # flush(): what follows reads the row.
        db.session.flush()
        contents.note_size(transfer_id)
        db.session.execute(
            update(Staging)
            .where(Staging.transfer_id == transfer_id)
            .values(upload_id=None, copy_id=None)
            .execution_options(synchronize_session=False)
        )
        removal.abandon([upload.id])
        jobs.REMOVE_BYTES.later()
        lifecycle.move(transfer_id, State.PROCESSING, lease.is_mine, failure=None)
        checking.become_ready(transfer_id)
        audit.note("complete", transfer_id)
        crash.point("stage.4")


def _planned_copy(lease: Lease, upload: Upload, size: int) -> Upload:
    """Add the copy's row before its object exists, so that a crash leaves no unknown object.

    Raises WrongState, and Invalid if there is no room for a file whose size was not declared.
    """
    copy = planning.plan(size, part_size=COPY_PART_SIZE)
    with transaction():
        former = _check_still(lease, upload.id)
        if former is not None:  # of an attempt that crashed or failed
            removal.abandon([former])
            jobs.REMOVE_BYTES.later()
        if not upload.size:
            room.reserve(size, "file")
        db.session.add(copy)
        # flush(): the row that refers to it has to come after it.
        db.session.flush()
        db.session.execute(
            update(Staging)
            .where(Staging.transfer_id == lease.transfer_id)
            .values(copy_id=copy.id)
            .execution_options(synchronize_session=False)
        )
    return copy


def _check_still(lease: Lease, upload_id: uuid.UUID) -> uuid.UUID | None:
    """Lock the transfer if the lease is ours, it is in INIT without files, and has this upload.

    Returns the id of the copy that is being made. Raises WrongState. Call in transaction().
    """
    mine = select(Transfer.id).where(
        Transfer.id == lease.transfer_id,
        Transfer.state == State.INIT,
        Transfer.expires_at > db_now(),
        Transfer.quarantined_at.is_(None),
        lease.is_mine,
    )
    if db.session.scalar(mine.with_for_update()) is not None and not _has_files(lease.transfer_id):
        staging = db.session.get(Staging, lease.transfer_id, populate_existing=True)
        if staging is not None and staging.upload_id == upload_id:
            return staging.copy_id
    raise WrongState("Someone else has changed this transfer in the meantime.")


def _held_in_init(transfer_id: uuid.UUID) -> None:
    """Lock a transfer that still takes its file until this transaction ends.

    Also records sender activity. Raises Gone, TransferExpired, Blocked, NotNow.
    """
    row, is_due = db.session.execute(
        select(Transfer, Transfer.expires_at <= db_now())
        .where(Transfer.id == transfer_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    not_deleted(row)
    if row.state is State.EXPIRED or is_due:
        raise TransferExpired
    refuse_blocked(row)
    if row.state is not State.INIT:
        raise NotNow(f"The transfer is not in INIT but in {row.state.value}.")
    db.session.execute(
        update(Transfer)
        .where(Transfer.id == transfer_id)
        .values(last_activity_at=func.greatest(Transfer.last_activity_at, db_now()))
        .execution_options(synchronize_session=False)
    )


def _asked_for(transfer_id: uuid.UUID) -> tuple[Staging, Upload] | None:
    """What the last URL was asked for, and its upload; None if there is none."""
    found = db.session.execute(
        select(Staging, Upload)
        .join(Upload, Staging.upload_id == Upload.id)
        .where(Staging.transfer_id == transfer_id)
        .execution_options(populate_existing=True)
    ).first()
    return (found[0], found[1]) if found else None


def _has_files(transfer_id: uuid.UUID) -> bool:
    found = select(File.id).where(File.transfer_id == transfer_id).limit(1)
    return db.session.scalar(found) is not None


def _planned(size: int | None) -> Upload:
    """An upload row for what may arrive, of size 0 if none was declared."""
    upload = planning.plan(0)
    upload.method, upload.size, upload.part_size = Method.SINGLE, size or 0, S3_MAX_PART_SIZE
    upload.state = UploadState.OPEN
    return upload


def _check_size(size: int, field: str) -> None:
    if size > S3_MAX_PART_SIZE:
        raise Invalid({field: f"is over 5 GiB, the most that one PUT takes: {IN_PARTS}"})
    most = min(settings.max_file_size, settings.max_transfer_size or settings.max_file_size)
    if size > most:
        raise Invalid({field: f"must be at most {most} bytes"})
