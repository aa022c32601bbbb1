"""/d/<slug>/report, /b/<slug>/report: report abuse of a link to the operator of this site."""

from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.config import settings
from app.errors import Invalid
from app.inputs import Inputs
from app.models import Harm
from app.pages import command_line
from app.pages.view import typed
from app.request_guards import limit_messages, limit_unknown
from app.services import abuse

bp = Blueprint("report", __name__)
limit_unknown(bp)
# Whether a URL is a board's; url_for() needs this argument as well.
_LINK: dict[str, Any] = {"of_board": False}
_BOARD: dict[str, Any] = {"of_board": True}


@bp.get("/d/<slug:slug>/report", defaults=_LINK)
@bp.get("/b/<slug:slug>/report", defaults=_BOARD)
def show_form(slug: str, of_board: bool) -> AnyResponse:
    """Show the form, or thanks for a report; reveals nothing of the link's contents."""
    if not of_board and command_line.fetches():
        return command_line.fetch_file(slug, "report")  # A file may have this name.
    _check(slug, of_board)
    return _page(slug, of_board, is_sent=session.pop("reported", None) == slug)


@bp.post("/d/<slug:slug>/report", defaults=_LINK)
@bp.post("/b/<slug:slug>/report", defaults=_BOARD)
@limit_messages
def send_report(slug: str, of_board: bool) -> AnyResponse:
    """Record the report for the operator, then redirect to the page, which says thanks."""
    _check(slug, of_board)
    said = typed("reason", "message", "contact")
    try:
        with Inputs(said) as given:
            reason = given.one_of("reason", Harm)
            message = given.text("message", longest=abuse.LONGEST_MESSAGE, lines=True).strip()
            contact = given.text("contact", longest=abuse.LONGEST_CONTACT).strip()
            if reason is None:
                raise Invalid(given.complaints | {"reason": "must be chosen"})
    except Invalid as error:
        return _page(slug, of_board, 422, said=said, complaints=error.fields)
    report = abuse.report_board if of_board else abuse.report
    report(slug, reason, message, contact)
    session["reported"] = slug
    return redirect(url_for(".show_form", slug=slug, of_board=of_board), 303)


def _check(slug: str, of_board: bool) -> None:
    check = abuse.reportable_board if of_board else abuse.check_reportable
    check(slug)


def _page(slug: str, of_board: bool, status: int = 200, **words: object) -> Response:
    back_url = url_for("board.show_board" if of_board else "transfer.show_transfer", slug=slug)
    contact = settings.abuse_contact
    page = render_template("pages/report.html", back_url=back_url, abuse_contact=contact, **words)
    return make_response(page, status)
