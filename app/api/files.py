"""/files: small files, uploaded directly to storage by a form, for programs with a key."""

import uuid
from typing import Any

from flask import Blueprint, Response, jsonify

from app.api.auth import key
from app.api.bodies import filled, json_body, once
from app.config import S3_MAX_PART_SIZE, settings
from app.errors import NotFound
from app.inputs import LONGEST_NAME_BYTES, Inputs, bad_text
from app.models import Scope, SmallFile
from app.services import small_files
from app.services.accounts import Caller

bp = Blueprint("files", __name__, url_prefix="/files")

MOST_AT_ONCE = 100
USUAL_AT_ONCE = 50
MOST_DETAILS = 20
LONGEST_DETAIL = 500


@bp.post("/upload-url")
@key(Scope.WRITE)
def offer_form(caller: Caller) -> Response:
    """Return a presigned form to upload one file with, restricted to what is announced here."""
    with Inputs(json_body()) as given:
        name = given.name("filename", longest_bytes=LONGEST_NAME_BYTES)
        content_type = given.text("content_type", longest=255).strip() or None
        size = given.optional_whole("size", least=0, most=S3_MAX_PART_SIZE)
        details = given.pairs("metadata", longest=LONGEST_DETAIL, most=MOST_DETAILS)
    offered = small_files.offer(
        caller, name, content_type, size, details, once(caller.workspace_id)
    )
    return jsonify(
        {
            "url": offered.form.url,
            "key": _shown_key(offered.file),
            "fields": offered.form.fields,
            "expires_in": offered.expires_in,
            "max_size": offered.file.max_size,
        }
    )


@bp.post("/confirm/<path:file_key>")
@key(Scope.WRITE)
def confirm_file(caller: Caller, file_key: str) -> Response:
    """Confirm that the file has been uploaded, which keeps it and gives it an id; repeatable."""
    return jsonify(_file_json(small_files.confirm(caller, _whole_key(file_key))))


@bp.get("")
@key(Scope.READ)
def list_files(caller: Caller) -> Response:
    """List the workspace's files, newest first."""
    with Inputs(filled(whole=("limit", "offset"))) as given:
        limit = given.whole("limit", least=1, most=MOST_AT_ONCE, default=USUAL_AT_ONCE)
        offset = given.whole("offset", least=0, most=2**31 - 1, default=0)
    page = small_files.page(caller, limit, offset)
    items = [_file_json(file) for file in page.files]
    return jsonify(
        {"items": items, "limit": limit, "offset": offset, "total_count": page.total_count}
    )


@bp.get("/download/<uuid:file_id>")
@key(Scope.READ)
def show_download_url(caller: Caller, file_id: uuid.UUID) -> Response:
    """Return a presigned URL to download the file under its name, valid for some minutes."""
    url = small_files.download_url(caller, file_id)
    return jsonify({"download_url": url, "expires_in": settings.download_url_ttl_in_seconds})


@bp.delete("/<uuid:file_id>")
@key(Scope.WRITE)
def delete_file(caller: Caller, file_id: uuid.UUID) -> tuple[str, int]:
    """Delete the file; its bytes are removed in the background."""
    small_files.remove(caller, file_id)
    return "", 204


def _file_json(file: SmallFile) -> dict[str, Any]:
    return {
        "file_id": str(file.id),
        "key": _shown_key(file),
        "filename": file.name,
        "size": file.kept.size,
        "content_type": file.content_type,
        "metadata": file.details,
        "confirmed_at": file.confirmed_at and file.confirmed_at.isoformat(),
    }


def _shown_key(file: SmallFile) -> str:
    """Return the key without our prefix in the bucket, which clients need not know.

    The form's fields contain the full key.
    """
    return file.key.removeprefix(settings.s3_prefix)


def _whole_key(given: str) -> str:
    """Return the full key for one with or without our prefix; raises NotFound for invalid text."""
    if bad_text(given):  # PostgreSQL refuses NUL even in a query
        raise NotFound
    return settings.s3_prefix + given.removeprefix(settings.s3_prefix)
