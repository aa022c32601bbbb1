"""/health: is this process alive; /ready: can it do its work; /openapi.json describes the API."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import text

from app import description
from app.api.auth import anyone
from app.config import settings
from app.db import db, discard, release
from app.errors import Unavailable
from app.extensions import queue, storage
from app.leases import Waiting
from app.services import archives, blocklist, heartbeats, upkeep
from app.services.doctor import processes

bp = Blueprint("status", __name__)


@bp.get("/health")
@anyone
def health() -> Response:
    """Answer OK, without asking any other service."""
    return jsonify({"status": "OK"})


@bp.get("/ready")
@anyone
def ready() -> tuple[Response, int, dict[str, str]]:
    """Check database, queue and storage; 503 if one of them does not answer.

    Also reports background problems, without which this process can serve: late sweeps (F52),
    zips that are not being made, files that are not being checked against the block list, lost
    objects, and whether storage verifies checksums.
    """
    # Concurrently: one after the other they could exceed the timeout of the probe.
    with ThreadPoolExecutor(2) as pool:
        asked = {
            name: pool.submit(copy_context().run, _works, ask)
            for name, ask in (("queue", queue.check), ("storage", storage.check))
        }
        checks = {"database": _works(_ask_database)}
        checks |= {name: one.result() for name, one in asked.items()}
    all_well = all(checks.values())
    shown = {name: "OK" if well else "not answering" for name, well in checks.items()}
    body = {"status": "OK" if all_well else "unavailable", "checks": shown}
    if checks["database"]:
        body |= _behind(shown)
    else:
        shown["sweeps"] = "late"
    shown["checksums"] = storage.checksums.value
    if all_well:
        return jsonify(body), 200, {}
    return jsonify(body), Unavailable.status, {"Retry-After": str(Unavailable.retry_after)}


@bp.get("/openapi.json")
@anyone
def openapi() -> Response:
    """Return the OpenAPI description of every JSON route; 304 if the client has it."""
    answer = Response(description.as_json(), mimetype="application/json")
    # It is public and changes only with a release: clients may cache it, but must revalidate.
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.add_etag()
    answer.make_conditional(request)
    return answer


def _behind(shown: dict[str, str]) -> dict[str, Any]:
    """Report the sweeps and what waits for workers; adds a verdict on each to `shown`."""
    runs, zips, inspections = heartbeats.runs(), archives.waiting(), blocklist.waiting()
    lost_count = heartbeats.count_of(upkeep.LOST_OBJECTS)
    shown["sweeps"] = "late" if any(processes.is_late(run) for run in runs) else "OK"
    shown["zips"] = "late" if processes.has_no_maker(zips) else "OK"
    shown["inspections"] = "late" if processes.has_no_maker(inspections) else "OK"
    shown["objects"] = "missing" if lost_count else "OK"
    if settings.sqs_queue_url:
        shown["listener"] = "late" if processes.has_no_listener() else "OK"
    return {
        "sweeps": {run.name: _run_json(run) for run in runs},
        "zips": _waiting_json(zips),
        "inspections": _waiting_json(inspections),
        "lost_object_count": lost_count,
    }


def _waiting_json(waiting: Waiting) -> dict[str, Any]:
    return {
        "waiting_count": waiting.count,
        "oldest_seconds": waiting.oldest_seconds and round(waiting.oldest_seconds),
        "being_made_count": waiting.held_count,
    }


def _run_json(run: heartbeats.Run) -> dict[str, Any]:
    return {
        "every_seconds": run.interval_seconds,
        "last_run_at": run.at and run.at.isoformat(),
        "count": run.count,
        "seconds": run.seconds and round(run.seconds, 3),
        "failure_count": run.failure_count,
        "is_late": processes.is_late(run),
    }


def _ask_database() -> None:
    try:
        # A replica answers too, and so does a server that lets nobody write because it is full.
        is_read_only = db.session.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
        release()
    except Exception:
        discard()
        raise
    if is_read_only:
        raise Unavailable


def _works(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:
        return False
    return True
