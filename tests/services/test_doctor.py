"""Does the installation fit together: connection pools, and sweeps that come round."""

from collections.abc import Callable
from datetime import timedelta

from flask import Flask
from flask.testing import FlaskClient

from app import clock, jobs
from app.db import db, transaction
from app.models import Heartbeat
from app.services import doctor, heartbeats


def test_f40_the_default_fits_and_too_much_is_refused(app: Flask, configure: Callable) -> None:
    runner = app.test_cli_runner()
    assert runner.invoke(args=["database", "check"]).exit_code == 0
    configure(web_concurrency=50, database_pool_size=20)
    refused = runner.invoke(args=["database", "check"])
    assert refused.exit_code == 1
    assert "1008" in refused.output
    assert "DATABASE_POOL_SIZE" in refused.output


def test_f52_a_sweep_that_stopped_coming_is_seen(client: FlaskClient, inside: None) -> None:
    sweeps = [heartbeats.name_of(job) for _, job in jobs.SCHEDULE]
    assert doctor.late_sweeps() == sweeps
    for name in sweeps:
        heartbeats.note_run(name)
    assert doctor.late_sweeps() == []
    assert client.get("/ready").json["checks"]["sweeps"] == "OK"
    with transaction():
        row = db.session.get(Heartbeat, "expire_due")
        assert row is not None
        row.at = clock.now() - timedelta(minutes=10)
    assert doctor.late_sweeps() == ["expire_due"]
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["sweeps"]) == (200, "late")
