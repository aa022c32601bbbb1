"""/d/<slug>/files/<id>/preview: one file as it is seen without downloading it, and its pictures."""

import uuid
from collections.abc import Callable

from flask import Blueprint, Response, make_response, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.config import settings
from app.doors import limit_unknown
from app.errors import Gone, PasswordNeeded
from app.pages.view import page_or_fragment
from app.proofs import proof_of
from app.services import looking

bp = Blueprint("preview", __name__, url_prefix="/d/<slug:slug>/files/<uuid:file_id>/preview")
limit_unknown(bp)


@bp.get("")
def show_preview(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """A page of its own, or to htmx the region below the file's row; looking counts nothing."""
    try:
        look = looking.at(slug, file_id, session.get("visitor"), proof_of(slug))
    except (Gone, PasswordNeeded, looking.NoPreview):
        return _to_transfer(slug)
    return page_or_fragment("pages/preview.html", "fragments/_preview.html", status=200, look=look)


@bp.get("/thumbnail")
def show_thumbnail(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """The small picture, from storage."""
    return _to_storage(looking.thumbnail_url, slug, file_id)


@bp.get("/picture")
def show_picture(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """The large picture, from storage."""
    return _to_storage(looking.picture_url, slug, file_id)


@bp.get("/media")
def play(slug: str, file_id: uuid.UUID) -> AnyResponse:
    """The file itself for the page's own player, from storage; only where that costs nothing."""
    return _to_storage(looking.media_url, slug, file_id)


def _to_storage(address_of: Callable[..., str], slug: str, file_id: uuid.UUID) -> AnyResponse:
    answer = redirect(address_of(slug, file_id, session.get("visitor"), proof_of(slug)), 303)
    # The signed address lives longer than this, so that what is kept always leads somewhere.
    age = settings.download_url_ttl_in_seconds // 2
    answer.headers["Cache-Control"] = f"private, max-age={age}"
    answer.headers["Vary"] = "Cookie"
    return answer


def _to_transfer(slug: str) -> AnyResponse:
    """The page says what has become of it, and has the file; htmx is told to load it anew."""
    if request.headers.get("HX-Request") == "true":
        answer: Response = make_response("", 204)
        answer.headers["HX-Refresh"] = "true"
        return answer
    return redirect(url_for("transfer.show_transfer", slug=slug), 303)
