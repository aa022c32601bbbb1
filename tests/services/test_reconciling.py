"""Files that storage has lost are counted and told, and never "repaired"."""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import clock
from app.extensions import storage
from app.gateways import storage as gateway
from app.models import State, UploadState
from app.services import archives, reconciling, transfers, upkeep
from app.services.reconciling import Differences
from tests.factories import Sender, Sent

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(autouse=True)
def prefix(configure: Callable[..., None], monkeypatch) -> str:
    """A prefix of the test's own, and pages of three."""
    made = f"lost-{secrets.token_hex(6)}/"
    configure(s3_prefix=made)
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_prefix=made))
    monkeypatch.setattr(gateway, "PAGE_SIZE", 3)
    monkeypatch.setattr(reconciling, "BATCH", 2)
    return made


def compare(found: Differences | None = None, *, is_over: bool = False) -> Differences:
    """Compare all that is left, or one page of it."""
    found = found or Differences(begun_at=0.0, place="")
    old_before = clock.now() + timedelta(minutes=5)
    reconciling.compare(found, old_before, lambda count: None, lambda: is_over)
    return found


def orphans() -> list[str]:
    """The keys of the objects that no row wants."""
    old_before = clock.now() + timedelta(minutes=5)
    return [
        one.key for page in storage.objects() for one in reconciling.orphans_in(page, old_before)
    ]


def lose(sent: Sent, number: int = 0) -> Any:
    """Storage forgets a file; its upload."""
    upload = transfers.files_of(sent.id)[number].upload
    assert storage.delete([upload.key]) == []
    return upload


def test_nothing_is_lost_and_nothing_is_an_orphan(sender: Sender) -> None:
    sender.ready({f"f{n}": b"1" for n in range(9)}).zip()
    sender.create({"a": b"1"}).upload()
    found = compare()
    assert (found.listed_count, found.orphan_count, found.lost, found.lost_count) == (11, 0, [], 0)


def test_both_ways_in_one_pass(sender: Sender, prefix: str, s3_calls: list[str]) -> None:
    """Wherever in the order of keys they are: the first, the last, some in a row."""
    sent = [sender.ready({f"f{n}": b"1" for n in range(5)}) for _ in range(2)]
    uploads = sorted(
        (file.upload for one in sent for file in transfers.files_of(one.id)),
        key=lambda upload: upload.key,
    )
    gone = [uploads[i] for i in (0, 3, 4, 5, 9)]
    assert storage.delete([upload.key for upload in gone]) == []
    storage._clients.patient.put_object(Bucket=storage._bucket, Key=f"{prefix}0", Body=b"abc")
    storage._clients.patient.put_object(Bucket=storage._bucket, Key=f"{prefix}x/y", Body=b"abc")
    s3_calls.clear()
    found = compare()
    assert found.is_compared
    assert found.lost == [str(upload.id) for upload in gone]
    assert found.lost_count == 5
    assert (found.orphan_count, found.orphan_size) == (2, 6)
    # Storage is asked again only for those that seem to be missing.
    assert s3_calls == ["ListObjectsV2"] * 3 + ["HeadObject"] * 5
    assert orphans() == [f"{prefix}0", f"{prefix}x/y"]
    # Left off after each page, it comes to the same, and reads no page twice.
    s3_calls.clear()
    by_page = Differences(begun_at=0.0, place="")
    turns = 1
    while not compare(by_page, is_over=True).is_compared:
        turns += 1
        by_page = Differences(**json.loads(json.dumps(asdict(by_page))))
    assert by_page == found
    assert s3_calls.count("ListObjectsV2") == turns == 4
    assert s3_calls.count("HeadObject") == 5


def test_the_sweep_tells_and_repairs_nothing(
    client: FlaskClient, app: Flask, sender: Sender, caplog
) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    assert client.get("/ready").json["lost_object_count"] is None
    assert upkeep.remove_orphans() == 0
    assert client.get("/ready").json["lost_object_count"] == 0
    upload = lose(sent)
    assert upkeep.remove_orphans() == 0
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["objects"]) == (200, "missing")
    assert answer.json["lost_object_count"] == 1
    assert f"1 complete uploads have no object in storage, such as {upload.id}" in caplog.text
    assert (sent.row().state, upload.state) == (State.READY, UploadState.COMPLETE)
    told = app.test_cli_runner().invoke(args=["sweep", "--dry-run"])
    assert "1 complete uploads have no object" in told.output
    transfers.delete(sent.id)
    upkeep.remove_orphans()
    assert client.get("/ready").json["checks"]["objects"] == "OK"


def test_the_object_of_a_zip_counts_too(sender: Sender) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}).zip()
    made = archives.find_made(sent.id)
    assert made is not None
    storage.delete([made.key])
    assert compare().lost == [str(made.id)]


def test_what_ends_while_the_list_is_read_is_not_lost(sender: Sender, monkeypatch) -> None:
    ended, lost = sender.ready(), sender.ready()
    upload, ask = lose(lost), reconciling.removal.without_object

    def without_object(keys: Any) -> Any:
        transfers.delete(ended.id)
        upkeep.remove_bytes()
        return ask(keys)

    lose(ended)
    monkeypatch.setattr(reconciling.removal, "without_object", without_object)
    assert compare().lost == [str(upload.id)]


def test_what_comes_while_the_list_is_read_is_not_lost(sender: Sender, monkeypatch) -> None:
    listed = list(storage.objects())
    sender.ready({"a": b"1", "b": b"2"})
    monkeypatch.setattr(storage, "objects", lambda after: iter(listed))
    assert compare().lost_count == 0


def test_a_lost_bucket_is_counted_and_not_asked_for_each(sender: Sender, monkeypatch) -> None:
    monkeypatch.setattr(reconciling, "MOST_ASKED_AGAIN", 2)
    sent = sender.ready({f"f{n}": b"1" for n in range(6)})
    for number in range(6):
        lose(sent, number)
    found = compare()
    assert (len(found.lost), found.lost_count) == (2, 6)


def test_a_list_in_no_order_says_nothing_of_what_is_missing(
    sender: Sender, monkeypatch, caplog
) -> None:
    sent = sender.ready({f"f{n}": b"1" for n in range(5)})
    lose(sent)
    pages = list(storage.objects())
    monkeypatch.setattr(storage, "objects", lambda after: iter(page[::-1] for page in pages))
    found = compare()
    assert (found.lost, found.lost_count, found.orphan_count) == ([], None, 0)
    assert not found.can_be_continued
    assert "in no order" in caplog.text
