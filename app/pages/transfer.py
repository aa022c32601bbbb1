"""/d/<slug>: the recipient's page: password form, changing region, download buttons.

After the transfer has ended, it has a form to ask the sender for more.
"""

import secrets
import uuid
from typing import Any

from flask import (
    Blueprint,
    Response,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from app.errors import (
    AppError,
    Gone,
    Invalid,
    PasswordNeeded,
    PasswordWrong,
    TooManyTries,
    WrongState,
    ZipFailed,
)
from app.inputs import Inputs
from app.pages import command_line
from app.pages.view import (
    is_browser,
    is_htmx,
    of_version,
    page_or_fragment,
    protects_browsers,
    typed,
)
from app.password_cookies import proof_of, remember
from app.request_guards import limit_messages, limit_unknown
from app.services import asking, delivery, downloads, transfer_view
from app.services.transfer_view import TransferView

bp = Blueprint("transfer", __name__, url_prefix="/d")
limit_unknown(bp)


@bp.get("/<slug:slug>")
def show_transfer(slug: str) -> AnyResponse:
    """Show the files and the actions on them; does not count as a download."""
    if command_line.fetches():
        return command_line.fetch_transfer(slug)
    if request.if_none_match and (as_it_was := _unchanged(slug)):
        return as_it_was
    view = _view(slug)
    if view.recipient_id is not None and _is_opened():
        delivery.note_opened(view.recipient_id)
    can_ask = _can_ask(view)
    if (view.checked_count or can_ask) and "visitor" not in session:
        # Set when the page first has a button, so that two simultaneous clicks are one visitor's; a
        # page whose files are still arriving sets no cookie.
        session["visitor"] = secrets.token_urlsafe(16)
    return _page(view, PasswordNeeded() if view.is_locked else None, can_ask=can_ask)


@bp.post("/<slug:slug>")
@protects_browsers
def unlock_transfer(slug: str) -> AnyResponse:
    """Try a password; the right one is remembered in a cookie and redirects to the page."""
    page = _to_page(slug)
    try:
        if (given := request.form.get("password")) and (proof := downloads.unlock(slug, given)):
            remember(page, slug, proof)
    except Gone:
        return page
    except (PasswordWrong, TooManyTries) as error:
        view = _view(slug)
        return _page(view, error) if view.is_locked else page
    return page


@bp.post("/<slug:slug>/ask")
@limit_messages
@protects_browsers
def ask_sender(slug: str) -> AnyResponse:
    """Ask the sender for more time or more downloads, then redirect to the page, which says so."""
    try:
        is_first = asking.ask(slug, session.get("visitor"), proof_of(slug), *_read_question())
    except (Gone, PasswordNeeded, WrongState, Invalid) as error:
        if is_browser():
            return _not_asked(slug, error)
        raise
    if not is_browser():
        noted = "Your request has been passed on." if is_first else "You have already asked today."
        return Response(
            f"{noted} The sender sees it next to the transfer.\n", mimetype="text/plain"
        )
    session["noted"] = slug if is_first else None
    return _to_page(slug)


def _read_question() -> tuple[str, str]:
    """Read the message and the contact from the form; raises Invalid."""
    with Inputs(typed("message", "contact")) as given:
        message = given.text("message", longest=asking.LONGEST_MESSAGE, lines=True).strip()
        contact = given.text("contact", longest=asking.LONGEST_CONTACT).strip()
    return message, contact


def _not_asked(slug: str, error: AppError) -> AnyResponse:
    """Show the form again with its errors, or redirect to the page if it no longer has the form."""
    if isinstance(error, Invalid) and _can_ask(view := _view(slug)):
        said = typed("message", "contact")
        return _page(view, None, 422, can_ask=True, said=said, complaints=error.fields)
    return _to_page(slug)


@bp.post("/<slug:slug>/files/<uuid:file_id>")
@protects_browsers
def download_file(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Count the download and redirect to storage, which serves the bytes."""
    return _to_storage(slug, file_id)


@bp.post("/<slug:slug>/zip")
@protects_browsers
def download_zip(slug: str) -> AnyResponse:
    """Count the download and redirect to the zip; if there is none yet, have it made."""
    page = _to_page(slug)
    try:
        found = downloads.zip_url(slug, session.get("visitor"), proof_of(slug))
    except (Gone, PasswordNeeded):
        if is_browser():
            return _elsewhere(page.location) if is_htmx() else page
        raise
    except ZipFailed:
        if not is_browser():
            raise
        found = None  # the page says why
    if not is_htmx():
        return redirect(found.url, 303) if found else page
    return _elsewhere(found.url) if found else _zip_region(slug)


@bp.get("/<slug:slug>/zip")
def show_zip(slug: str) -> AnyResponse:
    """Show the zip's progress or, to a program in a terminal, download the zip."""
    if command_line.fetches():
        return command_line.fetch_zip(slug)
    if not is_htmx():
        return _to_page(slug)
    return _zip_region(slug)


def _zip_region(slug: str) -> AnyResponse:
    view = _view(slug)
    if not view.has_zip:
        return _elsewhere(url_for(".show_transfer", slug=slug))
    answer = make_response(render_template("fragments/_zip.html", view=view))
    answer.headers["Vary"] = "HX-Request"
    return answer


def _to_page(slug: str) -> AnyResponse:
    return redirect(url_for(".show_transfer", slug=slug), 303)


def _elsewhere(url: str) -> Response:
    """Redirect the browser from an htmx request; htmx would follow a 303 and insert the result."""
    answer = make_response("", 200)
    answer.headers["HX-Redirect"] = url
    return answer


def _is_opened() -> bool:
    """Whether a person opens this page: a browser navigates to it, and does not prefetch it.

    Programs that check links in mails do not send these headers, or declare a prefetch; those that
    drive a real browser are indistinguishable from people. So it is only a hint (decision 0018).
    """
    said = request.headers
    return (
        said.get("Sec-Fetch-Mode") == "navigate"
        and said.get("Sec-Fetch-Dest") == "document"
        and not any(name in said for name in ("Purpose", "Sec-Purpose", "X-Purpose", "X-Moz"))
        and request.method == "GET"
    )


def _view(slug: str) -> TransferView:
    return transfer_view.view(slug, session.get("visitor"), proof_of(slug))


def _unchanged(slug: str) -> Response | None:
    """Return 304 for a poll that already has the current version; takes only one query."""
    version = transfer_view.version(slug, session.get("visitor"), proof_of(slug))
    if version is None or not request.if_none_match.contains_weak(version):
        return None
    return of_version(make_response("", 304), version)


def _can_ask(view: TransferView) -> bool:
    """Whether the transfer has ended and its sender can be asked for more."""
    return view.has_ended and asking.is_open(view.id)


def _page(
    view: TransferView,
    error: AppError | None,
    status: int | None = None,
    *,
    can_ask: bool = False,
    **words: Any,
) -> Response:
    """Answer with the page or, to htmx, its region.

    `error` is why a locked transfer stays locked, `words` is context for the form that asks.
    """
    ended_or_open = 410 if view.has_ended else 200
    has_asked = can_ask and asking.has_asked_today(view.id, session.get("visitor"))
    answer = page_or_fragment(
        "pages/transfer.html",
        "fragments/_transfer.html",
        status=error.status if error else status or ended_or_open,
        view=view,
        can_ask=can_ask,
        has_asked=has_asked,
        is_noted=has_asked and session.pop("noted", None) == view.slug,
        **words,
        complaint=error.title if isinstance(error, PasswordWrong | TooManyTries) else None,
        poll_url=url_for(".show_transfer", slug=view.slug),
    )
    if view.is_moving:
        of_version(answer, view.version)
    if error and error.challenge:
        answer.headers["WWW-Authenticate"] = error.challenge
    if error and error.retry_after:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _to_storage(slug: str, file_id: uuid.UUID) -> AnyResponse:
    try:
        url = downloads.file_url(slug, file_id, session.get("visitor"), proof_of(slug))
    except (Gone, PasswordNeeded):
        if is_browser():
            return _to_page(slug)
        raise
    return redirect(url, 303)
