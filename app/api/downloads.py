"""/d/<slug>.json and .sfv: a link's contents, for programs. Does not count as a download."""

from collections import Counter
from typing import Any

from flask import Blueprint, Response, jsonify, session

from app import links
from app.api.auth import anyone
from app.dispositions import name_by_curl, safe_name
from app.models import File
from app.password_cookies import proof_of
from app.request_guards import limit_unknown
from app.services import transfer_view
from app.services.transfer_view import TransferView

bp = Blueprint("downloads", __name__, url_prefix="/d")
limit_unknown(bp)


@bp.get("/<slug:slug>.json")
@anyone
def show_link(slug: str) -> Response:
    """Return what the recipient's page shows."""
    view = transfer_view.open_view(slug, session.get("visitor"), proof_of(slug))
    return jsonify(
        {
            "link": view.link,
            "state": view.state,
            "title": view.title,
            "message": view.message,
            "expires_at": view.expires_at.isoformat(),
            "downloads_left": view.downloads_left,
            "total_size": view.total_size,
            "zip": _zip_json(view),
            "files": [_file_json(slug, file) for file in view.files],
        }
    )


@bp.get("/<slug:slug>.sfv")
@anyone
def show_checksums(slug: str) -> Response:
    """Return the checksums that storage verified, in the format of `cksfv -f` and `rhash -c`."""
    view = transfer_view.open_view(slug, session.get("visitor"), proof_of(slug))
    return Response(_sfv(view), mimetype="text/plain")


def _zip_json(view: TransferView) -> dict[str, Any] | None:
    if not view.has_zip:
        return None
    made = view.zip
    return {
        "url": links.zip_url(view.slug),
        "state": made.state if made else "none",
        "size": made.size if made else None,
        "done_size": made.done_size if made else 0,
    }


def _file_json(slug: str, file: File) -> dict[str, Any]:
    return {
        "id": str(file.id),
        "path": file.path,
        "size": file.size,
        "content_type": file.content_type,
        "crc32": _crc32(file),
        "state": file.upload.state,
        "download_url": links.file_url(slug, file.id),
    }


def _crc32(file: File) -> str | None:
    return file.upload.crc32.hex() if file.upload.crc32 else None


def _sfv(view: TransferView) -> str:
    """Write a line for each file with a checksum, and a comment for each without."""
    names = _saved_names(view.files)
    lines = [f"; {view.link}", "; CRC32 finds accidents, not forgeries."]
    for file in view.files:
        crc32, name = _crc32(file), names[file.path]
        lines.append(f"{name} {crc32.upper()}" if crc32 else f"; no checksum is known of: {name}")
    return "\n".join([*lines, ""])


def _saved_names(files: Any) -> dict[str, str]:
    """Map paths to the names that `curl -J` saves files under, or to full paths if these clash.

    Files whose names clash are downloaded by the zip or `beeline get`, which keep folders.
    """
    counts = Counter(name_by_curl(file.name) for file in files)
    saved = {}
    for file in files:
        name = name_by_curl(file.name)
        if counts[name] > 1:
            name = "/".join(safe_name(piece) for piece in file.path.split("/"))
        # A line that begins with such a character would be a comment.
        saved[file.path] = f"./{name}" if name[0] in ";#" else name
    return saved
