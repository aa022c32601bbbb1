"""The enums of the columns; each is an enum type in PostgreSQL too."""

import enum


class State(enum.StrEnum):
    """The states of a transfer; `lifecycle.MAY_BECOME` lists the permitted changes."""

    INIT = "INIT"
    PROCESSING = "PROCESSING"
    READY = "READY"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"


class UploadState(enum.StrEnum):
    """OPEN until storage holds all of it and it is verified; ABORTED if its bytes are to go."""

    OPEN = "OPEN"
    COMPLETE = "COMPLETE"
    ABORTED = "ABORTED"


class Method(enum.StrEnum):
    """How the bytes are uploaded: one PUT that cannot overwrite, multipart upload, or a form."""

    SINGLE = "single"
    MULTIPART = "multipart"
    POST = "post"


class Problem(enum.StrEnum):
    """Why a file was not accepted; its sender has to send it, or the missing parts, again."""

    MISSING = "missing"
    WRONG_SIZE = "wrong_size"
    DAMAGED = "damaged"
    LOST = "lost"


class Checksum(enum.StrEnum):
    """The checksum algorithms a sender can choose, as S3 spells them."""

    CRC32 = "CRC32"


class ZipFailure(enum.StrEnum):
    """Why the zip of a transfer could not be made."""

    FILE_LOST = "file_lost"
    STORAGE = "storage"
    INTERNAL = "internal"


class Sight(enum.StrEnum):
    """The kind of preview a file can have: what can be seen or heard without a download."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    PDF = "pdf"
    TEXT = "text"


class PreviewState(enum.StrEnum):
    """WAITING until a worker has looked at the file; NONE if it has no preview."""

    WAITING = "WAITING"
    MADE = "MADE"
    NONE = "NONE"


class MailKind(enum.StrEnum):
    """All kinds of mail; each has its own folder in templates/mail."""

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
    RECEIVED = "received"


class MailState(enum.StrEnum):
    """WAITING until a mail server takes it; DROPPED if it is out of date or not wanted."""

    WAITING = "WAITING"
    SENT = "SENT"
    FAILED = "FAILED"
    DROPPED = "DROPPED"


class WebhookEvent(enum.StrEnum):
    """The events a webhook can receive; TEST only on request."""

    READY = "transfer.ready"
    DOWNLOADED = "transfer.downloaded"
    EXPIRED = "transfer.expired"
    TEST = "webhook.test"


class DeliveryState(enum.StrEnum):
    """WAITING until the receiver has accepted it; FAILED once it is no longer retried."""

    WAITING = "WAITING"
    SENT = "SENT"
    FAILED = "FAILED"


class SwitchedOff(enum.StrEnum):
    """Why a webhook is off: on request, it answered 410, or its deliveries kept failing."""

    ASKED = "asked"
    GONE = "gone"
    FAILING = "failing"


class NoMail(enum.StrEnum):
    """Why an address gets no mail: its owner opted out, a mail bounced or was reported as spam."""

    ASKED = "asked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


class Scope(enum.StrEnum):
    """What an API key may do; each scope includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Failure(enum.StrEnum):
    """Why checking a transfer was given up; its sender can complete it again."""

    STORAGE = "storage"
    INTERNAL = "internal"


class Ending(enum.StrEnum):
    """What keeps recipients from the files, as long as the sender can still change it."""

    EXPIRED = "expired"
    LIMIT_REACHED = "limit_reached"


class Harm(enum.StrEnum):
    """The reasons for reporting a link, and for blocking a file."""

    MALWARE = "malware"
    PHISHING = "phishing"
    COPYRIGHT = "copyright"
    ILLEGAL = "illegal"
    OTHER = "other"
