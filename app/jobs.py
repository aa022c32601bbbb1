"""The table of background work, and the schedule that keeps it honest.

A job names a service verb by its dotted path. Every one may run twice, at once, late, or die
anywhere: its first act is a conditional claim, its last a conditional settle.
"""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from app.db import after_commit
from app.extensions import queue

# Set when the process was asked to stop: long work looks at it between its steps.
stopping = threading.Event()


@dataclass(frozen=True)
class Job:
    """One kind of background work."""

    path: str
    queue: str = "default"
    timeout_seconds: int = 600

    @property
    def name(self) -> str:
        """Short and unique, for logs and keys."""
        return self.path.removeprefix("app.services.")

    def later(self, *ids: uuid.UUID, attempt: int = 0) -> None:
        """Queue this for `ids` once the current transaction is durable; never if it rolls back.

        `attempt` tells one reminder of the same work from the next. If Redis is down the commit
        stands, and REQUEUE_STUCK finds the row.
        """
        after_commit(lambda: queue.put(self, *(str(one) for one in ids), attempt=attempt))

    def again(self, reminders: Iterable[tuple[uuid.UUID, int]]) -> None:
        """As later() for each (id, attempt), but for those that still wait in the queue."""
        given = [(str(one), attempt) for one, attempt in reminders]
        after_commit(lambda: queue.put_again(self, given))

    def once(self, slot: int, seconds: int) -> None:
        """As later(), but only the first who asks in this slot of so many seconds queues it."""
        after_commit(lambda: queue.put_once(self, slot, seconds))


PROCESS_TRANSFER = Job("app.services.checking.process")
PROCESS_BATCH = Job("app.services.batches.process")
# Completes files of which the sender said that they were sent, while others are still on their way.
UNLOCK_FILES = Job("app.services.unlocking.unlock", queue="early")
MAKE_PREVIEWS = Job("app.services.previewing.make", queue="previews")
EXPIRE_DUE = Job("app.services.upkeep.expire_due", queue="sweep")
DELETE_EXPIRED = Job("app.services.upkeep.delete_expired", queue="sweep")
DELETE_ABANDONED = Job("app.services.upkeep.delete_abandoned", queue="sweep")
DELETE_UNCONFIRMED = Job("app.services.small_files.delete_unconfirmed", queue="sweep")
FORGET_DELETED = Job("app.services.tombstones.forget_deleted", queue="sweep")
DROP_TOMBSTONES = Job("app.services.tombstones.drop_tombstones", queue="sweep")
REQUEUE_STUCK = Job("app.services.upkeep.requeue_stuck", queue="sweep", timeout_seconds=60)
REMOVE_BYTES = Job("app.services.upkeep.remove_bytes", queue="removal")
ABORT_UNKNOWN = Job("app.services.upkeep.abort_unknown_uploads", queue="removal")
# Reads the listing of the whole bucket, which may take minutes.
REMOVE_ORPHANS = Job("app.services.upkeep.remove_orphans", queue="removal", timeout_seconds=3600)
SEND_MAIL = Job("app.services.outbox.send_due", queue="mail", timeout_seconds=300)
# Strangers' servers may take their time, and nobody here waits for them.
SEND_WEBHOOKS = Job(
    "app.services.webhook_outbox.send_webhooks", queue="webhooks", timeout_seconds=300
)
DROP_WEBHOOK_LOG = Job("app.services.webhook_outbox.drop_webhook_log", queue="sweep")
# Tells a topic of mails that go by way of it; nothing without one.
PUBLISH_SHARES = Job("app.services.sharing.publish_due", queue="mail", timeout_seconds=300)
MAKE_THUMBNAIL = Job("app.services.thumbnails.make", queue="previews")
CONFIRM_POSTED = Job("app.services.asset_upkeep.confirm_posted", queue="removal")
ABANDON_ASSETS = Job("app.services.asset_upkeep.abandon_stale", queue="sweep")
QUEUE_NEWS = Job("app.services.news.queue_news", queue="sweep")

# Reads one file to its end, and a transfer's READY waits for it.
INSPECT_FILE = Job("app.services.inspecting.inspect", queue="inspections", timeout_seconds=86400)
# Works in turns of a minute, but reads a file without a CRC32 to its end.
BUILD_ARCHIVE = Job("app.services.archives.build", queue="archives", timeout_seconds=86400)

# A worker takes from the first of these that holds anything. The sweep queue comes first: its jobs
# ask the database only, are short, and are what repairs the rest. What is only early comes after
# what somebody waits for who said "that is all", and so does mail: a server that hangs must keep
# nobody from their files. The removal queue comes last: its jobs wait for storage, and nobody waits
# for them.
QUICK_QUEUES = ["sweep", "default", "early", "mail", "removal"]
# What may take long comes after all of these, and the Procfile gives it workers of its own (F35).
SLOW_QUEUES = ["inspections", "webhooks", "archives", "previews"]
QUEUES = QUICK_QUEUES + SLOW_QUEUES

SCHEDULE: list[tuple[int, Job]] = [
    (5, REQUEUE_STUCK),
    (30, EXPIRE_DUE),
    (30, SEND_MAIL),
    (30, SEND_WEBHOOKS),
    (30, PUBLISH_SHARES),
    (30, CONFIRM_POSTED),
    (60, REMOVE_BYTES),
    (300, QUEUE_NEWS),
    (300, DELETE_EXPIRED),
    (300, DELETE_ABANDONED),
    (300, DELETE_UNCONFIRMED),
    (300, ABANDON_ASSETS),
    (300, FORGET_DELETED),
    (3600, DROP_TOMBSTONES),
    (3600, DROP_WEBHOOK_LOG),
    (3600, ABORT_UNKNOWN),
    (86400, REMOVE_ORPHANS),
]
