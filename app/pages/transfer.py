"""/d/<slug>: the recipient's page, its password, its changing region, the click that downloads."""

import secrets
import uuid

from flask import Blueprint, Response, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.doors import limit_unknown
from app.errors import AppError, Gone, PasswordNeeded, PasswordWrong, TooManyTries
from app.extensions import csrf
from app.pages import command_line
from app.pages.view import page_or_fragment
from app.proofs import proof_of, remember
from app.services import delivery, downloads
from app.services.downloads import TransferView

bp = Blueprint("transfer", __name__, url_prefix="/d")
limit_unknown(bp)


@bp.get("/<slug:slug>")
def show_transfer(slug: str) -> AnyResponse:
    """The files and what may be done with them; looking never counts as a download."""
    if command_line.fetches():
        return command_line.fetch_transfer(slug)
    view = _view(slug)
    if view.recipient_id is not None and _is_opened():
        delivery.note_opened(view.recipient_id)
    if view.state == "ready" and "visitor" not in session:
        # Known before the first click, so that two clicks at once are one visitor's.
        session["visitor"] = secrets.token_urlsafe(16)
    return _page(view, PasswordNeeded() if view.is_locked else None)


@bp.post("/<slug:slug>")
@csrf.exempt  # checked inside, for browsers
def unlock_transfer(slug: str) -> AnyResponse:
    """Try a password; the right one is remembered by a cookie, and leads back to the page."""
    if _is_browser():
        csrf.protect()
    page = redirect(url_for(".show_transfer", slug=slug), 303)
    try:
        if (given := request.form.get("password")) and (proof := downloads.unlock(slug, given)):
            remember(page, slug, proof)
    except Gone:
        return page
    except (PasswordWrong, TooManyTries) as error:
        view = _view(slug)
        return _page(view, error) if view.is_locked else page
    return page


@bp.post("/<slug:slug>/files/<uuid:file_id>")
@csrf.exempt  # checked inside, for browsers
def download_file(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Count the download and send the browser on to storage, which serves the bytes."""
    if _is_browser():
        csrf.protect()
    return _to_storage(slug, file_id)


def _is_opened() -> bool:
    """Whether a browser shows this to somebody: it was led here, and not to look ahead.

    Programs that look at mails before people do say no such thing, or say that they look ahead;
    those that drive a whole browser cannot be told from people. So it is a hint (decision 0018).
    """
    said = request.headers
    return (
        said.get("Sec-Fetch-Mode") == "navigate"
        and said.get("Sec-Fetch-Dest") == "document"
        and not any(name in said for name in ("Purpose", "Sec-Purpose", "X-Purpose", "X-Moz"))
        and request.method == "GET"
    )


def _view(slug: str) -> TransferView:
    return downloads.view(slug, session.get("visitor"), proof_of(slug))


def _page(view: TransferView, error: AppError | None) -> Response:
    """The page or its region; `error` is why a locked one stays locked."""
    ended_or_open = 410 if view.has_ended else 200
    answer = page_or_fragment(
        "pages/transfer.html",
        "fragments/_transfer.html",
        status=error.status if error else ended_or_open,
        view=view,
        complaint=error.title if isinstance(error, PasswordWrong | TooManyTries) else None,
        poll_url=url_for(".show_transfer", slug=view.slug),
    )
    if error and error.challenge:
        answer.headers["WWW-Authenticate"] = error.challenge
    if error and error.retry_after:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _to_storage(slug: str, file_id: uuid.UUID) -> AnyResponse:
    try:
        url = downloads.file_url(slug, file_id, session.get("visitor"), proof_of(slug))
    except (Gone, PasswordNeeded):
        if _is_browser():
            return redirect(url_for(".show_transfer", slug=slug), 303)
        raise
    return redirect(url, 303)


def _is_browser() -> bool:
    """Only what sends cookies or says where a form came from can be made to act by another site.

    Such a request needs the form's token; a program that sends neither has nothing to abuse.
    """
    return bool(request.cookies) or bool({"Origin", "Sec-Fetch-Site"} & set(request.headers.keys()))
