"""F41: PostgreSQL aborts a statement. A request gets 503; a job is tried again."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app import clock
from app.db import db, transaction
from app.models import State
from tests.factories import Sender


@contextmanager
def aborting(code: str) -> Iterator[None]:
    """Every UPDATE of uploads fails with this error code."""
    with transaction():
        db.session.execute(
            text(
                "CREATE FUNCTION abort_statement() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'aborted by the test' USING ERRCODE = '{code}'; END $$"
            )
        )
        db.session.execute(
            text(
                "CREATE TRIGGER abort_statement BEFORE UPDATE ON uploads"
                " FOR EACH STATEMENT EXECUTE FUNCTION abort_statement()"
            )
        )
    yield
    with transaction():
        db.session.execute(text("DROP FUNCTION abort_statement CASCADE"))


CODES = pytest.mark.parametrize("code", ["40P01", "40001"], ids=["deadlock", "serialization"])


@CODES
def test_f41_a_request_gets_503_and_can_be_repeated(sender: Sender, code: str) -> None:
    sent = sender.ready()
    with aborting(code):
        answer = sent.call("DELETE")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert sent.row().state is State.READY
    assert sent.call("DELETE").status_code == 204


@CODES
def test_f41_a_job_is_tried_again_after_a_while(sender: Sender, code: str) -> None:
    """It counts as a failed attempt: unlike an outage, the cause may be a bug of ours."""
    sent = sender.create().upload().complete()
    with aborting(code), pytest.raises(OperationalError, match="aborted by the test"):
        sent.process()
    row = sent.row()
    assert (row.state, row.attempt_count, row.lease_token) == (State.PROCESSING, 1, None)
    assert row.lease_until > clock.now()
    assert sent.set(lease_until=None).process().show()["status"] == "READY"
