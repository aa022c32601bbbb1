"""Rows that a sweep takes: up to the limit, none locked by others, and selected by ctid."""

import threading
import time

import pytest
from sqlalchemy import Text, cast, func, insert, select, text, update

from app import rows
from app.config import MIB
from app.db import db, transaction
from app.models import Method, Upload

pytestmark = pytest.mark.usefixtures("inside")


def plant(count: int) -> list[str]:
    keys = [f"beeline/{n:04}" for n in range(count)]
    values = {"token": "t", "method": Method.SINGLE, "size": 1, "part_size": 8 * MIB}
    with transaction():
        db.session.execute(insert(Upload), [values | {"key": key} for key in keys])
    return keys


def taken(**how: object) -> set[str]:
    with transaction():
        return set(
            db.session.scalars(
                update(Upload)
                .where(rows.take(Upload, Upload.sent_at.is_(None), **how))  # type: ignore[arg-type]
                .values(sent_at=func.now())
                .returning(Upload.key)
                .execution_options(synchronize_session=False)
            )
        )


def test_rows_are_taken_up_to_the_limit_in_order_and_none_twice() -> None:
    keys = plant(25)
    steps = [taken(limit=10, order_by=Upload.key) for _ in range(4)]
    assert steps == [set(keys[:10]), set(keys[10:20]), set(keys[20:]), set()]


@pytest.mark.real_commits
def test_locked_rows_are_skipped() -> None:
    keys = plant(6)
    with db.engine.connect() as other, other.begin():
        other.execute(select(Upload.id).where(Upload.key.in_(keys[:2])).with_for_update()).all()
        assert taken(limit=4) == set(keys[2:])
    assert taken(limit=4) == set(keys[:2])


@pytest.mark.real_commits
def test_a_row_changed_before_it_is_locked_is_left_to_the_next_statement() -> None:
    """Its ctid has changed when it is to be locked; so it is missed, but no other row is taken."""
    (key,) = plant(1)
    engine = db.engine

    def change() -> None:
        time.sleep(0.2)
        with engine.begin() as other:
            other.execute(update(Upload.__table__).values(etag="e"))

    changing = threading.Thread(target=change)
    changing.start()
    slowly = cast(func.pg_sleep(0.5), Text) == ""
    with transaction():
        missed = db.session.execute(
            update(Upload)
            .where(rows.take(Upload, slowly, limit=1))
            .values(sent_at=func.now())
            .execution_options(synchronize_session=False)
        )
    changing.join()
    assert missed.rowcount == 0
    assert taken(limit=1) == {key}


def test_the_rows_are_not_looked_up_again() -> None:
    plant(3)
    statement = update(Upload).where(rows.take(Upload, limit=2)).values(sent_at=func.now())
    db.session.execute(text("SET LOCAL enable_seqscan = off"))  # the plan for a large table
    plan = db.session.scalars(
        text(f"EXPLAIN {statement.compile(db.engine, compile_kwargs={'literal_binds': True})}")
    )
    assert "Tid Scan on uploads" in "\n".join(plan)
