"""The guard of every form: it was sent by a page of ours, in the session that the page was for."""

from flask import g, request
from flask_wtf.csrf import CSRFProtect, validate_csrf
from wtforms import ValidationError

from app.config import settings


class FormGuard(CSRFProtect):
    """flask-wtf's token, good under former keys too, and what the browser says of the origin.

    Either alone would do; together one bug in either does no harm. `HX-Request` proves nothing.
    """

    def protect(self, apply_exemptions: bool = False) -> None:
        """Let a form of ours pass; answers any other with 400."""
        if apply_exemptions and (not request.endpoint or self._is_exempt()):
            return
        if request.method not in ("POST", "PUT", "PATCH", "DELETE"):
            return
        if not (_is_from_here() and _is_signed(self._get_csrf_token())):
            self._error_response("The form is not of this session.")
        g.csrf_valid = True


def _is_from_here() -> bool:
    """Every browser in use sends one of these with a form; none lets a page set them."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    here = request.host_url.rstrip("/")  # its host was checked (app/doors.py)
    return request.headers.get("Origin", here) == here


def _is_signed(token: str | None) -> bool:
    """A page that was open while the key changed must still work."""
    for key in (settings.secret_key, *settings.secret_key_fallbacks):
        try:
            validate_csrf(token, secret_key=key)
        except ValidationError:
            continue
        return True
    return False
