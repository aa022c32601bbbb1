"""/m/<word>: the sender's page for one transfer, without an account. A GET changes nothing.

Each region of the page is one partial template. A form sent without JavaScript redirects to the
page (303); htmx gets the regions that have changed. Errors are shown beside the form, which keeps
what was typed.
"""

import re
import uuid
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app import addresses, clock, passwords
from app.config import settings
from app.errors import AppError, Gone, Invalid, NotFound
from app.inputs import Inputs
from app.models import MailKind, Transfer
from app.pages.home import uploader
from app.pages.view import is_htmx, typed
from app.request_guards import codes_limit, limit_unknown, limiter
from app.services import delivery, mail_links, managing, sender_access, transfers
from app.services.marks import mark_of
from app.words import counted

bp = Blueprint("manage", __name__, url_prefix="/m/<word>")
limit_unknown(bp)

MOST_DOWNLOADS = 2**31 - 1
_SEPARATORS = re.compile(r"[\s,;]+")
# The regions that reappear, or show more, once an ended transfer is available again.
_AFTER_THE_END = ("send", "news", "people", "files")
_CONFIRMED = "Your address is confirmed."
# Messages beside a form, for refusals that a service words for programs.
_REFUSED = {
    "expired": "It has expired in the meantime. Extend it first.",
    "blocked": "Nothing was changed: the operator of this site has blocked this transfer.",
    "changed_meanwhile": "Nothing is saved yet: someone else has changed this in the meantime.",
}


@bp.get("")
def show_transfer(word: str) -> AnyResponse:
    """Show everything about one transfer to anyone who has its link."""
    transfer = sender_access.opened(word)
    told = session.get("managed")
    if told and told[0] == str(transfer.id):
        session.pop("managed")
        return _page(word, transfer, notices={told[1]: told[2]})
    return _page(word, transfer)


@bp.get("/<any(now, people):region>")
def show_region(word: str, region: str) -> AnyResponse:
    """Show a region as it is now, for the page's own polls, with others that change with it."""
    transfer = sender_access.opened(word)
    if not is_htmx():
        return redirect(url_for(".show_transfer", word=word), 303)
    shown = managing.view(transfer)
    others = []
    if region == "now" and not shown.is_live:
        others = ["people", "files"]
    elif region == "people" and shown.has_ended:
        others = ["now"]
    return _regions(word, shown, [region, *others])


@bp.post("/details")
def edit_details(word: str) -> AnyResponse:
    """Change title, message, expiry, download limit and password, but only those that were edited.

    A mark is a hash of the value that the form was made from, to detect concurrent edits.
    """
    transfer = sender_access.opened(word)
    had_ended = managing.view(transfer).has_ended
    given_marks = typed(*(f"was_{name}" for name in managing.FIELDS))
    marks = {name.removeprefix("was_"): mark for name, mark in given_marks.items()}
    said = typed("title", "message", "expires_in_days", "max_downloads", "remove_password")
    try:
        managing.edit(transfer, _read_details(said), marks)
    except AppError as error:
        kept = _touched(said, marks)
        changed = error.details.get("changed", [])
        # The form now shows the current values of the conflicting fields, so it may overwrite
        # them. Where it keeps what was typed, or shows no value, the old marks must stay.
        hidden = {*kept, "expires_at", "password_hash"} - {managing.column(one) for one in changed}
        marks = {name: mark for name, mark in marks.items() if name in hidden}
        return _refused(word, transfer, "details", error, said=kept, marks=marks, changed=changed)
    if had_ended and not managing.view(transfer).has_ended:
        return _done(word, transfer, "It is available again.", "details", "now", *_AFTER_THE_END)
    return _done(word, transfer, "Saved.", "details", "now")


def _read_details(said: dict[str, str]) -> dict[str, Any]:
    limit = said.get("max_downloads", "").strip()
    days = said.get("expires_in_days", "").strip()
    given_fields: dict[str, Any] = {
        **said,
        **typed("password"),
        "max_downloads": _number(limit),
        "expires_in_days": _number(days),
    }
    changes: dict[str, Any] = {}
    with Inputs(given_fields) as given:
        title = given.text("title", longest=200).strip()
        message = given.text("message", longest=5000, lines=True).strip()
        downloads = given.optional_whole("max_downloads", least=1, most=MOST_DOWNLOADS)
        most = settings.max_expires_in_days
        later = given.optional_whole("expires_in_days", least=1, most=most)
        shortest, longest = passwords.SHORTEST, passwords.LONGEST
        password = given.password("password", shortest=shortest, longest=longest)
        is_removed = given.text("remove_password", longest=10) != ""
        if password and is_removed:
            raise Invalid(given.complaints | {"password": "can be changed or removed, not both"})
    changes |= {"title": title} if "title" in said else {}
    changes |= {"message": message} if "message" in said else {}
    changes |= {"max_downloads": downloads} if "max_downloads" in said else {}
    if later is not None:
        changes["expires_at"] = clock.now() + timedelta(days=later)
    if password or is_removed:
        changes["password"] = password
    return changes


def _number(given: str) -> int | str | None:
    """Return the number that was typed, None if empty, or the text itself for Inputs to refuse."""
    return (int(given) if re.fullmatch(r"[0-9]{1,10}", given) else given) if given else None


def _touched(said: dict[str, str], marks: dict[str, str]) -> dict[str, str]:
    """Return the fields that were edited; the others are to be shown with their current values."""
    limit = said.get("max_downloads", "").strip()
    values = {
        "title": said.get("title", "").strip(),
        "message": said.get("message", "").strip(),
        "max_downloads": _number(limit),
    }
    same = {name for name, value in values.items() if mark_of(value) == marks.get(name)}
    return {name: given for name, given in said.items() if name not in same}


@bp.post("/extend")
def extend_transfer(word: str) -> AnyResponse:
    """Give it more time, and more downloads if they are used up; revives an expired transfer."""
    transfer = sender_access.opened(word)
    had_ended = managing.view(transfer).has_ended
    try:
        managing.extend(transfer)
    except AppError as error:
        return _refused(word, transfer, "now", error)
    # Replace the other forms only if they were not there before: a person may be typing in them.
    others = ["details", *_AFTER_THE_END] if had_ended else []
    words = "It can be downloaded again." if had_ended else "It has been extended."
    return _done(word, transfer, words, "now", *others)


@bp.post("/recipients")
def add_recipients(word: str) -> AnyResponse:
    """Mail the transfer to more recipients."""
    transfer = sender_access.opened(word)
    said = typed("recipients")
    emails = [one for one in _SEPARATORS.split(said.get("recipients", "")) if one]
    try:
        if not emails:
            raise Invalid({"recipients": "needs at least one e-mail address"})
        count = managing.add_recipients(transfer, emails[: settings.max_recipients + 1])
    except AppError as error:
        return _refused(word, transfer, "send", error, said=said, emails=emails)
    return _done(word, transfer, _sent_words(count), "send", "people")


def _sent_words(count: int) -> str:
    if count == 0:
        return "It was sent there before, and is not sent again."
    return f"It is being sent to {counted(count, 'person', 'people')}."


@bp.post("/recipients/<uuid:recipient_id>/revoke")
def revoke_recipient(word: str, recipient_id: uuid.UUID) -> AnyResponse:
    """Revoke one recipient's link."""
    transfer = sender_access.opened(word)
    try:
        managing.revoke(transfer, recipient_id)
    except AppError as error:
        return _refused(word, transfer, "people", error)
    return _done(word, transfer, "Their link no longer works.", "people")


@bp.post("/recipients/<uuid:recipient_id>/mail")
def mail_recipient(word: str, recipient_id: uuid.UUID) -> AnyResponse:
    """Mail one recipient again."""
    transfer = sender_access.opened(word)
    try:
        managing.mail_again(transfer, recipient_id)
    except AppError as error:
        return _refused(word, transfer, "people", error)
    return _done(word, transfer, "It is being sent again.", "people")


@bp.post("/sender")
@limiter.limit(codes_limit, override_defaults=False)
def name_sender(word: str) -> AnyResponse:
    """Set the sender's address; unless it is confirmed already, a code is mailed to it."""
    transfer = sender_access.opened(word)
    said = typed("sender_email")
    try:
        with Inputs(said) as given:
            email = given.text("sender_email", longest=addresses.LONGEST).strip()
        named = managing.name_sender(transfer, email or "-")
    except AppError as error:
        return _refused(word, transfer, "send", error, said=said)
    if named.sender_confirmed_at is not None:
        return _done(word, transfer, _CONFIRMED, "send")
    return _done(word, transfer, f"A code was mailed to {named.sender_email}.", "send")


@bp.post("/confirm")
def confirm_sender(word: str) -> AnyResponse:
    """Confirm the sender's address with the code from that mail."""
    transfer = sender_access.opened(word)
    said = typed("code")
    try:
        with Inputs(said) as given:
            code = given.text("code", longest=20)
        managing.confirm_sender(transfer, code)
    except AppError as error:
        return _refused(word, transfer, "send", error, said=said)
    return _done(word, transfer, _CONFIRMED, "send", "people", "news")


@bp.post("/news")
def choose_news(word: str) -> AnyResponse:
    """Choose which notifications the sender wants."""
    transfer = sender_access.opened(word)
    said = typed("was_muted", *(kind.value for kind in delivery.TO_SENDER))
    kinds = [MailKind(kind) for kind in delivery.TO_SENDER if kind.value in said]
    try:
        managing.choose_news(transfer, kinds, said.get("was_muted", ""))
    except AppError as error:
        return _refused(word, transfer, "news", error, said=said)
    return _done(word, transfer, "Saved.", "news")


@bp.post("/files/<uuid:file_id>/remove")
def remove_file(word: str, file_id: uuid.UUID) -> AnyResponse:
    """Remove one file while it is still being uploaded."""
    transfer = sender_access.opened(word)
    try:
        managing.remove_file(transfer, file_id)
    except AppError as error:
        return _refused(word, transfer, "files", error)
    return _done(word, transfer, "Removed.", "files", "now")


@bp.get("/add")
def show_uploader(word: str) -> AnyResponse:
    """Show the uploader for more files, or redirect to the page, which says why none can be added.

    The uploader is that of the first page.
    """
    shown = managing.adds_to(sender_access.opened(word))
    if shown is None:
        return redirect(url_for(".show_transfer", word=word), 303)
    return uploader(adds_to=shown, word=word)


@bp.post("/batch/drop")
def drop_batch(word: str) -> AnyResponse:
    """Drop the batch that is being added; the other files stay."""
    transfer = sender_access.opened(word)
    try:
        managing.drop_batch(transfer)
    except AppError as error:
        return _refused(word, transfer, "files", error)
    return _done(word, transfer, "The files on their way have been removed.", "files", "now")


@bp.post("/delete")
def delete_transfer(word: str) -> AnyResponse:
    """Delete it: its links stop immediately, its bytes are removed in the background.

    Redirects to the page, which then says that it is gone.
    """
    transfers.delete(sender_access.opened(word).id)
    return redirect(url_for(".show_transfer", word=word), 303)


# -- answers -------------------------------------------------------------------------------------


def _done(word: str, transfer: Transfer, words: str, *regions: str) -> AnyResponse:
    """Answer htmx with the changed regions; otherwise redirect to the page.

    `words` is shown once, in the first region.
    """
    if is_htmx():
        shown = managing.view(transfer)
        return _regions(word, shown, list(regions), notices={regions[0]: words})
    session["managed"] = [str(transfer.id), regions[0], words]
    return redirect(url_for(".show_transfer", word=word), 303)


def _refused(
    word: str, transfer: Transfer, region: str, error: AppError, **words: Any
) -> AnyResponse:
    """Show the form again with what was typed and the error; raises NotFound, and once deleted."""
    if isinstance(error, NotFound) or error.details.get("reason") == "deleted":
        raise error
    is_typed_wrong = isinstance(error, Invalid)
    status = 422 if is_typed_wrong else 409 if isinstance(error, Gone) else error.status
    reason = error.details.get("reason", error.code)
    words["complaints"] = error.fields if isinstance(error, Invalid) else {}
    # What a service has said in words of its own, it has said for people.
    said = error.title if error.title != type(error).title else _REFUSED.get(reason, error.title)
    words["refusals"] = {} if is_typed_wrong else {region: said}
    if is_htmx():
        return _regions(word, managing.view(transfer), [region], status, **words)
    return _page(word, transfer, status, failed=region, **words)


def _regions(
    word: str, shown: managing.Managed, regions: list[str], status: int = 200, **words: Any
) -> Response:
    failed = regions[0] if status >= 400 else None
    context = {**_context(word, shown), "is_part": True, "regions": regions, "failed": failed}
    page = render_template("fragments/_manage.html", **context, **words)
    answer = make_response(page, status)
    answer.headers["Vary"] = "HX-Request"
    return answer


def _page(word: str, transfer: Transfer, status: int = 200, **words: Any) -> Response:
    shown = managing.view(transfer)
    answer = make_response(
        render_template("pages/manage.html", **_context(word, shown), **words), status
    )
    answer.headers["Vary"] = "HX-Request"
    return answer


def _context(word: str, shown: managing.Managed) -> dict[str, Any]:
    return {
        "view": shown,
        "transfer": shown.transfer,
        "word": word,
        "now_marks": managing.marks_of(shown.transfer),
        "muted_mark": mark_of(shown.transfer.muted),
        "kinds": delivery.TO_SENDER,
        "sends_mail": settings.sends_mail,
        "days": settings.default_expires_in_days,
        "most_days": settings.max_expires_in_days,
        "more_downloads": mail_links.MORE_DOWNLOADS,
    }
