"""/admin: figures, reports about links and what to do about them, and what `flask doctor` finds.

For whoever has signed in at /mine with one of ADMIN_EMAILS, recently (services/admins.py); for
everybody else there is nothing here. A GET changes nothing. Everything works without JavaScript.
"""

import re

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.errors import Invalid, NotFound
from app.models import FileRequest
from app.pages import mine
from app.request_guards import codes_limit, limiter
from app.services import abuse, admins, boards, doctor, file_requests, sign_ins
from app.services.doctor import Level
from app.services.transfers import files_of

bp = Blueprint("admin", __name__, url_prefix="/admin")

# A report's number: PostgreSQL knows no larger ones.
_REPORT = "/reports/<int(min=1, max=9223372036854775807):number>"


@bp.before_request
def _check_admin() -> Response | str | None:
    """Before each route: raise NotFound for strangers, and let admins sign in again in time."""
    admin = admins.admin_of(mine.cookie.read())
    if admin is None:
        raise NotFound
    g.admin = admin
    if request.endpoint == "admin.sign_in_again":
        return None
    if not admin.may_look:
        number = (request.view_args or {}).get("number")
        return render_template("pages/admin_again.html", hours=admins.LOOK_HOURS, report=number)
    if request.method not in ("GET", "HEAD") and not admin.may_change:
        # The page to which each form belongs: it asks to sign in again.
        return redirect(request.path, 303)
    return None


@bp.post("/again")
@limiter.limit(codes_limit, override_defaults=False)
def sign_in_again() -> Response:
    """Mail a code to the same address, sign out, and come back once it is entered."""
    number = request.form.get("report", type=int)
    here = url_for(".show_report", number=number) if number else url_for(".show_admin")
    return mine.sign_in_again(g.admin.email, here)


@bp.get("")
def show_admin() -> str:
    """Show the figures, and a page of the open reports, newest first."""
    before = request.args.get("before", "")
    figures = doctor.figures_in_time()
    reports, next_before = abuse.newest_reports(
        int(before) if re.fullmatch("[1-9][0-9]{0,17}", before) else None
    )
    return render_template(
        "pages/admin.html",
        admin=g.admin,
        figures=figures,
        reports=[(report, about, abuse.link_of(about)) for report, about in reports],
        is_first=not before,
        next_before=next_before,
    )


@bp.get("/doctor")
def show_doctor() -> str:
    """Run the checks that are quick, and show what they find."""
    return render_template("pages/admin_doctor.html", found=doctor.quick_look(), levels=Level)


@bp.get(_REPORT)
def show_report(number: int) -> str:
    """Show a report, what it is about, and what can be done."""
    report, about = abuse.report_of(number)
    asked, free_count = None, 0
    if isinstance(about, FileRequest):
        asked = file_requests.one_of(about.email, about.id)
        free_count = abuse.free_count(about.id)
    most = abuse.MOST_NAMES + 1
    return render_template(
        "pages/admin_report.html",
        admin=g.admin,
        hours=sign_ins.RECENT_HOURS,
        report=report,
        about=about,
        asked=asked,
        free_count=free_count,
        link=abuse.link_of(about),
        open_count=abuse.open_count(about.id),
        files=files_of(about.id, with_coming=True, limit=most) if report.transfer_id else [],
        items=boards.items_of(about.id, with_unseen=True, limit=most) if report.board_id else [],
        most=abuse.MOST_NAMES,
    )


@bp.post(_REPORT)
def act_on_report(number: int) -> Response:
    """Block or unblock what a report is about, or close the report."""
    action = request.form.get("do")
    if action == "close":
        abuse.close(number)
        return redirect(url_for(".show_admin"), 303)
    _, about = abuse.report_of(number)
    if action == "block":
        abuse.block(about)
    elif action == "block_all" and isinstance(about, FileRequest):
        abuse.block(about)
        abuse.block_what_came(about.id)
    elif action == "unblock":
        abuse.unblock(about)
    else:
        raise Invalid({"do": "must be block, block_all (a file request), unblock or close"})
    return redirect(url_for(".show_report", number=number), 303)
