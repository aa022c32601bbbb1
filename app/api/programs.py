"""The part of /transfers that only scripts use: lists, upload by one PUT, download URLs, sharing.

Names, codes and the order of checks follow a documented flow that existing scripts rely on.
"""

import re
from typing import Any

from flask import Blueprint, Response, jsonify, request

from app import addresses
from app.api.auth import Asking, key, owner_asking
from app.api.bodies import filled, json_body, once, query
from app.api.transfers import MOST_ADDRESSES
from app.config import S3_MAX_OBJECT_SIZE
from app.errors import Invalid, MethodNotAllowed
from app.inputs import Inputs
from app.models import Scope, State
from app.services import listings, program_access, staging, upkeep
from app.services.accounts import Caller
from app.services.listings import Listed, Order, SortBy, Wish

bp = Blueprint("programs", __name__)

MOST_AT_ONCE = 100
USUAL_AT_ONCE = 50
MOST_OFFSET = 2**31 - 1
# The default lifetime of a download URL.
USUAL_MINUTES = 5
MOST_MINUTES = 7 * 24 * 60


# -- for a workspace's keys ----------------------------------------------------------------------


@bp.get("/transfers")
@key(Scope.READ)
def list_transfers(caller: Caller) -> Response:
    """List the transfers made with the workspace's keys, with pagination."""
    wish = _read_wish()
    page = listings.of_workspace(caller, wish)
    return jsonify(
        {
            "items": [_listed_json(one) for one in page.items],
            "limit": wish.limit,
            "offset": wish.offset,
            "total_count": page.total_count,
        }
    )


@bp.delete("/trigger-delete")
@key(Scope.ADMIN)
def trigger_sweeps(caller: Caller) -> Response:
    """Run the sweeps that expire transfers and delete what is due now, not at their next time."""
    upkeep.trigger()
    return jsonify({"message": "cleanup triggered"})


# -- one file by one PUT -------------------------------------------------------------------------


@bp.post("/transfers/<uuid:transfer_id>/upload-url")
@owner_asking(Scope.WRITE)
def show_upload_url(asking: Asking) -> Response:
    """Return a presigned URL to PUT the transfer's only file to; it replaces any earlier one."""
    filename, content_type, size = _read_announced()
    url, object_key = staging.upload_url(asking.transfer(), filename, content_type, size)
    return jsonify({"upload_url": url, "object_key": object_key, "expires_in": staging.URL_SECONDS})


# -- downloads and sharing -----------------------------------------------------------------------


@bp.get("/transfers/<uuid:transfer_id>/download-url")
@owner_asking(Scope.READ)
def show_download_url(asking: Asking) -> Response:
    """Return a presigned download URL; each call counts as a download."""
    transfer = asking.transfer()
    if request.method == "HEAD":  # Flask would run this route, and count a download
        raise MethodNotAllowed(allow="GET")
    with Inputs(query("file")) as given:
        file_id = given.uuid("file") if given.has("file") else None
    url = program_access.download_url(transfer, file_id, _read_minutes(), asking.caller)
    return jsonify({"download_url": url})


@bp.post("/transfers/<uuid:transfer_id>/share-download")
@owner_asking(Scope.WRITE)
def share_download(asking: Asking) -> tuple[Response, int]:
    """Mail the transfer to these addresses too."""
    with Inputs(json_body()) as given:
        emails = given.texts("emails", longest=addresses.LONGEST, most=MOST_ADDRESSES)
    emails = program_access.checked_addresses(emails)
    transfer = asking.transfer()
    program_access.share(transfer, emails, once(transfer.id), asking.caller)
    return jsonify({"status": "accepted"}), 202


# -- reading -------------------------------------------------------------------------------------


def _read_announced() -> tuple[str, str, int | None]:
    """Read the file's name, and its type ("" if not given) and size (None if not given)."""
    try:
        with Inputs(json_body()) as given:
            filename = given.path("filename")
            content_type = given.text("content_type", longest=255).strip()
            size = given.optional_whole("file_size", least=0, most=S3_MAX_OBJECT_SIZE)
    except Invalid as error:
        raise _named(error) from error
    if "/" in filename or ".." in filename:
        raise _named(Invalid({"filename": "must be a name, without / and .."}))
    if not content_type.isascii():  # it becomes a header
        raise Invalid({"content_type": "must be ASCII"})
    return filename, content_type, size


def _named(error: Invalid) -> Invalid:
    return Invalid(error.fields, "invalid filename") if "filename" in error.fields else error


def _read_wish() -> Wish:
    asked = filled("status", "sort_by", "order", whole=("limit", "offset"))
    if "order" in asked:
        asked["order"] = asked["order"].upper()
    with Inputs(asked) as given:
        return Wish(
            status=given.one_of("status", State),
            sort_by=given.one_of("sort_by", SortBy) or SortBy.CREATED_AT,
            order=given.one_of("order", Order) or Order.DESC,
            limit=given.whole("limit", least=1, most=MOST_AT_ONCE, default=USUAL_AT_ONCE),
            offset=given.whole("offset", least=0, most=MOST_OFFSET, default=0),
        )


def _read_minutes() -> int:
    """Read `expiry_minutes`; anything but 1 to MOST_MINUTES is the default, as scripts expect."""
    said = request.args.get("expiry_minutes", "")
    minutes = int(said) if re.fullmatch(r"[0-9]{1,6}", said) else 0
    return minutes if 1 <= minutes <= MOST_MINUTES else USUAL_MINUTES


# -- showing -------------------------------------------------------------------------------------


def _listed_json(one: Listed) -> dict[str, Any]:
    row = one.transfer
    return {
        "id": str(row.id),
        "slug": row.slug,
        "status": one.status,
        "title": row.title,
        "expires_at": row.expires_at.isoformat(),
        "download_count": row.download_count,
        "max_downloads": row.max_downloads,
        "created_at": row.created_at.isoformat(),
        "filename": one.filename,
        "file_type": one.content_type,
        "file_size": None if one.filename is None else row.total_size,
        "uploaded_at": row.ready_at and row.ready_at.isoformat(),
    }
