"""The sweeps: what time alone brings about, and repair."""

import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq.utils import import_attribute
from sqlalchemy import event, func, insert, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app import clock, jobs
from app.config import MIB, settings
from app.db import db, transaction
from app.errors import Unavailable
from app.extensions import queue, storage
from app.gateways.queue import JobQueue
from app.gateways.s3_answers import NoSuchUpload
from app.models import AuditEvent, Heartbeat, Method, State, Transfer, Upload, UploadState
from app.services import heartbeats, removal, transfers, upkeep
from tests.factories import Sender, put
from tests.keeper import Keeper

pytestmark = pytest.mark.usefixtures("inside")
PART = 8 * MIB


def ago(**time: float) -> object:
    return clock.now() - timedelta(**time)


def test_due_transfers_expire_and_others_do_not(sender: Sender) -> None:
    due = sender.ready().set(expires_at=ago(seconds=1))
    live, unfinished = sender.ready(), sender.create().set(expires_at=ago(seconds=1))
    upkeep.expire_due()
    states = [one.row().state for one in (due, live, unfinished)]
    assert states == [State.EXPIRED, State.READY, State.INIT]
    assert due.row().expired_at is not None


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """What PostgreSQL is told of transfers and uploads."""
    told: list[str] = []

    def note(connection: object, cursor: object, statement: str, *more: object) -> None:
        if "transfers" in statement or "uploads" in statement:
            told.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    yield told
    event.remove(db.engine, "before_cursor_execute", note)


def due(count: int) -> None:
    """So many transfers whose date is over."""
    one = {
        "owner_token_hash": b"x" * 32,
        "state": State.READY,
        "ready_at": ago(days=2),
        "expires_at": ago(hours=1),
    }
    with transaction():
        db.session.execute(insert(Transfer), [{"slug": f"slug-{n}"} | one for n in range(count)])


def test_what_is_due_expires_in_one_statement(statements: list[str]) -> None:
    due(25)
    statements.clear()
    assert upkeep.expire_due() == 25
    assert len(statements) == 2  # the last finds none
    assert set(db.session.scalars(select(Transfer.state))) == {State.EXPIRED}


@pytest.mark.real_commits
def test_many_expire_in_batches_by_two_sessions(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "EXPIRE_BATCH", 7)
    due(60)
    expire, here, both = upkeep._expire, threading.get_ident(), threading.Barrier(2)
    told, batches = list[int](), {here: list[int]()}

    def each() -> int:
        mine = batches.setdefault(threading.get_ident(), [])
        is_here = threading.get_ident() == here
        # Neither takes all before the other, which has to connect first, has taken some.
        if is_here and len(mine) == 1:
            both.wait(20)
        mine.append(expire())
        if not is_here and len(mine) == 1:
            both.wait(20)
        return mine[-1]

    monkeypatch.setattr(upkeep, "_expire", each)
    assert upkeep.expire_due(lambda what, count: told.append(count)) == 60
    assert len(batches) == 2
    for counts in batches.values():
        assert max(counts) == 7
    assert told == sorted(told)
    assert told[-1] == 60
    assert set(db.session.scalars(select(Transfer.state))) == {State.EXPIRED}
    # A batch is a transaction; two sessions may well begin theirs in the same microsecond.
    batch = literal_column("audit_events.xmin::text")
    events = select(
        batch, func.array_agg(aggregate_order_by(AuditEvent.transfer_id, AuditEvent.id))
    )
    recorded = db.session.execute(events.where(AuditEvent.action == "expire").group_by(batch)).all()
    assert len({one for _, ids in recorded for one in ids}) == 60
    # Each batch in the order of the record's own index on them.
    for _, ids in recorded:
        assert ids == sorted(ids, key=str)


def test_with_one_connection_nobody_waits_for_a_second(configure, monkeypatch) -> None:
    configure(database_pool_size=1)
    monkeypatch.setattr(upkeep, "EXPIRE_BATCH", 7)
    monkeypatch.delattr(upkeep, "in_own_session")
    due(20)
    assert upkeep.expire_due() == 20


@pytest.mark.real_commits
def test_if_the_second_session_fails_so_does_the_sweep(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "EXPIRE_BATCH", 7)
    due(30)
    expire, here = upkeep._expire, threading.get_ident()

    def each() -> int:
        if threading.get_ident() != here:
            raise RuntimeError("the other one")
        return expire()

    monkeypatch.setattr(upkeep, "_expire", each)
    with pytest.raises(RuntimeError, match="the other one"):
        upkeep.expire_due()
    # What this one could do is done, and the failure is noted.
    assert set(db.session.scalars(select(Transfer.state))) == {State.EXPIRED}
    assert db.session.get_one(Heartbeat, "expire_due").failure_count == 1


def test_bytes_go_only_after_the_grace_period(sender: Sender, queued: list) -> None:
    sent = sender.ready().set(expires_at=ago(seconds=1))
    key = transfers.files_of(sent.id)[0].upload.key
    upkeep.expire_due()
    upkeep.delete_expired()
    upkeep.remove_bytes()
    assert storage.head(key) is not None
    sent.set(expired_at=ago(days=3, seconds=1))
    upkeep.delete_expired()
    assert sent.row().state is State.DELETED
    assert ("upkeep.remove_bytes",) in queued
    upkeep.remove_bytes()
    assert storage.head(key) is None


def test_f25_f62_only_uploads_without_progress_are_abandoned(sender: Sender) -> None:
    idle = sender.create({"a": b"a" * (PART + 1)}).upload()
    alive = sender.create({"a": b"a" * (PART + 1)})
    for sent in (idle, alive):
        sent.set(last_activity_at=ago(hours=25), created_at=ago(hours=30))
    alive.upload()  # asks for addresses, which is progress
    upkeep.delete_abandoned()
    assert (idle.row().state, alive.row().state) == (State.DELETED, State.INIT)
    upkeep.remove_bytes()
    assert alive.complete().process().show()["status"] == "READY"


def test_what_is_noted_once_a_minute_makes_nobody_lose_a_minute(sender: Sender) -> None:
    """Who asked for addresses 30 s after they were noted has been at it 30 s later than that."""
    noted = timedelta(hours=settings.upload_window_in_hours)
    sent, late = sender.create(), sender.create()
    sent.set(last_activity_at=ago(seconds=noted.total_seconds() + 30))
    late.set(last_activity_at=ago(seconds=noted.total_seconds() + 61))
    upkeep.delete_abandoned()
    assert (sent.row().state, late.row().state) == (State.INIT, State.DELETED)


def test_bytes_that_may_still_arrive_are_removed_again_later(sender: Sender) -> None:
    """A signed address outlives the transfer; what comes through it must not stay."""
    sent = sender.create({"a": b"12345"})
    part = sent.sign(sent.files[0])[0]
    key = transfers.files_of(sent.id)[0].upload.key
    transfers.delete(sent.id)
    upkeep.remove_bytes()
    upload = _upload(key)
    assert upload.removed_at is None
    assert upload.remove_after > clock.now() + timedelta(minutes=60)
    assert put(part["url"], b"12345", part["headers"]).status == 200
    _change(upload, remove_after=ago(seconds=1), urls_until=ago(minutes=11))
    upkeep.remove_bytes()
    assert storage.head(key) is None
    assert _upload(key).removed_at is not None


def test_f49_removal_is_tried_again_after_storage_failed(sender: Sender, monkeypatch) -> None:
    sent = sender.ready()
    key = transfers.files_of(sent.id)[0].upload.key
    transfers.delete(sent.id)
    with monkeypatch.context() as broken:
        broken.setattr(storage, "delete", lambda keys: (_ for _ in ()).throw(Unavailable()))
        with pytest.raises(Unavailable):
            upkeep.remove_bytes()
    assert _upload(key).removed_at is None
    _change(_upload(key), remove_after=ago(seconds=1))
    upkeep.remove_bytes()
    assert storage.head(key) is None


def test_what_storage_refuses_to_delete_is_kept_for_later(sender: Sender, monkeypatch) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    first, second = (file.upload.key for file in transfers.files_of(sent.id))
    transfers.delete(sent.id)
    for key in (first, second):
        _change(_upload(key), urls_until=None)
    monkeypatch.setattr(storage, "delete", lambda keys: [first])
    upkeep.remove_bytes()
    assert _upload(first).removed_at is None
    assert _upload(second).removed_at is not None


def test_bytes_of_many_go_by_few_statements_and_few_requests(
    monkeypatch, statements: list[str]
) -> None:
    """However many: one look for thousands, and for each thousand one request and one change."""
    monkeypatch.setattr(upkeep, "REMOVE_BATCH", 15)
    monkeypatch.setattr(upkeep, "BATCH", 5)
    keys = given_up(20)
    asked: list[list[str]] = []
    monkeypatch.setattr(storage, "delete", lambda keys: (asked.append(keys), [])[1])
    statements.clear()
    told: list[int] = []
    assert upkeep.remove_bytes(lambda what, count: told.append(count)) == 20
    assert [one.split()[0] for one in statements] == (
        ["SELECT", *["UPDATE"] * 3] + ["SELECT", "UPDATE"]
    )
    assert list(map(len, asked)) == [5] * 4
    assert sorted(key for page in asked for key in page) == keys
    assert told == [5, 10, 15, 20]
    assert _is_free()


def test_several_requests_are_under_way_at_once(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 2)
    given_up(3 * 2)
    all_three = threading.Barrier(upkeep.REMOVE_AHEAD)

    def delete(keys: list[str]) -> list[str]:
        all_three.wait(10)
        return []

    monkeypatch.setattr(storage, "delete", delete)
    assert upkeep.remove_bytes() == 6


def test_f49_one_request_of_several_that_fails_loses_nothing(monkeypatch) -> None:
    """Its uploads rest. The others are done, and are done again: what is gone may be removed twice."""
    monkeypatch.setattr(upkeep, "BATCH", 2)
    keys = given_up(6)
    for key in keys:
        storage.put_object(key, "t", b"1", "text/plain")
    delete = storage.delete

    def some(page: list[str]) -> list[str]:
        if keys[0] in page:
            raise Unavailable
        return delete(page)

    monkeypatch.setattr(storage, "delete", some)
    with pytest.raises(Unavailable):
        upkeep.remove_bytes()
    assert storage.head(keys[0]) is not None
    assert _is_free()
    # Whoever fails keeps nobody else, so long as it fails.
    assert upkeep.remove_bytes() == 4
    assert upkeep.remove_bytes() == 0
    monkeypatch.setattr(storage, "delete", delete)
    with transaction():
        db.session.execute(update(Upload).values(remove_after=ago(seconds=1)))
    assert upkeep.remove_bytes() == 2
    assert removal.without_object(keys) == keys


def test_what_was_removed_is_settled_although_the_next_fail(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 2)
    keys = given_up(4)
    first = threading.Event()
    asked: list[list[str]] = []

    def delete(page: list[str]) -> list[str]:
        asked.append(page)
        if len(asked) == 1:
            first.set()
            return []
        assert first.wait(10)
        raise Unavailable

    monkeypatch.setattr(storage, "delete", delete)
    with pytest.raises(Unavailable):
        upkeep.remove_bytes()
    settled = db.session.scalars(select(Upload.key).where(Upload.removed_at.is_not(None))).all()
    assert sorted(settled) == sorted(asked[0])
    assert set(asked[1]) == set(keys) - set(settled)


def test_while_one_run_removes_another_does_nothing(monkeypatch) -> None:
    """Nor when the first has died, before its turn has lapsed."""
    keys = given_up(2)
    seen: list[int] = []

    def delete(page: list[str]) -> list[str]:
        seen.append(len(page))
        return []

    monkeypatch.setattr(storage, "delete", delete)
    with heartbeats.alone("remove_bytes", upkeep.REMOVE_TURN) as renew:
        assert renew is not None
        assert upkeep.remove_bytes() == 0
        _pass_turn(seconds=1)
        assert upkeep.remove_bytes() == len(keys)
        # It was late, and the turn is not its any more.
        assert not renew()
        assert not renew()
    assert seen == [2]
    with heartbeats.alone("remove_bytes", upkeep.REMOVE_TURN) as renew:
        assert renew is not None
        assert renew()


def test_who_has_lost_the_turn_leaves_the_rest_to_the_next(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 2)
    monkeypatch.setattr(upkeep, "REMOVE_BATCH", 2)
    given_up(6)
    monkeypatch.setattr(storage, "delete", lambda page: [])

    def tell(what: str, count: int) -> None:
        _pass_turn(minutes=1)
        other = heartbeats._take_turn("remove_bytes", upkeep.REMOVE_TURN)
        assert other is not None

    assert upkeep.remove_bytes(tell) == 2
    # Nor does it give back what is another's.
    assert not _is_free()
    _pass_turn(minutes=1)
    assert upkeep.remove_bytes() == 4


@pytest.mark.parametrize("job", [job for _, job in jobs.SCHEDULE], ids=lambda job: job.name)
def test_only_sweeps_that_never_ask_storage_come_before_checks(
    sender: Sender, client: FlaskClient, s3_calls: list[str], job: jobs.Job
) -> None:
    """One that waits for a storage that hangs would keep the only worker from them."""
    Keeper(client).params()
    sender.ready().set(expires_at=ago(days=9))
    sender.ready().set(expires_at=ago(days=9), state=State.EXPIRED, expired_at=ago(days=8))
    sender.create({"a": b"1"}).upload().set(last_activity_at=ago(days=9))
    transfers.delete(sender.ready().id)
    s3_calls.clear()
    import_attribute(job.path)()
    comes_last = job.queue == "removal"
    assert bool(s3_calls) == comes_last
    default, last = map(jobs.QUEUES.index, (jobs.PROCESS_TRANSFER.queue, "removal"))
    assert default < last == len(jobs.QUICK_QUEUES) - 1


@pytest.mark.real_commits
def test_a_transfer_that_somebody_holds_keeps_no_other_from_being_queued(
    sender: Sender, queued: list
) -> None:
    """As one whose process died in the middle of a statement, until PostgreSQL has noticed."""
    held, stuck = (
        sender.create().upload().complete().set(queued_at=ago(seconds=60)) for _ in range(2)
    )
    queued.clear()
    with db.engine.connect() as other, other.begin():
        row = Transfer.__table__.select().where(Transfer.id == held.id).with_for_update()
        assert other.execute(row).one()
        db.session.execute(text("SET LOCAL lock_timeout = '2s'"))
        upkeep.requeue_stuck()
    assert [put for put in queued if put[0] == "checking.process"] == [
        ("checking.process", str(stuck.id))
    ]


def test_f35_a_reminder_that_still_waits_is_not_repeated(
    sender: Sender, environ: dict[str, str], monkeypatch
) -> None:
    """A queue in which everything waits for minutes would else fill with the same again and again,
    and whoever comes next would wait behind all of it."""
    monkeypatch.setattr(queue, "put", lambda *given, **more: JobQueue.put(queue, *given, **more))
    known = redis.Redis.from_url(environ["REDIS_URL"])
    known.flushall()
    sent = [sender.create().upload().complete() for _ in range(3)]
    for _ in range(3):
        for one in sent:
            one.set(queued_at=ago(seconds=60))
        assert upkeep.requeue_stuck() == 3
        assert known.llen("rq:queue:default") == 3
    known.lpop("rq:queue:default")  # a worker took it, and died
    for one in sent:
        one.set(queued_at=ago(seconds=60))
    upkeep.requeue_stuck()
    assert known.llen("rq:queue:default") == 3
    assert str(sent[0].id).encode() in known.lindex("rq:queue:default", -1)
    known.flushall()
    known.close()


@pytest.fixture
def swept(environ: dict[str, str]) -> None:
    """Every sweep has just come to its end, and none is queued."""
    known = redis.Redis.from_url(environ["REDIS_URL"])
    known.flushall()
    known.close()
    for _, job in jobs.SCHEDULE:
        heartbeats.note_run(heartbeats.name_of(job))


def test_f32_a_reminder_that_was_lost_is_missed_within_fifteen_seconds(
    sender: Sender, queued: list, swept: None
) -> None:
    """With Redis, or heard by a worker in vain while the database was away; a new one waits."""
    lost = sender.create().upload().complete().set(queued_at=ago(seconds=11))
    sender.create().upload().complete().set(queued_at=ago(seconds=5))
    queued.clear()
    assert upkeep.requeue_stuck() == 1
    assert queued == [("checking.process", str(lost.id))]
    (interval,) = (seconds for seconds, job in jobs.SCHEDULE if job is jobs.REQUEUE_STUCK)
    assert interval + upkeep.REQUEUE_AFTER.total_seconds() <= 15


def test_stuck_transfers_are_queued_again_but_not_all_the_time(
    sender: Sender, queued: list, swept: None
) -> None:
    stuck = sender.create().upload().complete().set(queued_at=ago(seconds=60))
    fresh = sender.create().upload().complete()
    busy = sender.create().upload().complete()
    busy.set(queued_at=ago(seconds=60), lease_until=clock.now() + timedelta(seconds=20))
    queued.clear()
    upkeep.requeue_stuck()
    upkeep.requeue_stuck()
    assert queued == [("checking.process", str(stuck.id))]
    assert {fresh.row().state, busy.row().state} == {State.PROCESSING}


def test_f52_a_sweep_that_failed_comes_round_soon_again(
    queued: list, swept: None, monkeypatch
) -> None:
    """Its turn was taken and nothing came of it: the next one is tomorrow."""
    start = clock.now()
    monkeypatch.setattr(clock, "now", lambda: start)
    upkeep.requeue_stuck()
    assert queued == []
    monkeypatch.setattr(storage, "objects", lambda _: (_ for _ in ()).throw(Unavailable()))
    with transaction():
        row = db.session.get(Heartbeat, "remove_orphans")
        assert row is not None
        row.at = ago(days=1, minutes=2)
        db.session.delete(db.session.get(Heartbeat, "expire_due"))
    for _ in range(3):
        upkeep.requeue_stuck()
    assert queued == [("upkeep.expire_due",), ("upkeep.remove_orphans",)]
    with pytest.raises(Unavailable):
        upkeep.remove_orphans()
    upkeep.expire_due()
    queued.clear()
    for minutes in range(2, 62, 2):  # not each minute: it reads the whole bucket's list
        later = start + timedelta(minutes=minutes)
        monkeypatch.setattr(clock, "now", lambda later=later: later)
        upkeep.requeue_stuck()
    assert queued == [("upkeep.remove_orphans",)]


def test_a_sweep_that_has_more_to_do_goes_on_within_a_minute(
    queued: list, swept: None, monkeypatch
) -> None:
    start = clock.now()
    monkeypatch.setattr(clock, "now", lambda: start)
    heartbeats.note_progress("remove_orphans", {"after": "k"})
    for seconds in (0, 5, 60):
        monkeypatch.setattr(clock, "now", lambda s=seconds: start + timedelta(seconds=s))
        upkeep.requeue_stuck()
    assert queued == [("upkeep.remove_orphans",)] * 2
    heartbeats.note_run("remove_orphans")
    monkeypatch.setattr(clock, "now", lambda: start + timedelta(minutes=5))
    queued.clear()
    upkeep.requeue_stuck()
    assert queued == []


def test_a_queue_that_is_away_keeps_no_sweep_from_being_noted(
    swept: None, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(upkeep, "OVERDUE_SECONDS", -1000)
    monkeypatch.setattr(queue, "put_once", lambda *given: (_ for _ in ()).throw(OSError("away")))
    assert upkeep.requeue_stuck() == 0
    assert "the sweep will repeat it" in caplog.text


def test_f21_multiparts_that_no_row_knows_are_aborted_others_are_not(
    sender: Sender, monkeypatch
) -> None:
    sent = sender.create({"a": b"a" * (PART + 1)}).upload()
    known = transfers.files_of(sent.id)[0].upload
    orphan = storage.begin_upload("beeline/orphan", "t")
    foreign = storage.begin_upload("other/app", "t")
    upkeep.abort_unknown_uploads()
    assert storage.list_parts("beeline/orphan", orphan) == []  # too young to be judged
    monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(seconds=-60))
    # By force: what tests before this one left open, their rows gone, are strangers to it.
    upkeep.abort_unknown_uploads(force=True)
    with pytest.raises(NoSuchUpload):
        storage.list_parts("beeline/orphan", orphan)
    assert storage.list_parts("other/app", foreign) == []
    assert len(storage.list_parts(known.key, known.s3_upload_id or "")) == 2
    storage.abort_upload("other/app", foreign)


def test_a_removed_file_leaves_no_bytes(sender: Sender) -> None:
    sent = sender.create({"a": b"1", "b": b"2"}).upload()
    key = transfers.files_of(sent.id)[0].upload.key
    sent.call("DELETE", f"/files/{sent.files[0]['id']}")
    upkeep.remove_bytes()
    assert storage.head(key) is None
    assert sent.complete().process().show()["status"] == "READY"


def given_up(count: int) -> list[str]:
    """Uploads that nobody wants any more and that are to be removed now; their keys, in order."""
    keys = sorted(f"beeline/{secrets.token_hex(20)}" for _ in range(count))
    aborted = {"state": UploadState.ABORTED, "token": "t", "method": Method.SINGLE}
    aborted |= {"size": 1, "part_size": PART}
    with transaction():
        db.session.execute(insert(Upload), [aborted | {"key": key} for key in keys])
    return keys


def _is_free() -> bool:
    """Whether another run may remove bytes now."""
    until = db.session.scalar(select(Heartbeat.busy_until))
    return until is None


def _pass_turn(**time: float) -> None:
    """As if whose turn it is had not been heard of for too long."""
    with transaction():
        db.session.execute(update(Heartbeat).values(busy_until=ago(**time)))


def _upload(key: str) -> Upload:
    upload = db.session.scalar(
        select(Upload).where(Upload.key == key).execution_options(populate_existing=True)
    )
    assert upload is not None
    return upload


def _change(upload: Upload, **values: object) -> None:
    with transaction():
        db.session.execute(update(Upload).where(Upload.id == upload.id).values(**values))
