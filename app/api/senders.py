"""/senders: verifies that an address is the sender's own, before any mail names it as sender."""

from flask import Blueprint, Response, jsonify

from app import addresses
from app.api.auth import anyone
from app.api.bodies import json_body
from app.config import settings
from app.errors import Invalid
from app.inputs import Inputs
from app.request_guards import codes_limit, limiter
from app.services import senders

bp = Blueprint("senders", __name__, url_prefix="/senders")


@bp.post("/code")
@limiter.limit(codes_limit)
@anyone
def mail_code() -> tuple[Response, int]:
    """Mail a code to an address."""
    _check_mail()
    with Inputs(json_body()) as given:
        email = given.text("email", longest=addresses.LONGEST)
    senders.mail_code(email)
    return jsonify({"expires_in": senders.CODE_MINUTES * 60}), 202


@bp.post("/confirm")
@anyone
def confirm_sender() -> Response:
    """Exchange the code for a `sender_token`, valid for months."""
    with Inputs(json_body()) as given:
        email = given.text("email", longest=addresses.LONGEST)
        code = given.text("code", longest=20)
    word = senders.confirm(email, code)
    return jsonify({"sender_token": word, "expires_in": senders.REMEMBERED_DAYS * 86400})


def _check_mail() -> None:
    if not settings.sends_mail:
        raise Invalid({"email": "cannot be used: this site sends no mail"})
