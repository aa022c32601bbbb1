"""SNS, SQS and SES over HTTP, imitated by moto's server in this process."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import boto3
from moto.server import ThreadedMotoServer
from moto.ses.models import ses_backends

REGION = "us-east-1"
ACCOUNT = "123456789012"


class Cloud:
    """One topic with a queue subscribed to it, and a dead-letter queue."""

    # Any credentials will do; named as in the environment.
    keys: Mapping[str, str] = MappingProxyType(
        {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    )

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.get_host_and_port()[1]}"
        keys = {name.lower(): value for name, value in self.keys.items()}
        made = {"endpoint_url": self.url, "region_name": REGION, **keys}
        self.sns = boto3.client("sns", **made)
        self.sqs = boto3.client("sqs", **made)
        self.ses = boto3.client("sesv2", **made)

    def begin(self) -> "Cloud":
        """Start over with everything empty; messages come in SNS envelopes."""
        for one in self.sqs.list_queues().get("QueueUrls", []):
            self.sqs.delete_queue(QueueUrl=one)
        for one in self.sns.list_topics()["Topics"]:
            self.sns.delete_topic(TopicArn=one["TopicArn"])
        ses_backends[ACCOUNT][REGION].reset()
        self.ses.create_email_identity(EmailIdentity="bee@send.example.org")
        self.topic = self.sns.create_topic(Name="shares")["TopicArn"]
        self.dead_letters = self.sqs.create_queue(QueueName="dead")["QueueUrl"]
        self.queue = self.sqs.create_queue(QueueName="mails")["QueueUrl"]
        self.put_aside_after(3)
        subscribed = self.sns.subscribe(
            TopicArn=self.topic,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:mails",
            ReturnSubscriptionArn=True,
        )
        self._subscription = subscribed["SubscriptionArn"]
        return self

    def deliver_raw(self) -> None:
        """Deliver messages without SNS's envelope from now on."""
        self.sns.set_subscription_attributes(
            SubscriptionArn=self._subscription,
            AttributeName="RawMessageDelivery",
            AttributeValue="true",
        )

    def put_aside_after(self, times: int | None) -> None:
        """Move messages to the dead-letter queue once received this often; None: never."""
        target = {
            "deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead",
            "maxReceiveCount": times,
        }
        policy = "" if times is None else json.dumps(target)
        self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"RedrivePolicy": policy})

    def send(self, told: Any) -> None:
        """Put a message directly into the queue."""
        body = told if isinstance(told, str) else json.dumps(told)
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def publish(self, told: Any) -> None:
        """Publish a message to the topic."""
        self.sns.publish(TopicArn=self.topic, Message=json.dumps(told))

    def count(self, queue: str = "") -> int:
        """The number of messages in a queue (ours by default), including hidden ones."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self.sqs.get_queue_attributes(QueueUrl=queue or self.queue, AttributeNames=names)
        return sum(int(one) for one in told["Attributes"].values())

    def bodies(self, queue: str = "") -> list[str]:
        """The bodies of a queue's messages, read without hiding them."""
        told = self.sqs.receive_message(
            QueueUrl=queue or self.queue, MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [one["Body"] for one in told.get("Messages", [])]

    @property
    def mails(self) -> list[Any]:
        """The mails handed to SES."""
        return list(ses_backends[ACCOUNT][REGION].sent_messages)

    def stop(self) -> None:
        """End the server."""
        self._server.stop()
