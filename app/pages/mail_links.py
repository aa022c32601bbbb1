"""The pages behind links in mails: opting out, and extending a transfer.

Programs follow every link in a mail, so a GET changes nothing; only the page's button does.
"""

from flask import Blueprint, render_template

from app.config import settings
from app.extensions import csrf
from app.models import Transfer
from app.request_guards import limit_unknown
from app.services import mail_links

bp = Blueprint("mail_links", __name__)
limit_unknown(bp)


@bp.get("/u/<seal>")
def show_opt_out(seal: str) -> str:
    """Show the address and the opt-out button."""
    email = mail_links.opting_out(seal)
    return _opt_out_page(seal, email, is_done=mail_links.has_opted_out(email))


@bp.post("/u/<seal>")
# Mail providers POST this for their users (RFC 8058), without a cookie and from another origin;
# having the link proves having the mail.
@csrf.exempt
def opt_out(seal: str) -> str:
    """Opt the address out of all further mail."""
    email = mail_links.opting_out(seal)
    mail_links.opt_out(email)
    return _opt_out_page(seal, email, is_done=True)


@bp.get("/m/extend/<seal>")
def show_extension(seal: str) -> str:
    """Show the transfer and the button that extends it."""
    return _extend_page(mail_links.to_extend(seal), is_done=False)


@bp.post("/m/extend/<seal>")
def extend_transfer(seal: str) -> str:
    """Extend the transfer: more time, and more downloads if they are used up."""
    return _extend_page(mail_links.extend(mail_links.to_extend(seal)), is_done=True)


def _extend_page(transfer: Transfer, *, is_done: bool) -> str:
    return render_template(
        "pages/extend.html",
        transfer=transfer,
        is_done=is_done,
        days=settings.default_expires_in_days,
        downloads=mail_links.MORE_DOWNLOADS,
    )


def _opt_out_page(seal: str, email: str, *, is_done: bool) -> str:
    return render_template("pages/opt_out.html", seal=seal, email=email, is_done=is_done)
