"""The sweeps over more than a thousand of everything, four at once, as a dry run, and beside zips."""

import secrets
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, func, insert, select

from app import config
from app.db import db, transaction
from app.extensions import storage
from app.gateways.s3_answers import Part
from app.models import File, Method, State, Transfer, Upload, UploadState
from app.services import archives, dry_runs, tombstones, upkeep
from tests.factories import Sender
from tests.faults.sweeping import PART, Bucket, ago, cli, rows, states

pytestmark = [pytest.mark.real_commits, pytest.mark.usefixtures("inside")]
Configure = Callable[..., None]


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
