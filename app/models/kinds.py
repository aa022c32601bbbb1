"""The words that columns may hold, each an enum in PostgreSQL too."""

import enum


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
    """How the bytes travel: one PUT that can never overwrite, a multipart upload, or a form."""

    SINGLE = "single"
    MULTIPART = "multipart"
    POST = "post"


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
    NEW_FILES = "new_files"


class MailState(enum.StrEnum):
    """WAITING until a mail server has it; DROPPED when it was no longer true, or not wanted."""

    WAITING = "WAITING"
    SENT = "SENT"
    FAILED = "FAILED"
    DROPPED = "DROPPED"


class WebhookEvent(enum.StrEnum):
    """What a webhook is told of; TEST only when somebody asks for it."""

    READY = "transfer.ready"
    DOWNLOADED = "transfer.downloaded"
    EXPIRED = "transfer.expired"
    TEST = "webhook.test"


class DeliveryState(enum.StrEnum):
    """WAITING until the receiver has taken it; FAILED when it is not tried any more."""

    WAITING = "WAITING"
    SENT = "SENT"
    FAILED = "FAILED"


class SwitchedOff(enum.StrEnum):
    """Why a webhook is told nothing: it was asked for, it answered 410, or it took nothing."""

    ASKED = "asked"
    GONE = "gone"
    FAILING = "failing"


class NoMail(enum.StrEnum):
    """Why an address gets no mail: its owner opted out, a mail bounced, or was reported as spam."""

    ASKED = "asked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


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
