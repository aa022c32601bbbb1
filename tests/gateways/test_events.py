"""Topic and queue: the calls that are made, and what their refusals become."""

from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from app import config
from app.errors import Outage
from app.gateways.events import Arrived, Events
from tests.test_config import GOOD

TOPIC = "arn:aws:sns:eu-west-1:123456789012:shares"
QUEUE = "https://sqs.eu-north-1.amazonaws.com/123456789012/mails"
NAMED = {"MAIL_URL": "ses://eu-west-1", "SNS_TOPIC_ARN": TOPIC, "SQS_QUEUE_URL": QUEUE}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    made = Events()
    made.bind(config.load(GOOD | NAMED))
    return made


def arrived(count: int) -> list[Arrived]:
    return [Arrived(f"m{n}", "{}", f"h{n}", 1) for n in range(count)]


def test_regions_are_those_that_the_names_tell(events: Events) -> None:
    assert events._topic.meta.region_name == "eu-west-1"
    assert events._queue.meta.region_name == "eu-north-1"
    assert events._queue.meta.endpoint_url == "https://sqs.eu-north-1.amazonaws.com"


def test_ten_at_a_time_are_published_and_each_has_its_own_refusal(events: Events) -> None:
    with Stubber(events._topic) as stub:
        for size, failed in ((10, ["3"]), (2, [])):
            entries = [
                {"Id": str(n), "Message": "m", "MessageAttributes": {"event_type": ANY}}
                for n in range(size)
            ]
            told = [{"Id": one, "Code": "InternalError", "SenderFault": False} for one in failed]
            stub.add_response(
                "publish_batch",
                {"Successful": [], "Failed": told},
                {"TopicArn": TOPIC, "PublishBatchRequestEntries": entries},
            )
        refusals = events.publish("KIND", ["m"] * 12)
        stub.assert_no_pending_responses()
    assert [at for at, refusal in enumerate(refusals) if refusal] == [3]
    assert refusals[3] == "The topic does not take it (InternalError)."


def test_a_refusal_of_all_tells_nothing_of_the_account(events: Events) -> None:
    with Stubber(events._topic) as stub:
        stub.add_client_error("publish_batch", "AuthorizationError", f"not you on {TOPIC}")
        assert (
            events.publish("KIND", ["m"] * 2)
            == ["The topic takes nothing (AuthorizationError)."] * 2
        )


def test_what_is_done_with_is_removed_ten_at_a_time(events: Events, caplog: Any) -> None:
    with Stubber(events._queue) as stub:
        for size in (10, 1):
            entries = [{"Id": str(n), "ReceiptHandle": ANY} for n in range(size)]
            failed = [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}]
            stub.add_response(
                "delete_message_batch",
                {"Successful": [], "Failed": failed},
                {"QueueUrl": QUEUE, "Entries": entries},
            )
        events.remove(arrived(11))
        stub.assert_no_pending_responses()
    assert "ReceiptHandleIsInvalid" in caplog.text


def test_nothing_is_hidden_for_longer_than_the_queue_allows(events: Events) -> None:
    with Stubber(events._queue) as stub:
        entry = {"Id": "0", "ReceiptHandle": "h0", "VisibilityTimeout": 39600}
        stub.add_response(
            "change_message_visibility_batch",
            {"Successful": [], "Failed": []},
            {"QueueUrl": QUEUE, "Entries": [entry]},
        )
        events.hide(arrived(1), 10**6)
        events.hide([], 5)
        stub.assert_no_pending_responses()


def test_a_queue_that_is_away_is_an_outage(events: Events) -> None:
    with Stubber(events._queue) as stub:
        stub.add_client_error("receive_message", "AccessDenied", "no")
        with pytest.raises(Outage, match="AccessDenied"):
            events.receive(0, 60)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SNS_TOPIC_ARN", "shares"),
        ("SNS_TOPIC_ARN", f"{TOPIC}.fifo"),
        ("SNS_TOPIC_ARN", "arn:aws:sqs:eu-west-1:123456789012:mails"),
        ("SQS_QUEUE_URL", "mails"),
        ("SQS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com"),
        ("SQS_QUEUE_URL", f"{QUEUE}.fifo"),
        ("AWS_ENDPOINT_URL", "localhost:4566"),
        ("MAIL_URL", ""),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, value: str) -> None:
    with pytest.raises(config.ConfigError, match=name):
        config.load(GOOD | NAMED | {name: value})
