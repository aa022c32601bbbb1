"""A million transfers that expire at once, and objects that are removed in batches.

The former against one UPDATE and against row by row, the latter against one by one.
"""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask_migrate import upgrade
from sqlalchemy import insert, select, text

from app import clock, config, create_app, timeouts
from app.db import db, release, transaction
from app.extensions import storage
from app.models import Method, State, Transfer, Upload, UploadState
from app.services import audit, upkeep
from benchmarks.place import Place, delayed, opened
from benchmarks.turns import Turn, figure, median, ratio, say, table, take_turns
from embedded.services import BUCKET

DELAY = 0.02
# One by one takes hours: only this many are done, and the result is scaled up.
SAMPLE_ROWS, SAMPLE_OBJECTS = 2000, 200
FILL = """
    INSERT INTO transfers (id, slug, owner_token_hash, state, title, ready_at, expires_at)
    SELECT gen_random_uuid(), md5(random()::text) || n, decode(repeat('ab', 32), 'hex'), 'READY',
    'Pictures of ' || n, now() - interval '7 days', now() - n * interval '1 millisecond'
    FROM generate_series(1, :count) n"""
ONE_UPDATE = """
    UPDATE transfers SET state = 'EXPIRED', expired_at = now(), lease_token = NULL,
    lease_until = NULL, attempt_count = 0
    WHERE state = 'READY' AND expires_at <= now()"""
# What the sweep does as well: an audit record of each.
RECORD = "INSERT INTO audit_events (action, transfer_id) SELECT 'expire', id FROM transfers"


def run() -> None:
    """Time both; objects are removed over a line that delays each request by 20 ms."""
    transfer_count = int(os.environ.get("UPKEEP_TRANSFERS", "1000000"))
    object_count = int(os.environ.get("UPKEEP_OBJECTS", "10000"))
    with tempfile.TemporaryDirectory() as data, opened(Path(data), "s3") as place:
        place.s3.create_bucket(Bucket=BUCKET)
        app = create_app(
            place.environ
            | {
                "SECRET_KEY": "only-for-benchmarks-0123456789abcdefghij",
                "BASE_URL": "http://localhost",
                "LOG_LEVEL": "ERROR",
            }
        )
        with app.app_context(), _patient():
            upgrade(directory="migrations")
            _expire(transfer_count)
            _remove(place, object_count)
            db.session.remove()


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Raise the query timeout to an hour, for one statement about a million rows."""
    usual, timeouts.JOB_QUERY_SECONDS = timeouts.JOB_QUERY_SECONDS, 3600.0
    try:
        yield
    finally:
        timeouts.JOB_QUERY_SECONDS = usual


# -- expiring ----------------------------------------------------------------------------------


def _expire(count: int) -> None:
    say(f"   {count:,} transfers past their date")
    rounds = take_turns(
        {
            "one UPDATE": lambda: _timed(count, lambda: _run(ONE_UPDATE)),
            "one UPDATE, recorded": lambda: _timed(count, lambda: _run(ONE_UPDATE, RECORD)),
            "sweep": lambda: _timed(count, upkeep.expire_due),
            "row by row": lambda: _row_by_row(count),
        }
    )
    seconds = {name: median(turns, "seconds") for name, turns in rounds.items()}
    table(
        f"expiring {count:,} transfers",
        ["", "seconds", "sweep is x as fast"],
        [
            [name, figure(seconds[name], 1), ratio(seconds[name], seconds.get("sweep"))]
            for name in rounds
        ],
    )


def _timed(count: int, act: Callable[[], object]) -> Turn:
    _fill(count)
    began = time.monotonic()
    act()
    seconds = time.monotonic() - began
    left = db.session.scalar(select(Transfer.id).where(Transfer.state != State.EXPIRED).limit(1))
    release()
    if left is not None:
        raise RuntimeError("some have not expired")
    return Turn(seconds, {"seconds": seconds})


def _row_by_row(count: int) -> Turn:
    """The obvious way with an ORM: each row loaded, changed, recorded and committed."""
    _fill(count)
    due = db.session.scalars(
        select(Transfer.id).where(Transfer.state == State.READY).limit(SAMPLE_ROWS)
    ).all()
    release()
    began = time.monotonic()
    for one in due:
        with transaction():
            transfer = db.session.get_one(Transfer, one)
            transfer.state, transfer.expired_at = State.EXPIRED, clock.now()
            audit.note("expire", one)
    seconds = (time.monotonic() - began) / len(due) * count
    return Turn(seconds, {"seconds": seconds})


def _fill(count: int) -> None:
    """Insert the same rows for each contestant, on pages that were never written before."""
    db.session.expunge_all()
    _run("TRUNCATE transfers, uploads, audit_events CASCADE", text(FILL).bindparams(count=count))
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        for statement in ("VACUUM ANALYZE transfers", "CHECKPOINT"):
            connection.execute(text(statement))
        connection.execute(text("RESET statement_timeout"))


def _run(*statements: Any) -> None:
    """Run all in one transaction, without a statement timeout."""
    with transaction():
        db.session.execute(text("SET LOCAL statement_timeout = 0"))
        for one in statements:
            db.session.execute(text(one) if isinstance(one, str) else one)


# -- removing ----------------------------------------------------------------------------------


def _remove(place: Place, count: int) -> None:
    say(f"   {count:,} objects, {DELAY * 1000:.0f} ms for each request")
    given = config.current()
    here = replace(given, s3_access_key_id=place.key, s3_secret_access_key=place.secret)
    with delayed(place, DELAY) as (url, _):
        storage.bind(replace(here, s3_endpoint_url=url))
        rounds = take_turns(
            {
                "one by one": lambda: _one_by_one(place, url, count),
                "sweep": lambda: _swept(place, count),
            }
        )
    storage.bind(given)
    seconds = {name: median(turns, "seconds") for name, turns in rounds.items()}
    endpoint = figure(median(rounds.get("sweep", []), "endpoint"), 2)
    table(
        f"removing {count:,} objects and their rows, {DELAY * 1000:.0f} ms",
        ["", "seconds", "sweep is x as fast", "the endpoint's CPU"],
        [
            [
                name,
                figure(seconds[name], 2),
                ratio(seconds[name], seconds.get("sweep")),
                endpoint if name == "sweep" else "",
            ]
            for name in rounds
        ],
    )


def _swept(place: Place, count: int) -> Turn:
    """All that the sweep does: look the uploads up, remove their objects, record that."""
    _plant(place, count)
    spent, began = place.endpoint_seconds(), time.monotonic()
    upkeep.remove_bytes()
    seconds = time.monotonic() - began
    if place.s3.list_objects_v2(Bucket=BUCKET).get("Contents"):
        raise RuntimeError("some objects are left")
    return Turn(seconds, {"seconds": seconds, "endpoint": place.endpoint_seconds() - spent})


def _upload(key: str, number: int) -> dict[str, Any]:
    """The row of an aborted upload; every other one is a multipart upload."""
    is_multipart = number % 2 == 1
    return {
        "key": key,
        "token": "t",
        "method": Method.MULTIPART if is_multipart else Method.SINGLE,
        "s3_upload_id": f"completed-{number}" if is_multipart else None,
        "size": 3,
        "part_size": 3,
        "state": UploadState.ABORTED,
        "etag": "e",
    }


def _one_by_one(place: Place, url: str, count: int) -> Turn:
    """The obvious way: load a row, delete its object, update the row, commit."""
    client = place.client(url)
    _plant(place, min(count, SAMPLE_OBJECTS))
    client.head_bucket(Bucket=BUCKET)  # Opens its connection before the clock starts.
    ids = db.session.scalars(select(Upload.id)).all()
    release()
    began = time.monotonic()
    for one in ids:
        upload = db.session.get_one(Upload, one)
        release()
        client.delete_object(Bucket=BUCKET, Key=upload.key)
        with transaction():
            upload.removed_at = clock.now()
    seconds = (time.monotonic() - began) * count / len(ids)
    return Turn(seconds, {"seconds": seconds})


def _plant(place: Place, count: int) -> None:
    """Create this many objects of aborted uploads, and their rows."""
    keys = [f"beeline/{secrets.token_hex(20)}" for _ in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: place.s3.put_object(Bucket=BUCKET, Key=key, Body=b"abc"), keys))
    db.session.expunge_all()
    _run("TRUNCATE transfers, uploads CASCADE")
    with transaction():
        db.session.execute(insert(Upload), [_upload(key, n) for n, key in enumerate(keys)])
        # As autovacuum would; after TRUNCATE the planner expects next to no rows.
        db.session.execute(text("ANALYZE uploads"))
