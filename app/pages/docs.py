"""/docs: renders openapi.yaml, the only source of the API's documentation, as a page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request
from markupsafe import Markup, escape

from app import description

bp = Blueprint("docs", __name__)

_METHODS = ("get", "post", "put", "patch", "delete")
_LIMITS = {
    "minimum": "at least {:,}",
    "maximum": "at most {:,}",
    "minLength": "at least {:,} characters",
    "maxLength": "at most {:,} characters",
    "minItems": "at least {:,} items",
    "maxItems": "at most {:,} items",
    "maxProperties": "at most {:,} entries",
    "pattern": "matching {}",
    "default": "{} by default",
}


@dataclass(frozen=True)
class Shape:
    """The type of a value: in words, the name of its schema if it has one, and its fields."""

    words: str
    name: str = ""
    about: str = ""
    limits: str = ""
    fields: list["Field"] = field(default_factory=list)


@dataclass(frozen=True)
class Field:
    """A field of a shape, a parameter, or an unnamed alternative."""

    name: str
    shape: Shape
    is_required: bool = False
    place: str = ""


@dataclass(frozen=True)
class Answer:
    """The meaning and body of a status, or of several with the same."""

    statuses: list[str]
    about: str
    shape: Shape | None


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    about: str
    keys: list[str]
    parameters: list[Field]
    body: Shape | None
    answers: list[Answer]


@dataclass(frozen=True)
class Group:
    """The operations of one tag."""

    name: str
    about: str
    operations: list[Operation]


@bp.get("/docs")
def show_docs() -> Response:
    """Show every route with its parameters, bodies and answers; 304 if the browser has it."""
    page = render_template("pages/docs.html", docs=_docs())
    answer = make_response(page)
    answer.headers["Cache-Control"] = "no-cache"
    answer.add_etag()
    answer.make_conditional(request)
    return answer


@bp.app_template_filter()
def with_code(words: str) -> Markup:
    """Turn backticks into <code> elements, and escape everything else."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))  # noqa: S704


@lru_cache(maxsize=1)
def _docs() -> dict[str, Any]:
    whole = description.document()
    operations = list(_operations(whole))
    groups = [
        Group(
            tag["name"],
            tag.get("description", ""),
            [one for of_tag, one in operations if of_tag == tag["name"]],
        )
        for tag in whole["tags"]
    ]
    schemas = whole["components"]["schemas"]
    return {
        "about": whole["info"]["description"],
        "keys": whole["components"]["securitySchemes"],
        "groups": [group for group in groups if group.operations],
        "schemas": [(name, _shape(schemas[name])) for name in sorted(schemas)],
    }


def _operations(whole: dict[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, item in whole["paths"].items():
        for method in _METHODS:
            if method in item:
                said = item[method]
                given = [*item.get("parameters", []), *said.get("parameters", [])]
                yield (
                    said["tags"][0],
                    Operation(
                        id=said["operationId"],
                        method=method.upper(),
                        path=path,
                        summary=said["summary"],
                        about=said.get("description", ""),
                        keys=[" and ".join(one) for one in said.get("security", [])],
                        parameters=[_parameter(_resolved(one)) for one in given],
                        body=_body(_resolved(said.get("requestBody", {}))),
                        answers=_answers(said["responses"]),
                    ),
                )


def _resolved(said: dict[str, Any]) -> dict[str, Any]:
    """Follow a $ref, if this is one."""
    for step in said.get("$ref", "").split("/")[1:2]:
        found: dict[str, Any] = description.document()[step]
        for inner in said["$ref"].split("/")[2:]:
            found = found[inner]
        return found
    return said


def _parameter(said: dict[str, Any]) -> Field:
    shape = _shape(said["schema"], said.get("description", ""))
    return Field(said["name"], shape, said.get("required", False), said["in"])


def _answers(responses: dict[str, Any]) -> list[Answer]:
    answers: list[Answer] = []
    for status, one in responses.items():
        said = _resolved(one)
        about, shape = said["description"], _body(said)
        before = next((a for a in answers if (a.about, a.shape) == (about, shape)), None)
        if before is not None:
            before.statuses.append(status)
        else:
            answers.append(Answer([status], about, shape))
    return answers


def _body(said: dict[str, Any]) -> Shape | None:
    for kind, content in said.get("content", {}).items():
        shape = _shape(content["schema"])
        return shape if kind == "application/json" else Shape(kind)
    return None


def _shape(said: dict[str, Any], about: str = "") -> Shape:
    """Describe one schema; references are only named, so that recursive schemas end."""
    about = about or said.get("description", "")
    if "$ref" in said:
        name = said["$ref"].rpartition("/")[2]
        return Shape(name, name=name, about=about)
    for word, meaning in (("allOf", "all of"), ("oneOf", "one of")):
        if word in said:
            choices = [Field("", _shape(one)) for one in said[word]]
            return Shape(meaning, about=about, fields=choices)
    if "enum" in said or "const" in said:
        values = said.get("enum", [said.get("const")])
        return Shape(" or ".join(_value(one) for one in values), about=about)
    return _typed(said, about)


def _typed(said: dict[str, Any], about: str) -> Shape:
    kinds = said.get("type", "anything")
    words = " or ".join(kinds) if isinstance(kinds, list) else kinds
    limits = ", ".join(
        form.format(said[name]) for name, form in _LIMITS.items() if said.get(name) is not None
    )
    if isinstance(said.get("items"), dict):
        inner = _shape(said["items"])
        words = words.replace("array", f"list of {inner.words}")
        return Shape(words, inner.name, about, limits or inner.limits, inner.fields)
    if "format" in said:
        words = f"{words} ({said['format']})"
    required = said.get("required", [])
    fields = [
        Field(name, _shape(one), name in required)
        for name, one in said.get("properties", {}).items()
    ]
    return Shape(words, about=about, limits=limits, fields=fields)


def _value(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))
