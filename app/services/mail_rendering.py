"""Composes the mail for a row of the outbox: what is true now, in words, with its links.

Everything that people typed is plain text: it is escaped, and defused where it could become a
link, so that our name cannot be used to lead others somewhere. No mail has a presigned URL in it.
"""

import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from sqlalchemy import ColumnElement, bindparam, func, select, update
from sqlalchemy import Row as Found

from app import addresses, clock, links
from app.clock import db_now
from app.config import settings
from app.db import db, transaction
from app.extensions import mailer
from app.gateways.mailer import Letter, Subject
from app.models import (
    AbuseReport,
    Board,
    File,
    FileRequest,
    MailKind,
    NoMail,
    OutboxMail,
    Recipient,
    SenderCode,
    State,
    Transfer,
    Upload,
)
from app.services import abuse, delivery, file_requests, mail_links, senders, suppression
from app.services.mail_pictures import Thumbnail
from app.services.mail_templates import CTE, Drawer, Stencil
from app.services.preview_access import PICTURE_TYPE
from app.words import counted, filesize, plain_date

TEMPLATES = Path(__file__).parents[2] / "templates" / "mail"
MOST_ROWS = 20
# Text with a scheme or "www." is meant as a link; a bare name becomes one in some mail programs.
_LINK = re.compile(r"(?:[a-z][a-z0-9+.-]{0,30}://|www\.)\S+", re.IGNORECASE)
_BARE = re.compile(r"(?<=\w)[.](?=[^\W\d_]{2})")
# Narrower than the standard: without the characters that URLs need, above all / and ?.
_ADDRESS = re.compile(r"[\w.+-]+@[\w.-]+")
# Invisible characters and those that change the text direction: a subject must read as it is.
_TURNS = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# A sender's opt-out does not stop news about their own transfers; a bounce or a complaint does.
_NOT_EVEN_NEWS = (NoMail.BOUNCED, NoMail.COMPLAINED)
NO_PICTURES: Mapping[str, Thumbnail] = {}
_FOR_READY = {*delivery.TO_RECIPIENT, MailKind.NOBODY_DOWNLOADED, MailKind.EXPIRES_SOON}
_transfers, _recipients = Transfer.__table__.c, Recipient.__table__.c
# The columns of a transfer that mails show; also the key of a stencil. batch_count stands for the
# files: those that mails list change only when it does.
_TOLD = (
    _transfers.id,
    _transfers.slug,
    _transfers.title,
    _transfers.message,
    _transfers.sender_email,
    _transfers.expires_at,
    _transfers.password_hash,
    _transfers.batch_count,
)
# Those columns, and all that decides whether a mail is still true and wanted. It runs for each
# mail right before sending, so it is one statement, built once and from the tables: building it
# each time from the models would take longer than all other work on a mail.
_NOW = (
    select(
        *_TOLD,
        _transfers.state,
        _transfers.quarantined_at,
        _transfers.download_count,
        (_transfers.expires_at <= db_now()).label("is_due"),
        _recipients.slug.label("own_slug"),
        _recipients.ask_count,
        _recipients.revoked_at,
        _recipients.downloaded_at,
        suppression.REASON.label("unwanted"),
    )
    .select_from(Transfer.__table__)
    .outerjoin(Recipient.__table__, _recipients.id == bindparam("recipient_id"))
    .where(_transfers.id == bindparam("transfer_id"))
)
Now = Found[*tuple[Any, ...]]


class Row(NamedTuple):
    """A file as a mail lists it."""

    path: str
    size: int
    picture: Thumbnail | None


@dataclass(frozen=True)
class Contents:
    """The first files of a transfer, and the number and total size of all of them."""

    rows: Sequence[Row]
    count: int
    size: int

    @property
    def pictures(self) -> list[Thumbnail]:
        """The thumbnails to embed."""
        return [row.picture for row in self.rows if row.picture]

    @property
    def more(self) -> int:
        """The number of files that are not in `rows`."""
        return self.count - len(self.rows)

    @property
    def words(self) -> str:
        """The number of files in words: 1 file, 2,000 files."""
        return counted(self.count, "file", "files")


def compose(
    mail: OutboxMail, pictures: Mapping[str, Thumbnail] = NO_PICTURES, drawer: Drawer | None = None
) -> Letter | None:
    """Compose the letter; None if it is no longer true or not wanted. Only asks the database.

    A row that has to be sent again becomes the same letter under the same Message-ID, as far as
    its facts are the same. `pictures` maps the paths of files to thumbnails. With the same drawer,
    what letters to recipients share is written only once; whether a mail is true is still checked
    for each.
    """
    if drawer is not None and mail.kind in delivery.TO_RECIPIENT:
        return _filled(mail, pictures, drawer)
    told = facts(mail, pictures)
    if told is None:
        return None
    letter = _written(mail.kind, told)
    for name, value in _own_headers(mail, told).items():
        letter[name] = value
    return letter


def facts(
    mail: OutboxMail, pictures: Mapping[str, Thumbnail] = NO_PICTURES
) -> dict[str, Any] | None:
    """The facts in a mail, as its templates name them; None if no longer true or not wanted."""
    if mail.kind is MailKind.CODE:
        return _code(mail)
    if mail.kind is MailKind.RECEIVED:
        return _received(mail)
    if mail.transfer_id is None:
        return _of_other(mail)
    now = _now(mail)
    more = _news(mail, now)
    return None if more is None else {**_of_transfer(mail, now, pictures), **more}


def _filled(mail: OutboxMail, pictures: Mapping[str, Thumbnail], drawer: Drawer) -> Letter | None:
    now = _now(mail)
    own = _news(mail, now)
    if own is None:
        return None

    def cut() -> Stencil:
        # Random, so that no title or message can contain them.
        marks = {name: secrets.token_hex(16) for name in own}
        told = {**_of_transfer(mail, now, pictures), **marks}
        return Stencil(_written(mail.kind, told), marks)

    batch = mail.n if mail.kind is MailKind.NEW_FILES else None
    stencil = drawer.take((mail.kind, batch, *now[: len(_TOLD)]), cut)
    return stencil.fill(_own_headers(mail, own), own)


def _written(kind: MailKind, told: dict[str, Any]) -> EmailMessage:
    """The letter without the headers that each copy has of its own: _own_headers()."""
    subject = _one_line(_render(kind, "subject.txt", told))
    told = {**told, "subject": subject}
    letter = EmailMessage(policy=policy.SMTP)
    letter["From"] = mailer.sender
    letter["Subject"] = Subject(subject)
    letter["Auto-Submitted"] = "auto-generated"
    letter["X-Auto-Response-Suppress"] = "All"
    if kind in delivery.TO_RECIPIENT:
        letter["Reply-To"] = addresses.on_the_wire(told["sender"])
        letter["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    foot = "".join(f"{words}: {url}\n" for words, url in settings.footer_links)
    letter.set_content(_render(kind, "body.txt", told) + (foot and f"\n{foot}"), cte=CTE)
    letter.add_alternative(_render(kind, "body.html", told), subtype="html", cte=CTE)
    if kind in delivery.TO_RECIPIENT:
        _add_pictures(letter, told["contents"].pictures)
    return letter


def _own_headers(mail: OutboxMail, told: dict[str, Any]) -> dict[str, str]:
    own = {
        # Otherwise the library would encode a non-ASCII domain as if it were text.
        "To": addresses.on_the_wire(mail.email),
        "Date": format_datetime(clock.now()),
        "Message-ID": f"<{mail.id}@{mailer.envelope.rpartition('@')[2]}>",
    }
    if mail.kind in delivery.TO_RECIPIENT:
        own["List-Unsubscribe"] = f"<{told['opt_out_link']}>"
    return own


def _add_pictures(letter: EmailMessage, pictures: Sequence[Thumbnail]) -> None:
    """Embed the thumbnails beside the HTML part, so that nothing has to be fetched to show it."""
    (page,) = (part for part in letter.iter_parts() if part.get_content_subtype() == "html")
    for one in pictures:
        kind, _, subtype = PICTURE_TYPE.partition("/")
        page.add_related(one.body, kind, subtype, cid=f"<{one.cid}>", disposition="inline")


# -- what is told --------------------------------------------------------------------------------


def _code(mail: OutboxMail) -> dict[str, Any] | None:
    waits = select(SenderCode).where(SenderCode.id == mail.about_id, senders.is_alive())
    code = db.session.scalar(waits)
    if code is None:
        return None
    figures, minutes = senders.code_of(code), senders.CODE_MINUTES
    return {"code": figures, "minutes": minutes, "signs_in": code.signs_in}


def _of_other(mail: OutboxMail) -> dict[str, Any] | None:
    """The facts about a reported board or file request: only the operator is mailed about these."""
    more = _report(mail)
    if more is None:
        return None
    _, about = abuse.report_of(mail.n)
    told = {"contents": None, "link": abuse.link_of(about), **more}
    if isinstance(about, Board):
        return told | {"title": about.name}
    owner = about.email if isinstance(about, FileRequest) else None
    return told | {"title": about.title, "owner": owner}


def _received(mail: OutboxMail) -> dict[str, Any] | None:
    """What has come for a file request since the last such mail."""
    request = db.session.get(FileRequest, mail.about_id)
    if request is None or suppression.reason_of(mail.email) in _NOT_EVEN_NEWS:
        return None
    came = file_requests.take_untold(request.id, mail.id)
    if not came:
        return None
    return {
        "name": _quoted(request.title) or "your file request",
        "count": counted(len(came), "transfer", "transfers"),
        "came": [(one, links.transfer_url(one.slug)) for one in came[:MOST_ROWS]],
        "more": len(came[MOST_ROWS:]),
    }


def _now(mail: OutboxMail) -> Now:
    about = {"transfer_id": mail.transfer_id, "recipient_id": mail.recipient_id}
    return db.session.execute(_NOW, {**about, **suppression.asking(mail.email)}).one()


def _news(mail: OutboxMail, now: Now) -> dict[str, Any] | None:
    """The facts of this mail alone; None if it is no longer true or not wanted."""
    # No mail leads to a quarantined transfer, except a report to the operator.
    if now.quarantined_at is not None and mail.kind is not MailKind.REPORTED:
        return None
    is_ready = now.state is State.READY and not now.is_due
    if now.state is State.DELETED or (mail.kind in _FOR_READY and not is_ready):
        return None
    if mail.kind in delivery.TO_SENDER and now.unwanted in _NOT_EVEN_NEWS:
        return None
    more: dict[str, Any] | None = _MORE[mail.kind](mail, now)
    return more


def _of_transfer(mail: OutboxMail, now: Now, pictures: Mapping[str, Thumbnail]) -> dict[str, Any]:
    is_told = File.batch == mail.n if mail.kind is MailKind.NEW_FILES else File.batch.is_not(None)
    contents = _contents(now.id, is_told, pictures)
    return {
        "title": now.title,
        "name": _name(now.title, contents),
        "message": _cut(now.message),
        "sender": now.sender_email,
        "contents": contents,
        "expires_at": now.expires_at,
        "has_password": now.password_hash is not None,
        "link": links.transfer_url(now.slug),
        "manage_link": links.manage_url(mail_links.manage_token(now.id)),
        "extend_link": links.extend_url(mail_links.extend_seal(now.id)),
    }


def _to_recipient(mail: OutboxMail, now: Now) -> dict[str, Any] | None:
    if now.own_slug is None or now.revoked_at is not None or now.unwanted:
        return None
    if mail.kind is MailKind.REMINDER and now.downloaded_at is not None:
        return None
    # Only for the latest request, so that two mails never arrive together.
    if mail.kind is MailKind.FILES_FOR_YOU and mail.n != now.ask_count:
        return None
    # The recipient's own link, not the transfer's: it shows who opened it.
    return {
        "link": links.transfer_url(now.own_slug),
        "opt_out_link": links.opt_out_url(mail_links.opt_out_seal(mail.email)),
    }


def _to_all(mail: OutboxMail, now: Now) -> dict[str, Any]:
    named = [
        one.email
        for one in delivery.recipients_of(now.id)
        if one.asked_at is not None and one.revoked_at is None
    ]
    return {"recipients": named}


def _unfetched(mail: OutboxMail, now: Now) -> dict[str, Any] | None:
    return None if now.download_count else _to_all(mail, now)


def _downloads(mail: OutboxMail, now: Now) -> dict[str, Any] | None:
    """Recipients who downloaded since the last such mail; the very first mail may name none."""
    told = _gather(mail, Recipient.download_told_in, Recipient.downloaded_at.is_not(None))
    return {"recipients": [one.email for one in told]} if told or mail.n == 1 else None


def _failures(mail: OutboxMail, now: Now) -> dict[str, Any] | None:
    told = _gather(mail, Recipient.failure_told_in, Recipient.failed_at.is_not(None))
    return {"failed": [(one.email, one.failure) for one in told]} if told else None


def _question(mail: OutboxMail, now: Now) -> dict[str, Any]:
    return {"words": _cut(mail.words)}


def _report(mail: OutboxMail, now: Now | None = None) -> dict[str, Any] | None:
    report = db.session.get(AbuseReport, mail.n)
    if report is None:
        return None
    admin_link = links.report_url(report.id) if settings.admin_emails else None
    words = _cut(report.message)
    return {"report": report, "words": words, "owner": None, "admin_link": admin_link}


_MORE: dict[MailKind, Any] = {
    MailKind.FILES_FOR_YOU: _to_recipient,
    MailKind.REMINDER: _to_recipient,
    MailKind.NEW_FILES: _to_recipient,
    MailKind.SENT: _to_all,
    MailKind.DOWNLOADED: _downloads,
    MailKind.NOBODY_DOWNLOADED: _unfetched,
    MailKind.EXPIRES_SOON: _to_all,
    MailKind.SOMEBODY_ASKS: _question,
    MailKind.UNDELIVERABLE: _failures,
    MailKind.REPORTED: _report,
}


def _gather(mail: OutboxMail, told_in: Any, condition: Any) -> list[Recipient]:
    """Assign the recipients that no mail has reported yet to this one; returns all that it reports.

    The assignment is permanent, so each recipient is reported in one mail only.
    """
    mine = Recipient.transfer_id == mail.transfer_id
    with transaction():
        db.session.execute(
            update(Recipient)
            .where(mine, condition, told_in.is_(None))
            .values({told_in: mail.id})
            .execution_options(synchronize_session=False)
        )
    found = db.session.scalars(
        select(Recipient)
        .where(mine, told_in == mail.id)
        .order_by(Recipient.email)
        .execution_options(populate_existing=True)
    )
    return list(found)


def _contents(
    transfer_id: uuid.UUID, is_told: ColumnElement[bool], pictures: Mapping[str, Thumbnail]
) -> Contents:
    rows = db.session.execute(
        # The window functions count all files, not only those within the limit.
        select(File.path, Upload.size, func.count().over(), func.sum(Upload.size).over())
        .join(Upload, File.upload_id == Upload.id)
        .where(File.transfer_id == transfer_id, is_told)
        .order_by(File.position)
        .limit(MOST_ROWS)
    ).all()
    count, size = (rows[0][2], int(rows[0][3])) if rows else (0, 0)
    return Contents([Row(path, one, pictures.get(path)) for path, one, _, _ in rows], count, size)


# -- words ---------------------------------------------------------------------------------------


def unlinked(text: str) -> str:
    """A person's text, with everything defused that a mail program would turn into a link."""
    return _BARE.sub(".\u200b", _LINK.sub("[link]", text))


def contact(text: str) -> str:
    """Contact details: an e-mail address unchanged, for copying; other text through unlinked()."""
    return text if _ADDRESS.fullmatch(text) else unlinked(text)


def _name(given: str, contents: Contents) -> str:
    """The title in quotes, or the number of files if the title could be taken for a link."""
    return _quoted(given) or contents.words


def _quoted(given: str) -> str | None:
    """A title in one line and quotes; None if there is none, or it could be taken for a link."""
    title = _one_line(given)
    if title and not _LINK.search(title) and not _BARE.search(title):
        return f"“{title}”"
    return None


def _one_line(text: str) -> str:
    return " ".join(_TURNS.sub("", text).split())[:250]


def _cut(text: str) -> str:
    most = settings.max_mailed_message_length
    return text if len(text) <= most else f"{text[:most].rstrip()}…"


def _render(kind: MailKind, name: str, told: dict[str, Any]) -> str:
    rendered = _templates().get_template(f"{kind.value}/{name}").render(told)
    return f"{rendered.strip()}\n"


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # By the template's file name, so that it cannot be forgotten.
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"filesize": filesize, "plain_date": plain_date}
    made.filters |= {"unlinked": unlinked, "contact": contact}
    made.globals |= {"counted": counted, "home": lambda: settings.base_url}
    made.globals["site_name"] = lambda: settings.site_name
    made.globals["footer_links"] = lambda: settings.footer_links
    return made
