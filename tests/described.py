"""A test client that compares every answer of the API with openapi.yaml, as it gets it.

The application of tests/conftest.py makes its clients of this class, so no test need ask for it.
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

# What is said before any route is asked, of all alike: another host, no TLS, a body that drips in.
# And 500, which is described nowhere because it must not be.
OF_NO_ROUTE = {403, 408, 421, 500}
_HERE = "urn:beeline"
_REGISTRY = Registry().with_resource(
    _HERE, Resource.from_contents(description.document(), default_specification=DRAFT202012)
)


class DescribedClient(FlaskClient):
    """A client that takes no answer of the API which is not described."""

    def open(self, *given: Any, **named: Any) -> TestResponse:
        answer = super().open(*given, **named)
        rule = self._rule_of(answer)
        if rule is not None:
            complaint = wrong_with(answer.request.method, rule, answer)
            assert complaint is None, complaint
        return answer

    def _rule_of(self, answer: TestResponse) -> str | None:
        """The route of ours that answered; None for a page, and where there is none."""
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
    """A route as the description spells it."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def parameter(said: dict[str, Any]) -> dict[str, Any]:
    """What is described of a parameter, also where only a reference to it is."""
    if "$ref" not in said:
        return said
    name = said["$ref"].rpartition("/")[2]
    return description.document()["components"]["parameters"][name]


def wrong_with(method: str, path: str, answer: TestResponse) -> str | None:
    """In what an answer differs from its description; None if in nothing."""
    where, status = f"{method} {path}", str(answer.status_code)
    contents = _contents(path, method.lower(), status)
    if contents is None:
        is_of_all = answer.status_code in OF_NO_ROUTE
        return None if is_of_all else f"{where}: {status} is not described: {answer.text[:500]}"
    if answer.status_code // 100 == 3:
        return None  # Where it leads is in a header; its body is for people whose browser stays.
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
    """Where the schema of each type of body is described; None if the status is not."""
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
    """As a JSON pointer in an address has it."""
    return word.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


@cache
def _validator(place: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"{_HERE}#{place}"}, registry=_REGISTRY, format_checker=FormatChecker()
    )
