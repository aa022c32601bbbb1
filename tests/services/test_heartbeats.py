"""What each sweep did and how it failed, for /ready and the log."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete

from app import clock, jobs
from app.api import status
from app.db import db, transaction
from app.errors import Unavailable
from app.extensions import storage
from app.models import Archive, Heartbeat, Inspection
from app.services import archives, heartbeats, transfers, upkeep
from tests.factories import Sender

pytestmark = pytest.mark.usefixtures("inside")


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def broken(*_: Any) -> Any:
    raise Unavailable


def sweep_named(client: FlaskClient, name: str) -> dict[str, Any]:
    answer = client.get("/ready")
    assert answer.status_code == 200, answer.json
    return answer.json["sweeps"][name]


def test_every_job_of_the_schedule_has_a_name_of_its_own() -> None:
    names = [heartbeats.name_of(job) for _, job in jobs.SCHEDULE]
    assert len(set(names)) == len(names)
    assert [run.name for run in heartbeats.runs()] == names


def test_what_a_sweep_did_is_told(client: FlaskClient, sender: Sender, caplog) -> None:
    assert sweep_named(client, "expire_due") == {
        "every_seconds": 30,
        "last_run_at": None,
        "count": None,
        "seconds": None,
        "failure_count": 0,
        "is_late": True,
    }
    for _ in range(2):
        sender.ready().set(expires_at=ago(seconds=1))
    caplog.set_level(logging.INFO, "app")
    upkeep.expire_due()
    told = sweep_named(client, "expire_due")
    assert (told["count"], told["failure_count"], told["is_late"]) == (2, 0, False)
    assert 0 < told["seconds"] < 10
    assert told["last_run_at"] > ago(minutes=1).isoformat()
    assert "expire_due dealt with 2 in" in caplog.text
    caplog.clear()
    upkeep.expire_due()  # nothing to do, every 30 seconds: no line
    assert sweep_named(client, "expire_due")["count"] == 0
    assert caplog.text == ""


def test_failures_are_counted_until_it_comes_to_its_end(client: FlaskClient, monkeypatch) -> None:
    upkeep.remove_orphans(force=True)
    before = sweep_named(client, "remove_orphans")
    with monkeypatch.context() as away:
        away.setattr(storage, "objects", broken)
        for failed in (1, 2):
            with pytest.raises(Unavailable):
                upkeep.remove_orphans()
            told = sweep_named(client, "remove_orphans")
            assert told == before | {"failure_count": failed}
    upkeep.remove_orphans(force=True)
    assert sweep_named(client, "remove_orphans")["failure_count"] == 0


def test_one_that_has_only_ever_failed_is_late_and_says_why(
    client: FlaskClient, monkeypatch
) -> None:
    monkeypatch.setattr(storage, "objects", broken)
    with pytest.raises(Unavailable):
        upkeep.remove_orphans()
    told = sweep_named(client, "remove_orphans")
    assert (told["last_run_at"], told["count"], told["seconds"]) == (None, None, None)
    assert (told["failure_count"], told["is_late"]) == (1, True)


def test_a_sweep_that_cannot_even_be_noted_fails_as_it_did(monkeypatch, caplog) -> None:
    monkeypatch.setattr(storage, "objects", broken)
    monkeypatch.setattr(heartbeats, "_write", lambda *_, **__: 1 / 0)
    with pytest.raises(Unavailable):
        upkeep.remove_orphans()
    assert "could not note that remove_orphans failed: ZeroDivisionError" in caplog.text


def test_one_that_was_told_to_stop_has_not_come_to_its_end() -> None:
    jobs.stopping.set()
    upkeep.expire_due()
    assert db.session.get(Heartbeat, "expire_due") is None


def test_whether_there_is_a_maker_is_told(client: FlaskClient, sender: Sender) -> None:
    def told() -> tuple[Any, str]:
        answer = client.get("/ready").json
        return answer["zips"], answer["checks"]["zips"]

    assert told()[0] == {"waiting_count": 0, "oldest_seconds": None, "being_made_count": 0}
    sent = [sender.ready({"a": b"1", "b": b"2"}) for _ in range(3)]
    for one in sent:
        archives.request(one.id)
    assert told()[0]["waiting_count"] == 3
    assert told()[1] == "OK"
    change(sent[0], created_at=ago(minutes=9))
    zips, word = told()
    assert 539 < zips["oldest_seconds"] < 600
    assert word == "late"
    change(sent[1], lease_token=sent[1].id, lease_until=ago(seconds=-20))  # somebody is at one
    zips, word = told()
    assert (zips["waiting_count"], zips["being_made_count"], word) == (2, 1, "OK")
    change(sent[1], lease_until=ago(seconds=1))  # and died
    assert told()[1] == "late"
    for one in sent:
        archives.build(str(one.id))
    assert told() == (
        {"waiting_count": 0, "oldest_seconds": None, "being_made_count": 0},
        "OK",
    )


def test_files_that_nobody_reads_are_told_too(client: FlaskClient, sender: Sender) -> None:
    sent = sender.ready()
    (file,) = transfers.files_of(sent.id)
    with transaction():
        wish = Inspection(upload_id=file.upload_id, transfer_id=sent.id, created_at=ago(minutes=9))
        db.session.add(wish)
    answer = client.get("/ready").json
    assert answer["checks"]["inspections"] == "late"
    assert answer["inspections"]["waiting_count"] == 1


def change(sent: Any, **values: Any) -> None:
    with transaction():
        archive = db.session.get(Archive, sent.id)
        assert archive is not None
        for name, value in values.items():
            setattr(archive, name, value)


def test_a_database_that_is_away_tells_nothing_of_them(client: FlaskClient, monkeypatch) -> None:
    monkeypatch.setattr(status, "_ask_database", broken)
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["sweeps"]) == (503, "late")
    assert "zips" not in answer.json


def test_older_code_may_read_the_row_of_one_that_only_failed() -> None:
    """A release that is rolled out has both: `at` is never empty."""
    with transaction():
        db.session.execute(delete(Heartbeat))
    heartbeats._note_failure("expire_due")
    row = db.session.get(Heartbeat, "expire_due")
    assert row is not None
    assert row.at == heartbeats.NEVER
