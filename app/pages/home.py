"""/: where a sender drops files. Everything after the drop is the uploader's work."""

from flask import Blueprint, Response, make_response, render_template

from app.config import settings

bp = Blueprint("home", __name__)


@bp.get("/")
def show_home() -> Response:
    """The drop area, with the limits in one plain line."""
    limits = {
        "max_file_size": settings.max_file_size,
        "max_transfer_size": settings.max_transfer_size,
        "max_files": settings.max_files,
        "default_expires_in_days": settings.default_expires_in_days,
        "max_expires_in_days": settings.max_expires_in_days,
        "max_recipients": settings.max_recipients,
    }
    page = render_template("pages/home.html", limits=limits, sends_mail=settings.sends_mail)
    return make_response(page)
