"""A transfer until it is READY: its files and what is said of it; and its end by its sender's hand.

How it begins is in creating.py.

Who may call is decided before (api/auth.py); what may happen is decided here.
"""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import joinedload

from app import clock, crash, jobs, lifecycle, passwords
from app.clock import db_now
from app.config import settings
from app.db import changed, db, release, transaction
from app.errors import (
    Blocked,
    Gone,
    Invalid,
    NotFound,
    TooMany,
    Unauthorized,
    WrongState,
)
from app.models import (
    Archive,
    Batch,
    Checksum,
    Ending,
    File,
    Recipient,
    Staging,
    State,
    Transfer,
    Upload,
)
from app.services import (
    audit,
    extension_requests,
    locks,
    planning,
    previews,
    removal,
    repeats,
    unsent,
)
from app.services.accounts import Caller
from app.services.repeats import Once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSpec:
    """A file as its sender announces it."""

    path: str
    size: int
    content_type: str = ""
    checksum_algorithm: Checksum | None = None
    modified_at: datetime | None = None
    # For a sender that is told its parts and cannot choose how it sends them.
    part_size: int | None = None


# -- its files ---------------------------------------------------------------------------------


def add_files(
    transfer: Transfer, specs: Sequence[FileSpec], once: Once | None = None
) -> list[File]:
    """Add files to a transfer in INIT; the new ones.

    Raises Invalid, WrongState, Gone, Blocked, KeyReused, TooMany. What a READY one takes is
    services/batches.py's.
    """
    if (ids := repeats.made(once)) is not None:
        return files_of(transfer.id, File.id.in_(ids))
    agreed = agree_on_checksums(specs)
    with transaction():
        if (ids := repeats.made(once)) is not None:
            return files_of(transfer.id, File.id.in_(ids))
        if _hold_open(transfer.id).state is not State.INIT:
            raise WrongState("This transfer does not take files any more.")
        already = files_of(transfer.id)
        check_files(specs, already)
        check_share(transfer.address_hash, size_of(specs) + size_of(already), transfer.id)
        first = max((file.position for file in already), default=-1) + 1
        _end_staging(transfer.id)
        audit.note("add files", transfer.id)
        files = put_files(transfer.id, specs, agreed, first)
        repeats.note(once, [file.id for file in files])
        return files


def _end_staging(transfer_id: uuid.UUID) -> None:
    """Its files come in parts after all: what came by one PUT goes. Call in transaction()."""
    ended = db.session.execute(
        delete_rows(Staging)
        .where(Staging.transfer_id == transfer_id)
        .returning(Staging.upload_id, Staging.copy_id)
        .execution_options(synchronize_session=False)
    ).first()
    if ended is not None and any(ended):
        removal.abandon([one for one in ended if one is not None])
        jobs.REMOVE_BYTES.later()


def agree_on_checksums(specs: Sequence[FileSpec]) -> Checksum | None:
    """As planning.agree_on_checksums(), if any of these wants them."""
    is_wanted = any(spec.checksum_algorithm for spec in specs)
    return planning.agree_on_checksums(is_wanted=is_wanted)


def put_files(
    transfer_id: uuid.UUID,
    specs: Sequence[FileSpec],
    agreed: Checksum | None,
    first_position: int,
    *,
    are_coming: bool = False,
) -> list[File]:
    """Rows and plans for these, which check_files() has passed. Call in transaction()."""
    files = [
        File(
            id=uuid.uuid4(),
            transfer_id=transfer_id,
            upload=planning.plan(
                spec.size, agreed if spec.checksum_algorithm else None, spec.part_size
            ),
            position=first_position + index,
            path=spec.path,
            content_type=spec.content_type,
            modified_at=spec.modified_at,
            batch=None if are_coming else 0,
        )
        for index, spec in enumerate(specs)
    ]
    db.session.add_all(files)
    # flush(): whoever asked is told the rows' ids and plans, which the commit then only keeps.
    db.session.flush()
    note_size(transfer_id)
    return files


def note_size(transfer_id: uuid.UUID) -> None:
    """Keep in the row what its files come to, without what is coming. Call in transaction()."""
    size = (
        select(func.coalesce(func.sum(Upload.size), 0))
        .join(File, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, File.batch.is_not(None))
    )
    db.session.execute(
        update(Transfer)
        .where(Transfer.id == transfer_id)
        .values(total_size=size.scalar_subquery())
        .execution_options(synchronize_session=False)
    )


def size_of(files: Sequence[FileSpec | File]) -> int:
    """What these come to, in bytes."""
    return sum(file.size for file in files)


def check_files(specs: Sequence[FileSpec], already: Sequence[File]) -> None:
    """Raise Invalid unless these may be in one transfer with those it has."""
    complaints: dict[str, str] = {}
    if len(specs) + len(already) > settings.max_files:
        complaints["files"] = f"a transfer holds at most {settings.max_files} files"
    seen = {file.path for file in already}
    for index, spec in enumerate(specs):
        if spec.path in seen:
            complaints[f"files.{index}.path"] = "is there twice"
        if spec.size > settings.max_file_size:
            complaints[f"files.{index}.size"] = f"must be at most {settings.max_file_size} bytes"
        seen.add(spec.path)
    total = size_of(specs) + size_of(already)
    if settings.max_transfer_size is not None and total > settings.max_transfer_size:
        complaints["files"] = f"together must be at most {settings.max_transfer_size} bytes"
    if complaints:
        raise Invalid(complaints)


def check_share(address_hash: bytes | None, size: int, its_id: uuid.UUID | None = None) -> None:
    """Raise TooMany if one address would have too much unfinished with this transfer of `size`.

    `its_id` is the transfer's if it is there already. One alone may have any size that a transfer
    may have. A courtesy limit, so no lock.
    """
    if address_hash is None:
        return
    # What comes by one PUT is no file yet, only an upload, of the size that was told.
    size_of_one = Transfer.total_size + func.coalesce(Upload.size, 0)
    open_count, open_size = db.session.execute(
        select(func.count(), func.coalesce(func.sum(size_of_one), 0))
        .select_from(Transfer)
        .outerjoin(Staging, Staging.transfer_id == Transfer.id)
        .outerjoin(Upload, Upload.id == Staging.upload_id)
        .where(
            Transfer.state == State.INIT,
            Transfer.address_hash == address_hash,
            Transfer.id.is_distinct_from(its_id),
        )
    ).one()
    if its_id is None and open_count >= settings.max_open_transfers_per_address:
        raise TooMany("Too many unfinished transfers from your network. Finish or cancel some.")
    if open_count and open_size + size > settings.max_open_bytes_per_address:
        raise TooMany(
            "The unfinished transfers from your network would be too large together. "
            "Finish or cancel some."
        )


def expiry(wished: datetime | None) -> datetime:
    """When a transfer that is changed now ends, as is wished or as usual; raises Invalid."""
    now = clock.now()
    if wished is None:
        return now + timedelta(days=settings.default_expires_in_days)
    if wished <= now:
        raise Invalid({"expires_at": "must be in the future"})
    if wished > now + timedelta(days=settings.max_expires_in_days, minutes=1):
        raise Invalid({"expires_at": f"must be within {settings.max_expires_in_days} days"})
    return wished


def lock_for(password: str | None) -> str | None:
    """What is stored of a password; None where there is none. Not in transaction()."""
    if password is None:
        return None
    release()  # It takes a while, and may have to wait for its turn.
    return passwords.hashed(password)


# -- finding -----------------------------------------------------------------------------------


def hash_token(token: str) -> bytes:
    """What is stored of an owner token."""
    return hashlib.sha256(token.encode()).digest()


def owned(transfer_id: uuid.UUID, owner_token: str | None) -> Transfer:
    """The transfer if the token is its owner's; raises Unauthorized without one, else NotFound.

    A wrong token and an unknown transfer look the same.
    """
    if not owner_token:
        raise Unauthorized
    transfer = db.session.scalar(
        select(Transfer).where(
            Transfer.id == transfer_id, Transfer.owner_token_hash == hash_token(owner_token)
        )
    )
    if transfer is None:
        raise NotFound("There is no such transfer.")
    if transfer.state is State.DELETED:
        raise Gone("This transfer was deleted.", reason="deleted")
    return transfer


def refuse_blocked(transfer: Transfer) -> None:
    """Raise Blocked for a transfer that the operator has quarantined."""
    if transfer.quarantined_at is not None:
        raise Blocked


def is_at(slug: str) -> ColumnElement[bool]:
    """The condition that a link leads to a transfer: its own, or that of one of its recipients."""
    own = select(Recipient.transfer_id).where(Recipient.slug == slug).scalar_subquery()
    return or_(Transfer.slug == slug, Transfer.id == own)


def of_caller(transfer_id: uuid.UUID, caller: Caller) -> Transfer:
    """The transfer if this caller made it; raises NotFound, alike for unknown and for others'."""
    transfer = db.session.scalar(
        select(Transfer)
        .where(Transfer.id == transfer_id, caller.is_owner_of(Transfer))
        .execution_options(populate_existing=True)
    )
    if transfer is None:
        raise NotFound("There is no such transfer.")
    if transfer.state is State.DELETED:
        raise Gone("This transfer was deleted.", reason="deleted")
    return transfer


# Asked for each request of a program, so made only once.
_OF_WORKSPACE = (
    select(Transfer)
    .where(Transfer.id == bindparam("id"), Transfer.workspace_id == bindparam("workspace_id"))
    .execution_options(populate_existing=True)
)


def of_workspace(transfer_id: uuid.UUID, caller: Caller) -> Transfer:
    """The transfer if the caller's workspace has made it, for whichever of its users.

    Raises NotFound, alike for unknown and for others', and Gone once deleted.
    """
    wanted = {"id": transfer_id, "workspace_id": caller.workspace_id}
    transfer = db.session.scalar(_OF_WORKSPACE, wanted)
    if transfer is None:
        raise NotFound("There is no such transfer.")
    if transfer.state is State.DELETED:
        raise Gone("This transfer was deleted.", reason="deleted")
    return transfer


def is_over() -> ColumnElement[bool]:
    """The condition that a transfer's date has ended it, whether or not the sweep has come by.

    Not while its files are sent, which moves the date; but what comes by one PUT comes in time.
    """
    by_one_put = select(Staging.transfer_id).where(Staging.transfer_id == Transfer.id).exists()
    is_late = and_(Transfer.expires_at <= db_now(), Transfer.state == State.INIT, by_one_put)
    return or_(lifecycle.is_due(), is_late)


def of_id(transfer_id: uuid.UUID) -> Transfer:
    """The transfer as its row says now; raises NotFound."""
    transfer = db.session.get(Transfer, transfer_id, populate_existing=True)
    if transfer is None:
        raise NotFound("There is no such transfer.")
    return transfer


def files_of(
    transfer_id: uuid.UUID,
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    with_previews: bool = False,
    with_coming: bool = False,
) -> list[File]:
    """The transfer's files with their uploads, in its sender's order, in one query.

    Those on their way to a READY transfer are its sender's business alone: `with_coming`.
    """
    if not with_coming:
        conditions = (*conditions, File.batch.is_not(None))
    seen = [joinedload(File.preview)] if with_previews else []
    found = db.session.scalars(
        select(File)
        .join(File.upload)
        .where(File.transfer_id == transfer_id, *conditions)
        .order_by(File.position)
        .limit(limit)
        .options(joinedload(File.upload, innerjoin=True), *seen)
        .execution_options(populate_existing=True)
    )
    return list(found)


def uploads_of(
    transfer_ids: Sequence[uuid.UUID] | Select[uuid.UUID],
) -> CompoundSelect[uuid.UUID]:
    """The ids of all that lies, or will lie, in the bucket for these transfers."""
    return (
        select(File.upload_id)
        .where(File.transfer_id.in_(transfer_ids))
        .union_all(
            select(Archive.upload_id).where(Archive.transfer_id.in_(transfer_ids)),
            select(Upload.id).where(Upload.kept_for.in_(transfer_ids)),
            *(
                select(one).where(Staging.transfer_id.in_(transfer_ids), one.is_not(None))
                for one in (Staging.upload_id, Staging.copy_id)
            ),
        )
    )


# -- keeping it as it is -----------------------------------------------------------------------


def touch(transfer_id: uuid.UUID, sent_size: int) -> None:
    """Note that its sender is at work, on it or on its batch; it stays open until this ends.

    Call in transaction(). Raises Blocked, Gone, WrongState.
    """
    is_mine = (Transfer.id == transfer_id) & Transfer.quarantined_at.is_(None)
    is_alive = (Transfer.state == State.READY) & (Transfer.expires_at > db_now())
    takes_more = select(Transfer.id).where(is_mine, is_alive).exists()
    for row, *is_open in (
        (Transfer, is_mine, Transfer.state == State.INIT),
        (Batch, Batch.transfer_id == transfer_id, Batch.closed_at.is_(None), takes_more),
    ):
        done = changed(
            update(row)
            .where(*is_open)
            .values(last_activity_at=db_now(), sent_size=func.greatest(row.sent_size, sent_size))
            .execution_options(synchronize_session=False)
        )
        if done:
            return
    refuse_ended(transfer_id)
    raise WrongState("This transfer does not take files any more.")


def _hold_open(transfer_id: uuid.UUID) -> Transfer:
    """Keep others from changing the transfer until this transaction ends; raises as touch()."""
    row = held(transfer_id)
    touch(transfer_id, 0)
    return row


def hold(transfer_id: uuid.UUID) -> Transfer:
    """The row, which nobody else changes until this transaction ends. Raises NotFound.

    Rows that only name the transfer may be added meanwhile.
    """
    row = db.session.scalar(
        select(Transfer)
        .where(Transfer.id == transfer_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotFound
    return row


def held(transfer_id: uuid.UUID) -> Transfer:
    """As hold(), of one that has not ended: raises Gone and Blocked as refuse_ended() does."""
    return _unless_ended(_with_its_end(transfer_id).with_for_update(key_share=True))


def refuse_ended(transfer_id: uuid.UUID) -> Transfer:
    """The row; raises Gone after its end, whether or not the sweep has come by, and Blocked."""
    return _unless_ended(_with_its_end(transfer_id))


def _with_its_end(transfer_id: uuid.UUID) -> Select[Transfer, bool]:
    return (
        select(Transfer, Transfer.expires_at <= db_now())
        .where(Transfer.id == transfer_id)
        .execution_options(populate_existing=True)
    )


def _unless_ended(query: Select[Transfer, bool]) -> Transfer:
    row = db.session.execute(query).first()
    if row is None or row[0].state is State.DELETED:
        raise Gone(reason="deleted")
    transfer, is_due = row
    if transfer.state is State.EXPIRED or (transfer.state is State.READY and is_due):
        raise Gone(reason="expired")
    refuse_blocked(transfer)
    return transfer


def remove_file(transfer: Transfer, file_id: uuid.UUID) -> None:
    """Take one file out of a transfer in INIT, or out of a batch that is still coming.

    Raises NotFound, WrongState, and Gone and Blocked after the end.
    """
    with transaction():
        row = _hold_open(transfer.id)
        file = db.session.scalar(
            select(File).where(File.id == file_id, File.transfer_id == transfer.id)
        )
        if file is None:
            raise NotFound("This transfer has no such file.")
        if row.state is State.READY and not file.is_coming:
            raise WrongState("This file is there to be downloaded: only what comes can be removed.")
        removal.abandon([file.upload_id])
        db.session.delete(file)
        # flush(): its size is counted without it.
        db.session.flush()
        note_size(transfer.id)
        audit.note("remove file", transfer.id)
        jobs.REMOVE_BYTES.later()


def edit(transfer: Transfer, changes: dict[str, Any], *conditions: ColumnElement[bool]) -> Transfer:
    """Change title, message, expires_at, max_downloads, password; only those in `changes`, and
    only while `conditions` hold, by which who calls knows that it was not changed meanwhile.

    A new `expires_at` revives a transfer that has expired, as long as its bytes are kept (the
    grace period): it is READY at once, whole, and its zip too. Of that and its removal exactly one
    happens. Whom its end has kept from their mail gets it now. A changed password locks out
    whoever had opened it with the former one, and those who have to wait may try at once. Raises
    Invalid, Gone if it has expired (for good, where `expires_at` is among the changes) or was
    deleted meanwhile, and Blocked.
    """
    return write(transfer, columns_of(changes), *conditions)


def columns_of(changes: dict[str, Any]) -> dict[str, Any]:
    """What an edit writes: its date is checked, its password hashed. Not in transaction()."""
    columns = dict(changes)
    if "expires_at" in columns:
        columns["expires_at"] = expiry(columns["expires_at"])
    if "password" in columns:
        columns["password_hash"] = lock_for(columns.pop("password"))
    return columns


def write(
    transfer: Transfer, columns: dict[str, Any], *conditions: ColumnElement[bool]
) -> Transfer:
    """As edit(), of what columns_of() has made of the changes."""
    if not columns:
        return transfer
    required = [Transfer.quarantined_at.is_(None), *conditions]
    limit = columns.get("max_downloads")
    if limit is not None:
        required.append(Transfer.download_count <= limit)
    with transaction():
        change = _edit(transfer.id, columns, required)
        if change:
            audit.note(change, transfer.id)
            extension_requests.settle(transfer.id, _answered(columns))
        if change and "expires_at" in columns:
            unsent.take_up_left_out(transfer.id)
        if change and "password_hash" in columns:
            locks.forget_tries(transfer.id)
    fresh = of_id(transfer.id)
    if change:
        return fresh
    refuse_blocked(fresh)
    if limit is not None and fresh.download_count > limit:
        raise Invalid(
            {"max_downloads": f"must be at least {fresh.download_count}: so many happened"}
        )
    raise Gone(reason="deleted" if fresh.state is State.DELETED else "expired")


def _answered(changes: dict[str, Any]) -> list[Ending]:
    """Which of the questions of recipients an edit answers."""
    answers = {"expires_at": Ending.EXPIRED, "max_downloads": Ending.LIMIT_REACHED}
    return [answer for name, answer in answers.items() if name in changes]


def _edit(
    transfer_id: uuid.UUID, changes: dict[str, Any], conditions: list[ColumnElement[bool]]
) -> str | None:
    """What happened, in the audit's word; None if it may not be changed. Call in transaction()."""
    # Locked, so that its date cannot pass, nor a sweep, between the first look and the second.
    locked = select(Transfer.id).where(Transfer.id == transfer_id)
    db.session.execute(locked.with_for_update(key_share=True))
    is_alive: ColumnElement[bool] = Transfer.state.in_([State.INIT, State.PROCESSING, State.READY])
    if "expires_at" not in changes:
        is_alive &= ~lifecycle.is_due()
    edited = changed(
        update(Transfer)
        .where(Transfer.id == transfer_id, is_alive, *conditions)
        .values(**changes)
        .execution_options(synchronize_session=False)
    )
    if edited:
        return "edit"
    is_kept = (Transfer.state == State.EXPIRED) & ~lifecycle.is_past_grace()
    if "expires_at" in changes and lifecycle.move(
        transfer_id, State.READY, is_kept, *conditions, **changes
    ):
        crash.point("revive.1")
        return "revive"
    return None


# -- ending ------------------------------------------------------------------------------------


def delete(transfer_id: uuid.UUID) -> bool:
    """End a transfer from any state: its link is dead at once, its bytes follow. Repeatable.

    True for the one caller that did it.
    """
    with transaction():
        if not lifecycle.move(transfer_id, State.DELETED):
            return False
        removal.abandon(uploads_of([transfer_id]))
        previews.end([transfer_id])
        locks.forget_tries(transfer_id)
        extension_requests.forget(transfer_id)
        audit.note("delete", transfer_id)
        jobs.REMOVE_BYTES.later()
        crash.point("delete.1")
    return True
