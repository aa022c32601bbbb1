"""Confirms a sender's e-mail address: a six-digit code by mail, then a signed token as the proof.

No mail is sent for a sender who has not entered the code. The token is kept by the sender's
browser or script and is not stored here.
"""

import hmac
import secrets
import uuid
from datetime import timedelta

from sqlalchemy import update

from app import addresses, clock, jobs
from app.clock import db_now
from app.config import settings
from app.db import db, transaction
from app.errors import Invalid
from app.models import MailKind, NoMail, OutboxMail, SenderCode
from app.seals import Seal
from app.services import audit, mail_quotas, suppression

CODE_MINUTES = 15
MOST_TRIES = 5
REMEMBERED_DAYS = 90
_seal = Seal("sender")


def mail_code(given: str) -> None:
    """Mail a six-digit code to an address, valid for CODE_MINUTES. Raises Invalid, TooMuchMail.

    An address that has opted out gets at most one a day, and one that has complained gets none;
    the caller is not told.
    """
    email = checked(given, "email")
    with transaction():
        mail_quotas.take_lock()
        mail_quotas.check_codes(email)
        code = SenderCode(id=uuid.uuid4(), email=email, address_hash=audit.actor.get())
        db.session.add(code)
        if _may_have_code(email):
            db.session.add(OutboxMail(kind=MailKind.CODE, email=email, about_id=code.id))
        audit.note("mail code")
        jobs.SEND_MAIL.later()


def _may_have_code(email: str) -> bool:
    """Whether to mail a code: a stranger can ask for one, but so can a sender who has opted out."""
    why = suppression.reason_of(email)
    if why is NoMail.ASKED:
        return not mail_quotas.had_code(email)
    return why is not NoMail.COMPLAINED


def confirm(given: str, figures: str) -> str:
    """Check a code; returns the token that proves the address from now on. Raises Invalid.

    The try is counted first, whatever its result: each code allows MOST_TRIES of them.
    """
    email = checked(given, "email")
    with transaction():
        tried = db.session.scalars(
            update(SenderCode)
            .where(
                SenderCode.email == email,
                SenderCode.used_at.is_(None),
                SenderCode.try_count < MOST_TRIES,
                SenderCode.created_at > db_now() - timedelta(minutes=CODE_MINUTES),
            )
            .values(try_count=SenderCode.try_count + 1)
            .returning(SenderCode.id)
            .execution_options(synchronize_session=False)
        ).all()
    if not tried:
        raise Invalid({"code": "is no longer good: ask for another one"})
    if not (right := [one for one in tried if _is_code_of(one, figures)]):
        raise Invalid({"code": "is not the one that was mailed"})
    with transaction():
        db.session.execute(
            update(SenderCode).where(SenderCode.id.in_(right)).values(used_at=db_now())
        )
        # Having read the code proves that the mailbox works, in spite of an earlier bounce.
        suppression.lift(email, NoMail.BOUNCED)
        audit.note("confirm address")
    until = clock.now() + timedelta(days=REMEMBERED_DAYS)
    return _seal.of(f"{int(until.timestamp())}:{email}")


def is_confirmed(email: str, word: str | None) -> bool:
    """Whether the token `word` proves this address and has not expired."""
    until, _, proved = (_seal.read(word or "") or "").partition(":")
    return proved == email and int(until) > clock.now().timestamp()


def code_of(code_id: uuid.UUID, key: str | None = None) -> str:
    """The six digits, derived from our key, so that they are not stored."""
    made = hmac.digest((key or settings.secret_key).encode(), f"code:{code_id}".encode(), "sha256")
    return f"{int.from_bytes(made, 'big') % 1_000_000:06}"


def _is_code_of(code_id: uuid.UUID, figures: str) -> bool:
    given = "".join(figures.split()).encode()
    keys = (settings.secret_key, *settings.secret_key_fallbacks)
    return any(secrets.compare_digest(code_of(code_id, key).encode(), given) for key in keys)


def checked(given: str, field: str) -> str:
    """The address in normalised form; raises Invalid for this field."""
    try:
        return addresses.normalised(given)
    except addresses.NotAnAddress as error:
        raise Invalid({field: "is no e-mail address"}) from error
