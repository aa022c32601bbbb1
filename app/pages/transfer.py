"""/d/<slug>: the recipient's page, its changing region, and the click that downloads."""

import re
import secrets
import uuid

from flask import Blueprint, Response, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.doors import is_unknown, limiter, unknown_limit
from app.errors import Gone
from app.extensions import csrf
from app.pages.view import page_or_fragment
from app.services import downloads

bp = Blueprint("transfer", __name__, url_prefix="/d")
limiter.limit(unknown_limit, deduct_when=is_unknown)(bp)

# Programs that a person starts to fetch a file; link previews and scanners call themselves else.
_COMMAND_LINE = re.compile(r"(curl|wget|aria2|httpie|xh)/", re.IGNORECASE)


@bp.get("/<slug:slug>")
def show_transfer(slug: str) -> Response:
    """The files and what may be done with them; looking never counts as a download."""
    view = downloads.view(slug, session.get("visitor"))
    if view.state == "ready" and "visitor" not in session:
        # Known before the first click, so that two clicks at once are one visitor's.
        session["visitor"] = secrets.token_urlsafe(16)
    return page_or_fragment(
        "pages/transfer.html",
        "fragments/_transfer.html",
        status=410 if view.has_ended else 200,
        view=view,
        poll_url=url_for(".show_transfer", slug=slug),
    )


@bp.post("/<slug:slug>/files/<uuid:file_id>")
@csrf.exempt  # checked inside, for browsers
def download_file(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Count the download and send the browser on to storage, which serves the bytes."""
    if _is_browser():
        csrf.protect()
    return _to_storage(slug, file_id)


@bp.get("/<slug:slug>/files/<uuid:file_id>")
def download_file_by_command(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """`curl -OJL` gets the file; everybody else who follows the link, the page with the button."""
    if _COMMAND_LINE.match(request.user_agent.string) and request.method == "GET":
        return _to_storage(slug, file_id)
    return redirect(url_for(".show_transfer", slug=slug), 303)


def _to_storage(slug: str, file_id: uuid.UUID) -> AnyResponse:
    try:
        url = downloads.file_url(slug, file_id, session.get("visitor"))
    except Gone:
        if _is_browser():
            return redirect(url_for(".show_transfer", slug=slug), 303)
        raise
    return redirect(url, 303)


def _is_browser() -> bool:
    """Only what sends cookies or says where a form came from can be made to act by another site.

    Such a request needs the form's token; a program that sends neither has nothing to abuse.
    """
    return bool(request.cookies) or bool({"Origin", "Sec-Fetch-Site"} & set(request.headers.keys()))
