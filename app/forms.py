"""CSRF protection: a form must come from a page of ours, and from the session it was made for."""

from flask import g, request
from flask_wtf.csrf import CSRFProtect, validate_csrf
from wtforms import ValidationError

from app.config import settings


class FormGuard(CSRFProtect):
    """Checks flask-wtf's token, valid under former keys too, and the browser's origin headers.

    Either alone would do; with both, a bug in one does no harm. `HX-Request` proves nothing.
    """

    def protect(self, apply_exemptions: bool = False) -> None:
        """Let our own forms pass; answer any other with 400."""
        if apply_exemptions and (not request.endpoint or self._is_exempt()):
            return
        if request.method not in ("POST", "PUT", "PATCH", "DELETE"):
            return
        if not (_is_from_here() and _is_signed(self._get_csrf_token())):
            self._error_response("The form is not of this session.")
        g.csrf_valid = True


def _is_from_here() -> bool:
    """Check the origin: all browsers in use send one of these headers, and no page can set them."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    here = request.host_url.rstrip("/")  # its host was checked (app/request_guards.py)
    # A proxy may pass on the host without its port, or under a name of ALLOWED_HOSTS.
    return request.headers.get("Origin", here) in (here, settings.base_url)


def _is_signed(token: str | None) -> bool:
    """Check the token under all keys: a page that was open during a key change must still work."""
    for key in (settings.secret_key, *settings.secret_key_fallbacks):
        try:
            validate_csrf(token, secret_key=key)
        except ValidationError:
            continue
        return True
    return False
