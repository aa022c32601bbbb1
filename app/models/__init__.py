"""The tables. Constraints make illegal rows impossible; no I/O and no JSON here.

A Transfer has Files; a File has one Upload, which is one object on its way to the bucket.
An Upload that is no longer needed is ABORTED, and upkeep removes its bytes.
"""

from app.models.accounts import ApiKey, Board, BoardItem, SmallFile, Workspace
from app.models.assets import Asset, AssetVersion
from app.models.blocks import BlockedFile, Inspection
from app.models.columns import Leased
from app.models.file_requests import Arrival, FileRequest
from app.models.kinds import (
    Checksum,
    DeliveryState,
    Ending,
    Failure,
    Harm,
    MailKind,
    MailState,
    Method,
    NoMail,
    PreviewState,
    Problem,
    Scope,
    Sight,
    State,
    SwitchedOff,
    UploadState,
    WebhookEvent,
    ZipFailure,
)
from app.models.mail import OptOut, OutboxMail, Recipient, SenderCode
from app.models.records import (
    AbuseReport,
    AuditEvent,
    ExtensionRequest,
    Heartbeat,
    IdempotencyKey,
    UnlockTries,
)
from app.models.transfers import Archive, Batch, Download, File, Preview, Staging, Transfer, Upload
from app.models.webhooks import Webhook, WebhookDelivery

__all__ = [
    "AbuseReport",
    "ApiKey",
    "Archive",
    "Arrival",
    "Asset",
    "AssetVersion",
    "AuditEvent",
    "Batch",
    "BlockedFile",
    "Board",
    "BoardItem",
    "Checksum",
    "DeliveryState",
    "Download",
    "Ending",
    "ExtensionRequest",
    "Failure",
    "File",
    "FileRequest",
    "Harm",
    "Heartbeat",
    "IdempotencyKey",
    "Inspection",
    "Leased",
    "MailKind",
    "MailState",
    "Method",
    "NoMail",
    "OptOut",
    "OutboxMail",
    "Preview",
    "PreviewState",
    "Problem",
    "Recipient",
    "Scope",
    "SenderCode",
    "Sight",
    "SmallFile",
    "Staging",
    "State",
    "SwitchedOff",
    "Transfer",
    "UnlockTries",
    "Upload",
    "UploadState",
    "Webhook",
    "WebhookDelivery",
    "WebhookEvent",
    "Workspace",
    "ZipFailure",
]
