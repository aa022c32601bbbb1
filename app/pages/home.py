"""/: the page where a sender drops files. The uploader's JavaScript does the rest."""

from typing import Any

from flask import Blueprint, Response, make_response, render_template, request

from app import clock
from app.config import settings
from app.pages import mine
from app.services import senders

bp = Blueprint("home", __name__)


@bp.get("/")
def show_home() -> Response:
    """Show the drop area, with the limits in one plain line; where only some may send, to them."""
    if not settings.senders:
        return uploader()
    page = _page_for_some()
    # It depends on who is signed in, and may hold their token.
    page.headers["Cache-Control"] = "no-store"
    return page


def _page_for_some() -> Response:
    sign_in = mine.signed_in()
    if sign_in is None:
        # A link on another site does not bring the cookie (SameSite=Strict), but a page that loads
        # itself once more does.
        comes_again = request.headers.get("Sec-Fetch-Site") == "cross-site"
        return mine.door(for_sending=True, comes_again=comes_again)
    if not senders.may_send(sign_in.email):
        return make_response(render_template("pages/no_sender.html", email=sign_in.email), 403)
    word = senders.page_word(sign_in.email, sign_in.code_id)
    return uploader({"sender_email": sign_in.email, "sender_token": word})


def uploader(
    wish: dict[str, str] | None = None, *, expires_in_days: int | None = None, **for_what: Any
) -> Response:
    """Render the uploader: for a new transfer, which is created with what `wish` says; for one to a
    file request (`asked`), kept for `expires_in_days` by default; or for more files of one
    (`adds_to`, `word`).
    """
    limits = {
        "max_file_size": settings.max_file_size,
        "max_transfer_size": settings.max_transfer_size,
        "max_files": settings.max_files,
        "default_expires_in_days": expires_in_days or settings.default_expires_in_days,
        "max_expires_in_days": settings.max_expires_in_days,
        "max_recipients": settings.max_recipients,
    }
    page = render_template(
        "pages/home.html",
        limits=limits,
        sends_mail=settings.sends_mail,
        only_some_send=bool(settings.senders),
        now=clock.now(),
        wish=wish,
        **for_what,
    )
    return make_response(page)
