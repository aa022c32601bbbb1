"""The signed links in mails: manage a transfer, give it more time, opt out of further mail.

They are not stored, but created again for each mail.
"""

import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import Integer, cast, func, update

from app import lifecycle
from app.clock import db_now
from app.config import settings
from app.db import changed, transaction
from app.errors import Gone, NotFound, WrongState
from app.models import NoMail, State, Transfer
from app.seals import Seal
from app.services import audit, dropped_mail, extension_requests, suppression
from app.services.transfers import not_deleted, of_id, refuse_blocked

# A used-up download limit is raised by this many when the sender gives more time.
MORE_DOWNLOADS = 5
_manage_seal = Seal("manage")
_extend_seal = Seal("extend")
_opt_out_seal = Seal("opt out")


def manage_token(transfer_id: uuid.UUID) -> str:
    """The token in the manage link of a mail to the sender; not stored."""
    return _manage_seal.of(f"{transfer_id}")


def managed(token: str) -> Transfer:
    """The transfer that a mailed manage link is for; raises NotFound, and Gone if deleted."""
    return _sealed(_manage_seal, token)


def extend_seal(transfer_id: uuid.UUID) -> str:
    """The token in a mail's link that gives a transfer more time."""
    return _extend_seal.of(f"{transfer_id}")


def to_extend(seal: str) -> Transfer:
    """The transfer that a link with extend_seal() is for; raises NotFound, and Gone if deleted."""
    return _sealed(_extend_seal, seal)


def _sealed(seal: Seal, token: str) -> Transfer:
    try:
        transfer_id = uuid.UUID(seal.read(token) or "")
    except ValueError as error:
        raise NotFound("This link does not lead anywhere.") from error
    return not_deleted(of_id(transfer_id))


def extend(transfer: Transfer) -> Transfer:
    """Let a transfer last as long as a new one, and allow more downloads if they are used up.

    Never shortens it. Revives an expired transfer while its bytes are kept. Repeating it adds
    nothing. Raises Gone, Blocked, and WrongState before the files are there.
    """
    later = func.greatest(
        Transfer.expires_at, db_now() + timedelta(days=settings.default_expires_in_days)
    )
    values = {
        "expires_at": later,
        "max_downloads": Transfer.max_downloads
        + cast(Transfer.is_used_up, Integer) * MORE_DOWNLOADS,
    }
    is_free = Transfer.quarantined_at.is_(None)
    with transaction():
        done = changed(
            update(Transfer)
            .where(Transfer.id == transfer.id, Transfer.state == State.READY, is_free)
            .values(**values)
            .execution_options(synchronize_session=False)
        ) or lifecycle.move(transfer.id, State.READY, _is_kept(), is_free, **values)
        if done:
            audit.note("extend", transfer.id)
            extension_requests.settle(transfer.id)
            dropped_mail.take_up_left_out(transfer.id)
    fresh = of_id(transfer.id)
    if not done:
        refuse_blocked(fresh)
        not_deleted(fresh)
        if fresh.state is State.EXPIRED:
            raise Gone("This has expired, and its files are being removed.", reason="expired")
        raise WrongState("The files of this transfer have not fully arrived yet.")
    return fresh


def _is_kept() -> Any:
    # move() would also take a transfer from PROCESSING to READY, which must not happen here.
    return (Transfer.state == State.EXPIRED) & ~lifecycle.is_past_grace()


def opt_out_seal(email: str) -> str:
    """The token in a mail's opt-out link."""
    return _opt_out_seal.of(email.encode().hex())


def opting_out(seal: str) -> str:
    """The e-mail address that an opt-out link is for; raises NotFound."""
    try:
        return bytes.fromhex(_opt_out_seal.read(seal) or "-").decode()
    except ValueError as error:
        raise NotFound("This link does not lead anywhere.") from error


def opt_out(email: str) -> None:
    """Stop all mail to this address, whoever the sender is; repeatable."""
    with transaction():
        suppression.suppress(email, NoMail.ASKED)
        audit.note("opt out")


def has_opted_out(email: str) -> bool:
    """Whether the owner of this address has opted out."""
    return suppression.has_asked(email)
