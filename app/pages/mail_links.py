"""What links in mails lead to: no more mail, and more time for a transfer. Looking changes nothing.

Programs follow every link in a mail, so each page has a button, and only that does something.
"""

from flask import Blueprint, render_template

from app.config import settings
from app.doors import limit_unknown
from app.extensions import csrf
from app.models import Transfer
from app.services import mail_links

bp = Blueprint("mail_links", __name__)
limit_unknown(bp)


@bp.get("/u/<seal>")
def show_opt_out(seal: str) -> str:
    """Which address, and the button."""
    email = mail_links.opting_out(seal)
    return _opt_out_page(seal, email, is_done=mail_links.has_opted_out(email))


@bp.post("/u/<seal>")
# Mail providers press this for their readers (RFC 8058), without a cookie and from elsewhere;
# whoever has the link has the mail.
@csrf.exempt
def opt_out(seal: str) -> str:
    """No mail to this address any more."""
    email = mail_links.opting_out(seal)
    mail_links.opt_out(email)
    return _opt_out_page(seal, email, is_done=True)


@bp.get("/m/extend/<seal>")
def show_extension(seal: str) -> str:
    """What it is about, and the button."""
    return _extend_page(mail_links.to_extend(seal), is_done=False)


@bp.post("/m/extend/<seal>")
def extend_transfer(seal: str) -> str:
    """More time, and more downloads where they are used up."""
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
