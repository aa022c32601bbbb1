"""Sends the messages to webhooks: a worker claims due ones, sends them in parallel, settles them.

A message that was sent just before this process died is sent again, under the same id. A server
that does not answer delays only itself: its turn ends with the first failure, it rests for a while,
and all servers are served in parallel.
"""

import base64
import hmac
import logging
import queue
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, or_, select, true, update

from app import clock, crash, jobs, rows
from app.clock import db_now
from app.config import settings
from app.db import changed, db, release, transaction
from app.gateways.webhook import Answer, Courier
from app.models import DeliveryState, SwitchedOff, Webhook, WebhookDelivery
from app.services import claims, webhooks
from app.services.heartbeats import noted
from app.services.upkeep import BATCH, in_batches, untold

log = logging.getLogger(__name__)

# Servers that are called in parallel, and messages claimed for each of them.
MOST_AT_ONCE = 8
MOST_TO_ONE = 20
# Turn length. Then the job re-queues itself so that other jobs get a turn.
TURN_SECONDS = 20
# How long a server rests after its n-th failure in a row, whatever is waiting for it.
REST_SECONDS = (15, 30, 60, 120, 300)
# A webhook that has failed for this long is switched off when one of its messages is given up.
SWITCHED_OFF_AFTER = timedelta(days=3)
# Rows given up by one statement.
GIVE_UP_BATCH = 10_000


@dataclass(frozen=True)
class Parcel:
    """One message as the sending threads need it, which have no database connection."""

    id: uuid.UUID
    webhook_id: uuid.UUID
    event_id: uuid.UUID
    body: bytes
    attempt: int
    url: str
    secret: bytes


Told = queue.SimpleQueue[tuple[Parcel, Answer | None]]


@noted
def send_webhooks() -> int:
    """Job: send every due message; returns how many were accepted. Repeatable at any time.

    After TURN_SECONDS the rest is left to a new job.
    """
    ends = time.monotonic() + TURN_SECONDS
    _give_up()
    webhooks.fail_stranded()
    count = 0
    while not jobs.stopping.is_set() and (parcels := _claim()):
        release()
        count += _send(parcels, ends)
        if time.monotonic() > ends:
            jobs.SEND_WEBHOOKS.later()
            break
    return count


@noted
def drop_webhook_log() -> int:
    """Job: delete settled messages after WEBHOOK_LOG_DAYS; returns how many."""
    return in_batches(_drop, untold)


def _drop() -> int:
    is_old = WebhookDelivery.created_at < db_now() - timedelta(days=settings.webhook_log_days)
    is_settled = WebhookDelivery.state != DeliveryState.WAITING
    return changed(
        delete(WebhookDelivery)
        .where(rows.take(WebhookDelivery, is_old, is_settled, limit=BATCH))
        .execution_options(synchronize_session=False)
    )


# -- claiming ------------------------------------------------------------------------------------


def _claim() -> list[Parcel]:
    """Claim the next messages for this process; others leave them alone until the claim lapses.

    A few for each server that is not resting, so that many to one do not hold up another's.
    """
    with transaction():
        ids = db.session.scalars(_next()).all()
        taken = claims.take(WebhookDelivery, ids) if ids else []
        hooks = {
            hook.id: hook
            for hook in db.session.scalars(
                select(Webhook)
                .where(Webhook.id.in_({one.webhook_id for one in taken}))
                .execution_options(populate_existing=True)
            )
        }
    return [
        _parcel(one, hooks[one.webhook_id])
        for one in sorted(taken, key=lambda one: one.created_at)
        # If its webhook was deleted just now, the message is gone too.
        if one.webhook_id in hooks
    ]


def _parcel(one: WebhookDelivery, hook: Webhook) -> Parcel:
    body = one.payload.encode()
    return Parcel(one.id, hook.id, one.event_id, body, one.attempt_count, hook.url, hook.secret)


def _next() -> Any:
    """Due messages: the first of every server before the second of any; longest due first."""
    of_each = (
        select(WebhookDelivery.id, WebhookDelivery.webhook_id, WebhookDelivery.due_at)
        .where(WebhookDelivery.webhook_id == Webhook.id, claims.is_due(WebhookDelivery))
        .order_by(WebhookDelivery.due_at)
        .limit(MOST_TO_ONE)
        .lateral()
    )
    turn = func.row_number().over(partition_by=of_each.c.webhook_id, order_by=of_each.c.due_at)
    due = (
        select(of_each.c.id, of_each.c.due_at, turn.label("turn"))
        .select_from(Webhook)
        .join(of_each, true())
        .where(_is_awake())
        .subquery()
    )
    return select(due.c.id).order_by(due.c.turn, due.c.due_at).limit(MOST_AT_ONCE * MOST_TO_ONE)


def _is_awake() -> ColumnElement[bool]:
    is_rested = or_(Webhook.rest_until.is_(None), Webhook.rest_until <= db_now())
    return Webhook.disabled_at.is_(None) & is_rested


# -- sending -------------------------------------------------------------------------------------


def _send(parcels: Sequence[Parcel], ends: float) -> int:
    """Send messages, to each server one after the other; returns how many were accepted."""
    by_hook: dict[uuid.UUID, list[Parcel]] = defaultdict(list)
    for parcel in parcels:
        by_hook[parcel.webhook_id].append(parcel)
    courier = Courier(may_be_here=settings.webhook_allow_loopback)
    told: Told = queue.SimpleQueue()
    over = threading.Event()
    taken = 0
    with ThreadPoolExecutor(min(MOST_AT_ONCE, len(by_hook))) as threads:
        try:
            for group in by_hook.values():
                threads.submit(_send_to_one, courier, group, told, over)
            for _ in parcels:
                taken += _settle(*told.get())
                if jobs.stopping.is_set() or time.monotonic() > ends:
                    over.set()
        finally:
            # If outcomes cannot be recorded, stop: what is sent now would be sent again.
            over.set()
    return taken


def _send_to_one(
    courier: Courier, parcels: Sequence[Parcel], told: Told, over: threading.Event
) -> None:
    """Run in a thread: put one answer for each message into `told`, None for those not tried."""
    is_well = True
    for parcel in parcels:
        answer = _post(courier, parcel) if is_well and not over.is_set() else None
        is_well = answer is not None and answer.is_taken
        told.put((parcel, answer))


def _post(courier: Courier, parcel: Parcel) -> Answer:
    try:
        crash.point("webhook.1")
        return courier.post(parcel.url, parcel.body, _headers(parcel))
    except Exception:
        # Whatever it was, it must not hold up other messages.
        log.exception("a message to a webhook could not be sent")
        return Answer(None, 0, "It could not be sent.")


def _headers(parcel: Parcel) -> dict[str, str]:
    """The headers of Standard Webhooks: id, time, and our signature of both and of the body."""
    event_id, now = str(parcel.event_id), str(int(clock.now().timestamp()))
    signed = hmac.digest(parcel.secret, f"{event_id}.{now}.".encode() + parcel.body, "sha256")
    return {
        "Content-Type": "application/json",
        "User-Agent": "Beeline",
        "webhook-id": event_id,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


# -- settling ------------------------------------------------------------------------------------


def _settle(parcel: Parcel, answer: Answer | None) -> bool:
    """Record the outcome; returns whether it was accepted. Locks the webhook before its message."""
    crash.point("webhook.2")
    with transaction():
        if answer is None:
            claims.give_back(WebhookDelivery, [(parcel.id, parcel.attempt)])
        elif answer.is_taken:
            _settle_taken(parcel, answer)
        else:
            _settle_failed(parcel, answer)
    crash.point("webhook.3")
    return answer is not None and answer.is_taken


def _settle_taken(parcel: Parcel, answer: Answer) -> None:
    """Record an acceptance, even after the claim lapsed."""
    _change_hook(
        parcel, Webhook.failing_since.is_not(None),
        failing_since=None, failure_count=0, rest_until=None,
    )  # fmt: skip
    _change(parcel, answer, state=DeliveryState.SENT)


def _settle_failed(parcel: Parcel, answer: Answer) -> None:
    if answer.is_gone:
        webhooks.switch_off(parcel.webhook_id, SwitchedOff.GONE)
        is_not_sent = WebhookDelivery.state != DeliveryState.SENT
        _change(parcel, answer, is_not_sent, state=DeliveryState.FAILED)
        return
    nth = func.least(Webhook.failure_count, len(REST_SECONDS) - 1)
    rest = case(dict(enumerate(REST_SECONDS)), value=nth)
    _change_hook(
        parcel,
        failing_since=func.coalesce(Webhook.failing_since, db_now()),
        failure_count=Webhook.failure_count + 1,
        rest_until=db_now() + func.make_interval(0, 0, 0, 0, 0, 0, rest),
    )
    again = func.least(db_now() + claims.backoff(parcel.attempt), WebhookDelivery.ends_at)
    # If another worker has claimed it since, its due date is not ours to change.
    is_mine = WebhookDelivery.attempt_count == parcel.attempt
    is_waiting = WebhookDelivery.state == DeliveryState.WAITING
    _change(parcel, answer, is_waiting, is_mine, due_at=again)


def _change_hook(parcel: Parcel, *conditions: ColumnElement[bool], **values: Any) -> None:
    db.session.execute(
        update(Webhook)
        .where(Webhook.id == parcel.webhook_id, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _change(
    parcel: Parcel, answer: Answer, *conditions: ColumnElement[bool], **values: Any
) -> None:
    db.session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == parcel.id, *conditions)
        .values(
            attempted_at=db_now(),
            status=answer.status,
            latency_ms=answer.latency_ms,
            error=answer.error,
            **values,
        )
        .execution_options(synchronize_session=False)
    )


def _give_up() -> None:
    """Fail the messages that were not accepted within a day, and log how many."""
    is_over = WebhookDelivery.ends_at <= db_now()
    # One that was never tried is late because of us, not because of the server.
    was_tried = WebhookDelivery.attempt_count > 0
    # One that is being sent is claimed, and so not due.
    is_due = claims.is_due(WebhookDelivery)
    with transaction():
        given_up = db.session.scalars(
            update(WebhookDelivery)
            .where(rows.take(WebhookDelivery, is_due, is_over, was_tried, limit=GIVE_UP_BATCH))
            .values(state=DeliveryState.FAILED)
            .returning(WebhookDelivery.webhook_id)
            .execution_options(synchronize_session=False)
        ).all()
    for webhook_id, count in Counter(given_up).items():
        log.warning(
            "%d messages to a webhook were given up", count, extra={"webhook": str(webhook_id)}
        )
        is_long = Webhook.failing_since <= db_now() - SWITCHED_OFF_AFTER
        # In a transaction of its own, so that the webhook's row is locked first, as everywhere.
        with transaction():
            webhooks.switch_off(webhook_id, SwitchedOff.FAILING, is_long)
