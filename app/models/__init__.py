"""The tables. Constraints make illegal rows impossible; no I/O and no JSON here.

A Transfer has Files; a File has one Upload, which is one object on its way to the bucket.
An Upload that nobody wants any more is ABORTED, and the upkeep removes its bytes.
"""

from app.models.accounts import ApiKey, Board, BoardItem, Workspace
from app.models.columns import Leased
from app.models.kinds import (
    Checksum,
    Ending,
    Failure,
    Harm,
    MailKind,
    MailState,
    Method,
    PreviewState,
    Problem,
    Scope,
    Sight,
    State,
    UploadState,
    ZipFailure,
)
from app.models.mail import OptOut, OutboxMail, Recipient, SenderCode
from app.models.records import AbuseReport, AuditEvent, ExtensionRequest, Heartbeat, UnlockTries
from app.models.transfers import Archive, Batch, Download, File, Preview, Transfer, Upload

__all__ = [
    "AbuseReport",
    "ApiKey",
    "Archive",
    "AuditEvent",
    "Batch",
    "Board",
    "BoardItem",
    "Checksum",
    "Download",
    "Ending",
    "ExtensionRequest",
    "Failure",
    "File",
    "Harm",
    "Heartbeat",
    "Leased",
    "MailKind",
    "MailState",
    "Method",
    "OptOut",
    "OutboxMail",
    "Preview",
    "PreviewState",
    "Problem",
    "Recipient",
    "Scope",
    "SenderCode",
    "Sight",
    "State",
    "Transfer",
    "UnlockTries",
    "Upload",
    "UploadState",
    "Workspace",
    "ZipFailure",
]
