"""What the links in mails open: a transfer to manage, more time for it, and no mail any more.

Nothing of them is stored: they are signed, and made again for each mail.
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
from app.services import audit, extension_requests, suppression, unsent
from app.services.transfers import not_deleted, of_id, refuse_blocked

# A limit that is used up is raised by so many when its sender gives more time.
MORE_DOWNLOADS = 5
_manage_seal = Seal("manage")
_extend_seal = Seal("extend")
_opt_out_seal = Seal("opt out")


def manage_token(transfer_id: uuid.UUID) -> str:
    """What a mail to the sender carries in its manage link: made for each, stored nowhere."""
    return _manage_seal.of(f"{transfer_id}")


def managed(token: str) -> Transfer:
    """The transfer that a mailed manage link is for; raises NotFound, and Gone once deleted."""
    return _sealed(_manage_seal, token)


def extend_seal(transfer_id: uuid.UUID) -> str:
    """What a mail carries in its link that gives a transfer more time."""
    return _extend_seal.of(f"{transfer_id}")


def to_extend(seal: str) -> Transfer:
    """The transfer that such a link is for; raises NotFound, and Gone once deleted."""
    return _sealed(_extend_seal, seal)


def _sealed(seal: Seal, token: str) -> Transfer:
    try:
        transfer_id = uuid.UUID(seal.read(token) or "")
    except ValueError as error:
        raise NotFound("This link does not lead to anything.") from error
    return not_deleted(of_id(transfer_id))


def extend(transfer: Transfer) -> Transfer:
    """As many days from now as a new link has, and more downloads where they are used up.

    Revives what has expired while its bytes are kept. Repeating it adds nothing. Raises Gone,
    WrongState before the files are there.
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
            unsent.take_up_left_out(transfer.id)
    fresh = of_id(transfer.id)
    if not done:
        refuse_blocked(fresh)
        not_deleted(fresh)
        if fresh.state is State.EXPIRED:
            raise Gone("This has expired, and its files are being removed.", reason="expired")
        raise WrongState("The files of this transfer have not arrived completely yet.")
    return fresh


def _is_kept() -> Any:
    # From PROCESSING a transfer becomes READY too, but not by this door.
    return (Transfer.state == State.EXPIRED) & ~lifecycle.is_past_grace()


def opt_out_seal(email: str) -> str:
    """What a mail carries in its link against further ones."""
    return _opt_out_seal.of(email.encode().hex())


def opting_out(seal: str) -> str:
    """The address that such a link is for; raises NotFound."""
    try:
        return bytes.fromhex(_opt_out_seal.read(seal) or "-").decode()
    except ValueError as error:
        raise NotFound("This link does not lead to anything.") from error


def opt_out(email: str) -> None:
    """No mail to this address any more, whoever sends; repeatable."""
    with transaction():
        suppression.suppress(email, NoMail.ASKED)
        audit.note("opt out")


def has_opted_out(email: str) -> bool:
    """Whether this address wants no mail from here."""
    return suppression.has_asked(email)
