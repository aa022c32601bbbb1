"""Does the installation fit together: connection pools, and sweeps that come round."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

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


@pytest.mark.parametrize("whose", ["ROLE SESSION_USER", "DATABASE"])
def test_f40_a_plan_that_limits_the_role_or_the_database_is_believed(
    app: Flask, inside: None, whose: str
) -> None:
    """As hosted PostgreSQL does, whatever max_connections says."""
    name = db.session.execute(text("SELECT quote_ident(current_database())")).scalar_one()
    whose = f"DATABASE {name}" if whose == "DATABASE" else whose
    db.session.execute(text(f"ALTER {whose} CONNECTION LIMIT 20"))
    db.session.commit()
    assert doctor.connections() == (24, 20)
    refused = app.test_cli_runner().invoke(args=["database", "check"])
    assert refused.exit_code == 1
    assert "PostgreSQL allows 20" in refused.output


def late_sweeps() -> list[str]:
    return [run.name for run in heartbeats.runs() if doctor.is_late(run)]


def test_f52_a_sweep_that_stopped_coming_is_seen(client: FlaskClient, inside: None) -> None:
    sweeps = [heartbeats.name_of(job) for _, job in jobs.SCHEDULE]
    assert late_sweeps() == sweeps
    for name in sweeps:
        heartbeats.note_run(name)
    assert late_sweeps() == []
    assert client.get("/ready").json["checks"]["sweeps"] == "OK"
    with transaction():
        row = db.session.get(Heartbeat, "expire_due")
        assert row is not None
        row.at = clock.now() - timedelta(minutes=10)
    assert late_sweeps() == ["expire_due"]
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["checks"]["sweeps"]) == (200, "late")
