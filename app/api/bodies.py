"""Reads a request's JSON body, query and headers; bad input raises an AppError, nothing else."""

import re
from collections.abc import Collection
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest as WerkzeugBadRequest

from app.errors import BadRequest, Invalid, WrongType
from app.services import idempotency
from app.services.idempotency import Once
from app.services.marks import IsSeen

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def json_or_nothing() -> Any:
    """Return the parsed body, or None if it is empty, whatever its type; raises as json_body()."""
    return json_body() if request.get_data() else None


def idempotency_key() -> str | None:
    """Return the Idempotency-Key header, a secret of the client; raises Invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{20,200}", key):
        raise Invalid(
            {"Idempotency-Key": "must be 20 to 200 printable characters, chosen at random"}
        )
    return key


def once(actor: object, said: bytes | None = None) -> Once | None:
    """Identify this request by its Idempotency-Key, so that it is done only once per actor.

    Returns None without that header. `said` replaces the body if that is encoded differently each
    time it is sent. Raises Invalid.
    """
    body = request.get_data() if said is None else said
    whole = b"\n".join((request.method.encode(), request.path.encode(), body))
    return idempotency.once(idempotency_key(), str(actor), whole)


def query(*names: str, whole: Collection[str] = ()) -> dict[str, Any]:
    """Return these fields of the query string for Inputs, those of `whole` as numbers.

    Any other field is ignored. A value that is not a whole number stays text, for Inputs to refuse.
    """
    said = {name: request.args[name] for name in (*names, *whole) if name in request.args}
    return {
        name: int(value) if name in whole and _WHOLE.fullmatch(value) else value
        for name, value in said.items()
    }


def filled(*names: str, whole: Collection[str] = ()) -> dict[str, Any]:
    """Return what query() does, without empty fields: forms send all that nobody filled in."""
    return {name: value for name, value in query(*names, whole=whole).items() if value != ""}


def is_seen() -> IsSeen | None:
    """Return a function that tells whether If-Match contains an ETag; None without that header.

    A malformed header contains none, so that its condition fails.
    """
    return request.if_match.contains if "If-Match" in request.headers else None


def json_body() -> Any:
    """Return the parsed body; raises WrongType, BadRequest or Invalid."""
    if not request.is_json:
        raise WrongType
    try:
        return request.get_json()
    except (WerkzeugBadRequest, UnicodeDecodeError) as error:
        raise Invalid({"body": "is not valid JSON"}) from error
    except RecursionError as error:  # nested some thousand levels deep
        raise BadRequest("This request is nested too deeply.") from error
    except ValueError as error:  # a number of some thousand digits
        raise Invalid({"body": "holds a number that is too long"}) from error
