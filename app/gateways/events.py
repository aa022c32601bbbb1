"""Events in our words: what a topic (SNS) is told, and what has arrived in a queue (SQS).

What was published reaches a queue at least once, in any order; what was received is hidden from
others for a while, and comes again unless it is removed.
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

# What one request may carry, to a topic, and from or to a queue.
BATCH = 10
TIMEOUT_SECONDS = 10.0
# A queue lets nothing be hidden for longer than half a day since it was received.
LONGEST_HIDING_SECONDS = 11 * 3600


class _Away(Outage):
    """Topic or queue does not answer, or refuses us."""

    title = "The event queue is not answering right now."


@dataclass(frozen=True)
class Arrived:
    """What has arrived in the queue, ours until it is visible again."""

    id: str
    body: str
    handle: str
    # How often somebody has had it, this time included.
    count: int


class Events:
    """One topic and one queue, bound late. Binding opens no connection, and makes no client."""

    def bind(self, settings: Settings) -> None:
        """Take the settings."""
        self._settings = settings
        self.__dict__.pop("_topic", None)
        self.__dict__.pop("_queue", None)

    @property
    def publishes(self) -> bool:
        """Whether there is a topic."""
        return bool(self._settings.sns_topic_arn)

    @property
    def listens(self) -> bool:
        """Whether there is a queue."""
        return bool(self._settings.sqs_queue_url)

    def publish(self, kind: str, told: Sequence[str]) -> list[str | None]:
        """Tell the topic each of these: why it does not take it, or None where it has.

        Its subscribers may choose by `kind`, the attribute `event_type`.
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
        """What is there, or comes within this time; nobody else gets it for a while.

        Raises Outage.
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
        """Nobody gets these before; 0 gives them back at once. Raises Outage."""
        seconds = max(0, min(seconds, LONGEST_HIDING_SECONDS))
        self._each("change_message_visibility_batch", arrived, VisibilityTimeout=seconds)

    def remove(self, arrived: Sequence[Arrived]) -> None:
        """These are done with. Raises Outage; what is not removed comes again."""
        self._each("delete_message_batch", arrived)

    def has_dead_letters(self) -> bool:
        """Whether the queue puts aside what nobody can work on. Raises Outage."""
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
                # It was hidden for too short, and is somebody else's by now.
                log.warning("%s: %s", name, refused["Code"])

    def _ask(self, name: str, **given: Any) -> Any:
        try:
            return getattr(self._queue, name)(QueueUrl=self._settings.sqs_queue_url, **given)
        except (ClientError, BotoCoreError) as error:
            raise _Away(f"The event queue does not answer ({_why(error)}).") from error

    @property
    def _region(self) -> str:
        """The topic's, which its name tells."""
        return self._settings.sns_topic_arn.split(":")[3] if self.publishes else ""

    def get_ready(self) -> None:
        """Make what is otherwise made when there is news to tell; as storage's get_ready()."""
        if self.publishes:
            self._topic  # noqa: B018  it is made by being looked at

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
        """Where the queue's own address says that it is."""
        parts = urlsplit(self._settings.sqs_queue_url)
        region = self._region or self._settings.s3_region
        if (labels := (parts.hostname or "").split("."))[0] == "sqs" and len(labels) > 2:
            region = labels[1]
        return aws.client(
            "sqs",
            region,
            self._settings,
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            # Longer than it waits for something to arrive.
            read_seconds=3 * TIMEOUT_SECONDS,
        )


def _why(error: ClientError | BotoCoreError) -> str:
    """A word, and nothing of accounts and names: people read it who are not the operator."""
    if isinstance(error, ClientError):
        return str(error.response["Error"]["Code"])
    return type(error).__name__
