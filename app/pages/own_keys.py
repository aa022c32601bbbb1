"""/mine/keys: the API keys of whoever is signed in (mine.py); works without JavaScript.

Only where SENDERS says who may send; elsewhere there is no such page. A GET changes nothing.
"""

import uuid

from flask import Blueprint, Response, make_response, redirect, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.errors import Invalid, NotFound, SenderNotAllowed
from app.inputs import Inputs
from app.models import Scope
from app.pages import mine
from app.pages.view import typed
from app.request_guards import codes_limit, limiter
from app.services import accounts, own_keys, senders, sign_ins
from app.services.sign_ins import SignIn

bp = Blueprint("own_keys", __name__, url_prefix="/mine/keys")


@bp.before_request
def _check_offered() -> None:
    """Raise NotFound where nobody can make keys without the operator."""
    if not senders.gives_keys():
        raise NotFound


@bp.get("")
def show_keys() -> AnyResponse:
    """List the keys of whoever is signed in, with the form that makes another."""
    person = mine.signed_in()
    return _page(person) if person else redirect(url_for("mine.show_mine"), 303)


@bp.post("")
def make_key() -> AnyResponse:
    """Make a key. Only this answer shows it: if it is reloaded, it says so (409)."""
    person = mine.signed_in()
    if person is None:
        return redirect(url_for("mine.show_mine"), 303)
    if not person.is_recent:
        # The page asks to sign in again.
        return redirect(url_for(".show_keys"), 303)
    said = typed("once", "name", "scope")
    try:
        # Stripped first: a name of spaces is none.
        with Inputs({**said, "name": said.get("name", "").strip()}) as given:
            key_id = given.uuid("once")
            name = given.needed_text("name", longest=accounts.LONGEST_NAME)
            scope = given.one_of("scope", own_keys.SCOPES) or Scope.READ
        made = own_keys.make(key_id, person.email, name=name, scope=scope)
    except Invalid as error:
        return _page(person, 422, said=said, complaints=error.fields)
    except SenderNotAllowed:
        return _page(person, 403)
    return _page(person, 201, made=made) if made else _page(person, 409, is_repeated=True)


@bp.post("/again")
@limiter.limit(codes_limit, override_defaults=False)
def sign_in_again() -> AnyResponse:
    """Mail a code to the same address, sign out, and come back once it is entered."""
    here = url_for(".show_keys")
    email = mine.signed_in_email()
    return mine.sign_in_again(email, here) if email else redirect(here, 303)


@bp.post("/<uuid:key_id>/revoke")
def revoke_key(key_id: uuid.UUID) -> AnyResponse:
    """Let a key be refused from now on."""
    if email := mine.signed_in_email():
        own_keys.revoke(email, key_id)
    return redirect(url_for(".show_keys"), 303)


def _page(person: SignIn, status: int = 200, **words: object) -> Response:
    page = render_template(
        "pages/mine_keys.html",
        email=person.email,
        may_make=senders.may_have_keys(person.email),
        is_recent=person.is_recent,
        hours=sign_ins.RECENT_HOURS,
        keys=own_keys.of_email(person.email),
        scopes=own_keys.SCOPES,
        once=uuid.uuid4(),
        **words,
    )
    return make_response(page, status)
