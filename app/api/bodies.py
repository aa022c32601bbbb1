"""The JSON body of a request, or a clear refusal: never an unexpected exception."""

from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest as WerkzeugBadRequest

from app.errors import BadRequest, Invalid, WrongType


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
