"""/b/<slug>: a board's page, for anyone who has its URL."""

import secrets

from flask import Blueprint, session, url_for
from werkzeug.wrappers import Response

from app.pages.view import page_or_fragment
from app.request_guards import limit_unknown
from app.services import boards

bp = Blueprint("board", __name__, url_prefix="/b")
limit_unknown(bp)


@bp.get("/<slug:slug>")
def show_board(slug: str) -> Response:
    """Show links and files; each file can be downloaded as soon as it has arrived."""
    view = boards.view(slug)
    if "visitor" not in session:
        session["visitor"] = secrets.token_urlsafe(16)
    return page_or_fragment(
        "pages/board.html",
        "fragments/_board.html",
        status=200,
        view=view,
        poll_url=url_for(".show_board", slug=slug),
        report_url=url_for("report.show_form", slug=slug, at="b"),
    )
