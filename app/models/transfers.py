"""Transfers, their files, and every object in the bucket."""

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
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from app.clock import db_now
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
    """One sender's files under one link."""

    __tablename__ = "transfers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    # SHA-256 of the owner token: it has 256 random bits, so a plain hash is enough (ASVS 6.5.2).
    owner_token_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    state: Mapped[State] = mapped_column(enum_of(State, "transfer_state"), default=State.INIT)
    title: Mapped[str] = mapped_column(Text, default="", server_default="")
    message: Mapped[str] = mapped_column(Text, default="", server_default="")
    expires_at: Mapped[datetime] = mapped_column(Instant)
    max_downloads: Mapped[int | None]
    # argon2id, as app/passwords.py writes it; null if the link alone opens the transfer.
    password_hash: Mapped[str | None] = mapped_column(Text)
    download_count: Mapped[int] = mapped_column(default=0, server_default="0")
    # Bytes sent, as the sender reports them: shown to the recipient, but never trusted.
    sent_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # The sum of its files' announced sizes: stored only so that a workspace's list can sort by it.
    total_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    last_activity_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    ready_at: Mapped[datetime | None] = mapped_column(Instant)
    expired_at: Mapped[datetime | None] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)
    # When personal texts were erased from a DELETED transfer (services/tombstones.py).
    forgotten_at: Mapped[datetime | None] = mapped_column(Instant)
    # Blocked by the operator, whatever its state: nothing is handed out (services/abuse.py).
    quarantined_at: Mapped[datetime | None] = mapped_column(Instant)

    # SHA-256 of the sender's Idempotency-Key and of its request: a retry, after a lost response,
    # is answered with the same transfer.
    idempotency_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32), unique=True)
    request_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    # A keyed hash of the sender's IP address: only to count the open transfers of one address.
    address_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))

    # If it was made with an API key: its workspace, and which of the program's own users it is for.
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"))
    user_identifier: Mapped[str | None] = mapped_column(Text)

    # Why the last attempt at checking failed; shown once it has been given up.
    failure: Mapped[Failure | None] = mapped_column(enum_of(Failure, "transfer_failure"))
    # How many batches of files were added since it became READY (services/batches.py).
    batch_count: Mapped[int] = mapped_column(default=0, server_default="0")

    # The sender's address, in lower case; mail is sent only once the sender has confirmed it.
    sender_email: Mapped[str | None] = mapped_column(Text)
    sender_confirmed_at: Mapped[datetime | None] = mapped_column(Instant)
    # The kinds of mail the sender has switched off: kinds introduced later are on by default.
    muted: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list, server_default="{}")

    # Not a column: the database's time when this was read, which says whether it has expired.
    read_at: Mapped[datetime] = column_property(db_now())

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
        # One sender's transfers: to count them, and to list them, newest first.
        Index(
            "ix_transfers_of_sender",
            "sender_email",
            "created_at",
            "id",
            postgresql_where=text("sender_email IS NOT NULL"),
        ),
        Index(
            "ix_transfers_unheard",
            "ready_at",
            postgresql_where=text("state = 'READY' AND sender_email IS NOT NULL"),
        ),
        # One partial index per sweep, so that each reads only its own rows.
        Index("ix_transfers_due", "expires_at", postgresql_where=text("state = 'READY'")),
        Index("ix_transfers_expired", "expired_at", postgresql_where=text("state = 'EXPIRED'")),
        Index(
            "ix_transfers_to_forget",
            "deleted_at",
            postgresql_where=text("state = 'DELETED' AND forgotten_at IS NULL"),
        ),
        Index("ix_transfers_deleted", "deleted_at", postgresql_where=text("state = 'DELETED'")),
        # Erased, but with the sender's address hash kept because of an abuse report.
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
        # A workspace's list: one index for counting and filtering, and one for each sort order.
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
    """One object in the bucket or on its way there, whatever it is for.

    `key` is opaque, never reused, and contains no user input (except the file extension of an asset
    or a small file). `token` is in the object's metadata and proves that the object at the key is
    this upload's.
    """

    __tablename__ = "uploads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # Sorted as storage lists its keys: reconciling.py walks through both in parallel.
    key: Mapped[str] = mapped_column(Text(collation="C"), unique=True)
    token: Mapped[str] = mapped_column(Text)
    method: Mapped[Method] = mapped_column(enum_of(Method, "upload_method"))
    s3_upload_id: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    # Fixed when the upload is planned, so that a changed setting never breaks one in flight.
    part_size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[UploadState] = mapped_column(
        enum_of(UploadState, "upload_state"), default=UploadState.OPEN
    )
    etag: Mapped[str | None] = mapped_column(Text)
    # Set if each part carries a checksum, which storage verifies; fixed by the plan too.
    checksum_algorithm: Mapped[Checksum | None] = mapped_column(
        enum_of(Checksum, "checksum_algorithm")
    )
    # Of the whole file, big-endian: verified by storage if there is an algorithm; otherwise
    # computed from the stored bytes when a zip is first requested.
    crc32: Mapped[bytes | None] = mapped_column(LargeBinary(4))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When its sender reported it as fully sent: a reason to check, but never trusted.
    sent_at: Mapped[datetime | None] = mapped_column(Instant)
    # When the last presigned upload URL for it expires: bytes may arrive until then. For a zip,
    # also when the last of the download URLs expires that live longer than a page's.
    urls_until: Mapped[datetime | None] = mapped_column(Instant)
    # When to (next) remove the bytes of an ABORTED upload, and when they were removed for good.
    remove_after: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    removed_at: Mapped[datetime | None] = mapped_column(Instant)
    # The transfer whose former zip this is, while download URLs for it are valid: its bytes are
    # kept no longer than those URLs, nor than the transfer's own.
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
        # Former zips, which are deleted together with their transfer.
        Index(
            "ix_uploads_kept_for",
            "kept_for",
            postgresql_where=text("kept_for IS NOT NULL"),
        ),
        # The sweep looks up which of the open multipart uploads in storage are ours.
        Index(
            "ix_uploads_s3_upload_id",
            "s3_upload_id",
            postgresql_where=text("s3_upload_id IS NOT NULL"),
        ),
    )


class File(Base):
    """One file of a transfer, under exactly the path its sender gave it."""

    __tablename__ = "files"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    position: Mapped[int]
    path: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(Text, default="", server_default="")
    # The modification time from the sender's computer; null if it was not given.
    modified_at: Mapped[datetime | None] = mapped_column(Instant)
    problem: Mapped[Problem | None] = mapped_column(enum_of(Problem, "file_problem"))
    # The batch that added it to the transfer, 0 for the initial files; null while it is on its way
    # to a READY transfer and not yet one of its files. (An explicit None is stored as NULL.)
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
        """Whether it is on its way to a READY transfer, and not yet one of its files."""
        return self.batch is None

    @property
    def size(self) -> int:
        """Size in bytes, as announced by the sender; storage must hold exactly this many."""
        return self.upload.size

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The path without the name; empty at the top."""
        return self.path.rpartition("/")[0]


class Staging(Base):
    """A transfer made without files, whose only file comes by one PUT (services/staging.py).

    `upload` is the target of the last presigned URL, `copy` the copy that is being made of it.
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
    """More files on their way to a READY transfer: one batch at a time, deleted once it is done.

    Its files are those of the transfer whose `batch` is null.
    """

    __tablename__ = "batches"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    last_activity_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # Bytes sent, as the sender reports them; never trusted.
    sent_size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    # When its sender completed it: from then on it is checked, and accepts no more files.
    closed_at: Mapped[datetime | None] = mapped_column(Instant)
    # Whether to mail the recipients once the files are there.
    tells_recipients: Mapped[bool] = mapped_column(default=False, server_default="false")
    # Why the last attempt at checking failed; shown once it has been given up.
    failure: Mapped[Failure | None] = mapped_column(enum_of(Failure, "transfer_failure"))

    __table_args__ = (
        CheckConstraint("sent_size >= 0", name="sent_size_not_negative"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("lease_token IS NULL OR lease_until IS NOT NULL", name="lease_ends"),
    )


class Archive(Leased, Base):
    """The zip of all of a transfer's files: requested, being made, ready, or given up.

    `upload` is the zip itself, an object like any other; its size is known from the start.
    """

    __tablename__ = "archives"

    transfer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True
    )
    upload_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    # Bytes in place: for display only, no decision depends on it.
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
    """The preview of one file. Files that cannot be previewed have no row.

    Its pictures are Uploads like any other object, and removed by the same code.
    """

    __tablename__ = "previews"

    file_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    state: Mapped[PreviewState] = mapped_column(
        enum_of(PreviewState, "preview_state"), default=PreviewState.WAITING
    )
    # Guessed from the file's name until a worker has looked at the content; then the real kind.
    sight: Mapped[Sight] = mapped_column(enum_of(Sight, "preview_sight"))
    # The media type a browser may play the file as; null if it is not played.
    media_type: Mapped[str | None] = mapped_column(Text)
    thumbnail_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    picture_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="RESTRICT"), unique=True
    )
    # Of the picture, in pixels, so that the page can reserve its space.
    width: Mapped[int | None]
    height: Mapped[int | None]
    # The beginning of a text. Not loaded with lists of files: there may be thousands.
    excerpt: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)

    # The worker's claim on it and until when (or until when to leave it alone), and the number of
    # attempts.
    claim_token: Mapped[uuid.UUID | None]
    claimed_until: Mapped[datetime | None] = mapped_column(Instant)
    attempt_count: Mapped[int] = mapped_column(default=0, server_default="0")

    thumbnail: Mapped[Upload | None] = relationship(foreign_keys=[thumbnail_id], lazy="raise")
    picture: Mapped[Upload | None] = relationship(foreign_keys=[picture_id], lazy="raise")

    @property
    def is_made(self) -> bool:
        """Whether there is a preview to show."""
        return self.state is PreviewState.MADE

    @property
    def has_picture(self) -> bool:
        """Whether there is a picture to show."""
        return self.is_made and self.picture_id is not None

    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="size_positive"),
        CheckConstraint(f"octet_length(excerpt) <= {PREVIEW_TEXT_SIZE}", name="excerpt_is_short"),
        CheckConstraint("attempt_count >= 0", name="attempt_count_not_negative"),
        CheckConstraint("claim_token IS NULL OR claimed_until IS NOT NULL", name="claim_ends"),
        Index("ix_previews_waiting", "claimed_until", postgresql_where=text("state = 'WAITING'")),
    )


class Download(Base):
    """One counted download: one browser downloading from one transfer within the window."""

    __tablename__ = "downloads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"))
    file_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("files.id", ondelete="SET NULL"))
    # The recipient whose own link was used; null for the transfer's link.
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
