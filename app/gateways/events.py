"""Publishes events to an SNS topic and receives them from an SQS queue.

Delivery is at least once and in any order. A received message is hidden from other consumers for
a while, and is delivered again unless it is removed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from app.config import Settings
from app.errors import Outage
from app.gateways import aws

log = logging.getLogger(__name__)

# Messages per request, for both SNS and SQS.
BATCH = 10
TIMEOUT_SECONDS = 10.0
# SQS hides a message for at most 12 hours from when it was received.
LONGEST_HIDING_SECONDS = 11 * 3600


class _Away(Outage):
    """The queue does not answer, or refuses the request."""

    title = "The event queue is not answering right now."


@dataclass(frozen=True)
class Arrived:
    """A message received from the queue, ours until it becomes visible again."""

    id: str
    body: str
    handle: str
    # How often it has been received, this time included.
    count: int


class Events:
    """One topic and one queue, configured by bind()."""

    def bind(self, settings: Settings) -> None:
        """Take the settings; opens no connection and makes no client."""
        self._settings = settings
        self.__dict__.pop("_topic", None)
        self.__dict__.pop("_queue", None)

    @property
    def publishes(self) -> bool:
        """Whether a topic is configured."""
        return bool(self._settings.sns_topic_arn)

    @property
    def listens(self) -> bool:
        """Whether a queue is configured."""
        return bool(self._settings.sqs_queue_url)

    def publish(self, kind: str, told: Sequence[str]) -> list[str | None]:
        """Publish these messages; for each returns None if it was accepted, or why it was not.

        Subscribers can filter by `kind`, which is sent as the attribute `event_type`.
        """
        refusals: list[str | None] = []
        for start in range(0, len(told), BATCH):
            refusals += self._publish(kind, told[start : start + BATCH])
        return refusals

    def _publish(self, kind: str, told: Sequence[str]) -> list[str | None]:
        attributes = {"event_type": {"DataType": "String", "StringValue": kind}}
        entries = [
            {"Id": str(number), "Message": message, "MessageAttributes": attributes}
            for number, message in enumerate(told)
        ]
        try:
            answer = self._topic.publish_batch(
                TopicArn=self._settings.sns_topic_arn, PublishBatchRequestEntries=entries
            )
        except (ClientError, BotoCoreError) as error:
            log.warning("the topic takes nothing: %s", _why(error))
            return [f"The topic takes nothing ({_why(error)})."] * len(told)
        refused = {one["Id"]: one["Code"] for one in answer.get("Failed", [])}
        return [
            f"The topic does not take it ({refused[entry['Id']]})."
            if entry["Id"] in refused
            else None
            for entry in entries
        ]

    def receive(self, wait_seconds: int, hidden_seconds: int) -> list[Arrived]:
        """Return up to BATCH messages, waiting up to `wait_seconds` for the first.

        Other consumers do not get them for `hidden_seconds`. Raises Outage.
        """
        answer = self._ask(
            "receive_message",
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=hidden_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Arrived(
                one["MessageId"],
                one["Body"],
                one["ReceiptHandle"],
                int(one.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for one in answer.get("Messages", [])
        ]

    def hide(self, arrived: Sequence[Arrived], seconds: int) -> None:
        """Hide these messages for `seconds` more; 0 releases them immediately. Raises Outage."""
        seconds = max(0, min(seconds, LONGEST_HIDING_SECONDS))
        self._each("change_message_visibility_batch", arrived, VisibilityTimeout=seconds)

    def remove(self, arrived: Sequence[Arrived]) -> None:
        """Delete these messages; any that is not deleted is delivered again. Raises Outage."""
        self._each("delete_message_batch", arrived)

    def has_dead_letters(self) -> bool:
        """Whether the queue has a dead-letter queue. Raises Outage."""
        answer = self._ask("get_queue_attributes", AttributeNames=["RedrivePolicy"])
        return "RedrivePolicy" in answer.get("Attributes", {})

    def _each(self, name: str, arrived: Sequence[Arrived], **more: Any) -> None:
        for start in range(0, len(arrived), BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": one.handle, **more}
                for number, one in enumerate(arrived[start : start + BATCH])
            ]
            answer = self._ask(name, Entries=entries)
            for refused in answer.get("Failed", []):
                # Its visibility timeout has passed, and another consumer may have it by now.
                log.warning("%s: %s", name, refused["Code"])

    def _ask(self, name: str, **given: Any) -> Any:
        try:
            return getattr(self._queue, name)(QueueUrl=self._settings.sqs_queue_url, **given)
        except (ClientError, BotoCoreError) as error:
            raise _Away(f"The event queue does not answer ({_why(error)}).") from error

    @property
    def _region(self) -> str:
        """The topic's region, which is part of its ARN; empty without a topic."""
        return self._settings.sns_topic_arn.split(":")[3] if self.publishes else ""

    def get_ready(self) -> None:
        """Make the topic's client now instead of on first use; see Clients.get_ready()."""
        if self.publishes:
            self._topic  # noqa: B018  a cached property: reading it makes it

    @cached_property
    def _topic(self) -> Any:
        return aws.client(
            "sns",
            self._region,
            self._settings,
            endpoint_url=self._settings.aws_endpoint_url,
            read_seconds=TIMEOUT_SECONDS,
        )

    @cached_property
    def _queue(self) -> Any:
        """A client for the region and endpoint that are part of the queue's URL."""
        parts = urlsplit(self._settings.sqs_queue_url)
        region = self._region or self._settings.s3_region
        if (labels := (parts.hostname or "").split("."))[0] == "sqs" and len(labels) > 2:
            region = labels[1]
        return aws.client(
            "sqs",
            region,
            self._settings,
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            # Longer than receive() waits for messages.
            read_seconds=3 * TIMEOUT_SECONDS,
        )


def _why(error: ClientError | BotoCoreError) -> str:
    """Return only an error code, no account ids or names: not only the operator reads it."""
    if isinstance(error, ClientError):
        return str(error.response["Error"]["Code"])
    return type(error).__name__
