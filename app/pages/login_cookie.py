"""The cookie that stands for a login: the signed token in it says who has opened these pages."""

from typing import Any

from flask import request
from werkzeug.wrappers import Response

from app.config import settings


class LoginCookie:
    """One such cookie, bound to this host where there is TLS, and never shown to scripts."""

    def __init__(self, name: str) -> None:
        self._plain_name = name

    def read(self) -> str | None:
        """The token that the browser sent; nothing is checked."""
        return request.cookies.get(self._name)

    def set(self, answer: Response, token: str, seconds: int) -> None:
        """Let the browser keep the token for this long."""
        answer.set_cookie(self._name, token, max_age=seconds, **self._rules())

    def delete(self, answer: Response) -> None:
        """Let the browser forget the token."""
        answer.delete_cookie(self._name, **self._rules())

    @property
    def _name(self) -> str:
        return f"__Host-{self._plain_name}" if settings.is_https else self._plain_name

    def _rules(self) -> dict[str, Any]:
        # Strict: nobody has to come here by a link on another site, and such a site could open a
        # search here and learn from how long it takes.
        return {"secure": settings.is_https, "httponly": True, "samesite": "Strict"}
