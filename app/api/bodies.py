"""The JSON body and the query of a request, or a clear refusal: never an unexpected exception."""

import re
from collections.abc import Collection
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest as WerkzeugBadRequest

from app.errors import BadRequest, Invalid, WrongType
from app.services import repeats
from app.services.marks import IsSeen
from app.services.repeats import Once

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def json_or_nothing() -> Any:
    """As json_body(), but None where nothing was sent, whatever type that was said to be of."""
    return json_body() if request.get_data() else None


def idempotency_key() -> str | None:
    """The sender's secret by which the same request is known again; raises Invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{20,200}", key):
        raise Invalid(
            {"Idempotency-Key": "must be 20 to 200 printable characters, chosen at random"}
        )
    return key


def once(actor: object, said: bytes | None = None) -> Once | None:
    """This request, to be done once however often this actor sends it; None without a key.

    `said` stands for a body that is written in other bytes each time it is sent.
    """
    body = request.get_data() if said is None else said
    whole = b"\n".join((request.method.encode(), request.path.encode(), body))
    return repeats.once(idempotency_key(), str(actor), whole)


def query(*names: str, whole: Collection[str] = ()) -> dict[str, Any]:
    """These fields of the query string, for Inputs, and as numbers those of `whole`.

    Any other field is ignored. What is not a whole number stays text, for Inputs to refuse.
    """
    said = {name: request.args[name] for name in (*names, *whole) if name in request.args}
    return {
        name: int(value) if name in whole and _WHOLE.fullmatch(value) else value
        for name, value in said.items()
    }


def is_seen() -> IsSeen | None:
    """A function that tells whether If-Match names a mark; None without that header.

    A header in which nothing can be read names no mark: what its sender asked for does not hold.
    """
    return request.if_match.contains if "If-Match" in request.headers else None


def json_body() -> Any:
    """The parsed body; raises WrongType, BadRequest or Invalid."""
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
