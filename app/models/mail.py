"""Recipients, the outbox of mails, opt-outs, and sender codes."""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.columns import Instant, enum_of
from app.models.kinds import MailKind, MailState, NoMail


class Recipient(Base):
    """One recipient of a transfer, identified by their own link."""

    __tablename__ = "recipients"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    # In lower case, so that one person is one row.
    email: Mapped[str] = mapped_column(Text)
    # Like the transfer's own slug, and as secret: `/d/<slug>`.
    slug: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When a mail was last requested, and from which network: counted by the limits.
    asked_at: Mapped[datetime | None] = mapped_column(Instant)
    ask_count: Mapped[int] = mapped_column(default=0, server_default="0")
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    sent_at: Mapped[datetime | None] = mapped_column(Instant)
    # Only a hint: mail scanners open links too. A download is the only reliable sign.
    opened_at: Mapped[datetime | None] = mapped_column(Instant)
    downloaded_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    failed_at: Mapped[datetime | None] = mapped_column(Instant)
    failure: Mapped[str | None] = mapped_column(Text)
    # The mails that tell the sender of the download and of the failure: each is told only once.
    download_told_in: Mapped[uuid.UUID | None]
    failure_told_in: Mapped[uuid.UUID | None]

    __table_args__ = (
        CheckConstraint("(failed_at IS NULL) = (failure IS NULL)", name="failure_is_whole"),
        CheckConstraint("ask_count >= 0", name="ask_count_not_negative"),
        Index("uq_recipients_transfer_id_email", "transfer_id", "email", unique=True),
        Index("ix_recipients_email", "email", "asked_at"),
        Index("ix_recipients_address_hash", "address_hash", "asked_at"),
    )


class OutboxMail(Base):
    """One mail to one address, inserted in the transaction that causes it (outbox pattern).

    Holds only what is stored nowhere else, and no secrets: links and codes are made on sending.
    """

    __tablename__ = "outbox_mails"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    kind: Mapped[MailKind] = mapped_column(enum_of(MailKind, "mail_kind"))
    email: Mapped[str] = mapped_column(Text)
    transfer_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE")
    )
    recipient_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("recipients.id", ondelete="CASCADE")
    )
    # The recipient, transfer or code it is about, and its number among those of the same kind:
    # together with `kind` unique, so that no mail is queued twice.
    about_id: Mapped[uuid.UUID]
    n: Mapped[int] = mapped_column(default=1, server_default="1")
    # The text of a recipient's question; emptied once it is sent.
    words: Mapped[str] = mapped_column(Text, default="", server_default="")
    state: Mapped[MailState] = mapped_column(
        enum_of(MailState, "mail_state"), default=MailState.WAITING, server_default="WAITING"
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    # When to try (again). The worker sending it sets this later, so that others leave it alone.
    due_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # When it was last handed to a mail server, whatever the outcome: counted by the limits.
    handed_at: Mapped[datetime | None] = mapped_column(Instant)
    sent_at: Mapped[datetime | None] = mapped_column(Instant)
    failure: Mapped[str | None] = mapped_column(Text)
    # If it goes through a topic, it is not published again before this: a listener should have
    # received it by then.
    publish_after: Mapped[datetime | None] = mapped_column(Instant)
    # The mail server's own message id, if it returned one: a bounce refers to the mail by it.
    server_id: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("state <> 'SENT' OR sent_at IS NOT NULL", name="sent_has_instant"),
        Index("uq_outbox_mails_once", "about_id", "kind", "n", unique=True),
        Index("ix_outbox_mails_due", "due_at", postgresql_where=text("state = 'WAITING'")),
        Index("ix_outbox_mails_email", "email", "handed_at"),
        Index("ix_outbox_mails_handed_at", "handed_at"),
        Index("ix_outbox_mails_transfer_id", "transfer_id"),
        Index("ix_outbox_mails_recipient_id", "recipient_id"),
        Index(
            "ix_outbox_mails_server_id",
            "server_id",
            postgresql_where=text("server_id IS NOT NULL"),
        ),
    )


class OptOut(Base):
    """An address that gets no more mail, as a keyed hash, and why; kept permanently."""

    __tablename__ = "opt_outs"

    email_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    reason: Mapped[NoMail] = mapped_column(
        enum_of(NoMail, "no_mail"), default=NoMail.ASKED, server_default="asked"
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (CheckConstraint("octet_length(email_hash) = 32", name="email_is_hash"),)


class SenderCode(Base):
    """A code mailed to an address; its digits are derived from the id and our secret key.

    One that signs in is, once used, the sign-in itself: the row is kept for as long as it lasts.
    """

    __tablename__ = "sender_codes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(Text)
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())
    try_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # How many of these came from other networks than the one that asked for the code.
    stranger_try_count: Mapped[int] = mapped_column(default=0, server_default="0")
    used_at: Mapped[datetime | None] = mapped_column(Instant)
    # What it is for: to sign in, or to confirm a sender's address. It is good for nothing else.
    signs_in: Mapped[bool] = mapped_column(default=False, server_default="false")
    signed_out_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("try_count >= 0", name="try_count_not_negative"),
        Index("ix_sender_codes_email", "email", "created_at"),
        Index("ix_sender_codes_address_hash", "address_hash", "created_at"),
    )
