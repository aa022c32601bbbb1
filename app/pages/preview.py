"""/d/<slug>/files/<id>/preview: shows a file without downloading it, and serves its pictures."""

import uuid
from collections.abc import Callable

from flask import Blueprint, Response, make_response, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.config import settings
from app.errors import Gone, PasswordNeeded
from app.pages.view import page_or_fragment
from app.password_cookies import proof_of
from app.request_guards import limit_unknown
from app.services import preview_access

bp = Blueprint("preview", __name__, url_prefix="/d/<slug:slug>/files/<uuid:file_id>/preview")
limit_unknown(bp)


@bp.get("")
def show_preview(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Show a page or, to htmx, the region below the file's row; does not count as a download."""
    try:
        look = preview_access.at(slug, file_id, session.get("visitor"), proof_of(slug))
    except (Gone, PasswordNeeded, preview_access.NoPreview):
        return _to_transfer(slug)
    return page_or_fragment("pages/preview.html", "fragments/_preview.html", status=200, look=look)


@bp.get("/thumbnail")
def show_thumbnail(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Redirect to the small picture in storage."""
    return _to_storage(preview_access.thumbnail_url, slug, file_id)


@bp.get("/picture")
def show_picture(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Redirect to the large picture in storage."""
    return _to_storage(preview_access.picture_url, slug, file_id)


@bp.get("/media")
def play(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """Redirect the page's player to the file in storage, unless that would count as a download."""
    return _to_storage(preview_access.media_url, slug, file_id)


def _to_storage(address_of: Callable[..., str], slug: str, file_id: uuid.UUID) -> AnyResponse:
    answer = redirect(address_of(slug, file_id, session.get("visitor"), proof_of(slug)), 303)
    # Half the lifetime of the presigned URL, so that a cached redirect never leads to a dead one.
    age = settings.download_url_ttl_in_seconds // 2
    answer.headers["Cache-Control"] = f"private, max-age={age}"
    answer.headers["Vary"] = "Cookie"
    return answer


def _to_transfer(slug: str) -> AnyResponse:
    """Redirect to the transfer's page, which shows its state; htmx is told to reload it."""
    if request.headers.get("HX-Request") == "true":
        answer: Response = make_response("", 204)
        answer.headers["HX-Refresh"] = "true"
        return answer
    return redirect(url_for("transfer.show_transfer", slug=slug), 303)
