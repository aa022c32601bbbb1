"""The sweeps over more than a thousand of everything, four at once, and while storage fails.

Each test has a prefix of its own in the bucket, so that it can count what lies there.
"""

import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy import event, func, insert, select

from app import clock, config, jobs
from app.config import MIB
from app.db import db, transaction
from app.errors import Unavailable
from app.extensions import storage
from app.gateways import storage as gateway
from app.gateways.s3_answers import Part
from app.models import Archive, File, Heartbeat, Method, State, Transfer, Upload, UploadState
from app.services import archives, dry_runs, heartbeats, tombstones, upkeep
from app.services.upkeep import UnreasonableShare
from tests.factories import Sender

pytestmark = [pytest.mark.real_commits, pytest.mark.usefixtures("inside")]
PART = 8 * MIB
Configure = Callable[..., None]


@dataclass
class Bucket:
    """The bucket as an operator sees it, past the gateway: what lies below the test's prefix."""

    prefix: str
    client: Any = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.client, self.name = storage._clients.patient, config.settings.s3_bucket

    def plant(self, names: list[str], *, below: str | None = None) -> list[str]:
        """Put an object of 3 bytes at each name; the keys."""
        keys = [(self.prefix if below is None else below) + name for name in names]
        self._each(lambda key: self.client.put_object(Bucket=self.name, Key=key, Body=b"abc"), keys)
        return keys

    def begin(self, keys: list[str]) -> list[str]:
        """Open a multipart with one part at each key; their ids."""
        return self._each(self._begin, keys)

    def _begin(self, key: str) -> str:
        given = {"Bucket": self.name, "Key": key}
        upload_id = self.client.create_multipart_upload(**given)["UploadId"]
        self.client.upload_part(**given, UploadId=upload_id, PartNumber=1, Body=b"abc")
        return upload_id

    def _each(self, act: Callable[[str], Any], keys: list[str]) -> list[Any]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(act, keys))

    def keys(self, below: str | None = None) -> set[str]:
        """Every object below the prefix, or another one."""
        prefix = self.prefix if below is None else below
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {one["Key"] for page in pages for one in page.get("Contents", [])}

    def open_ids(self, below: str | None = None) -> set[str]:
        """Every multipart below the prefix, or another one."""
        prefix = self.prefix if below is None else below
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {one["UploadId"] for page in pages for one in page.get("Uploads", [])}


@pytest.fixture
def bucket(app: Flask, configure: Configure, monkeypatch) -> Bucket:
    """A prefix of the test's own; everything in it counts as old."""
    prefix = f"sweeps-{secrets.token_hex(6)}/"
    configure(s3_prefix=prefix)
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_prefix=prefix))
    monkeypatch.setattr(upkeep, "ORPHAN_FOR", timedelta(minutes=-5))
    monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(minutes=-5))
    return Bucket(prefix)


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """As if storage gave 7 entries a page, and the sweeps took 7 at a time."""
    monkeypatch.setattr(gateway, "PAGE_SIZE", 7)
    for name in ("BATCH", "EXPIRE_BATCH", "REMOVE_BATCH", "DELETE_BATCH"):
        monkeypatch.setattr(upkeep, name, 7)


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def rows(
    bucket: Bucket, state: State, count: int, *, begun: bool = False, **values: Any
) -> list[Upload]:
    """`count` transfers of one file each, with their bytes in storage, as if sent long ago.

    With `begun` the bytes are a part of an open multipart, else a whole object.
    """
    stamps = {"last_activity_at": ago(hours=30), "expires_at": ago(days=-1)} | values
    if state is State.READY:
        stamps["ready_at"] = ago(hours=29)
    keys = [f"{bucket.prefix}{secrets.token_hex(20)}" for _ in range(count)]
    upload_ids = bucket.begin(keys) if begun else [None] * count
    if not begun:
        bucket.plant(keys, below="")
    is_complete = state in (State.READY, State.EXPIRED)
    transfers, uploads, files = [], [], []
    for key, s3_id in zip(keys, upload_ids, strict=True):
        transfer_id, upload_id = uuid.uuid4(), uuid.uuid4()
        transfers.append(
            {
                "id": transfer_id,
                "slug": secrets.token_urlsafe(24),
                "owner_token_hash": b"x" * 32,
                "state": state,
                **stamps,
            }
        )
        uploads.append(
            {
                "id": upload_id,
                "key": key,
                "token": "t",
                "method": Method.MULTIPART if begun else Method.SINGLE,
                "s3_upload_id": s3_id,
                "size": PART + 1 if begun else 3,
                "part_size": PART,
                "state": UploadState.COMPLETE if is_complete else UploadState.OPEN,
                "etag": "e" if is_complete else None,
            }
        )
        files.append(
            {"transfer_id": transfer_id, "upload_id": upload_id, "position": 0, "path": "a"}
        )
    with transaction():
        for table, made in ((Transfer, transfers), (Upload, uploads), (File, files)):
            db.session.execute(insert(table), made)
    return list(db.session.scalars(select(Upload).where(Upload.key.in_(keys))))


def states() -> dict[State, int]:
    counted = db.session.execute(select(Transfer.state, func.count()).group_by(Transfer.state))
    found = dict(counted.all())
    db.session.commit()
    return found


def cli(app: Flask, *words: str) -> Any:
    return FlaskCliRunner(app).invoke(args=["sweep", *words])


def test_goal_7_f48_one_run_over_more_than_a_thousand_of_everything(
    app: Flask, bucket: Bucket
) -> None:
    """1,000 abandoned uploads and 1,001 orphans, in real pages; nothing live is touched."""
    live = [
        *rows(bucket, State.READY, 40),
        *rows(bucket, State.EXPIRED, 20, expired_at=ago(days=1)),
        *rows(bucket, State.INIT, 20, begun=True, last_activity_at=ago(hours=1)),
        *rows(bucket, State.INIT, 20, last_activity_at=ago(hours=1)),
        *rows(bucket, State.PROCESSING, 20, begun=True),
    ]
    rows(bucket, State.INIT, 500)
    rows(bucket, State.INIT, 501, begun=True)
    rows(bucket, State.READY, 1001, expires_at=ago(minutes=1))
    bucket.plant([f"orphan/{n}" for n in range(1001)])
    bucket.begin([f"{bucket.prefix}stray/{n}" for n in range(1001)])
    foreign = f"foreign-{secrets.token_hex(6)}/"
    bucket.plant([str(n) for n in range(50)], below=foreign)
    began = time.monotonic()
    done = cli(app, "--force")
    assert done.exit_code == 0, done.output
    assert time.monotonic() - began < 60
    assert states() == {
        State.READY: 40,
        State.EXPIRED: 20 + 1001,
        State.INIT: 40,
        State.PROCESSING: 20,
        State.DELETED: 1001,
    }
    begun = {upload.s3_upload_id for upload in live if upload.s3_upload_id}
    expired = select(Upload.key).join(File).join(Transfer).where(Transfer.state == State.EXPIRED)
    kept = {upload.key for upload in live if not upload.s3_upload_id}
    assert bucket.keys() == kept | set(db.session.scalars(expired))
    assert bucket.open_ids() == begun
    assert len(bucket.keys(foreign)) == 50


@pytest.mark.usefixtures("small_pages")
def test_f50_four_sweeps_at_once_do_everything_once(app: Flask, bucket: Bucket) -> None:
    live = rows(bucket, State.READY, 20)
    rows(bucket, State.INIT, 30)
    rows(bucket, State.INIT, 30, begun=True)
    rows(bucket, State.READY, 60, expires_at=ago(minutes=1))
    rows(bucket, State.EXPIRED, 60, expired_at=ago(days=9))
    bucket.plant([f"orphan/{n}" for n in range(60)])
    bucket.begin([f"{bucket.prefix}stray/{n}" for n in range(60)])

    def run(_: int) -> list[int]:
        with app.app_context():
            try:
                return [
                    one.run(force=True) if one.may_refuse else one.run() for one in dry_runs.SWEEPS
                ]
            finally:
                db.session.remove()

    with ThreadPoolExecutor(4) as pool:
        columns = zip(*pool.map(run, range(4)), strict=True)
        counts = {one.run: sum(done) for one, done in zip(dry_runs.SWEEPS, columns, strict=True)}
    # Those by rows share the work exactly; those by the bucket may each find what another removes.
    assert counts[upkeep.expire_due] == 60
    assert counts[upkeep.delete_expired] == counts[upkeep.delete_abandoned] == 60
    assert counts[upkeep.remove_bytes] == counts[tombstones.forget_deleted] == 120
    assert counts[tombstones.drop_tombstones] == 0
    assert counts[upkeep.abort_unknown_uploads] >= 60
    assert counts[dry_runs.SWEEPS[-1].run] >= 60
    expired = select(Upload.key).join(File).join(Transfer).where(Transfer.state == State.EXPIRED)
    assert bucket.keys() == {upload.key for upload in live} | set(db.session.scalars(expired))
    assert bucket.open_ids() == set()


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
def test_one_query_for_each_page(bucket: Bucket) -> None:
    rows(bucket, State.READY, 20)
    bucket.plant(["orphan"])
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        asked.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        assert upkeep.find_orphans().orphan_count == 1
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
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


@pytest.mark.usefixtures("small_pages")
def test_a_dry_run_changes_nothing_and_tells_the_truth(
    app: Flask, bucket: Bucket, configure: Configure
) -> None:
    rows(bucket, State.READY, 60)
    rows(bucket, State.READY, 8, expires_at=ago(minutes=1))
    rows(bucket, State.EXPIRED, 9, expired_at=ago(days=9))
    rows(bucket, State.INIT, 5)
    rows(bucket, State.INIT, 6, begun=True)
    rows(bucket, State.PROCESSING, 4)
    bucket.begin([f"{bucket.prefix}m{n}" for n in range(3)])
    bucket.plant([f"o{n}" for n in range(15)])
    before = (states(), bucket.keys(), bucket.open_ids())
    removable = 9 + 5 + 6
    for grace in (3, 0):
        configure(grace_in_days=grace)
        told = cli(app, "--dry-run")
        assert told.exit_code == 0, told.output
        figures = [line.split()[-4:] for line in told.output.splitlines()]
        assert (states(), bucket.keys(), bucket.open_ids()) == before
        counts = [one.look(lambda *_: None).count for one in dry_runs.SWEEPS]
        assert counts == [8, 9, 11, 0, 0, removable, removable, 0, 4, 0, 0, 0, 0, 3, 15]
        assert figures[5][-2:] == [f"{6 * (PART + 1) + (removable - 6) * 3:,}", "bytes"]
        assert figures[14][-3:] == ["15", "45", "bytes"]
    assert [one.run() for one in dry_runs.SWEEPS] == counts
    assert [one.look(lambda *_: None).count for one in dry_runs.SWEEPS] == [0] * len(
        dry_runs.SWEEPS
    )


def test_a_dry_run_says_what_would_be_refused(app: Flask, bucket: Bucket) -> None:
    bucket.plant([f"o{n}" for n in range(11)])
    told = cli(app, "--dry-run")
    assert "11  33 bytes  a run would refuse" in told.output
    assert len(bucket.keys()) == 11


# -- while storage fails -----------------------------------------------------------------------


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


def test_f25_a_sweep_does_not_hinder_a_slow_upload(bucket: Bucket) -> None:
    """All sweeps run between any two of its parts; it completes, and stays."""
    (upload,) = rows(bucket, State.INIT, 1, begun=True, last_activity_at=ago(hours=23))
    for _ in range(3):
        for one in dry_runs.SWEEPS:
            one.run()
        held = storage.list_parts(upload.key, upload.s3_upload_id or "")
        assert [part.number for part in held] == [1]
    storage.finish_upload(upload.key, upload.s3_upload_id or "", [Part(1, 3, held[0].etag)])
    assert upkeep.remove_orphans(force=True) == 0
    assert bucket.keys() == {upload.key}


# -- at scale, and with zips -------------------------------------------------------------------


def many(count: int, state: State, **values: Any) -> None:
    """So many transfers of one file each, whose bytes have gone already or never mattered."""
    ids = [(uuid.uuid4(), uuid.uuid4()) for _ in range(count)]
    stamps = {"ready_at": ago(days=9), "expires_at": ago(days=1)} | values
    transfers = [
        {
            "id": one,
            "slug": secrets.token_urlsafe(24),
            "owner_token_hash": b"x" * 32,
            "state": state,
            **stamps,
        }
        for one, _ in ids
    ]
    uploads = [
        {
            "id": one,
            "key": f"{config.settings.s3_prefix}{secrets.token_hex(20)}",
            "token": "t",
            "method": Method.SINGLE,
            "size": 3,
            "part_size": PART,
            "state": UploadState.COMPLETE,
            "etag": "e",
        }
        for _, one in ids
    ]
    files = [
        {"transfer_id": one, "upload_id": other, "position": 0, "path": "a"} for one, other in ids
    ]
    with transaction():
        for table, made in ((Transfer, transfers), (Upload, uploads), (File, files)):
            db.session.execute(insert(table), made)


def test_goal_7_ten_thousand_at_once_through_all_of_their_end(bucket: Bucket) -> None:
    """Expired, deleted, removed, forgotten and dropped, each of it in seconds."""
    many(10_000, State.READY)
    live = rows(bucket, State.READY, 5)
    took: dict[str, float] = {}

    def timed(sweep: Callable[[], int], expected: int) -> None:
        began = time.monotonic()
        assert sweep() == expected
        took[sweep.__name__] = time.monotonic() - began

    def pass_by(table: Any, over: str, **values: Any) -> None:
        with transaction():
            db.session.execute(table.__table__.update().where(table.state == over), values)

    timed(upkeep.expire_due, 10_000)
    pass_by(Transfer, "EXPIRED", expired_at=ago(days=9))
    timed(upkeep.delete_expired, 10_000)
    timed(upkeep.remove_bytes, 10_000)
    timed(tombstones.forget_deleted, 10_000)
    pass_by(Transfer, "DELETED", deleted_at=ago(days=91))
    pass_by(Upload, "ABORTED", removed_at=ago(days=91))
    timed(tombstones.drop_tombstones, 10_000)
    assert states() == {State.READY: 5}
    assert db.session.scalar(select(func.count()).select_from(Upload)) == 5
    assert bucket.keys() == {upload.key for upload in live}
    assert max(took.values()) < 60, took


def test_what_the_deleted_leave_is_looked_up_whatever_the_planner_knows(bucket: Bucket) -> None:
    """Tables that were just filled, before anybody has looked at them: no plan reads all uploads."""
    many(3000, State.EXPIRED, expired_at=ago(days=9))
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, *rest: Any) -> None:
        if statement.startswith("UPDATE uploads") and "SELECT" in statement:
            asked.append((statement, values))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        assert upkeep.delete_expired() == 3000
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    with db.engine.connect() as connection:
        for statement, values in asked[-2:]:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", values).scalars().all()
            assert not [line for line in plan if "Seq Scan on uploads" in line], "\n".join(plan)
    assert len(asked) == 2 * 3000 // upkeep.DELETE_BATCH


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


def test_f25_no_sweep_touches_a_zip_that_is_being_made_or_kept(
    bucket: Bucket, sender: Sender
) -> None:
    """F21, F50, F51 of zips: their objects and multiparts have rows like all others."""
    made = sender.ready({"a": b"1", "b": b"22"}).zip()
    kept = sender.ready({"a": b"1", "b": b"22"}).zip()
    kept.set(state=State.EXPIRED, expired_at=ago(days=1))
    begun = sender.ready({"a": b"1", "b": b"22"})
    archives.request(begun.id)
    wanted = archives.find(begun.id)
    assert wanted is not None
    archives._begin(wanted.upload)
    stray = storage.begin_upload(wanted.upload.key, "t")  # an answer that was lost
    before = bucket.keys()
    for one in dry_runs.SWEEPS:
        one.run()
    assert bucket.keys() == before
    assert wanted.upload.s3_upload_id in bucket.open_ids()
    assert stray not in bucket.open_ids()
    archives.build(str(begun.id))
    for one in (made, begun):
        assert archives.find_made(one.id) is not None
    found = archives.find_made(kept.id)
    assert found is not None
    assert storage.head(found.key) is not None


def test_f22_a_zip_that_is_being_made_ends_with_its_transfer(
    bucket: Bucket, sender: Sender
) -> None:
    sent = sender.ready({"a": b"1", "b": b"22"})
    archives.request(sent.id)
    wanted = archives.find(sent.id)
    assert wanted is not None
    archives._begin(wanted.upload)
    sent.set(state=State.EXPIRED, expired_at=ago(days=9))
    assert upkeep.delete_expired() == 1
    archives.build(str(sent.id))
    assert upkeep.remove_bytes() == 3
    assert (bucket.keys(), bucket.open_ids()) == (set(), set())
