"""What is sent and fetched: transfers, their files, and every object in the bucket."""

import uuid
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    and_,
    func,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.config import (
    PREVIEW_TEXT_SIZE,
    S3_MAX_OBJECT_SIZE,
    S3_MAX_PART_SIZE,
    S3_MAX_PARTS,
    S3_MIN_PART_SIZE,
)
from app.db import Base
from app.models.columns import Instant, Leased, enum_of
from app.models.kinds import (
    Checksum,
    Failure,
    Method,
    PreviewState,
    Problem,
    Sight,
    State,
    UploadState,
    ZipFailure,
)


class Transfer(Leased, Base):
    """What one sender sends: files under one link."""

    __tablename__ = "transfers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    # SHA-256 of the owner token: with 256 random bits in it, a plain hash is enough (ASVS 6.5.2).
    owner_token_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    state: Mapped[State] = mapped_column(enum_of(State, "transfer_state"), default=State.INIT)
    title: Mapped[str] = mapped_column(Text, default="", server_default="")
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    expires_at: Mapped[datetime] = mapped_column(Instant)
    max_downloads: Mapped[int | None]
    # argon2id, as app/passwords.py writes it; null for a link that opens for whoever has it.
    password_hash: Mapped[str | None] = mapped_column(Text)
    download_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # The sender's own word on how much is safe: shown to the recipient, believed by nobody.
    sent_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # What its files come to, as announced: kept only so that a workspace can sort by it.
    total_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    last_activity_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    ready_at: Mapped[datetime | None] = mapped_column(Instant)
    expired_at: Mapped[datetime | None] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)
    # When what people wrote was removed from a DELETED one (services/tombstones.py).
    forgotten_at: Mapped[datetime | None] = mapped_column(Instant)
    # Blocked by the operator, whatever its state: nobody is given anything (services/abuse.py).
    quarantined_at: Mapped[datetime | None] = mapped_column(Instant)

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
    failure: Mapped[Failure | None] = mapped_column(enum_of(Failure, "transfer_failure"))
    # How many batches of more files it has taken since it was READY (services/batches.py).
    batch_count: Mapped[int] = mapped_column(default=0, server_default="0")

    # Who sends it, in lower case; mail goes out only once that address is known to be the sender's.
    sender_email: Mapped[str | None] = mapped_column(Text)
    sender_confirmed_at: Mapped[datetime | None] = mapped_column(Instant)
    # The kinds of mail that the sender does not want: whatever comes to be later is wanted.
    muted: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list, server_default="{}")

    files: Mapped[list["File"]] = relationship(
        back_populates="transfer", order_by="File.position", passive_deletes=True, lazy="raise"
    )

    @hybrid_property
    def is_used_up(self) -> bool:
        """Whether every download that its limit allows has been counted; also a SQL condition."""
        return self.max_downloads is not None and self.download_count >= self.max_downloads

    @is_used_up.inplace.expression
    @classmethod
    def _is_used_up(cls) -> ColumnElement[bool]:
        # Never NULL, so that it can be negated.
        return and_(cls.max_downloads.is_not(None), cls.download_count >= cls.max_downloads)

    __table_args__ = (
        CheckConstraint("octet_length(owner_token_hash) = 32", name="owner_token_is_sha256"),
        CheckConstraint("max_downloads >= 1", name="max_downloads_positive"),
        CheckConstraint("password_hash LIKE '$argon2id$%'", name="password_is_argon2id"),
        CheckConstraint("download_count >= 0", name="download_count_not_negative"),
        CheckConstraint("download_count <= max_downloads", name="downloads_within_limit"),
        CheckConstraint("sent_size >= 0", name="sent_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("batch_count >= 0", name="batch_count_not_negative"),
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
        # Whose words are forgotten, and whose sender's address is kept for what was reported.
        Index(
            "ix_transfers_evidence",
            "forgotten_at",
            postgresql_where=text("forgotten_at IS NOT NULL AND address_hash IS NOT NULL"),
        ),
        Index("ix_transfers_address", "address_hash", postgresql_where=text("state = 'INIT'")),
        Index("ix_transfers_idle", "last_activity_at", postgresql_where=text("state = 'INIT'")),
        Index(
            "ix_transfers_processing",
            "lease_until",
            postgresql_where=text("state = 'PROCESSING'"),
        ),
        # A workspace's list: one index to count and filter by, and one for each way to sort it.
        *(
            Index(
                f"ix_transfers_listed_{name}",
                "workspace_id",
                name,
                "id",
                postgresql_where=text("workspace_id IS NOT NULL"),
            )
            for name in ("state", "created_at", "expires_at", "max_downloads", "total_size")
        ),
    )


class Upload(Base):
    """One object on its way to the bucket, whoever wants it.

    `key` is opaque, never reused and holds nothing a person typed (but for the ending of an asset's
    or a small file's name). `token` lies in the object's metadata and proves that what lies at the
    key is this upload's.
    """

    __tablename__ = "uploads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # In the order in which storage lists: reconciling.py goes through both at once.
    key: Mapped[str] = mapped_column(Text(collation="C"), unique=True)
    token: Mapped[str] = mapped_column(Text)
    method: Mapped[Method] = mapped_column(enum_of(Method, "upload_method"))
    s3_upload_id: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    # Fixed when the upload is planned: a changed setting never breaks one in flight.
    part_size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[UploadState] = mapped_column(
        enum_of(UploadState, "upload_state"), default=UploadState.OPEN
    )
    etag: Mapped[str | None] = mapped_column(Text)
    # Whether each part comes with its checksum, which storage verifies; fixed by the plan too.
    checksum_algorithm: Mapped[Checksum | None] = mapped_column(
        enum_of(Checksum, "checksum_algorithm")
    )
    # The whole file's, big-endian: verified by storage where there is an algorithm; otherwise read
    # from what storage holds, once somebody wanted a zip.
    crc32: Mapped[bytes | None] = mapped_column(LargeBinary(4))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When its sender said that all of it had been sent: a reason to look, believed by nobody.
    sent_at: Mapped[datetime | None] = mapped_column(Instant)
    # When the last signed address for it stops working: bytes may arrive until then. Of a zip, also
    # when the last one stops by which it may be fetched for longer than by a page's.
    urls_until: Mapped[datetime | None] = mapped_column(Instant)
    # When to (next) remove the bytes of an ABORTED one, and when that was last needed.
    remove_after: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    removed_at: Mapped[datetime | None] = mapped_column(Instant)
    # Whose former zip it is, while addresses of it are about: its bytes stay no longer than theirs.
    kept_for: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("transfers.id", ondelete="SET NULL")
    )

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
        # What a transfer takes along when it is deleted.
        Index(
            "ix_uploads_kept_for",
            "kept_for",
            postgresql_where=text("kept_for IS NOT NULL"),
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
    modified_at: Mapped[datetime | None] = mapped_column(Instant)
    problem: Mapped[Problem | None] = mapped_column(enum_of(Problem, "file_problem"))
    # With which batch it became its transfer's, 0 for those it began with; null for one that is on
    # its way to a READY transfer, and none of its files yet. (A None that is said is meant.)
    batch: Mapped[int | None] = mapped_column(
        Integer().evaluates_none(), default=0, server_default="0"
    )

    transfer: Mapped[Transfer] = relationship(back_populates="files", lazy="raise")
    upload: Mapped[Upload] = relationship(lazy="raise")
    preview: Mapped["Preview | None"] = relationship(lazy="raise", passive_deletes=True)

    __table_args__ = (
        CheckConstraint("position >= 0", name="position_not_negative"),
        CheckConstraint("batch >= 0", name="batch_not_negative"),
        CheckConstraint("path <> ''", name="path_not_empty"),
        Index("uq_files_transfer_id_path", "transfer_id", "path", unique=True),
        Index("ix_files_transfer_id_position", "transfer_id", "position"),
    )

    @property
    def is_coming(self) -> bool:
        """Whether it is on its way to a READY transfer, and none of its files yet."""
        return self.batch is None

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


class Staging(Base):
    """A transfer that was made without files: its one file comes by one PUT (services/staging.py).

    `upload` is where the last address that was asked for leads, `copy` what is being made of it.
    """

    __tablename__ = "stagings"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    upload_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    copy_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    filename: Mapped[str] = mapped_column(Text, default="", server_default="")
    content_type: Mapped[str] = mapped_column(Text, default="", server_default="")

    __table_args__ = (
        CheckConstraint("upload_id IS NULL OR filename <> ''", name="upload_has_name"),
    )


class Batch(Leased, Base):
    """More files on their way to a READY transfer: one batch at a time, gone when it is through.

    Its files are those of the transfer whose `batch` is null.
    """

    __tablename__ = "batches"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    last_activity_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # The sender's own word on how much is safe, believed by nobody.
    sent_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # When its sender said "that is all": from then on it is checked, and takes nothing more.
    closed_at: Mapped[datetime | None] = mapped_column(Instant)
    # Whether the recipients are mailed when the files are there.
    tells_recipients: Mapped[bool] = mapped_column(default=False, server_default="false")
    # Why the last attempt at checking failed; shown once it has been given up.
    failure: Mapped[Failure | None] = mapped_column(enum_of(Failure, "transfer_failure"))

    __table_args__ = (
        CheckConstraint("sent_size >= 0", name="sent_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
    )


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
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    ready_at: Mapped[datetime | None] = mapped_column(Instant)
    failed_at: Mapped[datetime | None] = mapped_column(Instant)
    failure: Mapped[ZipFailure | None] = mapped_column(enum_of(ZipFailure, "zip_failure"))

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
        enum_of(PreviewState, "preview_state"), default=PreviewState.WAITING
    )
    # What its name promises until a worker has looked; then what it is.
    sight: Mapped[Sight] = mapped_column(enum_of(Sight, "preview_sight"))
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
    claimed_until: Mapped[datetime | None] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")

    thumbnail: Mapped[Upload | None] = relationship(foreign_keys=[thumbnail_id], lazy="raise")
    picture: Mapped[Upload | None] = relationship(foreign_keys=[picture_id], lazy="raise")

    @property
    def is_made(self) -> bool:
        """Whether there is something to be seen."""
        return self.state is PreviewState.MADE

    @property
    def has_picture(self) -> bool:
        """Whether that is a picture."""
        return self.is_made and self.picture_id is not None

    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="size_positive"),
        CheckConstraint(f"octet_length(excerpt) <= {PREVIEW_TEXT_SIZE}", name="excerpt_is_short"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        Index("ix_previews_waiting", "claimed_until", postgresql_where=text("state = 'WAITING'")),
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
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.statement_timestamp())

    __table_args__ = (
        Index("ix_downloads_transfer_id_visitor_hash", "transfer_id", "visitor_hash", "created_at"),
        Index("ix_downloads_file_id", "file_id"),
        Index("ix_downloads_recipient_id", "recipient_id"),
    )
