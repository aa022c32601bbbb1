"""The sweeps while storage fails or refuses: what it keeps goes next time, and holds up nothing else."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from flask import Flask
from sqlalchemy import select

from app.db import db, transaction
from app.errors import Unavailable
from app.extensions import storage
from app.gateways import storage as gateway
from app.models import Archive, State, Upload
from app.services import upkeep
from tests.factories import Sender
from tests.faults.sweeping import Bucket, ago, cli, rows, states

pytestmark = [pytest.mark.real_commits, pytest.mark.usefixtures("inside")]


@pytest.fixture
def failing(monkeypatch) -> Iterator[dict[str, Callable[[dict[str, Any]], bool]]]:
    """Operation names, and for which requests of theirs storage answers 503."""
    when: dict[str, Callable[[dict[str, Any]], bool]] = {}
    ask = BaseClient._make_api_call

    def answer(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if operation in when and when[operation](given):
            raise ClientError(
                {
                    "Error": {"Code": "SlowDown", "Message": "no"},
                    "ResponseMetadata": {"HTTPStatusCode": 503},
                },
                operation,
            )
        return ask(client, operation, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    yield when
    storage._circuit._set(0.0)


def well_again(failing: dict[str, Any]) -> None:
    failing.clear()
    storage._circuit._set(0.0)


@pytest.mark.usefixtures("small_pages")
def test_f49_orphans_that_storage_keeps_are_removed_next_time(
    bucket: Bucket, failing: dict[str, Any]
) -> None:
    keys = bucket.plant([f"o{n:02}" for n in range(20)])
    failing["DeleteObjects"] = lambda given: keys[15] in str(given)
    with pytest.raises(Unavailable):
        upkeep.remove_orphans(force=True)
    assert bucket.keys() == set(keys[14:])
    well_again(failing)
    assert upkeep.remove_orphans(force=True) == 6
    assert bucket.keys() == set()


def test_f49_nothing_is_removed_when_the_list_breaks_off(
    bucket: Bucket, failing: dict[str, Any], monkeypatch
) -> None:
    """Half a list would make a share look reasonable that is not."""
    monkeypatch.setattr(gateway, "PAGE_SIZE", 7)
    keys = bucket.plant([f"o{n:02}" for n in range(9)])
    failing["ListObjectsV2"] = lambda given: "ContinuationToken" in given
    with pytest.raises(Unavailable):
        upkeep.remove_orphans(force=True)
    well_again(failing)
    assert bucket.keys() == set(keys)


def test_f49_one_upload_that_storage_will_not_drop_keeps_no_other(
    bucket: Bucket, failing: dict[str, Any], monkeypatch
) -> None:
    monkeypatch.setattr(gateway, "REST_SECONDS", 0.0)
    monkeypatch.setattr(storage._circuit, "_seconds", 0.0)
    bad, *others = rows(bucket, State.INIT, 6, begun=True)
    bucket.plant([upload.key for upload in others], below="")
    assert upkeep.delete_abandoned() == 6
    failing["AbortMultipartUpload"] = lambda given: given["Key"] == bad.key
    assert upkeep.remove_bytes() == 5
    assert bucket.open_ids() == {bad.s3_upload_id}
    assert bucket.keys() == set()
    well_again(failing)
    assert upkeep.remove_bytes() == 0  # it rests for a moment
    with transaction():
        db.session.execute(
            Upload.__table__.update().where(Upload.id == bad.id).values(remove_after=ago(seconds=1))
        )
    assert upkeep.remove_bytes() == 1
    assert bucket.open_ids() == set()


def test_f49_a_multipart_that_storage_keeps_is_aborted_next_time(
    bucket: Bucket, failing: dict[str, Any], monkeypatch
) -> None:
    monkeypatch.setattr(storage._circuit, "_seconds", 0.0)
    bucket.begin([f"{bucket.prefix}m{n}" for n in range(5)])
    failing["AbortMultipartUpload"] = lambda given: given["Key"].endswith("m2")
    assert upkeep.abort_unknown_uploads() == 4
    well_again(failing)
    assert upkeep.abort_unknown_uploads() == 1
    assert bucket.open_ids() == set()


def test_f49_a_sweep_at_the_terminal_goes_on_after_one_that_failed(
    app: Flask, bucket: Bucket, failing: dict[str, Any]
) -> None:
    rows(bucket, State.READY, 1, expires_at=ago(minutes=1))
    failing["ListMultipartUploads"] = failing["ListObjectsV2"] = lambda given: True
    done = cli(app)
    assert done.exit_code == 1
    assert "Storage is not answering" in done.output
    assert states() == {State.EXPIRED: 1}


def test_a_list_is_read_on_although_storage_failed_a_moment_ago(
    bucket: Bucket, monkeypatch
) -> None:
    """While one caller finds out whether storage is back, the others are refused: not its own."""
    monkeypatch.setattr(gateway, "PAGE_SIZE", 1)
    keys = bucket.plant(["a", "b"])
    storage._circuit._set(time.monotonic() - 1)
    sizes = [
        stored.size
        for page in storage.objects()
        for one in page
        if (stored := storage.head(one.key))
    ]
    assert sizes == [3, 3]
    assert bucket.keys() == set(keys)


def test_f49_keys_that_storage_refuses_to_delete_keep_no_other_and_zips_go_too(
    bucket: Bucket, sender: Sender, monkeypatch
) -> None:
    """DeleteObjects answers 200 and names what it kept; here one file's and one zip's."""
    sent = [sender.ready({"a": b"1", "b": b"22"}).zip() for _ in range(3)]
    assert len(bucket.keys()) == 9
    for one in sent:
        one.set(state=State.EXPIRED, expired_at=ago(days=9))
    assert upkeep.delete_expired() == 3
    zips = dict(
        db.session.execute(select(Archive.transfer_id, Upload.key).join(Archive.upload)).all()
    )
    kept = {zips[sent[0].id], min(bucket.keys() - set(zips.values()))}
    with transaction():
        db.session.execute(Upload.__table__.update().values(urls_until=ago(hours=1)))
    ask = BaseClient._make_api_call

    def refuse(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if operation != "DeleteObjects":
            return ask(client, operation, given)
        wanted = given["Delete"]["Objects"]
        given["Delete"]["Objects"] = [one for one in wanted if one["Key"] not in kept]
        errors = [{"Key": key, "Code": "AccessDenied"} for key in kept]
        return ask(client, operation, given) | {"Errors": errors}

    with monkeypatch.context() as unwilling:
        unwilling.setattr(BaseClient, "_make_api_call", refuse)
        assert upkeep.remove_bytes() == 7
    assert bucket.keys() == kept
    unsettled = select(Upload.key).where(Upload.removed_at.is_(None))
    assert set(db.session.scalars(unsettled)) == kept
    with transaction():
        db.session.execute(
            Upload.__table__.update().where(Upload.key.in_(kept)), {"remove_after": ago(seconds=1)}
        )
    assert upkeep.remove_bytes() == 2
    assert bucket.keys() == set()
