"""What every page shares: filters for templates, page or fragment, and errors as pages."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response, g, make_response, render_template, request

from app import links
from app.dispositions import without_marks
from app.errors import AppError
from app.extensions import csrf
from app.pages import command_line
from app.pages.folders import tree
from app.problems import json_problem, speaks, text_problem
from app.words import end_of_name, filesize, plain_date


def init_app(app: Flask) -> None:
    """Give templates their filters."""
    app.add_template_filter(filesize)
    app.add_template_filter(end_of_name)
    app.add_template_filter(plain_date)
    app.add_template_filter(without_marks)
    app.add_template_filter(tree)
    app.add_template_filter(command_line.shortest_address)
    app.add_template_global(links.program_url)


def is_htmx() -> bool:
    """Whether a region of a page asks, and not the browser for a page."""
    return request.headers.get("HX-Request") == "true"


def page_or_fragment(page: str, fragment: str, status: int, **context: object) -> Response:
    """The whole page, or to htmx only its changing region; the same template makes both."""
    answer = make_response(render_template(fragment if is_htmx() else page, **context), status)
    answer.headers["Vary"] = "HX-Request"
    return answer


def is_browser() -> bool:
    """Whether a browser sent this request, which another site may have made it do.

    Browsers send cookies, or say which site a form came from. A program that does neither has
    nothing that another site could abuse.
    """
    return bool(request.cookies) or bool({"Origin", "Sec-Fetch-Site"} & set(request.headers.keys()))


def protects_browsers(route: Callable[..., Any]) -> Callable[..., Any]:
    """Require the token of our form from browsers, but not from programs."""

    @wraps(route)
    def protected(*given: Any, **named: Any) -> Any:
        if is_browser():
            csrf.protect()
        return route(*given, **named)

    exempt: Callable[..., Any] = csrf.exempt(protected)  # otherwise programs need it too
    return exempt


def typed(*names: str) -> dict[str, str]:
    """These fields of a form as a person typed them: browsers end lines with two characters."""
    form = request.form
    return {name: form[name].replace("\r\n", "\n") for name in names if name in form}


def of_version(answer: Response, version: str) -> Response:
    """Say which version it is: weak, because a form's token is another each time.

    Nobody may keep these pages, so browsers do not ask by it themselves: the region's own polls do.
    """
    answer.set_etag(version, weak=True)
    answer.headers["Vary"] = "HX-Request"
    return answer


@speaks("/")
def page_or_json(error: AppError) -> Response:
    """An address that is nobody's: a page for a browser, JSON for a program."""
    return page_problem(error) if request.accept_mimetypes.accept_html else json_problem(error)


@speaks("/d/")
def link_problem(error: AppError) -> Response:
    """As what was asked for: JSON for `<link>.json`, a line for a command line, else a page."""
    # Below a link its files have their own names, and those may end as they like.
    if request.blueprint in (None, "downloads"):
        if request.path.endswith(".json"):
            return json_problem(error)
        if request.path.endswith(".sfv"):
            return text_problem(error)
    return text_problem(error) if command_line.is_program() else page_problem(error)


@speaks("/m/")
def page_problem(error: AppError) -> Response:
    """An error as a page of its own words."""
    return make_response(
        render_template("errors/error.html", error=error, request_id=g.get("request_id"))
    )
