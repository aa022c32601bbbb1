"""Shared by all pages: template filters, whole page or fragment, CSRF, and error pages."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response, g, make_response, render_template, request

from app import links
from app.config import settings
from app.dispositions import without_marks
from app.errors import AppError
from app.extensions import csrf
from app.pages import command_line
from app.pages.folders import tree
from app.problems import json_problem, speaks, text_problem
from app.words import end_of_name, filesize, plain_date


def init_app(app: Flask) -> None:
    """Register the templates' filters and globals."""
    app.add_template_filter(filesize)
    app.add_template_filter(end_of_name)
    app.add_template_filter(plain_date)
    app.add_template_filter(without_marks)
    app.add_template_filter(tree)
    app.add_template_filter(command_line.shortest_address)
    app.add_template_global(links.program_url)
    app.add_template_global(lambda: settings.site_name, "site_name")
    app.add_template_global(lambda: settings.footer_links, "footer_links")


def is_htmx() -> bool:
    """Whether htmx requests a region, rather than the browser a page."""
    return request.headers.get("HX-Request") == "true"


def page_or_fragment(page: str, fragment: str, status: int, **context: object) -> Response:
    """Render the whole page or, to htmx, only the fragment with its changing region."""
    answer = make_response(render_template(fragment if is_htmx() else page, **context), status)
    answer.headers["Vary"] = "HX-Request"
    return answer


def is_browser() -> bool:
    """Whether a browser sent this request, so that it could be forged by another site (CSRF).

    Browsers send cookies, or name the site that a form came from. A program that does neither has
    no credentials that another site could abuse.
    """
    return bool(request.cookies) or bool({"Origin", "Sec-Fetch-Site"} & set(request.headers.keys()))


def protects_browsers(route: Callable[..., Any]) -> Callable[..., Any]:
    """Require the CSRF token from browsers, but not from programs."""

    @wraps(route)
    def protected(*given: Any, **named: Any) -> Any:
        if is_browser():
            csrf.protect()
        return route(*given, **named)

    exempt: Callable[..., Any] = csrf.exempt(protected)  # otherwise programs would need it too
    return exempt


def typed(*names: str) -> dict[str, str]:
    """Return these fields of the form, with the CRLF that browsers send for a newline undone."""
    form = request.form
    return {name: form[name].replace("\r\n", "\n") for name in names if name in form}


def of_version(answer: Response, version: str) -> Response:
    """Set the version as ETag: a weak one, because the CSRF token differs each time.

    These pages are not to be cached, so browsers never revalidate them; only the region's polls do.
    """
    answer.set_etag(version, weak=True)
    answer.headers["Vary"] = "HX-Request"
    return answer


@speaks("/")
def page_or_json(error: AppError) -> Response:
    """Answer errors of URLs without a format of their own: a page for browsers, otherwise JSON."""
    return page_problem(error) if request.accept_mimetypes.accept_html else json_problem(error)


@speaks("/d/")
def link_problem(error: AppError) -> Response:
    """Answer in the requested format: JSON for `<link>.json`, a line of text for .sfv and for a
    command line, otherwise a page.
    """
    # Only for the link itself: files below it may have names with these endings too.
    if request.blueprint in (None, "downloads"):
        if request.path.endswith(".json"):
            return json_problem(error)
        if request.path.endswith(".sfv"):
            return text_problem(error)
    return text_problem(error) if command_line.is_program() else page_problem(error)


@speaks("/m/")
def page_problem(error: AppError) -> Response:
    """Render an error as a page."""
    return make_response(
        render_template("errors/error.html", error=error, request_id=g.get("request_id"))
    )
