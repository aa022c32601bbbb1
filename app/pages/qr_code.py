"""/d/<slug>.svg: the link as a QR code, for the sender's page and the recipient's."""

from flask import Blueprint, Response, session

from app.errors import Gone
from app.qr import qr_svg
from app.request_guards import limit_unknown
from app.services import transfer_view

bp = Blueprint("qr_code", __name__, url_prefix="/d")
limit_unknown(bp)


@bp.get("/<slug:slug>.svg")
def show_code(slug: str) -> Response:
    """Return the link's QR code until the transfer ends; it reveals no more than the link."""
    view = transfer_view.view(slug, session.get("visitor"))
    if view.has_ended:
        raise Gone(reason=view.state)
    return Response(qr_svg(view.link), mimetype="image/svg+xml")
