"""Finders, conditions and row locks for transfers, and deleting one.

creating.py creates them, contents.py changes their files, options.py their settings.
"""

import hashlib
import uuid
from collections.abc import Sequence

from sqlalchemy import (
    BindParameter,
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
from sqlalchemy.orm import joinedload

from app import crash, jobs, lifecycle
from app.clock import db_now
from app.db import changed, db, transaction
from app.errors import (
    Blocked,
    Gone,
    NotFound,
    Unauthorized,
    WrongState,
)
from app.models import (
    Archive,
    Batch,
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
    previews,
    removal,
)
from app.services.accounts import Caller

# -- finding -----------------------------------------------------------------------------------


def hash_token(token: str) -> bytes:
    """The hash that is stored instead of an owner token or idempotency key."""
    return hashlib.sha256(token.encode()).digest()


def owned(transfer_id: uuid.UUID, owner_token: str | None) -> Transfer:
    """The transfer that this owner token belongs to.

    Raises Unauthorized without a token, NotFound alike for a wrong token and an unknown transfer,
    and Gone once it is deleted.
    """
    if not owner_token:
        raise Unauthorized
    return _unless_deleted(
        select(Transfer).where(
            Transfer.id == transfer_id, Transfer.owner_token_hash == hash_token(owner_token)
        )
    )


def refuse_blocked(transfer: Transfer) -> None:
    """Raise Blocked for a transfer that the operator has quarantined."""
    if transfer.quarantined_at is not None:
        raise Blocked


def is_at(slug: str | BindParameter[str]) -> ColumnElement[bool]:
    """The condition that a slug is the transfer's own, or that of one of its recipients."""
    own = select(Recipient.transfer_id).where(Recipient.slug == slug).scalar_subquery()
    return or_(Transfer.slug == slug, Transfer.id == own)


def of_caller(transfer_id: uuid.UUID, caller: Caller) -> Transfer:
    """The transfer, if this caller made it.

    Raises NotFound, also for one made by another caller, and Gone once deleted.
    """
    return _unless_deleted(
        select(Transfer)
        .where(Transfer.id == transfer_id, caller.is_owner_of(Transfer))
        .execution_options(populate_existing=True)
    )


# Built once, because it runs in every request of an API client.
_OF_WORKSPACE = (
    select(Transfer)
    .where(Transfer.id == bindparam("id"), Transfer.workspace_id == bindparam("workspace_id"))
    .execution_options(populate_existing=True)
)


def of_workspace(transfer_id: uuid.UUID, caller: Caller) -> Transfer:
    """The transfer, if any user of the caller's workspace made it.

    Raises NotFound, also for another workspace's, and Gone once deleted.
    """
    return _unless_deleted(_OF_WORKSPACE, {"id": transfer_id, "workspace_id": caller.workspace_id})


def _unless_deleted(
    query: Select[Transfer], values: dict[str, uuid.UUID | None] | None = None
) -> Transfer:
    return not_deleted(db.session.scalar(query, values))


def not_deleted(transfer: Transfer | None) -> Transfer:
    """Return the transfer; raises NotFound if it is None, and Gone if it was deleted."""
    if transfer is None:
        raise NotFound("There is no such transfer.")
    if transfer.state is State.DELETED:
        raise Gone("This transfer was deleted.", reason="deleted")
    return transfer


def has_expired() -> ColumnElement[bool]:
    """The condition that a transfer has expired, even if the sweep has not marked it yet.

    A transfer does not expire while its files are sent, as its date moves when it becomes READY;
    except one that comes by one PUT, which has to be completed in time.
    """
    by_one_put = select(Staging.transfer_id).where(Staging.transfer_id == Transfer.id).exists()
    is_late = and_(Transfer.expires_at <= db_now(), Transfer.state == State.INIT, by_one_put)
    return or_(lifecycle.is_due(), is_late)


def of_id(transfer_id: uuid.UUID) -> Transfer:
    """The transfer, freshly read from the database; raises NotFound."""
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

    Files of a batch, which are not part of a READY transfer yet, concern only its sender: they are
    left out unless `with_coming`.
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
    """The ids of all uploads of these transfers, except for their previews (previews.end())."""
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


# -- activity and row locks --------------------------------------------------------------------


def touch(transfer_id: uuid.UUID, sent_size: int) -> None:
    """Record sender activity on the transfer, or on its open batch if it is READY.

    Call in transaction(): until that ends the row is locked, so it stays open. Raises Blocked,
    Gone, WrongState.
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
    raise WrongState("No more files can be added to this transfer.")


def lock_open(transfer_id: uuid.UUID) -> Transfer:
    """Lock a transfer that takes files, and record sender activity; raises as touch()."""
    row = lock_live(transfer_id)
    touch(transfer_id, 0)
    return row


def lock_row(transfer_id: uuid.UUID) -> Transfer:
    """Lock the transfer's row until this transaction ends. Raises NotFound.

    Rows that only refer to the transfer may still be added (FOR NO KEY UPDATE).
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


def lock_live(transfer_id: uuid.UUID) -> Transfer:
    """Lock the transfer's row; raises Gone if it has ended, and Blocked if it is quarantined."""
    return _unless_ended(_fresh(transfer_id).with_for_update(key_share=True))


def refuse_ended(transfer_id: uuid.UUID) -> Transfer:
    """The transfer's row; raises Gone if it has ended, even before the sweep, and Blocked."""
    return _unless_ended(_fresh(transfer_id))


def _fresh(transfer_id: uuid.UUID) -> Select[Transfer]:
    one = select(Transfer).where(Transfer.id == transfer_id)
    return one.execution_options(populate_existing=True)


def _unless_ended(query: Select[Transfer]) -> Transfer:
    transfer = db.session.scalar(query)
    if transfer is None or transfer.state is State.DELETED:
        raise Gone(reason="deleted")
    if lifecycle.state_of(transfer) is State.EXPIRED:
        raise Gone(reason="expired")
    refuse_blocked(transfer)
    return transfer


# -- ending ------------------------------------------------------------------------------------


def delete(transfer_id: uuid.UUID) -> bool:
    """Delete a transfer in any state: its link is dead immediately, its bytes are removed later.

    Repeatable; True for the one call that did it.
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
