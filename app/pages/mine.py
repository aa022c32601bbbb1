"""/mine: everything that was sent from one address, for whoever has proven it by a mailed code.

After that a cookie stands for it (services/sign_ins.py). A GET changes nothing. Everything works
without JavaScript; with it, the list follows what is typed into its form.
"""

import re
import uuid
from typing import Any, TypeVar

from flask import (
    Blueprint,
    Response,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from app import addresses
from app.config import settings
from app.errors import Gone, Invalid, NotFound, TooMuchMail
from app.inputs import Inputs, bad_text, uuid_of
from app.pages.login_cookie import LoginCookie
from app.pages.view import is_htmx, page_or_fragment, typed
from app.request_guards import codes_limit, limiter, unknown_limit
from app.services import admins, file_requests, own_keys, own_transfers, senders, sign_ins
from app.services.marks import mark_of
from app.services.own_transfers import Shown, Sort, Wish
from app.services.sign_ins import SignIn

bp = Blueprint("mine", __name__, url_prefix="/mine")
cookie = LoginCookie("beeline-mine")

E = TypeVar("E", Shown, Sort)
# Where signing in leads, and the mark of the address with which it does ("": with any), in the
# browser's session. If nothing is there, or with another address, it leads to the list.
_AFTERWARDS = "sign_in_leads_to"
# The codes that this browser has asked for, in its session; of many, the latest.
_CODES = "sign_in_codes"
_MOST_CODES = 5
_LONGEST_SEARCH = 200
_TOO_MANY = "Too many codes have been asked for. Try again in an hour."


@bp.before_request
def _check_mail() -> None:
    """Without mail nobody can sign in, and nobody's address is known."""
    if not settings.sends_mail:
        raise NotFound


@bp.get("")
def show_mine() -> AnyResponse:
    """List the transfers or, to htmx, the part of the page that a search changes; or sign in."""
    email = signed_in_email()
    if email is not None:
        return _list(email)
    if is_htmx():
        return Response(status=204, headers={"HX-Redirect": url_for(".show_mine")})
    return door()


def door(**words: Any) -> Response:
    """Ask for the address or, if a code is on its way, for the code; `words` are for the page."""
    return _door(asks_for_email="other" in request.args, **words)


def signed_in() -> SignIn | None:
    """This browser's sign-in: with which address, and how long ago."""
    return sign_ins.sign_in_of(cookie.read())


def signed_in_email() -> str | None:
    """The address that this browser is signed in to."""
    return sign_ins.email_of(cookie.read())


# -- signing in and out --------------------------------------------------------------------------


@bp.post("/code")
@limiter.limit(codes_limit, override_defaults=False)
def mail_code() -> AnyResponse:
    """Mail a code to an address; if the form says so, signing in leads to sending."""
    for_sending = request.form.get("then") == "send"
    if for_sending:
        session[_AFTERWARDS] = [url_for("home.show_home"), ""]
    elif _leads_to_sending():
        session.pop(_AFTERWARDS)
    return mail_code_to(typed("email"), for_sending=for_sending)


def mail_code_to(said: dict[str, str], *, for_sending: bool = False) -> AnyResponse:
    """Mail a code to `email` of this form, and ask for it; or say why none is mailed."""
    again = {"asks_for_email": True, "for_sending": for_sending}
    try:
        with Inputs(said) as given:
            email = given.needed_text("email", longest=addresses.LONGEST)
        code_id = sign_ins.mail_code(email)
    except Invalid as error:
        return _door(error.fields, 422, **again, typed=said.get("email", ""))
    except TooMuchMail:
        return _door({}, 429, **again, refusal=_TOO_MANY)
    session[_CODES] = [*session.get(_CODES, [])[1 - _MOST_CODES :], code_id.hex]
    return redirect(url_for("mine.show_mine"), 303)


def sign_in_again(email: str, afterwards: str) -> AnyResponse:
    """Mail a code to the address that is signed in, sign out, and lead to this URL once the code is
    entered; or say why none is mailed.

    Signing out ends a copied cookie, too, instead of renewing it.
    """
    answer = mail_code_to({"email": email})
    if answer.status_code != 303:
        return answer
    session[_AFTERWARDS] = [afterwards, mark_of(email)]
    sign_ins.leave(cookie.read())
    cookie.delete(answer)
    return answer


@bp.post("/enter")
@limiter.limit(unknown_limit, override_defaults=False)
def enter() -> AnyResponse:
    """Sign in with the code from that mail."""
    try:
        with Inputs(typed("code")) as given:
            code = given.needed_text("code", longest=20)
        word = sign_ins.enter(_codes(), code)
    except Invalid as error:
        return _door(error.fields, 422, for_sending=_leads_to_sending())
    session.pop(_CODES)
    afterwards, mark = session.pop(_AFTERWARDS, ("", ""))
    is_theirs = afterwards and mark in ("", mark_of(sign_ins.email_of(word)))
    answer = redirect(afterwards if is_theirs else url_for(".show_mine"), 303)
    cookie.set(answer, word, sign_ins.STAYS_DAYS * 86400)
    return answer


@bp.post("/leave")
def leave() -> AnyResponse:
    """Sign out of this browser, or of every one."""
    sign_ins.leave(cookie.read(), everywhere="everywhere" in request.form)
    answer = redirect(url_for(".show_mine"), 303)
    cookie.delete(answer)
    return answer


def _codes() -> list[uuid.UUID]:
    return [uuid.UUID(one) for one in session.get(_CODES, [])]


def _leads_to_sending() -> bool:
    """Whether signing in, as this browser has last begun to, leads to sending."""
    return bool(session.get(_AFTERWARDS, ("",))[0] == url_for("home.show_home"))


def _door(
    complaints: dict[str, str] | None = None,
    status: int = 200,
    *,
    asks_for_email: bool = False,
    for_sending: bool = False,
    **words: Any,
) -> Response:
    """Ask for the address or, once a code is on its way, for the code."""
    asked_for = sign_ins.asked_for(_codes())
    asks_for_email = asks_for_email or asked_for is None
    page = render_template(
        "pages/mine_door.html",
        asked_for=asked_for,
        asks_for_email=asks_for_email,
        # A code is entered at /mine, whatever it was mailed for.
        for_sending=for_sending or (not asks_for_email and _leads_to_sending()),
        minutes=senders.CODE_MINUTES,
        days=sign_ins.STAYS_DAYS,
        complaints=complaints or {},
        **words,
    )
    return make_response(page, status)


# -- the list ------------------------------------------------------------------------------------


def _list(email: str) -> Response:
    wish = _wish()
    asked = file_requests.one_of(email, wish.request_id) if wish.request_id else None
    if asked and asked.is_blocked:
        raise Gone("This is not available.", reason="unavailable")
    may_send = senders.may_send(email)
    return page_or_fragment(
        "pages/mine.html",
        "fragments/_mine.html",
        status=200,
        email=email,
        wish=wish,
        asked=asked,
        found=own_transfers.of_email(email, wish),
        states=Shown,
        sorts=Sort,
        is_admin=admins.is_admin(email),
        may_ask=may_send,
        has_asked=not may_send and file_requests.has_any(email),
        offers_keys=senders.gives_keys() and (may_send or own_keys.has_any(email)),
    )


def _wish() -> Wish:
    """Read the form, which is part of the URL: what makes no sense there counts as not given."""
    asked = request.args
    text = asked.get("q", "").strip()
    page = asked.get("page", "")
    return Wish(
        text="" if bad_text(text) else text[:_LONGEST_SEARCH],
        state=_one_of(Shown, asked.get("state")),
        sort=_one_of(Sort, asked.get("sort")) or Sort.NEWEST,
        request_id=uuid_of(asked.get("request")),
        page=int(page) if re.fullmatch("[1-9][0-9]{0,8}", page) else 1,
    )


def _one_of(kind: type[E], given: str | None) -> E | None:
    return next((one for one in kind if one.value == given), None)
