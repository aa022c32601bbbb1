"""/d/<slug>/report: tell whoever runs this site what is wrong with a link."""

from flask import Blueprint, Response, make_response, redirect, render_template, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.config import settings
from app.doors import limit_messages, limit_unknown
from app.errors import Invalid
from app.inputs import Inputs
from app.models import Harm
from app.pages import command_line
from app.pages.view import typed
from app.services import abuse

bp = Blueprint("report", __name__, url_prefix="/d")
limit_unknown(bp)


@bp.get("/<slug:slug>/report")
def show_form(slug: str) -> AnyResponse:
    """The form, or the thanks for what was sent; tells nothing of what the link holds."""
    if command_line.fetches():
        return command_line.fetch_file(slug, "report")  # A file may be called so.
    abuse.check_reportable(slug)
    return _page(slug, is_sent=session.pop("reported", None) == slug)


@bp.post("/<slug:slug>/report")
@limit_messages
def send_report(slug: str) -> AnyResponse:
    """Note the report for the operator; leads back to the page, which says thanks."""
    abuse.check_reportable(slug)
    said = typed("reason", "message", "contact")
    try:
        with Inputs(said) as given:
            reason = given.one_of("reason", Harm)
            message = given.text("message", longest=abuse.LONGEST_MESSAGE, lines=True).strip()
            contact = given.text("contact", longest=abuse.LONGEST_CONTACT).strip()
            if reason is None:
                raise Invalid(given.complaints | {"reason": "must be chosen"})
    except Invalid as error:
        return _page(slug, 422, said=said, complaints=error.fields)
    abuse.report(slug, reason, message, contact)
    session["reported"] = slug
    return redirect(url_for(".show_form", slug=slug), 303)


def _page(slug: str, status: int = 200, **words: object) -> Response:
    contact = settings.abuse_contact
    page = render_template("pages/report.html", slug=slug, abuse_contact=contact, **words)
    return make_response(page, status)
