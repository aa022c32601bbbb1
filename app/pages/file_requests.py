"""/r/<slug>: the page where files are sent to whoever asked for them, and the owner's own pages.

/mine/requests is for whoever is signed in (mine.py), and works without JavaScript.
"""

import uuid

from flask import Blueprint, Response, make_response, redirect, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from app import links
from app.config import settings
from app.errors import Gone, Invalid, NotFound, SenderNotAllowed
from app.inputs import Inputs
from app.pages import home
from app.pages.mine import signed_in_email
from app.pages.view import typed
from app.request_guards import limit_unknown
from app.services import file_requests, senders

bp = Blueprint("file_requests", __name__)
limit_unknown(bp)

_LONGEST_TITLE = 200
_LONGEST_MESSAGE = 2000
_DAYS = (1, 3, 7, 14, 30, 90)
_DEFAULT_DAYS = 14


@bp.before_request
def _check_mail() -> None:
    """Without mail nobody could be told of what was sent."""
    if not settings.sends_mail:
        raise NotFound


@bp.get("/r/<slug:slug>")
def show_request(slug: str) -> Response:
    """Show the uploader, for files that go to whoever made this link.

    Once the request is closed (410), only for uploads that this browser has begun before. Raises
    Gone if it is blocked.
    """
    wish = {"file_request": slug}
    try:
        asked = file_requests.find(slug)
        return home.uploader(wish, expires_in_days=file_requests.kept_days(asked), asked=asked)
    except Gone as error:
        if error.details["reason"] != "closed":
            raise
        page = home.uploader(wish, is_closed=True)
        page.status_code = 410
        return page


@bp.get("/mine/requests")
def show_requests() -> AnyResponse:
    """List the requests of whoever is signed in, with the form that makes another."""
    email = signed_in_email()
    return _page(email) if email else redirect(url_for("mine.show_mine"), 303)


@bp.post("/mine/requests")
def make_request() -> AnyResponse:
    """Make a request, then redirect to the list, which begins with it."""
    email = signed_in_email()
    if email is None:
        return redirect(url_for("mine.show_mine"), 303)
    said = typed("once", "title", "message", "days", "keep_days")
    numbers = {name: _whole(said[name]) for name in ("days", "keep_days") if name in said}
    try:
        # Stripped first: a title of spaces is none.
        with Inputs({**said, **numbers, "title": said.get("title", "").strip()}) as given:
            request_id = given.uuid("once")
            title = given.needed_text("title", longest=_LONGEST_TITLE)
            message = given.text("message", longest=_LONGEST_MESSAGE, lines=True).strip()
            days = given.whole("days", least=1, most=max(_choices()))
            most = settings.max_expires_in_days
            keep_days = given.optional_whole("keep_days", least=1, most=most)
        file_requests.make(
            request_id, email, title=title, message=message, days=days, keep_days=keep_days
        )
    except Invalid as error:
        return _page(email, 422, said, error.fields)
    except SenderNotAllowed:
        return _page(email, 403)
    return redirect(url_for(".show_requests"), 303)


@bp.post("/mine/requests/<uuid:request_id>/close")
def close_request(request_id: uuid.UUID) -> AnyResponse:
    """Let nothing more be sent at a link."""
    if email := signed_in_email():
        file_requests.close(email, request_id)
    return redirect(url_for(".show_requests"), 303)


def _page(
    email: str,
    status: int = 200,
    said: dict[str, str] | None = None,
    complaints: dict[str, str] | None = None,
) -> Response:
    page = render_template(
        "pages/mine_requests.html",
        email=email,
        may_ask=senders.may_send(email),
        requests=file_requests.of_email(email),
        request_url=links.request_url,
        day_choices=_choices(),
        default_days=min(_DEFAULT_DAYS, max(_choices())),
        default_keep_days=settings.default_expires_in_days,
        most_keep_days=settings.max_expires_in_days,
        once=uuid.uuid4(),
        said=said or {},
        complaints=complaints or {},
    )
    return make_response(page, status)


def _choices() -> list[int]:
    """For how many days a request may be open; at most as long as a transfer may live."""
    most = settings.max_expires_in_days
    return [days for days in _DAYS if days < most] + [most] if most <= max(_DAYS) else list(_DAYS)


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text
