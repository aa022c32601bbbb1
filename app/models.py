"""The tables. Constraints make illegal rows impossible; no I/O and no JSON here.

A Transfer has Files; a File has one Upload, which is one object on its way to the bucket.
An Upload that nobody wants any more is ABORTED, and the upkeep removes its bytes.
"""

import enum
import uuid
from datetime import date, datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.config import (
    PREVIEW_TEXT_SIZE,
    S3_MAX_OBJECT_SIZE,
    S3_MAX_PART_SIZE,
    S3_MAX_PARTS,
    S3_MIN_PART_SIZE,
)
from app.db import Base


class State(enum.StrEnum):
    """The life of a transfer; `lifecycle.MAY_BECOME` says what may follow what."""

    INIT = "INIT"
    PROCESSING = "PROCESSING"
    READY = "READY"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"


class UploadState(enum.StrEnum):
    """OPEN until storage holds all of it and we have checked; ABORTED when its bytes must go."""

    OPEN = "OPEN"
    COMPLETE = "COMPLETE"
    ABORTED = "ABORTED"


class Method(enum.StrEnum):
    """How the bytes travel: one PUT that can never overwrite, or a multipart upload."""

    SINGLE = "single"
    MULTIPART = "multipart"


class Problem(enum.StrEnum):
    """Why a file could not be taken as it was; its sender sends it, or what is missing, again."""

    MISSING = "missing"
    WRONG_SIZE = "wrong_size"
    DAMAGED = "damaged"
    LOST = "lost"


class Checksum(enum.StrEnum):
    """What a sender may have its bytes verified by, as S3 spells it."""

    CRC32 = "CRC32"


class ZipFailure(enum.StrEnum):
    """Why the zip of a transfer could not be made."""

    FILE_LOST = "file_lost"
    STORAGE = "storage"
    INTERNAL = "internal"


class Sight(enum.StrEnum):
    """What kind of thing may be seen or heard of a file without downloading it."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    PDF = "pdf"
    TEXT = "text"


class PreviewState(enum.StrEnum):
    """WAITING until a worker has looked at the file; NONE when there is nothing to be seen."""

    WAITING = "WAITING"
    MADE = "MADE"
    NONE = "NONE"


class MailKind(enum.StrEnum):
    """Every mail there is; each has a folder of its own below templates/mail."""

    FILES_FOR_YOU = "files_for_you"
    REMINDER = "reminder"
    SENT = "sent"
    DOWNLOADED = "downloaded"
    NOBODY_DOWNLOADED = "nobody_downloaded"
    EXPIRES_SOON = "expires_soon"
    SOMEBODY_ASKS = "somebody_asks"
    UNDELIVERABLE = "undeliverable"
    CODE = "code"
    REPORTED = "reported"


class MailState(enum.StrEnum):
    """WAITING until a mail server has it; DROPPED when it was no longer true, or not wanted."""

    WAITING = "WAITING"
    SENT = "SENT"
    FAILED = "FAILED"
    DROPPED = "DROPPED"


class Scope(enum.StrEnum):
    """What an API key may do; each may do what those before it may."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Failure(enum.StrEnum):
    """Why checking a transfer was given up; its sender may say "that is all" again."""

    STORAGE = "storage"
    INTERNAL = "internal"


class Ending(enum.StrEnum):
    """What keeps a recipient from the files, where their sender could still change that."""

    EXPIRED = "expired"
    LIMIT_REACHED = "limit_reached"


class Harm(enum.StrEnum):
    """What somebody says is wrong with what a link holds."""

    MALWARE = "malware"
    PHISHING = "phishing"
    COPYRIGHT = "copyright"
    ILLEGAL = "illegal"
    OTHER = "other"


def _enum(kind: type[enum.Enum], name: str) -> Enum:
    return Enum(kind, name=name, values_callable=lambda members: [m.value for m in members])


_Instant = DateTime(timezone=True)


class Leased:
    """A row that is worked on in the background: when that was queued, and who is at it."""

    # When its job was last put into the queue and how often, so that a sweep does not pile up
    # reminders and each can be told from the last.
    queued_at: Mapped[datetime | None] = mapped_column(_Instant)
    queue_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # Who is working on it and until when (app/leases.py).
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None] = mapped_column(_Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")


class Workspace(Base):
    """Whom API keys belong to, and all that was made with them."""

    __tablename__ = "workspaces"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())

    __table_args__ = (CheckConstraint("name <> ''", name="name_not_empty"),)


class ApiKey(Base):
    """A program's key to one workspace. It is shown once; what is kept here opens nothing."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    # The beginning of the key, by which its row is found and people tell it from others.
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    # SHA-256 of the whole: with 256 random bits in it, a plain hash is enough (ASVS 6.5.2).
    key_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scope: Mapped[Scope] = mapped_column(_enum(Scope, "api_scope"))
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    last_used_at: Mapped[datetime | None] = mapped_column(_Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(_Instant)

    workspace: Mapped[Workspace] = relationship(lazy="raise")

    __table_args__ = (CheckConstraint("octet_length(key_hash) = 32", name="key_is_sha256"),)


class Transfer(Leased, Base):
    """What one sender sends: files under one link."""

    __tablename__ = "transfers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    # SHA-256 of the owner token: with 256 random bits in it, a plain hash is enough (ASVS 6.5.2).
    owner_token_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    state: Mapped[State] = mapped_column(_enum(State, "transfer_state"), default=State.INIT)
    title: Mapped[str] = mapped_column(Text, default="", server_default="")
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    expires_at: Mapped[datetime] = mapped_column(_Instant)
    max_downloads: Mapped[int | None]
    # argon2id, as app/passwords.py writes it; null for a link that opens for whoever has it.
    password_hash: Mapped[str | None] = mapped_column(Text)
    download_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # The sender's own word on how much is safe: shown to the recipient, believed by nobody.
    sent_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    last_activity_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    ready_at: Mapped[datetime | None] = mapped_column(_Instant)
    expired_at: Mapped[datetime | None] = mapped_column(_Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(_Instant)
    # When what people wrote was removed from a DELETED one (services/tombstones.py).
    forgotten_at: Mapped[datetime | None] = mapped_column(_Instant)
    # Blocked by the operator, whatever its state: nobody is given anything (services/abuse.py).
    quarantined_at: Mapped[datetime | None] = mapped_column(_Instant)

    # SHA-256 of the sender's Idempotency-Key and of the request it came with: the same request
    # again, because its answer was lost, is answered with the same transfer.
    idempotency_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32), unique=True)
    request_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    # A keyed hash of the address it came from: only to count how many one address has open.
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))

    # Whose it is where a program made it by its key, and for which of that program's own users.
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"))
    user_identifier: Mapped[str | None] = mapped_column(Text)

    # Why the last attempt at checking failed; shown once it has been given up.
    failure: Mapped[Failure | None] = mapped_column(_enum(Failure, "transfer_failure"))

    # Who sends it, in lower case; mail goes out only once that address is known to be the sender's.
    sender_email: Mapped[str | None] = mapped_column(Text)
    sender_confirmed_at: Mapped[datetime | None] = mapped_column(_Instant)
    # The kinds of mail that the sender does not want: whatever comes to be later is wanted.
    muted: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list, server_default="{}")

    files: Mapped[list["File"]] = relationship(
        back_populates="transfer", order_by="File.position", passive_deletes=True, lazy="raise"
    )

    __table_args__ = (
        CheckConstraint("octet_length(owner_token_hash) = 32", name="owner_token_is_sha256"),
        CheckConstraint("max_downloads >= 1", name="max_downloads_positive"),
        CheckConstraint("password_hash LIKE '$argon2id$%'", name="password_is_argon2id"),
        CheckConstraint("download_count >= 0", name="download_count_not_negative"),
        CheckConstraint("download_count <= max_downloads", name="downloads_within_limit"),
        CheckConstraint("sent_size >= 0", name="sent_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint(
            "(idempotency_hash IS NULL) = (request_hash IS NULL)", name="idempotency_is_whole"
        ),
        CheckConstraint(
            "user_identifier IS NULL OR workspace_id IS NOT NULL", name="user_has_workspace"
        ),
        CheckConstraint("state <> 'READY' OR ready_at IS NOT NULL", name="ready_has_instant"),
        CheckConstraint("state <> 'DELETED' OR deleted_at IS NOT NULL", name="deleted_has_instant"),
        CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        CheckConstraint(
            "sender_confirmed_at IS NULL OR sender_email IS NOT NULL", name="confirmed_has_sender"
        ),
        # For counting what one sender has sent, and for those whose senders hear of nothing.
        Index(
            "ix_transfers_sender_email",
            "sender_email",
            postgresql_where=text("sender_email IS NOT NULL"),
        ),
        Index(
            "ix_transfers_unheard",
            "ready_at",
            postgresql_where=text("state = 'READY' AND sender_email IS NOT NULL"),
        ),
        # One partial index for each sweep, so that none reads a row that is not its own.
        Index("ix_transfers_due", "expires_at", postgresql_where=text("state = 'READY'")),
        Index("ix_transfers_expired", "expired_at", postgresql_where=text("state = 'EXPIRED'")),
        Index(
            "ix_transfers_to_forget",
            "deleted_at",
            postgresql_where=text("state = 'DELETED' AND forgotten_at IS NULL"),
        ),
        Index("ix_transfers_deleted", "deleted_at", postgresql_where=text("state = 'DELETED'")),
        Index("ix_transfers_address", "address_hash", postgresql_where=text("state = 'INIT'")),
        Index("ix_transfers_idle", "last_activity_at", postgresql_where=text("state = 'INIT'")),
        Index(
            "ix_transfers_processing",
            "lease_until",
            postgresql_where=text("state = 'PROCESSING'"),
        ),
    )


class Upload(Base):
    """One object on its way to the bucket, whoever wants it.

    `key` is opaque, never reused and holds nothing a person typed. `token` lies in the object's
    metadata and proves that what lies at the key is this upload's.
    """

    __tablename__ = "uploads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    key: Mapped[str] = mapped_column(Text, unique=True)
    token: Mapped[str] = mapped_column(Text)
    method: Mapped[Method] = mapped_column(_enum(Method, "upload_method"))
    s3_upload_id: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    # Fixed when the upload is planned: a changed setting never breaks one in flight.
    part_size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[UploadState] = mapped_column(
        _enum(UploadState, "upload_state"), default=UploadState.OPEN
    )
    etag: Mapped[str | None] = mapped_column(Text)
    # Whether each part comes with its checksum, which storage verifies; fixed by the plan too.
    checksum_algorithm: Mapped[Checksum | None] = mapped_column(
        _enum(Checksum, "checksum_algorithm")
    )
    # The whole file's, big-endian: verified by storage where there is an algorithm; otherwise read
    # from what storage holds, once somebody wanted a zip.
    crc32: Mapped[bytes | None] = mapped_column(LargeBinary(4))
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    # When its sender said that all of it had been sent: a reason to look, believed by nobody.
    sent_at: Mapped[datetime | None] = mapped_column(_Instant)
    # When the last signed address for it stops working: bytes may arrive until then.
    urls_until: Mapped[datetime | None] = mapped_column(_Instant)
    # When to (next) remove the bytes of an ABORTED one, and when that was last needed.
    remove_after: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    removed_at: Mapped[datetime | None] = mapped_column(_Instant)

    __table_args__ = (
        CheckConstraint(f"size BETWEEN 0 AND {S3_MAX_OBJECT_SIZE}", name="size_within_s3"),
        CheckConstraint(f"part_size BETWEEN 1 AND {S3_MAX_PART_SIZE}", name="part_size_within_s3"),
        CheckConstraint(
            f"part_size >= {S3_MIN_PART_SIZE} OR part_size >= size", name="part_size_not_small"
        ),
        CheckConstraint(f"size <= part_size * {S3_MAX_PARTS}", name="parts_within_s3"),
        CheckConstraint("method <> 'single' OR size <= part_size", name="single_is_one_part"),
        CheckConstraint("method <> 'single' OR s3_upload_id IS NULL", name="single_has_no_id"),
        CheckConstraint("state <> 'COMPLETE' OR etag IS NOT NULL", name="complete_has_etag"),
        CheckConstraint("removed_at IS NULL OR state = 'ABORTED'", name="removed_is_aborted"),
        CheckConstraint("octet_length(crc32) = 4", name="crc32_is_crc32"),
        CheckConstraint(
            "crc32 IS NULL OR etag IS NOT NULL",
            name="crc32_is_of_what_is_held",
        ),
        Index(
            "ix_uploads_to_remove",
            "remove_after",
            postgresql_where=text("state = 'ABORTED' AND removed_at IS NULL"),
        ),
        Index(
            "ix_uploads_removed",
            "removed_at",
            postgresql_where=text("removed_at IS NOT NULL"),
        ),
        # The sweep asks which of storage's open multiparts are ours.
        Index(
            "ix_uploads_s3_upload_id",
            "s3_upload_id",
            postgresql_where=text("s3_upload_id IS NOT NULL"),
        ),
    )


class File(Base):
    """One file of a transfer, under the path its sender gave it, byte for byte."""

    __tablename__ = "files"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    position: Mapped[int]
    path: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text, default="", server_default="")
    # When its sender last changed it, as their computer says; null where that was not told.
    modified_at: Mapped[datetime | None] = mapped_column(_Instant)
    problem: Mapped[Problem | None] = mapped_column(_enum(Problem, "file_problem"))

    transfer: Mapped[Transfer] = relationship(back_populates="files", lazy="raise")
    upload: Mapped[Upload] = relationship(lazy="raise")
    preview: Mapped["Preview | None"] = relationship(lazy="raise", passive_deletes=True)

    __table_args__ = (
        CheckConstraint("position >= 0", name="position_not_negative"),
        CheckConstraint("path <> ''", name="path_not_empty"),
        Index("uq_files_transfer_id_path", "transfer_id", "path", unique=True),
        Index("ix_files_transfer_id_position", "transfer_id", "position"),
    )

    @property
    def size(self) -> int:
        """Bytes, as its sender announced and storage must hold."""
        return self.upload.size

    @property
    def name(self) -> str:
        """The last piece of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The path without the name; empty at the top."""
        return self.path.rpartition("/")[0]


class Archive(Leased, Base):
    """The one zip of all files of a transfer: wanted, being made, ready, or given up.

    `upload` is the zip itself, an object like any other; its size is known from the beginning.
    """

    __tablename__ = "archives"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    # Bytes that are in place: what a person is shown, believed by nobody.
    done_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    ready_at: Mapped[datetime | None] = mapped_column(_Instant)
    failed_at: Mapped[datetime | None] = mapped_column(_Instant)
    failure: Mapped[ZipFailure | None] = mapped_column(_enum(ZipFailure, "zip_failure"))

    upload: Mapped[Upload] = relationship(lazy="raise")

    __table_args__ = (
        CheckConstraint("done_size >= 0", name="done_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("ready_at IS NULL OR failed_at IS NULL", name="one_end"),
        CheckConstraint("(failed_at IS NULL) = (failure IS NULL)", name="failed_has_reason"),
        CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
        Index(
            "ix_archives_wanted",
            "queued_at",
            postgresql_where=text("ready_at IS NULL AND failed_at IS NULL"),
        ),
    )


class Preview(Base):
    """What is seen of one file in the page. Files that nothing can be seen of have none.

    Its pictures are Uploads like any other object, so whatever removes those removes these.
    """

    __tablename__ = "previews"

    file_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    state: Mapped[PreviewState] = mapped_column(
        _enum(PreviewState, "preview_state"), default=PreviewState.WAITING
    )
    # What its name promises until a worker has looked; then what it is.
    sight: Mapped[Sight] = mapped_column(_enum(Sight, "preview_sight"))
    # What a browser may play the file itself as; null for what is only looked at.
    media_type: Mapped[str | None] = mapped_column(Text)
    thumbnail_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    picture_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    # Of the picture, in pixels, so that the page keeps its place.
    width: Mapped[int | None]
    height: Mapped[int | None]
    # How a text begins. Not read with lists of files: there may be thousands.
    excerpt: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)

    # Who is making it and until when (or until when to leave it alone), and how often that began.
    claim_token: Mapped[uuid.UUID | None]
    claimed_until: Mapped[datetime | None] = mapped_column(_Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")

    thumbnail: Mapped[Upload | None] = relationship(foreign_keys=[thumbnail_id], lazy="raise")
    picture: Mapped[Upload | None] = relationship(foreign_keys=[picture_id], lazy="raise")

    @property
    def is_made(self) -> bool:
        """Whether there is something to be seen."""
        return self.state is PreviewState.MADE

    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="size_positive"),
        CheckConstraint(f"octet_length(excerpt) <= {PREVIEW_TEXT_SIZE}", name="excerpt_is_short"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        Index("ix_previews_waiting", "claimed_until", postgresql_where=text("state = 'WAITING'")),
    )


class Board(Base):
    """A collection that stays open: files and links under one address, more at any time."""

    __tablename__ = "boards"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_identifier: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())


class BoardItem(Base):
    """One thing on a board: a link, or the one file of a transfer of its own."""

    __tablename__ = "board_items"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    board_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("boards.id", ondelete="CASCADE"))
    position: Mapped[int]
    url: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    file_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), unique=True
    )
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())

    file: Mapped[File | None] = relationship(lazy="raise")

    __table_args__ = (
        CheckConstraint("(url IS NULL) <> (file_id IS NULL)", name="link_or_file"),
        CheckConstraint("(url IS NULL) = (title IS NULL)", name="link_has_title"),
        Index("uq_board_items_board_id_position", "board_id", "position", unique=True),
    )


class Download(Base):
    """One counted download: one browser fetching from one transfer within the window."""

    __tablename__ = "downloads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    file_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("files.id", ondelete="SET NULL"))
    # Whose own link it came by; null for the transfer's.
    recipient_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("recipients.id", ondelete="SET NULL")
    )
    # SHA-256 of the visitor's random cookie value; null for a client without cookies.
    visitor_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(
        _Instant, server_default=func.statement_timestamp()
    )

    __table_args__ = (
        Index("ix_downloads_transfer_id_visitor_hash", "transfer_id", "visitor_hash", "created_at"),
        Index("ix_downloads_file_id", "file_id"),
        Index("ix_downloads_recipient_id", "recipient_id"),
    )


class Recipient(Base):
    """One person a transfer is for, with a link of their own by which they are known."""

    __tablename__ = "recipients"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    # In lower case, so that one person is one row.
    email: Mapped[str] = mapped_column(Text)
    # As the transfer's own, and as secret: `/d/<slug>`.
    slug: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    # When a mail was last asked for, and by which network: what the limits count.
    asked_at: Mapped[datetime | None] = mapped_column(_Instant)
    ask_count: Mapped[int] = mapped_column(default=0, server_default="0")
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    sent_at: Mapped[datetime | None] = mapped_column(_Instant)
    # A hint and no more: programs that look at mails open links too. Only a download is believed.
    opened_at: Mapped[datetime | None] = mapped_column(_Instant)
    downloaded_at: Mapped[datetime | None] = mapped_column(_Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(_Instant)
    failed_at: Mapped[datetime | None] = mapped_column(_Instant)
    failure: Mapped[str | None] = mapped_column(Text)
    # The mail by which the sender is told of the download, and of the failure: each of them once.
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
    """One mail to one address: the row is the news, in the transaction that made it true.

    It holds what cannot be found elsewhere, and no secret: links and codes are made on sending.
    """

    __tablename__ = "outbox_mails"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    kind: Mapped[MailKind] = mapped_column(_enum(MailKind, "mail_kind"))
    email: Mapped[str] = mapped_column(Text)
    transfer_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE")
    )
    recipient_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("recipients.id", ondelete="CASCADE")
    )
    # The recipient, transfer or code it is about, and which of its kind: there is none twice.
    about_id: Mapped[uuid.UUID]
    n: Mapped[int] = mapped_column(default=1, server_default="1")
    # What somebody asks, until it is sent.
    words: Mapped[str] = mapped_column(Text, default="", server_default="")
    state: Mapped[MailState] = mapped_column(
        _enum(MailState, "mail_state"), default=MailState.WAITING, server_default="WAITING"
    )
    created_at: Mapped[datetime] = mapped_column(
        _Instant, server_default=func.statement_timestamp()
    )
    # When to (next) try: while one worker is at it the others leave it alone until then.
    due_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.statement_timestamp())
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # When it was last handed to a mail server, whatever came of it: what the limits count.
    handed_at: Mapped[datetime | None] = mapped_column(_Instant)
    sent_at: Mapped[datetime | None] = mapped_column(_Instant)
    failure: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("state <> 'SENT' OR sent_at IS NOT NULL", name="sent_has_instant"),
        Index("uq_outbox_mails_once", "about_id", "kind", "n", unique=True),
        Index("ix_outbox_mails_due", "due_at", postgresql_where=text("state = 'WAITING'")),
        Index("ix_outbox_mails_email", "email", "handed_at"),
        Index("ix_outbox_mails_handed_at", "handed_at"),
        Index("ix_outbox_mails_transfer_id", "transfer_id"),
        Index("ix_outbox_mails_recipient_id", "recipient_id"),
    )


class OptOut(Base):
    """Somebody who wants no mail from here any more: a keyed hash of the address, for good."""

    __tablename__ = "opt_outs"

    email_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())

    __table_args__ = (CheckConstraint("octet_length(email_hash) = 32", name="email_is_hash"),)


class SenderCode(Base):
    """A code that was mailed to an address; the six figures come from the id and our key."""

    __tablename__ = "sender_codes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(Text)
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(
        _Instant, server_default=func.statement_timestamp()
    )
    try_count: Mapped[int] = mapped_column(default=0, server_default="0")
    used_at: Mapped[datetime | None] = mapped_column(_Instant)

    __table_args__ = (
        CheckConstraint("try_count >= 0", name="try_count_not_negative"),
        Index("ix_sender_codes_email", "email", "created_at"),
        Index("ix_sender_codes_address_hash", "address_hash", "created_at"),
    )


class UnlockTries(Base):
    """How often a transfer's password was tried from one address, and when it may be again.

    A row whose `address_hash` is empty stands for all addresses together.
    """

    __tablename__ = "unlock_tries"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    address_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    try_count: Mapped[int]
    next_at: Mapped[datetime] = mapped_column(_Instant)

    __table_args__ = (
        CheckConstraint("octet_length(address_hash) IN (0, 32)", name="address_is_hash_or_all"),
        CheckConstraint("try_count >= 1", name="try_count_positive"),
    )


class ExtensionRequest(Base):
    """A recipient who came too late asks the sender for more: once a day, which the key holds."""

    __tablename__ = "extension_requests"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    reason: Mapped[Ending] = mapped_column(_enum(Ending, "request_reason"))
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    contact: Mapped[str] = mapped_column(Text, default="", server_default="")
    # SHA-256 of the visitor's cookie, or the keyed hash of the address of who keeps none.
    asker_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    # In UTC, by the database's clock.
    day: Mapped[date] = mapped_column(Date)
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    # When the sender was told of it; null until a job has done so.
    announced_at: Mapped[datetime | None] = mapped_column(_Instant)

    __table_args__ = (
        UniqueConstraint("transfer_id", "asker_hash", "day"),
        CheckConstraint("char_length(message) <= 500", name="message_is_short"),
        CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        CheckConstraint("octet_length(asker_hash) = 32", name="asker_is_hash"),
        Index(
            "ix_extension_requests_to_announce",
            "created_at",
            postgresql_where=text("announced_at IS NULL"),
        ),
    )


class AbuseReport(Base):
    """What somebody told the operator about a link; open until `handled_at`."""

    __tablename__ = "abuse_reports"

    # A number, because people type it and tell it to each other.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    reason: Mapped[Harm] = mapped_column(_enum(Harm, "report_reason"))
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    contact: Mapped[str] = mapped_column(Text, default="", server_default="")
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(_Instant, server_default=func.now())
    handled_at: Mapped[datetime | None] = mapped_column(_Instant)

    __table_args__ = (
        CheckConstraint("char_length(message) <= 2000", name="message_is_short"),
        CheckConstraint("char_length(contact) <= 254", name="contact_is_short"),
        Index("ix_abuse_reports_transfer_id", "transfer_id"),
        Index("ix_abuse_reports_open", "id", postgresql_where=text("handled_at IS NULL")),
    )


class Heartbeat(Base):
    """When a sweep last came to its end: a sweep that stopped coming must be seen."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    # services/heartbeats.NEVER, if it has only ever failed.
    at: Mapped[datetime] = mapped_column(_Instant)
    # How many it dealt with then, how long that took, and how often it has failed since.
    last_count: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    failure_count: Mapped[int] = mapped_column(default=0, server_default="0")


class AuditEvent(Base):
    """Who did what and when; rows are only ever added (a trigger refuses anything else)."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(_Instant, server_default=func.statement_timestamp())
    action: Mapped[str] = mapped_column(Text)
    # No foreign keys: the record outlives what it is about.
    transfer_id: Mapped[uuid.UUID | None]
    # What else it is about: a key, a workspace or a board.
    subject_id: Mapped[uuid.UUID | None]
    # The API key that acted, where one did.
    key_id: Mapped[uuid.UUID | None]
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))

    __table_args__ = (Index("ix_audit_events_transfer_id", "transfer_id"),)
