"""A transfer from its creation to READY, and its end by its sender's hand.

Who may call is decided before (api/auth.py); what may happen is decided here.
"""

import hashlib
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.orm import joinedload

from app import clock, jobs, leases, lifecycle
from app.clock import db_now
from app.config import settings
from app.db import db, release, transaction
from app.errors import Gone, Invalid, NotFound, Unauthorized, WrongState
from app.models import File, Problem, State, Transfer, Upload, UploadState
from app.services import uploads
from app.services.uploads import Outcome, SignedPart

log = logging.getLogger(__name__)

# Files completed between two looks at the lease and at whether we should stop.
PROCESS_BATCH = 32


@dataclass(frozen=True)
class FileSpec:
    """A file as its sender announces it."""

    path: str
    size: int
    content_type: str = ""


@dataclass(frozen=True)
class Created:
    """A new transfer with its owner token, which is not stored and never told again."""

    transfer: Transfer
    owner_token: str


@dataclass(frozen=True)
class Wanted:
    """Part numbers of one file for which addresses are asked."""

    file_id: uuid.UUID
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """The part numbers of one file that storage holds."""

    file: File
    numbers: list[int]


# -- creating ----------------------------------------------------------------------------------


def create(
    specs: Sequence[FileSpec],
    *,
    title: str = "",
    message: str = "",
    expires_at: datetime | None = None,
    max_downloads: int | None = None,
) -> Created:
    """A new transfer in INIT, its link valid at once. Raises Invalid. Each call makes another."""
    expires_at = _checked_expiry(expires_at) or _default_expiry()
    _check_files(specs, already=[])
    owner_token = secrets.token_urlsafe(32)
    transfer = Transfer(
        id=uuid.uuid4(),
        slug=secrets.token_urlsafe(24),
        owner_token_hash=hash_token(owner_token),
        title=title,
        message=message,
        expires_at=expires_at,
        max_downloads=max_downloads,
    )
    with transaction():
        db.session.add(transfer)
        _add(transfer, specs, first_position=0)
    return Created(of_id(transfer.id), owner_token)


def add_files(transfer: Transfer, specs: Sequence[FileSpec]) -> list[File]:
    """Add files to a transfer in INIT; the new ones. Raises Invalid, WrongState."""
    with transaction():
        _lock_in_init(transfer.id)
        already = files_of(transfer.id)
        _check_files(specs, already)
        first = max((file.position for file in already), default=-1) + 1
        return _add(transfer, specs, first)


def _add(transfer: Transfer, specs: Sequence[FileSpec], first_position: int) -> list[File]:
    files = [
        File(
            id=uuid.uuid4(),
            transfer_id=transfer.id,
            upload=uploads.plan(spec.size),
            position=first_position + index,
            path=spec.path,
            content_type=spec.content_type,
        )
        for index, spec in enumerate(specs)
    ]
    db.session.add_all(files)
    # flush(): whoever asked is told the rows' ids and plans, which the commit then only keeps.
    db.session.flush()
    return files


def _check_files(specs: Sequence[FileSpec], already: Sequence[File]) -> None:
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
    total = sum(spec.size for spec in specs) + sum(file.size for file in already)
    if settings.max_transfer_size is not None and total > settings.max_transfer_size:
        complaints["files"] = f"together must be at most {settings.max_transfer_size} bytes"
    if complaints:
        raise Invalid(complaints)


def _checked_expiry(expires_at: datetime | None) -> datetime | None:
    if expires_at is None:
        return None
    now = clock.now()
    if expires_at <= now:
        raise Invalid({"expires_at": "must be in the future"})
    if expires_at > now + timedelta(days=settings.max_expires_in_days, minutes=1):
        raise Invalid({"expires_at": f"must be within {settings.max_expires_in_days} days"})
    return expires_at


def _default_expiry() -> datetime:
    return clock.now() + timedelta(days=settings.default_expires_in_days)


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


def of_id(transfer_id: uuid.UUID) -> Transfer:
    """The transfer as its row says now; raises NotFound."""
    transfer = db.session.get(Transfer, transfer_id, populate_existing=True)
    if transfer is None:
        raise NotFound("There is no such transfer.")
    return transfer


def files_of(transfer_id: uuid.UUID, *conditions: ColumnElement[bool]) -> list[File]:
    """The transfer's files with their uploads, in its sender's order, in one query."""
    found = db.session.scalars(
        select(File)
        .join(File.upload)
        .where(File.transfer_id == transfer_id, *conditions)
        .order_by(File.position)
        .options(joinedload(File.upload, innerjoin=True))
        .execution_options(populate_existing=True)
    )
    return list(found)


# -- sending -----------------------------------------------------------------------------------


def sign_parts(
    transfer: Transfer, wanted: Sequence[Wanted], sent_size: int
) -> list[tuple[File, SignedPart]]:
    """Signed addresses for the wanted parts, in that order, to be used soon.

    Raises NotFound for a file that is not the transfer's, Invalid for a number outside its plan,
    WrongState once the transfer left INIT: no new address after the sender said "that is all".
    """
    files = _files_wanted(transfer, wanted)
    for index, one in enumerate(wanted):
        uploads.check_numbers(files[index].upload, one.numbers, f"wanted.{index}.numbers")
    wanted_uploads = [file.upload for file in files]
    uploads.begin(wanted_uploads)
    with transaction():
        _touch(transfer.id, sent_size)
        uploads.note_signing(wanted_uploads)
    return [
        (file, part)
        for file, one in zip(files, wanted, strict=True)
        for part in uploads.sign(file.upload, one.numbers)
    ]


def _files_wanted(transfer: Transfer, wanted: Sequence[Wanted]) -> list[File]:
    ids = [one.file_id for one in wanted]
    found = {file.id: file for file in files_of(transfer.id, File.id.in_(ids))}
    if unknown := [one for one in ids if one not in found]:
        raise NotFound(f"This transfer has no file {unknown[0]}.")
    return [found[one] for one in ids]


def _touch(transfer_id: uuid.UUID, sent_size: int) -> None:
    """Note that its sender is at work; raises WrongState unless in INIT. In a transaction."""
    _only_in_init(
        update(Transfer).where(Transfer.id == transfer_id, Transfer.state == State.INIT),
        last_activity_at=db_now(),
        sent_size=func.greatest(Transfer.sent_size, sent_size),
    )


def _lock_in_init(transfer_id: uuid.UUID) -> None:
    """Keep others from changing the transfer until this transaction ends; raises WrongState."""
    _touch(transfer_id, 0)


def _only_in_init(statement: Any, **values: Any) -> None:
    done = db.session.execute(
        statement.values(**values).execution_options(synchronize_session=False)
    )
    if done.rowcount == 0:
        raise WrongState("This transfer does not take files any more.")


def held_parts(transfer: Transfer) -> list[Held]:
    """What storage really holds of each file, whatever anybody believes. Asks storage."""
    files = files_of(transfer.id)
    numbers = uploads.held([file.upload for file in files])
    return [Held(file, held) for file, held in zip(files, numbers, strict=True)]


def remove_file(transfer: Transfer, file_id: uuid.UUID) -> None:
    """Take one file out of a transfer in INIT. Raises NotFound, WrongState."""
    with transaction():
        _lock_in_init(transfer.id)
        file = db.session.scalar(
            select(File).where(File.id == file_id, File.transfer_id == transfer.id)
        )
        if file is None:
            raise NotFound("This transfer has no such file.")
        uploads.abandon([file.upload_id])
        db.session.delete(file)
        jobs.REMOVE_BYTES.later()


def edit(transfer: Transfer, changes: dict[str, Any]) -> Transfer:
    """Change title, message, expires_at, max_downloads; only those in `changes`. Raises Invalid.

    A transfer that has expired or was deleted meanwhile raises Gone.
    """
    if "expires_at" in changes:
        changes["expires_at"] = _checked_expiry(changes["expires_at"]) or _default_expiry()
    if not changes:
        return transfer
    statement = update(Transfer).where(
        Transfer.id == transfer.id,
        or_(
            Transfer.state.in_([State.INIT, State.PROCESSING]),
            (Transfer.state == State.READY) & (Transfer.expires_at > db_now()),
        ),
    )
    limit = changes.get("max_downloads")
    if limit is not None:
        statement = statement.where(Transfer.download_count <= limit)
    with transaction():
        changed = db.session.execute(
            statement.values(**changes).execution_options(synchronize_session=False)
        ).rowcount
    fresh = of_id(transfer.id)
    if changed:
        return fresh
    if limit is not None and fresh.download_count > limit:
        raise Invalid(
            {"max_downloads": f"must be at least {fresh.download_count}: so many happened"}
        )
    raise Gone(reason="deleted" if fresh.state is State.DELETED else "expired")


# -- finishing ---------------------------------------------------------------------------------


def finalize(transfer: Transfer) -> Transfer:
    """Its sender said "that is all": check and complete every file in the background.

    Repeating it is success and queues nothing more. Raises Invalid for a transfer of no files,
    Gone for one that has ended.
    """
    with transaction():
        # Locked first, so that no file can be removed between the look and the move.
        db.session.execute(select(Transfer.id).where(Transfer.id == transfer.id).with_for_update())
        if not db.session.scalar(select(File.id).where(File.transfer_id == transfer.id).limit(1)):
            raise Invalid({"files": "must not be empty"})
        if lifecycle.move(transfer.id, State.PROCESSING, queued_at=db_now()):
            jobs.PROCESS_TRANSFER.later(transfer.id)
    fresh = of_id(transfer.id)
    if fresh.state in (State.EXPIRED, State.DELETED):
        raise Gone(reason=fresh.state.value.lower())
    return fresh


def process(transfer_id: str) -> None:
    """Job: complete and verify every file of a transfer, then READY.

    A file that turns out short or lost puts the transfer back to INIT with that file named;
    nothing else is lost. Runs twice, at once and after a death anywhere to the same end.
    """
    with leases.hold(uuid.UUID(transfer_id), State.PROCESSING) as lease:
        interrupted = lease is not None and not _complete_files(lease)
    if interrupted:
        # Another worker goes on from what the rows say, now and not when the sweep comes by.
        jobs.PROCESS_TRANSFER.later(uuid.UUID(transfer_id))


def _complete_files(lease: leases.Lease) -> bool:
    """Work through the files that are still open; False when told to stop before the end."""
    waiting = files_of(lease.transfer_id, Upload.state == UploadState.OPEN)
    failed: dict[uuid.UUID, Outcome] = {}
    while waiting:
        if jobs.stopping.is_set():
            return False
        if lease.lost.is_set():
            return True
        batch, waiting = waiting[:PROCESS_BATCH], waiting[PROCESS_BATCH:]
        release()
        outcomes = uploads.complete_all([file.upload for file in batch])
        _settle_batch(lease, [outcome for outcome in outcomes if outcome.problem is None])
        pairs = zip(batch, outcomes, strict=True)
        failed |= {file.id: outcome for file, outcome in pairs if outcome.problem}
    _settle(lease, failed)
    return True


def _settle_batch(lease: leases.Lease, outcomes: Sequence[Outcome]) -> None:
    """Record completed uploads in one statement, unless somebody else has the transfer now."""
    if not outcomes:
        return
    etags = {outcome.upload_id: outcome.etag for outcome in outcomes}
    still_mine = select(Transfer.id).where(Transfer.id == lease.transfer_id, lease.is_mine)
    with transaction():
        db.session.execute(
            update(Upload)
            .where(
                Upload.id.in_(etags),
                Upload.state == UploadState.OPEN,
                still_mine.exists(),
            )
            .values(state=UploadState.COMPLETE, etag=case(etags, value=Upload.id))
            .execution_options(synchronize_session=False)
        )


def _settle(lease: leases.Lease, failed: dict[uuid.UUID, Outcome]) -> None:
    with transaction():
        if failed:
            if lifecycle.move(lease.transfer_id, State.INIT, lease.is_mine):
                _name_problems(lease.transfer_id, failed)
        elif lifecycle.move(lease.transfer_id, State.READY, lease.is_mine, _all_complete(lease)):
            _forget_problems(lease.transfer_id)


def _all_complete(lease: leases.Lease) -> ColumnElement[bool]:
    """The last guard before READY: the rows themselves say that nothing is open."""
    return ~(
        select(File.id)
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == lease.transfer_id, Upload.state != UploadState.COMPLETE)
        .exists()
    )


def _name_problems(transfer_id: uuid.UUID, failed: dict[uuid.UUID, Outcome]) -> None:
    """Mark the failed files; those whose bytes cannot be completed start over afresh."""
    _forget_problems(transfer_id)
    for file in files_of(transfer_id, File.id.in_(failed)):
        file.problem = failed[file.id].problem
        if file.problem is not Problem.MISSING:
            uploads.abandon([file.upload_id])
            file.upload = uploads.plan(file.size)
            jobs.REMOVE_BYTES.later()


def _forget_problems(transfer_id: uuid.UUID) -> None:
    db.session.execute(
        update(File)
        .where(File.transfer_id == transfer_id, File.problem.is_not(None))
        .values(problem=None)
        .execution_options(synchronize_session=False)
    )


# -- ending ------------------------------------------------------------------------------------


def delete(transfer_id: uuid.UUID) -> bool:
    """End a transfer from any state: its link is dead at once, its bytes follow. Repeatable.

    True for the one caller that did it.
    """
    with transaction():
        if not lifecycle.move(transfer_id, State.DELETED):
            return False
        uploads.abandon(select(File.upload_id).where(File.transfer_id == transfer_id))
        jobs.REMOVE_BYTES.later()
        return True
