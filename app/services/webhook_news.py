"""Queues the messages to webhooks: outbox rows, in the transaction that makes the news true.

Only about transfers that belong to a workspace, and without anything that a person wrote: no title,
message or file name. The receiver can ask for those with its API key.
"""

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    SQLColumnExpression,
    Text,
    Uuid,
    any_,
    cast,
    func,
    literal,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.dml import ReturningUpdate

from app import jobs
from app.clock import db_now
from app.config import settings
from app.db import changed, db
from app.models import Transfer, Webhook, WebhookDelivery, WebhookEvent

# How long a message is retried: a receiver can be away this long and miss nothing.
TRIED_FOR = timedelta(days=1)
# The columns of a transfer that the messages of every event are made from.
_OF_TRANSFER = (
    Transfer.id,
    Transfer.workspace_id,
    Transfer.user_identifier,
    Transfer.slug,
    Transfer.expires_at,
    Transfer.download_count,
    Transfer.max_downloads,
)


def tell_ready(transfer_id: uuid.UUID) -> None:
    """Queue "ready": all its files are there. Sent only once. Call in transaction()."""
    _tell(WebhookEvent.READY, transfer_id, literal(1))


def tell_download(transfer_id: uuid.UUID, file_id: uuid.UUID | None) -> None:
    """Queue "downloaded", for each counted download. Call in transaction(), with the transfer's
    row locked.
    """
    more = {"file_id": null() if file_id is None else literal(str(file_id))}
    _tell(WebhookEvent.DOWNLOADED, transfer_id, Transfer.download_count, more)


def telling_expired(change: ReturningUpdate[Any]) -> tuple[CTE, CTE]:
    """The UPDATE that expires transfers, and the INSERT of messages about those that it returns.

    Both as CTEs of one statement, whatever their number. Sent only once for each expiry date.
    """
    # `change` returns the ids already.
    expired = change.returning(*_OF_TRANSFER[1:]).cte("changed")
    date = func.extract("epoch", expired.c.expires_at)
    return expired, _telling(WebhookEvent.EXPIRED, expired, date).cte("told")


def tell_test(webhook: Webhook) -> WebhookDelivery:
    """Queue an empty test message to one webhook. Call in transaction()."""
    event_id = literal(uuid.uuid4(), Uuid)
    told = select(
        func.gen_random_uuid(),
        Webhook.id,
        cast(null(), Uuid),
        event_id,
        _event(WebhookEvent.TEST),
        _payload(event_id, WebhookEvent.TEST, func.json_build_object("webhook_id", Webhook.id)),
        db_now(),
        db_now() + TRIED_FOR,
    ).where(Webhook.id == webhook.id)
    added = _into_outbox(told).returning(WebhookDelivery)
    row: WebhookDelivery = db.session.scalars(added).one()
    jobs.SEND_WEBHOOKS.later()
    return row


def _tell(
    event: WebhookEvent,
    transfer_id: uuid.UUID,
    n: SQLColumnExpression[Any],
    more: Mapping[str, ColumnElement[Any]] | None = None,
) -> None:
    of_it: Select[*tuple[Any, ...]] = select(*_OF_TRANSFER, n.label("n")).where(
        Transfer.id == transfer_id, Transfer.workspace_id.is_not(None)
    )
    found = of_it.cte("found")
    if changed(_telling(event, found, found.c.n, more)):
        jobs.SEND_WEBHOOKS.later()


def _telling(
    event: WebhookEvent,
    transfers: CTE,
    n: ColumnElement[Any],
    more: Mapping[str, ColumnElement[Any]] | None = None,
) -> Insert:
    """The INSERT of one row for each of these transfers and each webhook that subscribes.

    `n` distinguishes events of the same kind; a row that exists already is skipped.
    """
    event_id = _id_of(event, transfers.c.id, n)
    link = func.concat(f"{settings.base_url}/d/", transfers.c.slug)
    about = {
        "transfer_id": transfers.c.id,
        "user_identifier": transfers.c.user_identifier,
        "url": link,
        "expires_at": _written(transfers.c.expires_at),
        "download_count": transfers.c.download_count,
        "max_downloads": transfers.c.max_downloads,
        **(more or {}),
    }
    pairs = [piece for name, value in about.items() for piece in (literal(name), value)]
    told = (
        select(
            func.gen_random_uuid(),
            Webhook.id,
            transfers.c.id,
            event_id,
            _event(event),
            _payload(event_id, event, func.json_build_object(*pairs)),
            db_now(),
            db_now() + TRIED_FOR,
        )
        .select_from(transfers)
        .join(Webhook, Webhook.workspace_id == transfers.c.workspace_id)
        .where(Webhook.disabled_at.is_(None), literal(event.value) == any_(Webhook.events))
    )
    return _into_outbox(told).on_conflict_do_nothing()


def _into_outbox(told: Select[*tuple[Any, ...]]) -> Insert:
    return insert(WebhookDelivery).from_select(
        [
            "id",
            "webhook_id",
            "transfer_id",
            "event_id",
            "event",
            "payload",
            "due_at",
            "ends_at",
        ],
        told,
        include_defaults=False,
    )


def _id_of(event: WebhookEvent, transfer_id: Any, n: Any) -> ColumnElement[Any]:
    """A deterministic id: the same event has the same id for every webhook and in every process."""
    said = func.convert_to(func.concat_ws(":", event.value, transfer_id, n), "UTF8")
    # The digest, cut to the length of a UUID.
    return cast(func.substr(func.encode(func.sha256(said), "hex"), 1, 32), Uuid)


def _payload(event_id: Any, event: WebhookEvent, data: Any) -> ColumnElement[str]:
    whole = func.json_build_object(
        "id", event_id, "type", event.value, "timestamp", _written(db_now()), "data", data
    )
    return cast(whole, Text)


def _event(event: WebhookEvent) -> ColumnElement[Any]:
    # Cast because PostgreSQL would take it for text in an INSERT ... SELECT.
    return cast(literal(event.value), WebhookDelivery.event.type)


def _written(at: Any) -> ColumnElement[str]:
    return func.to_char(func.timezone("UTC", at), 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
