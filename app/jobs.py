"""The background jobs, their queues, and the schedule of the sweeps that repair lost work.

A job names a service function by its dotted path. Any job may run twice, in parallel or late, or
die anywhere: it starts with a conditional claim and ends with a conditional update.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.db import after_commit
from app.extensions import queue
from app.gateways.queue import QueueError

log = logging.getLogger(__name__)

# Set when the process was asked to stop: long work checks it between its steps.
stopping = threading.Event()


@dataclass(frozen=True)
class Job:
    """One kind of background work."""

    path: str
    queue: str = "default"
    timeout_seconds: int = 600

    @property
    def name(self) -> str:
        """Short and unique, for logs and for keys in Redis."""
        return self.path.removeprefix("app.services.")

    def later(self, *ids: uuid.UUID, attempt: int = 0) -> None:
        """Queue this for `ids` once the current transaction is durable; never if it rolls back.

        `attempt` distinguishes repeated reminders of the same work. If Redis is down the commit
        stands, and REQUEUE_STUCK finds the row.
        """
        _remind(lambda: queue.put(self, *(str(one) for one in ids), attempt=attempt))

    def again(self, reminders: Iterable[tuple[uuid.UUID, int]]) -> None:
        """Queue each (id, attempt) after the commit, unless its work still waits in the queue."""
        given = [(str(one), attempt) for one, attempt in reminders]
        _remind(lambda: queue.put_again(self, given))

    def once(self, slot: int, seconds: int) -> None:
        """Queue this after the commit, at most once in this time slot of `seconds`."""
        _remind(lambda: queue.put_once(self, slot, seconds))


def _remind(put: Callable[[], object]) -> None:
    def attempt() -> None:
        try:
            put()
        except QueueError as error:
            # No traceback: while Redis is down, each request that leaves work comes here.
            log.warning("not queued, which a sweep will make up for: %s", error)

    after_commit(attempt)


PROCESS_TRANSFER = Job("app.services.checking.process")
PROCESS_BATCH = Job("app.services.batches.process")
# Completes files that their sender reported as sent, while others are still being uploaded.
COMPLETE_EARLY = Job("app.services.early_completion.complete_sent", queue="early")
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
# Works in turns of a minute, but on a store that lists in no order in one.
REMOVE_ORPHANS = Job("app.services.upkeep.remove_orphans", queue="removal", timeout_seconds=3600)
SEND_MAIL = Job("app.services.outbox.send_due", queue="mail", timeout_seconds=300)
# Other people's servers may be slow, and no user waits for them.
SEND_WEBHOOKS = Job(
    "app.services.webhook_outbox.send_webhooks", queue="webhooks", timeout_seconds=300
)
DROP_WEBHOOK_LOG = Job("app.services.webhook_outbox.drop_webhook_log", queue="sweep")
# Publishes to an SNS topic the mails that go by way of it; does nothing without one.
PUBLISH_SHARES = Job("app.services.mail_topic.publish_due", queue="mail", timeout_seconds=300)
MAKE_THUMBNAIL = Job("app.services.thumbnails.make", queue="previews")
CONFIRM_POSTED = Job("app.services.asset_upkeep.confirm_posted", queue="removal")
ABANDON_ASSETS = Job("app.services.asset_upkeep.abandon_stale", queue="sweep")
QUEUE_NEWS = Job("app.services.news.queue_news", queue="sweep")

# Reads a whole file, and its transfer is not READY before.
INSPECT_FILE = Job(
    "app.services.blocklist_scan.inspect", queue="inspections", timeout_seconds=86400
)
# Works in turns of a minute, but reads a file without a CRC32 to the end in one turn.
BUILD_ARCHIVE = Job("app.services.archives.build", queue="archives", timeout_seconds=86400)

# A worker takes from the first non-empty queue. The sweep queue comes first: its jobs are short,
# use only the database, and repair the rest. Early completion comes after the work of senders who
# are done and wait, and so does mail: a mail server that hangs must not delay files. The removal
# queue comes last: its jobs wait for storage, and no user waits for them.
QUICK_QUEUES = ["sweep", "default", "early", "mail", "removal"]
# Long jobs come after all of these, and the Procfile gives them workers of their own (F35).
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
