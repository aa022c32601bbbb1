"""Tombstones: what is left of a deleted transfer, and for how long.

Its row stays, so that its link can say "deleted" and statistics stay true. What people wrote is
removed within minutes; the row and those of its uploads once it is old and no byte is left. More is
kept of what was reported or blocked, for REPORT_RETENTION_IN_DAYS.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Text,
    and_,
    case,
    cast,
    delete,
    false,
    func,
    or_,
    select,
    update,
)

from app import crash, rows
from app.clock import db_now
from app.config import settings
from app.db import Base, changed, db, transaction
from app.models import (
    AbuseReport,
    Archive,
    AssetVersion,
    BoardItem,
    Download,
    File,
    FileRequest,
    IdempotencyKey,
    Preview,
    SmallFile,
    Staging,
    State,
    Transfer,
    Upload,
)
from app.services import audit, file_requests, idempotency
from app.services.heartbeats import noted
from app.services.upkeep import BATCH, DELETE_BATCH, Tell, in_batches, untold


@noted
def forget_deleted(tell: Tell = untold) -> int:
    """Job: remove from DELETED transfers all that people wrote, or that could identify them.

    Transfers quarantined recently or with an open report keep it until that is over: the operator
    has nothing else to judge by. The sender's address hash is kept as long as any report is.
    """
    return in_batches(_forget, tell)


@noted
def drop_tombstones(tell: Tell = untold) -> int:
    """Job: delete the rows of transfers deleted long ago, and of uploads that nothing refers to.

    Never while bytes may be left, nor while there is a report of the transfer or its board; closed,
    old reports are deleted first. Also deletes old idempotency keys and file
    requests.
    """
    with transaction():
        _drop_reports()
    crash.point("drop.2")
    count = in_batches(_drop_transfers, tell)
    crash.point("drop.1")
    in_batches(_drop_uploads, untold)
    in_batches(_drop_keys, untold)
    in_batches(_drop_requests, untold)
    return count


# -- what each looks for; dry_runs.py counts by the same conditions ------------------------------


def is_to_forget() -> ColumnElement[bool]:
    """The condition that a transfer is deleted and its content is no longer needed."""
    return and_(Transfer.state == State.DELETED, is_not_needed())


def is_not_needed() -> ColumnElement[bool]:
    """The condition that a transfer's content may be forgotten as soon as it is deleted."""
    return and_(
        Transfer.forgotten_at.is_(None),
        ~_was_blocked_lately(Transfer),
        ~_has_report(AbuseReport.handled_at.is_(None)),
    )


def is_over() -> ColumnElement[bool]:
    """The condition that a tombstone is old enough, and that no bytes are left of its transfer."""
    return and_(
        Transfer.state == State.DELETED,
        Transfer.deleted_at <= _long_ago(),
        ~_has_bytes(File),
        ~_has_bytes(Archive),
        ~is_evidence(),
    )


def is_evidence() -> ColumnElement[bool]:
    """The condition that it must stay known who sent a transfer, and when."""
    return or_(_was_blocked_lately(Transfer), _has_report(~_is_report_over()))


def _is_request_over() -> ColumnElement[bool]:
    """The condition that a file request ended long ago, and neither files nor reports are left."""
    has_report = (
        select(AbuseReport.id)
        .where(AbuseReport.file_request_id == FileRequest.id, ~_is_report_over())
        .exists()
    )
    return and_(file_requests.is_over(), ~_was_blocked_lately(FileRequest), ~has_report)


def _is_nobodys() -> ColumnElement[bool]:
    """The condition that an upload was removed long ago and no row refers to it any more."""
    return and_(
        Upload.removed_at <= _long_ago(),
        ~select(File.id).where(File.upload_id == Upload.id).exists(),
        ~select(Archive.transfer_id).where(Archive.upload_id == Upload.id).exists(),
        ~select(Preview.file_id)
        .where(or_(Preview.thumbnail_id == Upload.id, Preview.picture_id == Upload.id))
        .exists(),
        ~select(Staging.transfer_id)
        .where(or_(Staging.upload_id == Upload.id, Staging.copy_id == Upload.id))
        .exists(),
        ~select(SmallFile.id).where(SmallFile.kept_id == Upload.id).exists(),
        ~select(AssetVersion.id)
        .where(or_(AssetVersion.upload_id == Upload.id, AssetVersion.thumbnail_id == Upload.id))
        .exists(),
    )


def _has_bytes(owner: type[File] | type[Archive]) -> ColumnElement[bool]:
    return (
        select(Upload.id)
        .where(
            owner.transfer_id == Transfer.id,
            Upload.id == owner.upload_id,
            Upload.removed_at.is_(None),
        )
        .exists()
    )


def _was_blocked_lately(kind: type[Transfer | FileRequest]) -> ColumnElement[bool]:
    # coalesce(): NULL (never blocked) must become false, so that it can be negated.
    return func.coalesce(kind.quarantined_at > _kept_since(), false())


def _has_report(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that there is such a report of the transfer, or of a board its file is on.

    Two subqueries, so that each uses an index of its own.
    """
    of_it = select(AbuseReport.id).where(AbuseReport.transfer_id == Transfer.id, condition)
    of_its_board = (
        select(AbuseReport.id)
        .join(BoardItem, BoardItem.board_id == AbuseReport.board_id)
        .join(File, File.id == BoardItem.file_id)
        .where(File.transfer_id == Transfer.id, condition)
    )
    return or_(of_it.exists(), of_its_board.exists())


def _is_report_over() -> ColumnElement[bool]:
    """The condition that a report is closed and old: an open one waits for the operator."""
    is_closed = AbuseReport.handled_at.is_not(None)
    return and_(is_closed, AbuseReport.created_at <= _kept_since())


def _kept_since() -> ColumnElement[Any]:
    return db_now() - timedelta(days=settings.report_retention_in_days)


def _long_ago() -> ColumnElement[Any]:
    return db_now() - timedelta(days=settings.tombstones_in_days)


# -- how ---------------------------------------------------------------------------------------


def _forget() -> int:
    forgotten = db.session.scalars(
        update(Transfer)
        .where(rows.take(Transfer, is_to_forget(), limit=DELETE_BATCH))
        .values(
            title="",
            message="",
            password_hash=None,
            address_hash=case((is_evidence(), Transfer.address_hash)),
            forgotten_at=db_now(),
        )
        .returning(Transfer.id)
        .execution_options(synchronize_session=False)
    ).all()
    crash.point("forget.1")
    # A path must not be empty, and must be unique within its transfer.
    nameless = {"path": cast(File.id, Text), "content_type": "", "modified_at": None}
    # Recipients' addresses are removed later (news.py): mail quotas are counted by them, and
    # deleting a transfer must not free its sender to mail more.
    for row, values in ((File, nameless), (Download, {"visitor_hash": None})):
        db.session.execute(
            update(row)
            .where(row.transfer_id.in_(forgotten))
            .values(**values)
            .execution_options(synchronize_session=False)
        )
    # It names a file that was to arrive by one PUT; its bytes are being removed already.
    db.session.execute(
        delete(Staging)
        .where(Staging.transfer_id.in_(forgotten))
        .execution_options(synchronize_session=False)
    )
    audit.note_all("forget", forgotten)
    return len(forgotten)


def _drop_reports() -> None:
    """Delete reports that are over, and the address hashes kept only for them, in one statement."""
    gone = delete(AbuseReport).where(_is_report_over()).cte("gone")
    db.session.execute(
        update(Transfer)
        .where(
            Transfer.forgotten_at.is_not(None),
            Transfer.address_hash.is_not(None),
            # The statement still sees the deleted reports, so this asks for those that stay.
            ~is_evidence(),
        )
        .values(address_hash=None)
        .add_cte(gone)
        .execution_options(synchronize_session=False)
    )


def _drop_transfers() -> int:
    """Delete them; dependent rows go by their foreign keys, and nothing refers to their uploads."""
    dropped = _drop(Transfer, is_over(), DELETE_BATCH).returning(Transfer.id).cte("dropped")
    return audit.note_each("drop", dropped)


def _drop_uploads() -> int:
    return changed(_drop(Upload, _is_nobodys(), BATCH))


def _drop_keys() -> int:
    return changed(_drop(IdempotencyKey, idempotency.is_over(), BATCH))


def _drop_requests() -> int:
    return changed(_drop(FileRequest, _is_request_over(), BATCH))


def _drop(row: type[Base], condition: ColumnElement[bool], limit: int) -> Delete:
    return (
        delete(row)
        .where(rows.take(row, condition, limit=limit))
        .execution_options(synchronize_session=False)
    )
