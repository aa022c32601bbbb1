"""A test client that validates every response of the API against openapi.yaml.

The application of tests/conftest.py uses this class for all of its clients.
"""

import re
from functools import cache
from typing import Any

from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from app import description

# Statuses from before any route is called: wrong host, no TLS, a body that arrives too slowly.
# And 500, which is not documented because it must not happen.
OF_NO_ROUTE = {403, 408, 421, 500}
_HERE = "urn:beeline"
_REGISTRY = Registry().with_resource(
    _HERE, Resource.from_contents(description.document(), default_specification=DRAFT202012)
)


class DescribedClient(FlaskClient):
    """A client that fails on any response of the API that does not match its description."""

    def open(self, *given: Any, **named: Any) -> TestResponse:
        answer = super().open(*given, **named)
        rule = self._rule_of(answer)
        if rule is not None:
            complaint = wrong_with(answer.request.method, rule, answer)
            assert complaint is None, complaint
        return answer

    def _rule_of(self, answer: TestResponse) -> str | None:
        """The API route that answered; None for a page, or if there is no route."""
        adapter = self.application.url_map.bind("localhost")
        method = answer.request.method
        try:
            rule, _ = adapter.match(answer.request.path, method, return_rule=True)
        except HTTPException:
            return None
        view = self.application.view_functions[rule.endpoint]
        is_api = view.__module__.startswith("app.api.") and method not in ("HEAD", "OPTIONS")
        return path_of(rule.rule) if is_api else None


def path_of(rule: str) -> str:
    """A Flask route as an OpenAPI path."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def parameter(said: dict[str, Any]) -> dict[str, Any]:
    """The description of a parameter, with its `$ref` resolved."""
    if "$ref" not in said:
        return said
    name = said["$ref"].rpartition("/")[2]
    return description.document()["components"]["parameters"][name]


def wrong_with(method: str, path: str, answer: TestResponse) -> str | None:
    """How a response differs from its description; None if it does not."""
    where, status = f"{method} {path}", str(answer.status_code)
    contents = _contents(path, method.lower(), status)
    if contents is None:
        is_of_all = answer.status_code in OF_NO_ROUTE
        return None if is_of_all else f"{where}: {status} is not described: {answer.text[:500]}"
    if answer.status_code // 100 == 3:
        return None  # The target is in a header; the body is for browsers that do not follow.
    if not contents:
        return f"{where}: {status} has a body: {answer.text[:500]}" if answer.data else None
    if answer.mimetype not in contents:
        return f"{where}: {status} is {answer.mimetype}"
    if answer.mimetype != "application/json":
        return None
    errors = [
        f"{error.json_path} {error.message}"
        for error in _validator(contents[answer.mimetype]).iter_errors(answer.json)
    ]
    return f"{where}: {status}: {'; '.join(errors)[:1000]}" if errors else None


@cache
def _contents(path: str, method: str, status: str) -> dict[str, str] | None:
    """JSON pointers to the body's schema, by media type; None if the status is not described."""
    described = description.document()["paths"][path][method]["responses"]
    if status not in described:
        return None
    place = f"/paths/{_escaped(path)}/{method}/responses/{status}"
    answer = described[status]
    if "$ref" in answer:
        place = answer["$ref"].removeprefix("#")
        answer = description.document()["components"]["responses"][place.rpartition("/")[2]]
    return {kind: f"{place}/content/{_escaped(kind)}/schema" for kind in answer.get("content", {})}


def _escaped(word: str) -> str:
    """The word escaped for a JSON pointer in a URL fragment."""
    return word.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


@cache
def _validator(place: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"{_HERE}#{place}"}, registry=_REGISTRY, format_checker=FormatChecker()
    )
