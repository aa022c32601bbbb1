"""Edits of a transfer by its sender's program, which may name the version that it has seen.

A version is made of the marks by which the sender's page detects concurrent edits
(services/managing.py): it changes with anything that an edit may change, and with nothing else.
"""

from typing import Any

from sqlalchemy import and_

from app import lifecycle
from app.clock import db_now
from app.db import transaction
from app.errors import Gone, WrongState
from app.models import State, Transfer
from app.services import audit, delivery, dropped_mail, managing, options, transfers
from app.services.marks import IsSeen, check_seen, mark_of
from app.services.transfers import lock_row, of_id


def version_of(transfer: Transfer) -> str:
    """A short hash of all that an edit may change of a transfer."""
    people: list[tuple[str, bool]] = []
    if transfer.sender_email is not None:
        found = delivery.recipients_of(transfer.id)
        people = sorted((one.email, one.revoked_at is not None) for one in found)
    said = (
        managing.marks_of(transfer),
        transfer.sender_email,
        transfer.sender_confirmed_at is not None,
        sorted(transfer.muted),
        people,
        transfer.state is State.EXPIRED,
    )
    return mark_of(said)


def change(
    transfer: Transfer,
    changes: dict[str, Any],
    mail: dict[str, Any],
    status: State | None,
    is_seen: IsSeen | None,
) -> Transfer:
    """Change a transfer's options, its mail settings and whether it has expired, all or nothing.

    A new date revives an expired transfer, whatever `status` is. With `is_seen`, raises
    PreconditionFailed if the version is another than the caller has seen. Also raises as
    options.edit() and delivery.set_recipients(), and WrongState for a status that cannot follow.
    """
    columns = options.columns_of(changes)
    with transaction():
        row = lock_row(transfer.id)
        check_seen(is_seen, version_of(row))
        is_revival = lifecycle.state_of(row) is State.EXPIRED and "expires_at" in columns
        if status is State.READY and not is_revival:
            _bring_back(row)
        options.write(row, columns)
        # Mail comes last: a transfer that was just revived may be mailed.
        delivery.set_recipients(row, mail)
        if status is State.EXPIRED and not is_revival:
            _end(row)
    return of_id(transfer.id)


def _bring_back(row: Transfer) -> None:
    """Make an EXPIRED transfer READY again, if its date is not over and its bytes are kept.

    Repeatable. Raises Gone if it cannot be, Blocked, WrongState.
    """
    if lifecycle.state_of(row) is State.READY:
        return
    is_kept = (
        (Transfer.state == State.EXPIRED)
        & (Transfer.expires_at > db_now())
        & Transfer.quarantined_at.is_(None)
        & ~lifecycle.is_past_grace()
    )
    with transaction():
        if lifecycle.move(row.id, State.READY, is_kept):
            audit.note("revive", row.id)
            dropped_mail.take_up_left_out(row.id)
            return
    fresh = of_id(row.id)
    transfers.refuse_blocked(fresh)
    if lifecycle.state_of(fresh) is State.EXPIRED:
        raise Gone("Set a new expires_at to make it available again.", reason="expired")
    if fresh.state is not State.READY:
        raise WrongState


def _end(row: Transfer) -> None:
    """Make a READY transfer EXPIRED before its date; repeatable. Raises Blocked, WrongState."""
    is_early = and_(Transfer.quarantined_at.is_(None), ~lifecycle.is_due())
    with transaction():
        if lifecycle.move(row.id, State.EXPIRED, is_early):
            audit.note("expire", row.id)
            return
    fresh = of_id(row.id)
    transfers.refuse_blocked(fresh)
    # Past its date, it is left to the sweep, which tells webhooks that it has expired.
    if lifecycle.state_of(fresh) is not State.EXPIRED:
        raise WrongState
