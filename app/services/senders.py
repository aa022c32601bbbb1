"""Confirms a sender's e-mail address: a code by mail, then a signed token as the proof.

No mail is sent for a sender who has not entered the code. The token is kept by the sender's
browser or script and is not stored here. Signing in (sign_ins.py) uses codes of its own.
"""

import hmac
import secrets
import uuid
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select, update

from app import addresses, clock, jobs
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import Invalid, SenderNotAllowed
from app.models import MailKind, NoMail, OutboxMail, SenderCode
from app.seals import Seal
from app.services import audit, mail_quotas, suppression

CODE_MINUTES = 15
MOST_TRIES = 5
# How many of these may come from other networks than the one that asked for the code: the others
# are kept for whoever asked, who would otherwise be locked out by anybody who knows the address.
MOST_STRANGER_TRIES = 2
REMEMBERED_DAYS = 90
# How long a page of somebody who stays signed in can be used to begin a transfer.
PAGE_DAYS = 7
NOT_PROVEN = "does not prove this address: confirm it again"
# An address gets at most 5 codes an hour, of both kinds together (MAX_MAILS_PER_RECIPIENT_PER_HOUR
# by default), each with MOST_TRIES: a stranger who asks for codes all the time guesses one with a
# chance of 25 in 10**DIGITS an hour, and one of any address at all, with the 1,000 mails that an
# installation sends, of 5,000. With six digits that would be 1 in 200 for a token that, where only
# some may send (SENDERS), is the permission to; with eight it is 1 in 20,000.
DIGITS = 8
_NO_LONGER_GOOD = "is no longer valid: ask for a new one"
_seal = Seal("sender")
_page_seal = Seal("sender's page")


def mail_code(given: str, *, signs_in: bool = False) -> uuid.UUID:
    """Mail a code to an address, valid for CODE_MINUTES; returns its id. Raises Invalid,
    TooMuchMail.

    An address that has opted out gets at most one a day, and one that has complained gets none;
    the caller is not told.
    """
    email = checked(given, "email")
    with transaction():
        mail_quotas.take_lock()
        mail_quotas.check_codes(email)
        network = audit.actor.get()
        code = SenderCode(id=uuid.uuid4(), email=email, address_hash=network, signs_in=signs_in)
        db.session.add(code)
        if _may_have_code(email):
            db.session.add(OutboxMail(kind=MailKind.CODE, email=email, about_id=code.id))
        audit.note("mail code")
        jobs.SEND_MAIL.later()
    return code.id


def _may_have_code(email: str) -> bool:
    """Whether to mail a code: a stranger can ask for one, but so can a sender who has opted out."""
    why = suppression.reason_of(email)
    if why is NoMail.ASKED:
        return not mail_quotas.had_code(email)
    return why is not NoMail.COMPLAINED


def confirm(given: str, figures: str) -> str:
    """Check a code; returns the token that proves the address from now on. Raises Invalid.

    Of its tries, MOST_STRANGER_TRIES are open to other networks than the one that asked for it.
    """
    email = checked(given, "email")
    has_tries = or_(_is_asked_here(), SenderCode.stranger_try_count < MOST_STRANGER_TRIES)
    mine = and_(SenderCode.email == email, ~SenderCode.signs_in, has_tries)
    use(figures, mine, action="confirm address")
    return _seal.of(f"{_in(timedelta(days=REMEMBERED_DAYS))}:{email}")


def _in(life: timedelta) -> int:
    return int((clock.now() + life).timestamp())


def use(figures: str, which: ColumnElement[bool], *, action: str) -> SenderCode:
    """Use up the one of these codes that has these digits, and record the action. Raises Invalid.

    The try is counted first, whatever its result: each code allows MOST_TRIES of them.
    """
    with transaction():
        tried = db.session.scalars(
            update(SenderCode)
            .where(which, is_alive(), SenderCode.try_count < MOST_TRIES)
            .values(
                try_count=SenderCode.try_count + 1,
                stranger_try_count=SenderCode.stranger_try_count
                + case((_is_asked_here(), 0), else_=1),
            )
            .returning(SenderCode)
            .execution_options(synchronize_session=False)
        ).all()
    if not tried:
        raise Invalid({"code": _NO_LONGER_GOOD})
    right = next((one for one in tried if _is_code(one, figures)), None)
    if right is None:
        raise Invalid({"code": "is not the one that was mailed"})
    with transaction():
        if not changed(
            update(SenderCode)
            .where(SenderCode.id == right.id, SenderCode.used_at.is_(None))
            .values(used_at=db_now())
            .execution_options(synchronize_session=False)
        ):
            raise Invalid({"code": _NO_LONGER_GOOD})
        # Having read the code proves that the mailbox works, in spite of an earlier bounce.
        suppression.lift(right.email, NoMail.BOUNCED)
        audit.note(action)
    return right


def _is_asked_here() -> ColumnElement[bool]:
    """The condition that a code was asked for in the network that this request comes from."""
    return SenderCode.address_hash.is_not_distinct_from(audit.actor.get())


def is_alive() -> ColumnElement[bool]:
    """The condition that a code can still be used, if there are tries left."""
    since = db_now() - timedelta(minutes=CODE_MINUTES)
    return and_(SenderCode.used_at.is_(None), SenderCode.created_at > since)


def is_confirmed(email: str, word: str | None) -> bool:
    """Whether the token `word` proves this address, has not expired and, if it is a page's, stands
    for a sign-in that has not ended: that is a query, which other tokens do without.
    """
    until, _, proved = (_seal.read(word or "") or "").partition(":")
    if proved == email:
        return int(until) > clock.now().timestamp()
    until, _, named = (_page_seal.read(word or "") or "").partition(":")
    code_id, _, proved = named.partition(":")
    if proved != email or int(until) <= clock.now().timestamp():
        return False
    lasts = and_(SenderCode.id == uuid.UUID(code_id), SenderCode.signed_out_at.is_(None))
    return bool(db.session.scalar(select(exists().where(lasts))))


def may_send(email: str) -> bool:
    """Whether the owner of this address may send files without an API key (SENDERS)."""
    allowed = settings.senders
    return not allowed or email in allowed or f"@{email.rpartition('@')[2]}" in allowed


def may_have_keys(email: str) -> bool:
    """Whether the owner of this address may make API keys (own_keys.py), and use them.

    Only if SENDERS names them. Where everybody may send, scripts need no key, and strangers must
    not get what one gives: assets that are kept for ever, and uploads that are counted for no
    network address.
    """
    return gives_keys() and may_send(email)


def gives_keys() -> bool:
    """Whether anybody may make API keys here without the operator."""
    return settings.sends_mail and bool(settings.senders)


def check_may_send(email: str | None, word: str | None) -> None:
    """Check that whoever names this address, with the token `word` as proof, may send files.

    Where everyone may, nothing is asked for. Raises SenderNotAllowed; and Invalid if the token is
    not good, for every address: nobody learns which ones may send without reading their mail.
    """
    if not settings.senders:
        return
    if not email:
        raise SenderNotAllowed
    email = checked(email, "sender_email")
    if not is_confirmed(email, word):
        raise Invalid({"sender_token": NOT_PROVEN})
    if not may_send(email):
        raise SenderNotAllowed


def take_turn(email: str) -> None:
    """Let one transaction after the other make something for this address, so that what is counted
    for it cannot change meanwhile. Call in transaction().
    """
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(email, 0))))


def word_of(email: str) -> str:
    """A token that proves this address, for use at once: the caller must have proven it."""
    return _seal.of(f"{_in(timedelta(minutes=1))}:{email}")


def page_word(email: str, code_id: uuid.UUID) -> str:
    """A token that proves this address, for a page of whoever has signed in with this code: for
    PAGE_DAYS, or until that sign-in ends.
    """
    return _page_seal.of(f"{_in(timedelta(days=PAGE_DAYS))}:{code_id}:{email}")


def code_of(code: SenderCode, key: str | None = None) -> str:
    """The digits of a code, derived from our key, so that they are not stored."""
    purpose = "sign in" if code.signs_in else "code"
    secret = (key or settings.secret_key).encode()
    made = hmac.digest(secret, f"{purpose}:{code.id}".encode(), "sha256")
    return f"{int.from_bytes(made, 'big') % 10**DIGITS:0{DIGITS}}"


def _is_code(code: SenderCode, figures: str) -> bool:
    given = "".join(figures.split()).encode()
    keys = (settings.secret_key, *settings.secret_key_fallbacks)
    return any(secrets.compare_digest(code_of(code, key).encode(), given) for key in keys)


def checked(given: str, field: str) -> str:
    """The address in normalised form; raises Invalid for this field."""
    try:
        return addresses.normalised(given)
    except addresses.NotAnAddress as error:
        raise Invalid({field: "is not an e-mail address"}) from error
