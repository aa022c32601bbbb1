"""A transfer's recipients with their own links, and the mails that are queued about a transfer.

News is a row in the outbox, written in the transaction that makes it true; services/outbox.py
sends it, with retries. Nothing here waits for a mail server, and no failure of a mail ever keeps a
transfer from being used.
"""

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, all_, cast, exists, func, literal, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from app import jobs
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import Invalid, NotFound, SenderNotAllowed, WrongState
from app.models import AbuseReport, MailKind, MailState, OutboxMail, Recipient, State, Transfer
from app.services import (
    accounts,
    audit,
    creating,
    dropped_mail,
    idempotency,
    mail_quotas,
    senders,
)
from app.services.accounts import Caller
from app.services.contents import FileSpec
from app.services.creating import Also, Created
from app.services.idempotency import Once
from app.services.transfers import lock_live, of_id

# Mails to a sender, who can switch off each kind.
TO_SENDER = (
    MailKind.SENT,
    MailKind.DOWNLOADED,
    MailKind.NOBODY_DOWNLOADED,
    MailKind.EXPIRES_SOON,
    MailKind.SOMEBODY_ASKS,
    MailKind.UNDELIVERABLE,
)
# Mails to people who did not ask for any; each mail has a permanent opt-out link.
TO_RECIPIENT = (MailKind.FILES_FOR_YOU, MailKind.REMINDER, MailKind.NEW_FILES)
# Events within this time of the first one are reported in the same mail.
TOGETHER = {
    MailKind.DOWNLOADED: timedelta(minutes=5),
    MailKind.UNDELIVERABLE: timedelta(minutes=2),
}
# The columns that a query passed to put() selects, in this order.
COLUMNS = ("id", "kind", "email", "transfer_id", "recipient_id", "about_id", "n")


# -- who gets it ---------------------------------------------------------------------------------


def set_recipients(transfer: Transfer, changes: dict[str, Any]) -> Transfer:
    """Set `recipients`, `sender_email` (with its `sender_token`), `notifications`: those given.

    `recipients` replaces the whole list: those no longer in it lose their links. Each is mailed
    once the files are there and the sender's address is confirmed, and only once however often
    this is repeated. Raises Invalid, TooMuchMail, SenderNotAllowed, Blocked, and Gone once the
    transfer has ended.
    """
    if not changes:
        return transfer
    wanted = _checked(transfer, changes)
    with transaction():
        row = lock_live(transfer.id)
        _set_sender(row, changes)
        if "notifications" in changes:
            kinds = TO_SENDER if changes["notifications"] is None else changes["notifications"]
            row.muted = [kind.value for kind in TO_SENDER if kind not in kinds]
        # flush(): the statements below count and copy what was just set.
        db.session.flush()
        if wanted is not None:
            mail_quotas.take_lock()
            _set_recipients(row.id, wanted)
        _ask(row)
        audit.note("address", row.id)
    return of_id(transfer.id)


def create(
    specs: Sequence[FileSpec],
    mail: dict[str, Any],
    *,
    caller: Caller | None = None,
    also: Sequence[Also] = (),
    **options: Any,
) -> Created:
    """Create a transfer with creating.create() and apply `mail` with set_recipients(), or neither.

    With a person's own key, that person is its confirmed sender, who is mailed no news of it;
    unless `mail` says otherwise: another sender has to be proven by it. Raises what both raise.
    """
    if caller is not None and caller.email is not None:
        mail = _from_person(caller.email, mail)
    if mail:
        said = tuple(f"{name}={mail[name]}" for name in sorted(mail) if name != "sender_token")
        also = [Also(lambda transfer: set_recipients(transfer, mail), said), *also]
    return creating.create(specs, caller=caller, **options, also=also)


def _from_person(email: str, mail: dict[str, Any]) -> dict[str, Any]:
    proof = {"sender_email": email, "sender_token": senders.word_of(email)}
    if not (named := mail.get("sender_email")):
        return {"notifications": [], **mail, **proof}
    if senders.checked(named, "sender_email") == email:
        return {**mail, **proof}
    if not mail.get("sender_token"):
        raise Invalid({"sender_token": senders.NOT_PROVEN})
    return mail


def recipients_of(transfer_id: uuid.UUID) -> list[Recipient]:
    """All recipients of a transfer, revoked ones too, in the order in which they were added."""
    found = db.session.scalars(
        select(Recipient)
        .where(Recipient.transfer_id == transfer_id)
        .order_by(Recipient.created_at, Recipient.email)
        .execution_options(populate_existing=True)
    )
    return list(found)


def state_of(recipient: Recipient) -> str:
    """The recipient's state in one word; what is certain takes precedence over what is likely."""
    reached = (
        ("revoked", recipient.revoked_at),
        ("downloaded", recipient.downloaded_at),
        ("failed", recipient.failed_at),
        ("opened", recipient.opened_at),
        ("sent", recipient.sent_at),
        ("waiting", recipient.asked_at),
    )
    return next((word for word, at in reached if at is not None), "unconfirmed")


def revoke(transfer: Transfer, recipient_id: uuid.UUID) -> None:
    """Revoke one recipient's link; repeatable. The others keep working. Raises NotFound."""
    with transaction():
        found = changed(
            update(Recipient)
            .where(Recipient.id == recipient_id, Recipient.transfer_id == transfer.id)
            .values(revoked_at=func.coalesce(Recipient.revoked_at, db_now()))
            .execution_options(synchronize_session=False)
        )
        if not found:
            raise NotFound("This transfer has no such recipient.")
        audit.note("revoke recipient", transfer.id)


def send_again(transfer: Transfer, recipient_id: uuid.UUID, once: Once | None = None) -> None:
    """Mail a recipient again, at most once an hour, even if the button is pressed twice.

    Raises NotFound, WrongState, TooMuchMail, SenderNotAllowed, KeyReused, Blocked, and Gone.
    """
    with transaction():
        if idempotency.made(once) is not None:
            return
        row = lock_live(transfer.id)
        mail_quotas.take_lock()
        one = db.session.scalar(
            select(Recipient)
            .where(Recipient.id == recipient_id, Recipient.transfer_id == transfer.id)
            .execution_options(populate_existing=True)
        )
        if one is None:
            raise NotFound("This transfer has no such recipient.")
        if one.revoked_at is not None or row.sender_confirmed_at is None:
            raise WrongState("This recipient cannot be mailed.")
        if _is_recent(one, _now()):
            raise WrongState("This recipient was mailed within the last hour.")
        one.asked_at, one.failed_at, one.failure = None, None, None
        _ask(row)
        idempotency.note(once, [one.id])
        audit.note("send again", row.id)


def _is_recent(one: Recipient, now: datetime) -> bool:
    return one.asked_at is not None and one.asked_at > now - mail_quotas.HOUR


def _now() -> datetime:
    """The database's time, for values that are written to rows and compared with theirs."""
    now: datetime = db.session.scalars(select(db_now())).one()
    return now


def _checked(transfer: Transfer, changes: dict[str, Any]) -> list[str] | None:
    """The recipients asked for, each once, or None if not given; raises Invalid for all errors."""
    if not settings.sends_mail:
        raise Invalid({next(iter(changes)): "cannot be used: this site sends no mail"})
    complaints: dict[str, str] = {}
    if changes.get("sender_email"):
        try:
            changes["sender_email"] = senders.checked(changes["sender_email"], "sender_email")
        except Invalid as error:
            complaints |= error.fields
    emails: dict[str, None] = {}
    for index, given in enumerate(changes.get("recipients", [])):
        try:
            emails[senders.checked(given, f"recipients.{index}")] = None
        except Invalid as error:
            complaints |= error.fields
    if len(emails) > settings.max_recipients:
        complaints["recipients"] = f"must be at most {settings.max_recipients}"
    sender = changes.get("sender_email", transfer.sender_email)
    word = changes.get("sender_token")
    if word and not (sender and senders.is_confirmed(sender, word)):
        complaints.setdefault("sender_token", senders.NOT_PROVEN)
    left = () if "recipients" in changes else recipients_of(transfer.id)
    if not sender and (emails or any(one.revoked_at is None for one in left)):
        complaints["sender_email"] = "is required where there are recipients"
    if complaints:
        raise Invalid(complaints)
    return list(emails) if "recipients" in changes else None


def _set_sender(row: Transfer, changes: dict[str, Any]) -> None:
    if "sender_email" in changes and changes["sender_email"] != row.sender_email:
        row.sender_email = changes["sender_email"] or None
        row.sender_confirmed_at = None
    if row.sender_email and senders.is_confirmed(row.sender_email, changes.get("sender_token")):
        row.sender_confirmed_at = row.sender_confirmed_at or _now()


def _set_recipients(transfer_id: uuid.UUID, wanted: Sequence[str]) -> None:
    now = _now()
    known = {one.email: one for one in recipients_of(transfer_id)}
    back = [one for one in known.values() if one.revoked_at is not None and one.email in wanted]
    # Mails that were dropped because the link was revoked. Before any recipient's row is locked:
    # settling a mail locks its row first and then its recipient's.
    dropped_mail.take_up(OutboxMail.recipient_id.in_([one.id for one in back]))
    for email, one in known.items():
        if email not in wanted:
            if one.asked_at is None:
                db.session.delete(one)
            else:
                one.revoked_at = one.revoked_at or now
    for one in back:
        # Mailed again only after an hour: otherwise removing and adding an address repeatedly
        # would mail it each time.
        one.asked_at = one.asked_at if _is_recent(one, now) else None
        one.revoked_at = one.failed_at = one.failure = None
    for email in wanted:
        if email not in known:
            slug = secrets.token_urlsafe(24)
            db.session.add(Recipient(transfer_id=transfer_id, email=email, slug=slug))


def _ask(row: Transfer) -> None:
    """Request a mail to each recipient without one: sent now, or once the files are there.

    Raises SenderNotAllowed for guests, who send to whoever has asked them for files, and for people
    who may not send any more. The operator vouches for what a workspace's programs send.
    """
    if row.sender_confirmed_at is None:
        return
    # flush(): the query below has to find recipients that were just added.
    db.session.flush()
    wanted = [one for one in recipients_of(row.id) if not (one.asked_at or one.revoked_at)]
    if wanted:
        may_send = senders.may_send(row.sender_email or "")
        if not may_send and not accounts.is_vouched_for(row.workspace_id):
            raise SenderNotAllowed
        mail_quotas.take_lock()
        mail_quotas.check(row, wanted)
        _note_asked(wanted)
        for one in wanted:
            one.ask_count += 1
        # flush(): announce() reads the rows.
        db.session.flush()
    if row.state is State.READY:
        announce(row.id)


# -- news ----------------------------------------------------------------------------------------


def announce(transfer_id: uuid.UUID) -> None:
    """Queue "files for you" to each recipient and "it is sent" to the sender: the files are there.

    Call in transaction(). Repeating it adds nothing.
    """
    if not settings.sends_mail:
        return
    count = put(announcement().where(Recipient.transfer_id == transfer_id))
    if tell_sender(transfer_id, MailKind.SENT, n=1) or count:
        dropped_mail.remind()


def check_news(row: Transfer) -> None:
    """Check that all recipients may be mailed once more, and count that against the quotas.

    Raises Invalid where no mail is sent at all, and TooMuchMail. Call after lock_live().
    """
    if not settings.sends_mail:
        raise Invalid({"tell_recipients": "cannot be used: this site sends no mail"})
    mail_quotas.take_lock()
    wanted = [one for one in recipients_of(row.id) if one.asked_at and not one.revoked_at]
    if row.sender_confirmed_at is None or not wanted:
        return
    mail_quotas.check(row, wanted)
    _note_asked(wanted)


def _note_asked(wanted: Sequence[Recipient]) -> None:
    """Count a mail to each against the quotas, which mail_quotas.check() has found to allow it."""
    now = _now()
    for one in wanted:
        one.asked_at, one.address_hash = now, audit.actor.get()


def announce_more(transfer_id: uuid.UUID, number: int) -> None:
    """Queue "new files" for batch `number` to each recipient, but not twice within an hour.

    Call in transaction(). Repeating it adds nothing.
    """
    if not settings.sends_mail:
        return
    recent = aliased(OutboxMail)
    is_told = exists().where(
        recent.about_id == Recipient.id,
        recent.kind == MailKind.NEW_FILES,
        recent.created_at > db_now() - mail_quotas.HOUR,
    )
    news = select(
        func.gen_random_uuid(),
        kind_of(MailKind.NEW_FILES),
        Recipient.email,
        Recipient.transfer_id,
        Recipient.id,
        Recipient.id,
        literal(number),
    )
    if put(_to_those_asked(news).where(Recipient.transfer_id == transfer_id, ~is_told)):
        jobs.SEND_MAIL.later()


def announcement() -> Any:
    """The query, for put(), of "files for you" to all recipients who are to be mailed."""
    return _to_those_asked(
        select(
            func.gen_random_uuid(),
            kind_of(MailKind.FILES_FOR_YOU),
            Recipient.email,
            Recipient.transfer_id,
            Recipient.id,
            Recipient.id,
            Recipient.ask_count,
        )
    )


def _to_those_asked(news: Any) -> Any:
    """Restrict a query on recipients to those who are to be mailed at all."""
    return news.join(Transfer, Transfer.id == Recipient.transfer_id).where(
        Recipient.asked_at.is_not(None),
        Recipient.revoked_at.is_(None),
        Transfer.sender_confirmed_at.is_not(None),
    )


def note_opened(recipient_id: uuid.UUID) -> None:
    """Record that a page was opened by this recipient's link; only the first time counts.

    Only a hint: programs that scan mails for people may open it too.
    """
    with transaction():
        db.session.execute(
            update(Recipient)
            .where(Recipient.id == recipient_id, Recipient.opened_at.is_(None))
            .values(opened_at=db_now())
            .execution_options(synchronize_session=False)
        )


def note_download(transfer_id: uuid.UUID, recipient_id: uuid.UUID | None) -> None:
    """Record a counted download; the sender is told of each recipient's first one.

    The transfer's own link may be anybody's: a download by it is told only if it is the transfer's
    very first. Call in transaction().
    """
    if recipient_id is None:
        count = db.session.scalar(select(Transfer.download_count).where(Transfer.id == transfer_id))
    else:
        count = changed(
            update(Recipient)
            .where(Recipient.id == recipient_id, Recipient.downloaded_at.is_(None))
            .values(downloaded_at=db_now(), opened_at=func.coalesce(Recipient.opened_at, db_now()))
            .execution_options(synchronize_session=False)
        )
    if count == 1:
        tell_sender(transfer_id, MailKind.DOWNLOADED)


def pass_on_question(transfer: Transfer, words: str) -> bool:
    """Mail the sender that somebody asks for more, with a link that grants it.

    At most once an hour; True if this question is mailed.
    """
    hour = select(func.extract("epoch", db_now()) / 3600).scalar_subquery()
    with transaction():
        told = tell_sender(transfer.id, MailKind.SOMEBODY_ASKS, n=func.floor(hour), words=words)
        if told:
            jobs.SEND_MAIL.later()
    return told


def tell_sender(transfer_id: uuid.UUID, kind: MailKind, *, n: Any = None, words: str = "") -> bool:
    """Queue one mail to a sender who is confirmed and wants this kind. Call in transaction().

    With `n`, there is only one mail of that number. Without it, a mail that is still waiting
    covers this event too, because its contents are looked up when it is sent (TOGETHER). True if a
    mail reports this event.
    """
    if not settings.sends_mail:
        return False
    if n is None:
        if is_waiting(transfer_id, kind):
            return True
        n = next_number(transfer_id, kind)
    nobody = cast(null(), OutboxMail.recipient_id.type)
    news = select(
        func.gen_random_uuid(),
        kind_of(kind),
        Transfer.sender_email,
        Transfer.id,
        nobody,
        Transfer.id,
        n,
    ).where(
        Transfer.id == transfer_id,
        Transfer.sender_confirmed_at.is_not(None),
        is_wanted(kind),
    )
    return put(news, words=words, later=TOGETHER.get(kind, timedelta(0))) == 1


def is_waiting(about_id: uuid.UUID, kind: MailKind) -> bool:
    """Whether such a mail is still waiting, and will tell all that is true when it is sent.

    Call in transaction(): a worker claims it either after our commit, or before, and then it is
    not waiting.
    """
    is_untouched = (OutboxMail.state == MailState.WAITING) & (OutboxMail.attempt_count == 0)
    waiting = select(OutboxMail.id).where(_is_about(about_id, kind), is_untouched)
    return db.session.scalars(waiting.with_for_update()).first() is not None


def next_number(about_id: uuid.UUID, kind: MailKind) -> ColumnElement[int]:
    """The number of the next mail of this kind, as a column of a query for put()."""
    last = select(func.coalesce(func.max(OutboxMail.n), 0)).where(_is_about(about_id, kind))
    return last.scalar_subquery() + 1


def _is_about(about_id: uuid.UUID, kind: MailKind) -> ColumnElement[bool]:
    return (OutboxMail.about_id == about_id) & (OutboxMail.kind == kind)


def put(news: Any, *, words: str = "", later: timedelta = timedelta(0)) -> int:
    """Add the rows of a query to the outbox, except those already there; returns how many."""
    rows = news.add_columns(literal(words), db_now() + later)
    added = insert(OutboxMail).from_select(
        [*COLUMNS, "words", "due_at"], rows, include_defaults=False
    )
    return changed(added.on_conflict_do_nothing())


def tell_operator(report: AbuseReport) -> None:
    """Mail a report to ABUSE_CONTACT or, if that is no e-mail address, to all ADMIN_EMAILS.

    Call in transaction().
    """
    contact = settings.abuse_contact
    is_address = "@" in contact and "://" not in contact
    emails = [contact] if is_address else settings.admin_emails
    if not (settings.sends_mail and emails):
        return
    mails = [
        {
            "id": uuid.uuid4(),
            "kind": MailKind.REPORTED,
            "email": email,
            "transfer_id": report.transfer_id,
            # One of its own for each address: a mail is unique by what it is about, and `n`.
            "about_id": uuid.uuid4(),
            "n": report.id,
        }
        for email in emails
    ]
    db.session.execute(insert(OutboxMail), mails)
    jobs.SEND_MAIL.later()


def is_wanted(kind: MailKind) -> Any:
    """The condition that a transfer's sender has not switched this kind off."""
    return literal(kind.value) != all_(Transfer.muted)


def kind_of(kind: MailKind) -> Any:
    """The kind as a column of a query for put()."""
    # Cast because PostgreSQL would take it for text in an INSERT ... SELECT.
    return cast(literal(kind.value), OutboxMail.kind.type)
