"""/d/<slug>/report, also below /b/ and /r/: report abuse of a link to the operator of this site."""

from flask import Blueprint, Response, make_response, redirect, render_template, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.config import settings
from app.errors import Invalid
from app.inputs import Inputs
from app.models import Board, FileRequest, Harm, Transfer
from app.pages import command_line
from app.pages.view import typed
from app.request_guards import limit_messages, limit_unknown
from app.services import abuse

bp = Blueprint("report", __name__)
limit_unknown(bp)
# What links lead to, by how their paths begin, and their pages. url_for() needs `at` as well.
_SUBJECTS: dict[str, tuple[type[abuse.Subject], str]] = {
    "d": (Transfer, "transfer.show_transfer"),
    "b": (Board, "board.show_board"),
    "r": (FileRequest, "file_requests.show_request"),
}


@bp.get("/d/<slug:slug>/report", defaults={"at": "d"})
@bp.get("/b/<slug:slug>/report", defaults={"at": "b"})
@bp.get("/r/<slug:slug>/report", defaults={"at": "r"})
def show_form(slug: str, at: str) -> AnyResponse:
    """Show the form, or thanks for a report; reveals nothing of the link's contents."""
    if at == "d" and command_line.fetches():
        return command_line.fetch_file(slug, "report")  # A file may have this name.
    abuse.reportable(_SUBJECTS[at][0], slug)
    return _page(slug, at, is_sent=session.pop("reported", None) == slug)


@bp.post("/d/<slug:slug>/report", defaults={"at": "d"})
@bp.post("/b/<slug:slug>/report", defaults={"at": "b"})
@bp.post("/r/<slug:slug>/report", defaults={"at": "r"})
@limit_messages
def send_report(slug: str, at: str) -> AnyResponse:
    """Record the report for the operator, then redirect to the page, which says thanks."""
    subject = _SUBJECTS[at][0]
    abuse.reportable(subject, slug)
    said = typed("reason", "message", "contact")
    try:
        with Inputs(said) as given:
            reason = given.one_of("reason", Harm)
            message = given.text("message", longest=abuse.LONGEST_MESSAGE, lines=True).strip()
            contact = given.text("contact", longest=abuse.LONGEST_CONTACT).strip()
            if reason is None:
                raise Invalid(given.complaints | {"reason": "must be chosen"})
    except Invalid as error:
        return _page(slug, at, 422, said=said, complaints=error.fields)
    abuse.report(slug, reason, message, contact, of=subject)
    session["reported"] = slug
    return redirect(url_for(".show_form", slug=slug, at=at), 303)


def _page(slug: str, at: str, status: int = 200, **words: object) -> Response:
    page = render_template(
        "pages/report.html",
        back_url=url_for(_SUBJECTS[at][1], slug=slug),
        is_request=at == "r",
        abuse_contact=settings.abuse_contact,
        **words,
    )
    return make_response(page, status)
