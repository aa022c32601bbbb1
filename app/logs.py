"""Structured log lines: one JSON object each, with the request's id, on standard error.

Only the fields named here are logged: no query strings, no tokens, no paths that hold a slug.
Messages and tracebacks are redacted, because they may hold one.
"""

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime

from flask import Flask, Response, g, has_request_context, request

from app.redaction import redacted

FIELDS = (
    "job", "transfer", "upload", "key", "webhook", "count",
    "method", "route", "status", "duration_ms",
)  # fmt: skip
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
# Libraries log what they were given, more at lower levels: below WARNING only ours are heard.
_OURS = ("app", "beeline")
log = logging.getLogger("beeline.request")


class JsonLines(logging.Formatter):
    """Formats each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; an exception as its traceback in `error`."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "name": record.name,
            "message": redacted(record.getMessage()),
        }
        if has_request_context() and "request_id" in g:
            line["request_id"] = g.request_id
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["error"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def init_app(app: Flask, level: str) -> None:
    """Log JSON lines from here on, and one line for every request but the health checks."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    # gunicorn has a handler of its own, and logs whole paths when something fails.
    logging.getLogger("gunicorn.error").handlers[:] = [handler]
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    g.began = time.perf_counter()


def _end(answer: Response) -> Response:
    answer.headers["X-Request-ID"] = g.get("request_id", "")
    if request.endpoint not in ("status.health", "status.ready"):
        log.info(
            "request",
            extra={
                "method": request.method,
                # The rule, not the path, which holds the slug: the key to the files.
                "route": str(request.url_rule or "(none)"),
                "status": answer.status_code,
                "duration_ms": round((time.perf_counter() - g.get("began", 0)) * 1000, 1),
            },
        )
    return answer
