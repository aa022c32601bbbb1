"""The webhooks of a workspace: the URLs that are told of its transfers, and what each was sent.

Workspaces cannot see each other's. What is sent, and when, is in webhook_news.py; how it is
delivered is in webhook_outbox.py.
"""

import base64
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, delete, exists, literal, select, tuple_, update

from app import clock, jobs
from app.clock import db_now
from app.config import settings
from app.db import changed, db, transaction
from app.errors import Invalid, NotFound, WrongState
from app.gateways.webhook import BadAddress, target_of
from app.models import (
    DeliveryState,
    SwitchedOff,
    Webhook,
    WebhookDelivery,
    WebhookEvent,
    Workspace,
)
from app.services import audit, claims, idempotency, webhook_news
from app.services.accounts import Caller
from app.services.idempotency import Once
from app.services.marks import IsSeen, check_seen, mark_of

# The events that a webhook can subscribe to; TEST is sent on request only.
EVENTS = (WebhookEvent.READY, WebhookEvent.DOWNLOADED, WebhookEvent.EXPIRED)
MOST = 20
PAGE = 50
_OFF = "The webhook was switched off before this was sent."


@dataclass(frozen=True)
class Made:
    """A new webhook with its secret in the receiver's format, which is not shown again later."""

    row: Webhook
    secret: str


@dataclass(frozen=True)
class Log:
    """One page of what a webhook was sent, newest first, and where the next page begins."""

    deliveries: Sequence[WebhookDelivery]
    next_before: uuid.UUID | None
    # Nothing is sent to the webhook before then.
    rest_until: datetime | None

    @property
    def is_live(self) -> bool:
        """Whether any of these is being sent, or about to be."""
        now = clock.now()
        if self.rest_until is not None and self.rest_until > now:
            return False
        # One that is being sent is due again when its claim lapses.
        soon = now + timedelta(seconds=claims.CLAIM_SECONDS)
        waiting = [one for one in self.deliveries if one.state is DeliveryState.WAITING]
        return any(one.due_at <= soon for one in waiting)


# -- which there are -----------------------------------------------------------------------------


def create(
    caller: Caller, url: str, events: Sequence[WebhookEvent], once: Once | None = None
) -> Made:
    """Tell this URL of the workspace's transfers from now on. Raises Invalid, KeyReused.

    Each call creates another, up to MOST, except for the same request under the same key.
    """
    _check(url, events)
    row = Webhook(
        id=uuid.uuid4(),
        workspace_id=caller.workspace_id,
        url=url,
        events=_in_order(events),
        secret=secrets.token_bytes(32),
    )
    with transaction():
        # Locked, so that simultaneous calls cannot exceed MOST.
        db.session.execute(
            select(Workspace.id).where(Workspace.id == caller.workspace_id).with_for_update()
        )
        if (before := idempotency.made(once)) is not None:
            return _told(of_caller(before[0], caller))
        if len(all_of(caller)) >= MOST:
            raise Invalid({"url": f"cannot be added: a workspace has at most {MOST} webhooks"})
        db.session.add(row)
        idempotency.note(once, [row.id])
        audit.note("create webhook", subject_id=row.id)
    return _told(row)


def _told(row: Webhook) -> Made:
    return Made(row, f"whsec_{base64.b64encode(row.secret).decode()}")


def all_of(caller: Caller) -> Sequence[Webhook]:
    """The workspace's webhooks, oldest first."""
    return db.session.scalars(
        select(Webhook)
        .where(Webhook.workspace_id == caller.workspace_id)
        .order_by(Webhook.created_at, Webhook.id)
        .execution_options(populate_existing=True)
    ).all()


def of_caller(webhook_id: uuid.UUID, caller: Caller) -> Webhook:
    """A webhook of the caller's workspace; raises NotFound for any other."""
    return _one(Webhook.id == webhook_id, Webhook.workspace_id == caller.workspace_id)


def _one(*conditions: ColumnElement[bool], is_held: bool = False) -> Webhook:
    wanted = select(Webhook).where(*conditions).execution_options(populate_existing=True)
    if is_held:
        # The lock that an UPDATE takes: messages to the webhook can still be added meanwhile.
        wanted = wanted.with_for_update(key_share=True)
    found = db.session.scalar(wanted)
    if found is None:
        raise NotFound("This workspace has no such webhook.")
    return found


def edit_mark(webhook: Webhook) -> str:
    """The mark (marks.py) of all that edit() can change, for optimistic locking."""
    return mark_of((webhook.url, list(map(str, webhook.events)), webhook.is_enabled))


def edit(
    webhook: Webhook,
    *,
    url: str | None = None,
    events: Sequence[WebhookEvent] | None = None,
    is_enabled: bool | None = None,
    is_seen: IsSeen | None = None,
) -> Webhook:
    """Change what is given, or switch the webhook on or off; repeatable.

    Raises Invalid, NotFound, PreconditionFailed.

    Switched off, it is sent nothing, and waiting messages fail. Switched on, its record of failures
    is cleared.
    """
    # One whose URL is not allowed any more can still be switched off, but not on.
    _check(webhook.url if is_enabled and url is None else url, events)
    values: dict[str, Any] = {} if url is None else {"url": url}
    if events is not None:
        values["events"] = _in_order(events)
    if is_enabled or (url is not None and url != webhook.url):
        # Earlier failures say nothing about what comes now.
        values |= {"failing_since": None, "failure_count": 0, "rest_until": None}
    if is_enabled:
        values |= {"disabled_at": None, "disabled_for": None}
    with transaction():
        check_seen(is_seen, edit_mark(_one(Webhook.id == webhook.id, is_held=True)))
        if values:
            db.session.execute(
                update(Webhook)
                .where(Webhook.id == webhook.id)
                .values(**values)
                .execution_options(synchronize_session=False)
            )
            audit.note("edit webhook", subject_id=webhook.id)
        if is_enabled is False:
            switch_off(webhook.id, SwitchedOff.ASKED)
    return _one(Webhook.id == webhook.id)


def remove(webhook: Webhook) -> None:
    """Delete a webhook together with its log; repeatable."""
    with transaction():
        db.session.execute(delete(Webhook).where(Webhook.id == webhook.id))
        audit.note("delete webhook", subject_id=webhook.id)


def switch_off(webhook_id: uuid.UUID, why: SwitchedOff, *conditions: ColumnElement[bool]) -> bool:
    """Stop sending to a webhook and fail its waiting messages. Call in transaction().

    False if it was switched off already, or the conditions do not hold.
    """
    switched = changed(
        update(Webhook)
        .where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None), *conditions)
        .values(disabled_at=db_now(), disabled_for=why)
        .execution_options(synchronize_session=False)
    )
    if not switched:
        return False
    _fail_waiting([webhook_id])
    audit.note("switch off webhook", subject_id=webhook_id)
    return True


def fail_stranded() -> None:
    """Fail messages that were queued just while their webhook was switched off; repeatable.

    Whoever queues one does not wait for whoever switches off, so each may not see the other.
    """
    is_waiting = WebhookDelivery.state == DeliveryState.WAITING
    stranded = (
        select(Webhook.id)
        .where(
            Webhook.disabled_at.is_not(None),
            exists().where(WebhookDelivery.webhook_id == Webhook.id, is_waiting),
        )
        # Locked, so that none is switched on meanwhile and loses what is sent again then.
        .with_for_update(key_share=True, skip_locked=True)
    )
    with transaction():
        if webhook_ids := db.session.scalars(stranded).all():
            _fail_waiting(webhook_ids)


def _fail_waiting(webhook_ids: Sequence[uuid.UUID]) -> None:
    is_untold = WebhookDelivery.error == ""
    db.session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id.in_(webhook_ids),
            WebhookDelivery.state == DeliveryState.WAITING,
        )
        .values(
            state=DeliveryState.FAILED, error=case((is_untold, _OFF), else_=WebhookDelivery.error)
        )
        .execution_options(synchronize_session=False)
    )


def _check(url: str | None, events: Sequence[str] | None) -> None:
    complaints = {}
    try:
        if url is not None:
            target_of(url, may_be_here=settings.webhook_allow_loopback)
    except BadAddress as error:
        complaints["url"] = str(error)
    if events is not None and not events:
        complaints["events"] = "must not be empty"
    if complaints:
        raise Invalid(complaints)


def _in_order(events: Sequence[WebhookEvent]) -> list[str]:
    return [one.value for one in EVENTS if one in events]


# -- what each was sent --------------------------------------------------------------------------


def log_of(webhook: Webhook, before: uuid.UUID | None = None) -> Log:
    """One page of its messages, newest first, or of those older than `before`. Raises Invalid."""
    mine = WebhookDelivery.webhook_id == webhook.id
    place = tuple_(WebhookDelivery.created_at, WebhookDelivery.id)
    wanted = select(WebhookDelivery).where(mine)
    if before is not None:
        last = db.session.execute(
            select(WebhookDelivery.created_at, WebhookDelivery.id).where(
                mine, WebhookDelivery.id == before
            )
        ).first()
        if last is None:
            raise Invalid({"before": "is not one of this webhook's deliveries"})
        at, one = WebhookDelivery.created_at.type, WebhookDelivery.id.type
        wanted = wanted.where(place < tuple_(literal(last[0], at), literal(last[1], one)))
    found = db.session.scalars(
        wanted.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
        .limit(PAGE + 1)
        .execution_options(populate_existing=True)
    ).all()
    next_before = found[PAGE - 1].id if len(found) > PAGE else None
    return Log(found[:PAGE], next_before, webhook.rest_until)


def send_test(webhook: Webhook) -> WebhookDelivery:
    """Queue an empty test message, which is sent immediately and in the same way as all others.

    Raises WrongState while the webhook is switched off.
    """
    with transaction():
        _wake(webhook)
        row = webhook_news.tell_test(webhook)
        audit.note("test webhook", subject_id=webhook.id)
    return row


def retry(webhook: Webhook, delivery_id: uuid.UUID) -> WebhookDelivery:
    """Send one message again now, whatever its state, with retries for a day; it keeps its id.

    Raises NotFound, WrongState while the webhook is switched off.
    """
    with transaction():
        _wake(webhook)
        row = db.session.scalar(
            update(WebhookDelivery)
            .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook.id)
            .values(
                state=DeliveryState.WAITING,
                due_at=db_now(),
                ends_at=db_now() + webhook_news.TRIED_FOR,
                attempt_count=0,
            )
            .returning(WebhookDelivery)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        if row is None:
            raise NotFound("This webhook has no such delivery.")
        audit.note("retry webhook", subject_id=webhook.id)
        jobs.SEND_WEBHOOKS.later()
    return row


def _wake(webhook: Webhook) -> None:
    """End the webhook's rest, because somebody is waiting. Locks its row first, as everywhere.

    Raises WrongState while it is switched off.
    """
    woken = changed(
        update(Webhook)
        .where(Webhook.id == webhook.id, Webhook.disabled_at.is_(None))
        .values(rest_until=None)
        .execution_options(synchronize_session=False)
    )
    if not woken:
        raise WrongState("This webhook is switched off.")
