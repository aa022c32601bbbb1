"""/health: is this process alive; /ready: can it do its work; /openapi.json: what it offers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, jsonify
from sqlalchemy import text

from app.api.auth import anyone
from app.db import db, discard, release
from app.errors import Unavailable
from app.extensions import queue, storage
from app.services import doctor

bp = Blueprint("status", __name__)


@bp.get("/health")
@anyone
def health() -> Response:
    """This process answers; asks nothing of anybody else."""
    return jsonify({"status": "OK"})


@bp.get("/ready")
@anyone
def ready() -> tuple[Response, int, dict[str, str]]:
    """Database, queue and storage each answer, or 503 with which one does not.

    Sweeps that are late are told too (F52), and whether storage verifies checksums, but this
    process can serve without them.
    """
    # All at once: one after the other they could take longer than whoever probes will wait.
    with ThreadPoolExecutor(2) as pool:
        asked = {
            name: pool.submit(copy_context().run, _works, ask)
            for name, ask in (("queue", queue.check), ("storage", storage.check))
        }
        checks = {"database": _works(_ask_database)}
        checks |= {name: one.result() for name, one in asked.items()}
    all_well = all(checks.values())
    shown = {name: "OK" if well else "not answering" for name, well in checks.items()}
    shown["sweeps"] = "OK" if checks["database"] and not doctor.late_sweeps() else "late"
    shown["checksums"] = storage.checksums.value
    body = {"status": "OK" if all_well else "unavailable", "checks": shown}
    if all_well:
        return jsonify(body), 200, {}
    return jsonify(body), Unavailable.status, {"Retry-After": str(Unavailable.retry_after)}


@bp.get("/openapi.json")
@anyone
def openapi() -> Response:
    """The description of every JSON route."""
    return jsonify(_description())


@lru_cache(maxsize=1)
def _description() -> Any:
    return yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text())


def _ask_database() -> None:
    try:
        db.session.execute(text("SELECT 1"))
        release()
    except Exception:
        discard()
        raise


def _works(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:
        return False
    return True
