"""/: the page where a sender drops files. The uploader's JavaScript does the rest."""

from typing import Any

from flask import Blueprint, Response, make_response, render_template

from app import clock
from app.config import settings

bp = Blueprint("home", __name__)


@bp.get("/")
def show_home() -> Response:
    """Show the drop area, with the limits in one plain line."""
    return uploader()


def uploader(**for_what: Any) -> Response:
    """Render the uploader: for a new transfer, also to a file request (`asked`); or for more files
    of one (`adds_to`, `word`).
    """
    limits = {
        "max_file_size": settings.max_file_size,
        "max_transfer_size": settings.max_transfer_size,
        "max_files": settings.max_files,
        "default_expires_in_days": settings.default_expires_in_days,
        "max_expires_in_days": settings.max_expires_in_days,
        "max_recipients": settings.max_recipients,
    }
    page = render_template(
        "pages/home.html",
        limits=limits,
        sends_mail=settings.sends_mail,
        now=clock.now(),
        **for_what,
    )
    return make_response(page)
