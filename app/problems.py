"""Errors become responses here. A dialect is a URL prefix and a function that shapes the body.

The handlers are on the app: a blueprint's own never sees a routing 404 or 405.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, g, jsonify, request
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from app import errors
from app.db import is_away, reason_of
from app.errors import AppError, Invalid

log = logging.getLogger(__name__)

# A dialect's response to an error; with its own status where its contract specifies another.
Shape = Callable[[AppError], Response | tuple[Response, int]]
S = TypeVar("S", bound=Shape)
_shapes: dict[str, Shape] = {}

_BY_STATUS: dict[int, type[AppError]] = {
    401: errors.Unauthorized,
    408: errors.TooSlow,
    403: errors.NotAllowed,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.WrongType,
    429: errors.TooMany,
}


def speaks(prefix: str) -> Callable[[S], S]:
    """Register the shape of errors below a URL prefix; the longest matching prefix wins."""

    def register(shape: S) -> S:
        _shapes[prefix] = shape
        return shape

    return register


def init_app(app: Flask) -> None:
    """Register the error handlers, so that every exception gets a response."""
    app.register_error_handler(AppError, _answer)
    app.register_error_handler(HTTPException, lambda error: _answer(_from_http(error)))
    for outage in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(outage, _database_away)
    app.register_error_handler(InternalError, _read_only_or_unexpected)
    app.register_error_handler(Exception, _unexpected)


@speaks("/transfers")
@speaks("/trigger-delete")
@speaks("/senders")
@speaks("/webhooks")
@speaks("/files")
@speaks("/health")
@speaks("/ready")
@speaks("/openapi.json")
def json_problem(error: AppError) -> Response:
    """The native shape: `{"error": {code, message, fields, request_id}, **details}`."""
    told: dict[str, Any] = {
        "code": error.code,
        "message": error.title,
        "request_id": g.get("request_id"),
    }
    if isinstance(error, Invalid):
        told["fields"] = [{"field": f, "message": m} for f, m in error.fields.items()]
    return jsonify({"error": told, **error.details})


def text_problem(error: AppError) -> Response:
    """The error as one line of plain text, for terminals."""
    return Response(f"{error.title}\n", mimetype="text/plain")


def _answer(error: AppError) -> Response:
    prefix = max((p for p in _shapes if request.path.startswith(p)), key=len)
    shaped = _shapes[prefix](error)
    answer, status = shaped if isinstance(shaped, tuple) else (shaped, error.status)
    answer.status_code = status
    answer.headers["Cache-Control"] = "no-store"
    # Both belong to the error's own status: where a dialect sends another, they do not apply.
    if error.retry_after is not None and status == error.status:
        answer.headers["Retry-After"] = str(error.retry_after)
    if error.challenge is not None and status == error.status:
        answer.headers["WWW-Authenticate"] = error.challenge
    if allowed := error.details.get("allow"):
        answer.headers["Allow"] = allowed
    return answer


def _from_http(error: HTTPException) -> AppError:
    kind = _BY_STATUS.get(error.code or 500)
    if kind is not None:
        ours = kind()
    elif error.code and 400 <= error.code < 500:
        ours = errors.BadRequest()
        ours.status = error.code
    else:
        ours = AppError()
    if valid_methods := getattr(error, "valid_methods", None):
        ours.details["allow"] = ", ".join(sorted(valid_methods))
    return ours


def _database_away(error: Exception) -> Response:
    log.error("the database cannot be used: %s", reason_of(error))
    return _answer(errors.Unavailable())


def _read_only_or_unexpected(error: Exception) -> Response:
    return _database_away(error) if is_away(error) else _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.exception("unexpected error")
    return _answer(AppError())
