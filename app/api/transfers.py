"""/transfers: the native API, used by the browser's uploader and by scripts.

The routes that only scripts use are in programs.py.
"""

from typing import Any

from flask import Blueprint, Response, jsonify

from app import addresses, lifecycle, links, passwords
from app.api.auth import anyone_or_key, owner, sends_key
from app.api.bodies import idempotency_key, is_seen, json_body, json_or_nothing, once, query
from app.config import S3_MAX_OBJECT_SIZE, S3_MAX_PARTS, settings
from app.crc32 import SIZE as CRC32_SIZE
from app.errors import Invalid, WrongState
from app.inputs import Inputs
from app.models import (
    Checksum,
    ExtensionRequest,
    Failure,
    File,
    Problem,
    Recipient,
    Scope,
    State,
    Transfer,
)
from app.request_guards import creates_limit, limiter
from app.services import (
    batches,
    delivery,
    editing,
    extension_requests,
    file_requests,
    planning,
    senders,
    sending,
    staging,
    transfers,
)
from app.services.accounts import Caller
from app.services.contents import FileSpec
from app.services.sending import Wanted

bp = Blueprint("transfers", __name__, url_prefix="/transfers")

MOST_PARTS_AT_ONCE = 100
# Each incomplete file costs a request to storage, of which 16 run concurrently.
MOST_FILES_AT_ONCE = 500
MOST_DOWNLOADS = 2**31 - 1
# Only a sanity limit: max_recipients is always lower, and exceeding it has its own message.
MOST_ADDRESSES = 1000

_FAILURES = {
    Failure.STORAGE: "Storage did not let us check the files. Everything that was sent is kept.",
    Failure.INTERNAL: "The files could not be checked. Everything that was sent is kept.",
}
_PROBLEMS = {
    Problem.MISSING: "Some of this file has not arrived yet.",
    Problem.WRONG_SIZE: "What arrived is not the same size as the file.",
    Problem.DAMAGED: "What arrived is not what was sent.",
    Problem.LOST: "Storage no longer has what was sent of this file.",
}


@bp.post("")
# Calls with a key have a limit of their own (count_call), and a wrong key creates nothing.
@limiter.limit(creates_limit, exempt_when=sends_key)
@anyone_or_key(Scope.WRITE)
def create_transfer(caller: Caller | None) -> tuple[Response, int]:
    """Create a transfer with its files; only this answer contains the owner token.

    Without `files`, its only file is sent by one PUT, and `max_downloads` defaults to 1.
    """
    with Inputs(json_body()) as given:
        by_one_put = not given.has("files")
        files = _read_files(given, least=0)
        options = _read_options(given)
        mail = {name: v for name, v in _read_mail(given).items() if given.has(name)}
        request = given.text("file_request", longest=64)
        if by_one_put and not given.has("max_downloads"):
            options["max_downloads"] = 1
    also = []
    if request:
        has_date = options["expires_at"] is not None
        also = [file_requests.for_request(request, has_date=has_date)]
    elif caller is None:
        senders.check_may_send(mail.get("sender_email"), mail.get("sender_token"))
    created = delivery.create(
        files,
        mail,
        **options,
        idempotency_key=idempotency_key(),
        caller=caller,
        by_one_put=by_one_put,
        also=also,
    )
    return shown(created.transfer, owner_token=created.owner_token), 201


@bp.get("/<uuid:transfer_id>")
@owner(Scope.READ)
def show_transfer(transfer: Transfer) -> Response:
    """Return the transfer as it is now, each file with its state and problem."""
    return shown(transfer)


@bp.patch("/<uuid:transfer_id>")
@owner(Scope.WRITE, deleted=WrongState)
def edit_transfer(transfer: Transfer) -> Response:
    """Change the options that were sent; with If-Match, only if the transfer has not changed since.

    A transfer created without files cannot be changed until its file has been sent.
    """
    if staging.awaits_file(transfer):
        raise WrongState("Its file has not been uploaded yet.")
    with Inputs(json_body()) as given:
        changes = {name: v for name, v in _read_options(given).items() if given.has(name)}
        mail = {name: v for name, v in _read_mail(given).items() if given.has(name)}
        status = given.one_of("status", (State.READY, State.EXPIRED))
    return shown(editing.change(transfer, changes, mail, status, is_seen()))


@bp.delete("/<uuid:transfer_id>")
@owner(Scope.WRITE)
def delete_transfer(transfer: Transfer) -> tuple[str, int]:
    """Delete the transfer: its link stops immediately, its bytes are removed in the background."""
    transfers.delete(transfer.id)
    return "", 204


@bp.delete("/<uuid:transfer_id>/recipients/<uuid:recipient_id>")
@owner(Scope.WRITE)
def revoke_recipient(transfer: Transfer, recipient_id: Any) -> tuple[str, int]:
    """Revoke one recipient's link; the others' keep working."""
    delivery.revoke(transfer, recipient_id)
    return "", 204


@bp.post("/<uuid:transfer_id>/recipients/<uuid:recipient_id>/mail")
@owner(Scope.WRITE)
def mail_recipient(transfer: Transfer, recipient_id: Any) -> tuple[Response, int]:
    """Mail one recipient again."""
    delivery.send_again(transfer, recipient_id, once(transfer.id))
    return shown(transfers.of_id(transfer.id)), 202


@bp.post("/<uuid:transfer_id>/files")
@owner(Scope.WRITE)
def add_files(transfer: Transfer) -> tuple[Response, int]:
    """Add files to a transfer that is not finalized yet or, as a batch, to one that is READY."""
    with Inputs(json_body()) as given:
        files = _read_files(given, least=1)
    added = batches.add_files(transfer, files, once(transfer.id))
    return jsonify({"files": [file_json(file) for file in added]}), 201


@bp.delete("/<uuid:transfer_id>/files/<uuid:file_id>")
@owner(Scope.WRITE)
def remove_file(transfer: Transfer, file_id: Any) -> tuple[str, int]:
    """Remove one file while it is still being uploaded."""
    batches.remove_file(transfer, file_id)
    return "", 204


@bp.delete("/<uuid:transfer_id>/batch")
@owner(Scope.WRITE)
def drop_batch(transfer: Transfer) -> tuple[str, int]:
    """Drop the batch that is being added to a READY transfer; its other files stay."""
    batches.drop(transfer)
    return "", 204


@bp.post("/<uuid:transfer_id>/parts")
@owner(Scope.WRITE)
def sign_parts(transfer: Transfer) -> Response:
    """Return presigned URLs for parts of any of the transfer's files, in one answer.

    The client can also report the files that it has `sent` completely; then `wanted` may be empty.
    """
    with Inputs(json_body()) as given:
        sent = given.ids("sent", most=MOST_FILES_AT_ONCE)
        wanted = given.each("wanted", _read_wanted, least=0 if sent else 1, most=MOST_PARTS_AT_ONCE)
        sent_size = given.whole("sent_size", least=0, most=2**62, default=0)
    _check_wanted(wanted)
    signed = sending.sign_parts(transfer, wanted, sent_size, sent)
    parts = [
        {
            "file": str(file_id),
            "number": p.number,
            "size": p.size,
            "url": p.url,
            "headers": p.headers,
        }
        for file_id, p in signed
    ]
    return jsonify({"expires_in": settings.part_url_ttl_in_seconds, "parts": parts})


@bp.get("/<uuid:transfer_id>/parts")
@owner(Scope.READ)
def show_held_parts(transfer: Transfer) -> Response:
    """List the parts that storage holds of each file, to resume after an interruption."""
    with Inputs(query("after", whole=["limit"])) as given:
        after = given.uuid("after") if given.has("after") else None
        limit = given.whole("limit", least=1, most=MOST_FILES_AT_ONCE, default=MOST_FILES_AT_ONCE)
    page = sending.held_parts(transfer, after, limit)
    files = [
        {"id": str(one.file.id), "state": one.file.upload.state, "held": one.numbers}
        for one in page.held
    ]
    return jsonify({"files": files, "next": page.next and str(page.next)})


@bp.post("/<uuid:transfer_id>/complete")
@owner(Scope.WRITE)
def complete_transfer(transfer: Transfer) -> tuple[Response, int]:
    """Finalize: check and complete every file in the background, but one sent by PUT right now."""
    body = json_or_nothing()
    with Inputs({} if body is None else body) as given:
        tells = given.flag("tell_recipients")
    if staging.is_by_one_put(transfer):
        return shown(staging.complete(transfer)), 200
    return shown(batches.finalize(transfer, tells_recipients=tells)), 202


@bp.get("/<uuid:transfer_id>/requests")
@owner(Scope.READ)
def show_requests(transfer: Transfer) -> Response:
    """List the requests of recipients who came too late, newest first."""
    asked = extension_requests.of_transfer(transfer.id)
    return jsonify({"requests": [_request_json(one) for one in asked]})


def shown(transfer: Transfer, **more: Any) -> Response:
    """Answer with a transfer, and with the ETag that If-Match takes."""
    answer = jsonify(transfer_json(transfer) | more)
    answer.set_etag(editing.version_of(transfer))
    return answer


def transfer_json(transfer: Transfer) -> dict[str, Any]:
    """Represent a transfer for its owner."""
    files = transfers.files_of(transfer.id, with_coming=True)
    there = [file for file in files if not file.is_coming]
    first = there[0] if there else None
    return {
        "id": str(transfer.id),
        "slug": transfer.slug,
        "link": links.transfer_url(transfer.slug),
        "status": lifecycle.state_of(transfer),
        "problem": _problem_json(transfer.failure) if transfer.state is State.INIT else None,
        "batch": _batch_json(transfer),
        "title": transfer.title,
        "message": transfer.message,
        "expires_at": transfer.expires_at.isoformat(),
        "max_downloads": transfer.max_downloads,
        "download_count": transfer.download_count,
        "has_password": transfer.password_hash is not None,
        "is_blocked": transfer.quarantined_at is not None,
        "request_count": extension_requests.count(transfer.id),
        "sender_email": transfer.sender_email,
        "sender_confirmed": transfer.sender_confirmed_at is not None,
        "notifications": [kind for kind in delivery.TO_SENDER if kind not in transfer.muted],
        "recipients": [recipient_json(one) for one in _recipients(transfer)],
        "created_at": transfer.created_at.isoformat(),
        "uploaded_at": transfer.ready_at and transfer.ready_at.isoformat(),
        "filename": first and first.path,
        "file_type": first and first.content_type,
        "file_size": sum(file.size for file in there) if first else None,
        "total_size": sum(file.size for file in there),
        "files": [file_json(file) for file in files],
    }


def recipient_json(recipient: Recipient) -> dict[str, Any]:
    """Represent a recipient for the transfer's owner, without the recipient's link."""
    stamps = ("sent_at", "opened_at", "downloaded_at", "failed_at", "revoked_at")
    return {
        "id": str(recipient.id),
        "email": recipient.email,
        "state": delivery.state_of(recipient),
        **{name: (at := getattr(recipient, name)) and at.isoformat() for name in stamps},
        "failure": recipient.failure,
    }


def _recipients(transfer: Transfer) -> list[Recipient]:
    # Without a sender's address, as in most transfers, there are none: this saves a query.
    return delivery.recipients_of(transfer.id) if transfer.sender_email else []


def _batch_json(transfer: Transfer) -> dict[str, Any] | None:
    """Represent a READY transfer's batch, with the status of a transfer that is not READY yet."""
    batch = batches.find(transfer.id) if transfer.state is State.READY else None
    if batch is None:
        return None
    is_open = batch.closed_at is None
    return {
        "status": State.INIT if is_open else State.PROCESSING,
        "problem": _problem_json(batch.failure) if is_open else None,
        "created_at": batch.created_at.isoformat(),
    }


def _problem_json(failure: Failure | None) -> dict[str, str] | None:
    """Say why checking was given up; None while it is still being tried."""
    return None if failure is None else {"code": failure, "message": _FAILURES[failure]}


def _request_json(asked: ExtensionRequest) -> dict[str, Any]:
    return {
        "id": str(asked.id),
        "reason": asked.reason,
        "message": asked.message,
        "contact": asked.contact,
        "created_at": asked.created_at.isoformat(),
        "settled_at": asked.settled_at and asked.settled_at.isoformat(),
    }


def file_json(file: File) -> dict[str, Any]:
    """Represent a file for its owner, with size and number of its parts."""
    return {
        "id": str(file.id),
        "path": file.path,
        "size": file.size,
        "content_type": file.content_type,
        "method": file.upload.method,
        "part_size": file.upload.part_size,
        "part_count": planning.part_count(file.upload),
        "checksum_algorithm": file.upload.checksum_algorithm,
        "crc32": file.upload.crc32 and file.upload.crc32.hex(),
        "state": file.upload.state,
        "is_coming": file.is_coming,
        "problem": file.problem and {"code": file.problem, "message": _PROBLEMS[file.problem]},
    }


def _read_files(given: Inputs, least: int) -> list[FileSpec]:
    return given.each("files", _read_file, least=least, most=settings.max_files)


def _read_file(given: Inputs) -> FileSpec:
    return FileSpec(
        path=given.path("path"),
        size=given.whole("size", least=0, most=S3_MAX_OBJECT_SIZE),
        content_type=given.text("content_type", longest=255),
        checksum_algorithm=given.one_of("checksum_algorithm", Checksum),
        modified_at=given.instant("modified_at"),
    )


def _read_wanted(given: Inputs) -> Wanted:
    numbers = given.numbers("numbers", least=1, most=S3_MAX_PARTS, longest=MOST_PARTS_AT_ONCE)
    crc32s = given.digests("crc32", size=CRC32_SIZE, count=len(numbers))
    return Wanted(given.uuid("file"), numbers, crc32s)


def _check_wanted(wanted: list[Wanted]) -> None:
    if sum(len(one.numbers) for one in wanted) > MOST_PARTS_AT_ONCE:
        raise Invalid({"wanted": f"must name at most {MOST_PARTS_AT_ONCE} numbers in all"})
    if len({one.file_id for one in wanted}) != len(wanted):
        raise Invalid({"wanted": "must name each file once"})


def _read_mail(given: Inputs) -> dict[str, Any]:
    """Read the mail options; services/delivery.py validates their combinations."""
    return {
        "recipients": given.texts("recipients", longest=addresses.LONGEST, most=MOST_ADDRESSES),
        "sender_email": given.text("sender_email", longest=addresses.LONGEST) or None,
        "sender_token": given.text("sender_token", longest=1000) or None,
        "notifications": given.some_of("notifications", delivery.TO_SENDER),
    }


def _read_options(given: Inputs) -> dict[str, Any]:
    return {
        "title": given.text("title", longest=200).strip(),
        "message": given.text("message", longest=5000, lines=True).strip(),
        "expires_at": given.instant("expires_at"),
        "max_downloads": given.optional_whole("max_downloads", least=1, most=MOST_DOWNLOADS),
        "password": given.password(
            "password", shortest=passwords.SHORTEST, longest=passwords.LONGEST
        ),
    }
