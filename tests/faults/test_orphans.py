"""What lies in the bucket and has no row: only that goes, only of ours, and never an unreasonable share."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.client import BaseClient
from flask import Flask
from flask.testing import FlaskClient

from app import clock, jobs
from app.db import db, transaction
from app.extensions import storage
from app.models import File, Heartbeat, State, Transfer, Upload, UploadState
from app.services import heartbeats, upkeep
from app.services.upkeep import UnreasonableShare
from tests.faults.sweeping import Bucket, ago, cli, rows
from tests.watching import statements

pytestmark = [pytest.mark.real_commits, pytest.mark.usefixtures("inside")]
Configure = Callable[..., None]


@pytest.mark.usefixtures("small_pages")
def test_f51_what_lies_outside_the_prefix_is_never_touched(bucket: Bucket, monkeypatch) -> None:
    """Not even when a store lists the whole bucket whatever prefix it is asked for."""
    foreign = f"foreign-{secrets.token_hex(6)}/"
    planted = set(bucket.plant([str(n) for n in range(50)], below=foreign))
    begun = set(bucket.begin([f"{foreign}m{n}" for n in range(8)]))
    orphans = bucket.plant(["o1", "o2"])
    ask = BaseClient._make_api_call

    def without_prefix(client: Any, operation: str, given: dict[str, Any]) -> Any:
        return ask(client, operation, {k: v for k, v in given.items() if k != "Prefix"})

    monkeypatch.setattr(BaseClient, "_make_api_call", without_prefix)
    assert upkeep.find_orphans().orphan_count == len(orphans)
    upkeep.remove_orphans(force=True)
    upkeep.abort_unknown_uploads(force=True)
    monkeypatch.setattr(BaseClient, "_make_api_call", ask)
    assert bucket.keys(foreign) == planted
    assert bucket.open_ids(foreign) == begun
    assert bucket.keys() == set()


def test_only_what_is_older_than_a_day_and_wanted_by_no_row_is_an_orphan(
    bucket: Bucket, monkeypatch
) -> None:
    """Of a row that has settled its removal, bytes that came later than they could are orphans."""
    removed, waiting, ready = rows(bucket, State.DELETED, 3, deleted_at=ago(days=1))
    with transaction():
        for upload, values in (
            (removed, {"state": UploadState.ABORTED, "removed_at": ago(hours=1)}),
            (waiting, {"state": UploadState.ABORTED}),
            (ready, {"state": UploadState.COMPLETE, "etag": "e"}),
        ):
            for name, value in values.items():
                setattr(upload, name, value)
    monkeypatch.setattr(upkeep, "ORPHAN_FOR", timedelta(days=1))
    assert upkeep.remove_orphans() == 0
    monkeypatch.setattr(clock, "now", lambda now=clock.now: now() + timedelta(days=1, minutes=1))
    assert upkeep.remove_orphans() == 1
    assert bucket.keys() == {waiting.key, ready.key}


@pytest.mark.usefixtures("small_pages")
def test_one_query_for_each_page(app: Flask, bucket: Bucket) -> None:
    rows(bucket, State.READY, 20)
    bucket.plant(["orphan"])
    with statements(app) as asked:
        assert upkeep.find_orphans().orphan_count == 1
    assert len(asked) == 3 + 1  # and one for all complete rows


@pytest.mark.usefixtures("small_pages")
def test_an_unreasonable_share_is_refused_and_force_overrides(
    app: Flask, bucket: Bucket, configure: Configure, caplog
) -> None:
    rows(bucket, State.READY, 44)
    bucket.plant([f"o{n}" for n in range(12)])
    with pytest.raises(UnreasonableShare, match="12 of 56 objects"):
        upkeep.remove_orphans()
    assert "refused to remove" in caplog.text
    assert len(bucket.keys()) == 56
    done = cli(app)
    assert done.exit_code == 1
    assert "refused to remove 12 of 56 objects" in done.output
    assert len(bucket.keys()) == 56
    refused = db.session.get(Heartbeat, "remove_orphans")
    assert refused is not None
    assert (refused.at, refused.failure_count) == (heartbeats.NEVER, 2)
    assert db.session.get(Heartbeat, "expire_due") is not None
    done = cli(app, "--force")
    assert done.exit_code == 0, done.output
    assert len(bucket.keys()) == 44
    bucket.plant([f"o{n}" for n in range(12)])
    configure(sweep_max_share_in_percent=22)
    assert upkeep.remove_orphans() == 12


def test_a_few_may_always_go_whatever_share_they_are(bucket: Bucket) -> None:
    bucket.plant([f"o{n}" for n in range(10)])
    assert upkeep.remove_orphans() == 10


def test_another_database_for_the_same_bucket_removes_nothing(bucket: Bucket) -> None:
    """As when an installation is pointed at an empty or an older database."""
    rows(bucket, State.READY, 12)
    rows(bucket, State.INIT, 12, begun=True)
    with transaction():
        for table in (File, Upload, Transfer):
            db.session.execute(table.__table__.delete())
    for sweep in (upkeep.remove_orphans, upkeep.abort_unknown_uploads):
        with pytest.raises(UnreasonableShare):
            sweep()
    assert len(bucket.keys()) == 12
    assert len(bucket.open_ids()) == 12


@pytest.mark.usefixtures("small_pages")
def test_f21_lost_answers_are_ours_however_many_they_are(bucket: Bucket) -> None:
    """The key has a row, so the multipart is ours beyond doubt: nobody needs to force it."""
    known = rows(bucket, State.INIT, 15, begun=True, last_activity_at=ago(hours=1))
    bucket.begin([upload.key for upload in known] * 2)
    assert len(bucket.open_ids()) == 45
    assert upkeep.abort_unknown_uploads() == 30
    assert bucket.open_ids() == {upload.s3_upload_id for upload in known}


# -- in turns ----------------------------------------------------------------------------------


@pytest.fixture
def short_turns(small_pages: None, monkeypatch) -> None:
    """Each turn of the comparison ends after one page of seven."""
    monkeypatch.setattr(upkeep, "COMPARE_SECONDS", -1)


@pytest.mark.usefixtures("small_pages")
def test_a_comparison_that_was_stopped_goes_on_where_it_was(
    bucket: Bucket, s3_calls: list[str]
) -> None:
    """As when the worker is restarted for each deployment: each page is listed once."""
    rows(bucket, State.READY, 40)

    def stop(what: str, count: int) -> None:
        jobs.stopping.set()

    for _ in range(3):
        upkeep.remove_orphans(stop)
        jobs.stopping.clear()
    assert upkeep.remove_orphans() == 0
    assert s3_calls.count("ListObjectsV2") == 6


@pytest.mark.usefixtures("short_turns")
def test_nothing_is_removed_and_nothing_is_told_before_the_whole_is_compared(
    bucket: Bucket, client: FlaskClient
) -> None:
    lost = rows(bucket, State.READY, 40)[::8]
    storage.delete([upload.key for upload in lost])
    orphans = bucket.plant(f"o{n:02}" for n in range(9))
    told = set()
    while upkeep.remove_orphans() is None:
        ready = client.get("/ready").json
        told.add((ready["lost_object_count"], ready["sweeps"]["remove_orphans"]["count"]))
        left_count = len(bucket.keys() & set(orphans))
        assert left_count == 9 or ready["lost_object_count"] == 5
    assert told == {(None, None), (5, None)}
    assert client.get("/ready").json["sweeps"]["remove_orphans"]["count"] == 9
    assert not bucket.keys() & set(orphans)
    assert heartbeats.progress_of("remove_orphans") is None


@pytest.mark.usefixtures("short_turns")
def test_the_share_is_that_of_all_turns_and_a_refusal_ends_the_comparison(bucket: Bucket) -> None:
    rows(bucket, State.READY, 44)
    bucket.plant([f"o{n}" for n in range(12)])
    for _ in range(8):
        assert upkeep.remove_orphans() is None
    with pytest.raises(UnreasonableShare, match="12 of 56 objects"):
        upkeep.remove_orphans()
    assert len(bucket.keys()) == 56
    assert heartbeats.progress_of("remove_orphans") is None
    # The operator's run counts all of them itself, whatever a worker is in the middle of.
    assert upkeep.remove_orphans() is None
    with pytest.raises(UnreasonableShare, match="12 of 56 objects"):
        upkeep.remove_orphans(in_turns=False)
    assert upkeep.remove_orphans(force=True, in_turns=False) == 12
    assert heartbeats.progress_of("remove_orphans") is None


@pytest.mark.usefixtures("short_turns")
def test_no_more_is_removed_than_was_counted(bucket: Bucket) -> None:
    """As when the database is replaced by an older one between counting and removing."""
    live = rows(bucket, State.READY, 20)
    orphan = bucket.plant(["z"])
    while not (heartbeats.progress_of("remove_orphans") or {}).get("is_compared"):
        assert upkeep.remove_orphans() is None
    with transaction():
        for table in (File, Upload, Transfer):
            db.session.execute(table.__table__.delete())
    assert upkeep.remove_orphans() == 1
    assert len(bucket.keys()) == len(live + orphan) - 1


@pytest.mark.usefixtures("short_turns")
def test_two_workers_take_turns_and_one_that_died_is_followed(bucket: Bucket) -> None:
    bucket.plant([f"o{n}" for n in range(9)])
    with heartbeats.alone("remove_orphans", timedelta(minutes=2)):
        assert upkeep.remove_orphans() is None
        assert heartbeats.progress_of("remove_orphans") is None

    def overtaken(what: str, count: int) -> None:
        """The turn lapses while a page is read, and another worker takes it."""
        with transaction():
            row = db.session.get(Heartbeat, "remove_orphans")
            assert row is not None
            row.busy_until = ago(minutes=-1)

    assert upkeep.remove_orphans(overtaken) is None
    assert heartbeats.progress_of("remove_orphans") is None
    with transaction():
        db.session.execute(Heartbeat.__table__.update().values(busy_until=ago(seconds=1)))
    assert upkeep.remove_orphans() is None
    assert heartbeats.progress_of("remove_orphans") is not None


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("change", ["it is old", "it is of another bucket"])
def test_what_was_compared_long_ago_or_elsewhere_does_not_count(
    bucket: Bucket, configure: Configure, monkeypatch, change: str
) -> None:
    rows(bucket, State.READY, 20)
    assert upkeep.remove_orphans() is None
    kept = heartbeats.progress_of("remove_orphans")
    assert kept is not None
    if change == "it is old":
        monkeypatch.setattr(clock, "now", lambda now=clock.now: now() + timedelta(days=7))
    else:
        configure(s3_bucket="another")
    assert upkeep.remove_orphans() is None
    anew = heartbeats.progress_of("remove_orphans")
    assert anew is not None
    assert (anew["listed_count"], anew["after"]) == (kept["listed_count"], kept["after"])
    assert anew != kept


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("change", ["it knows more", "it knows less"])
def test_a_comparison_of_another_release_begins_anew(bucket: Bucket, change: str) -> None:
    rows(bucket, State.READY, 20)
    assert upkeep.remove_orphans() is None
    kept = heartbeats.progress_of("remove_orphans")
    assert kept is not None
    theirs = kept | {"refused_count": 1}
    if change == "it knows less":
        theirs = {name: kept[name] for name in ("begun_at", "place", "after")}
    heartbeats.note_progress("remove_orphans", theirs)
    assert upkeep.remove_orphans() is None
    anew = heartbeats.progress_of("remove_orphans")
    assert anew is not None
    assert (anew["after"], anew["listed_count"]) == (kept["after"], kept["listed_count"])
    while upkeep.remove_orphans() is None:
        pass
    assert heartbeats.progress_of("remove_orphans") is None


@pytest.mark.usefixtures("short_turns")
def test_where_storage_lists_in_no_order_one_turn_does_it_all(bucket: Bucket, monkeypatch) -> None:
    rows(bucket, State.READY, 20)
    bucket.plant([f"o{n}" for n in range(9)])
    listed = storage.objects
    monkeypatch.setattr(storage, "objects", lambda after="": (p[::-1] for p in listed(after)))
    assert upkeep.remove_orphans() == 9
    assert len(bucket.keys()) == 20
    jobs.stopping.set()
    assert upkeep.remove_orphans() is None
    jobs.stopping.clear()
    assert heartbeats.progress_of("remove_orphans") is None
