"""The security headers of every response, static files included."""

from functools import lru_cache

from flask import Flask, Response, request

from app import static_files
from app.config import settings
from app.extensions import storage


def init_app(app: Flask) -> None:
    """Serve static files and set the headers."""
    static_files.init_app(app, _ALWAYS)
    app.after_request(_set_headers)


_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # no-referrer would make Chromium send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "X-Frame-Options": "DENY",
}


@lru_cache(maxsize=8)
def _content_security_policy(*origins: str) -> str:
    """Allow scripts and styles from our files only, and bytes to and from storage or CloudFront.

    Both origins are in form-action too: Chromium otherwise blocks a form whose 303 leads there.
    """
    store = " ".join(dict.fromkeys(origins))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src 'self' data: {store}",
            f"media-src 'self' {store}",
            f"connect-src 'self' {store}",
            f"form-action 'self' {store}",
            "base-uri 'none'",
            "object-src 'none'",
            "frame-ancestors 'none'",
        )
    )


def _set_headers(answer: Response) -> Response:
    headers = answer.headers
    # Added, not set: no route sends any of these, and to set one compares it with all the others,
    # which took four times as long in every request.
    headers.extend(_ALWAYS)
    policy = _content_security_policy(storage.urls.origin, storage.urls.download_origin)
    headers.add("Content-Security-Policy", policy)
    if settings.is_https:
        headers.add("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
    if request.path != "/":
        # All pages but the front page are private: not cached, and not indexed by search engines.
        headers.setdefault("Cache-Control", "no-store")
        headers.add("X-Robots-Tag", "noindex, nofollow")
    return answer
