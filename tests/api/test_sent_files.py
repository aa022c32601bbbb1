"""`sent` in POST /transfers/<id>/parts: bad words are named, right ones change nothing else."""

import uuid
from typing import Any

import pytest

from tests.factories import Sender


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ("x", "sent"),
        ({}, "sent"),
        (1, "sent"),
        (["x"], "sent.0"),
        ([1], "sent.0"),
        ([None], "sent.0"),
        ([["a"], {}], "sent.1"),
        ([str(uuid.uuid4())], "sent.0"),
        ([uuid.UUID(int=0).hex], "sent.0"),
        (["mine", "mine"], "sent"),
        (["mine", "other"], "sent.1"),
        ([str(uuid.UUID(int=n)) for n in range(501)], "sent"),
        ([], "wanted"),
        (None, "wanted"),
    ],
)
def test_a_word_that_cannot_be_is_named(
    sender: Sender, queued: list, sent: Any, field: str
) -> None:
    """S07: a file of somebody else's transfer is as unknown as one that never was."""
    mine, other = sender.create(), sender.create()
    ids = {"mine": mine.files[0]["id"], "other": other.files[0]["id"]}
    if isinstance(sent, list):
        sent = [ids.get(one, one) if isinstance(one, str) else one for one in sent]
    answer = mine.call("POST", "/parts", json={"wanted": [], "sent": sent})
    assert answer.status_code == 400, answer.json
    assert field in [one["field"] for one in answer.json["error"]["fields"]]
    assert queued == []


def test_a_bad_word_signs_nothing(sender: Sender, queued: list) -> None:
    sent = sender.create({"big": b"b" * (8 * 2**20 + 1)})
    wanted = [{"file": sent.files[0]["id"], "numbers": [1]}]
    body = {"wanted": wanted, "sent": [str(uuid.uuid4())], "sent_size": 5}
    assert sent.call("POST", "/parts", json=body).status_code == 400
    assert (sent.row().sent_size, queued) == (0, [])


def test_words_come_along_with_wishes_or_alone(sender: Sender, queued: list) -> None:
    sent = sender.create({f"f{n}": b"x" for n in range(501)})
    ids = [file["id"] for file in sent.files]
    body: dict[str, Any] = {"wanted": [], "sent": ids[:500], "sent_size": 9}
    answer = sent.call("POST", "/parts", json=body)
    assert (answer.status_code, answer.json["parts"]) == (200, [])
    assert (sent.row().sent_size, len(queued)) == (9, 1)
    body = {"wanted": [{"file": ids[500], "numbers": [1]}], "sent": [ids[0]]}
    assert len(sent.call("POST", "/parts", json=body).json["parts"]) == 1


def test_it_is_too_late_after_that_is_all(sender: Sender, queued: list) -> None:
    sent = sender.create().upload().complete()
    queued.clear()
    body = {"wanted": [], "sent": [sent.files[0]["id"]]}
    assert sent.call("POST", "/parts", json=body).status_code == 409
    assert queued == []


def test_what_is_complete_is_asked_no_address_for(sender: Sender) -> None:
    sent = sender.create({"a": b"1", "b": b"2"}).upload().name("a").unlock()
    wanted = [{"file": sent.files[0]["id"], "numbers": [1]}]
    assert sent.call("POST", "/parts", json={"wanted": wanted}).status_code == 409
    held = sent.call("GET", "/parts").json["files"]
    assert [(one["state"], one["held"]) for one in held] == [("COMPLETE", [1]), ("OPEN", [1])]


def test_the_links_json_tells_which_are_safe_and_their_address_works(sender: Sender) -> None:
    sent = sender.create({"a": b"1", "b": b"2"}, verified=True).upload().name("a").unlock()
    told = sender.client.get(f"/d/{sent.slug}.json").json
    assert told["state"] == "uploading"
    assert [(one["state"], one["crc32"] is None) for one in told["files"]] == [
        ("COMPLETE", False),
        ("OPEN", True),
    ]
    plain = sender.client.application.test_client(use_cookies=False)
    codes = [plain.post(one["download_url"]).status_code for one in told["files"]]
    assert (codes, sent.row().download_count) == ([303, 409], 1)
