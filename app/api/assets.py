"""/s3: a workspace's assets, and the companion endpoints that Uppy's S3 client uses.

Names, codes and shapes are those that existing clients expect; the work is done by the same
services as everywhere. Bytes go directly to storage and come from there, except for one route that
is off by default: a small form.
"""

import re
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app.api.auth import Route, key, uploader
from app.api.bodies import filled, is_seen, json_body, json_or_nothing, once
from app.config import KIB, S3_MAX_OBJECT_SIZE, S3_MAX_PARTS, settings
from app.errors import (
    AppError,
    Invalid,
    MethodNotAllowed,
    NotAllowed,
    NotFound,
    PartsMissing,
    SizeMismatch,
    Unavailable,
)
from app.extensions import storage
from app.inputs import Inputs
from app.models import AssetVersion, Scope
from app.problems import speaks
from app.request_guards import creates_limit, limiter
from app.services import asset_search, asset_uploads, assets, bucket_rules, upload_sessions
from app.services.accounts import Caller
from app.services.asset_search import Wanted
from app.services.asset_uploads import UNTYPED, AssetSpec
from app.services.assets import NamedPart

bp = Blueprint("assets", __name__, url_prefix="/s3")
form_bp = Blueprint("asset_form", __name__, url_prefix="/api/assets")

LONGEST_NAME = 255
LONGEST_TYPE = 255
LONGEST_TAG = 100
MOST_TAGS = 50
# For S3 keys, and for the upload ids of any store.
LONGEST_KEY = 1024
MOST_AT_ONCE = 1000
MOST_FOUND = 100
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html
LONGEST_DOWNLOAD = 7 * 24 * 3600
SESSION_SECONDS = 3600
LONGEST_SESSION = 24 * 3600
# Room for a form's other fields and its boundaries.
FORM_OVERHEAD = 64 * KIB
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+( *;[\x20-\x7e]*)?", re.ASCII)
_IN_SESSION = "/as/<session>/s3"
_REQUIRED = "is required"


@speaks("/s3")
@speaks("/api/assets")
def problem(error: AppError) -> Response:
    """Answer `{"error", "code"}`, and the sentence again as `message`, where Uppy looks for it."""
    return jsonify({"error": error.title, "message": error.title, "code": _code(error)})


def _code(error: AppError) -> str:
    if isinstance(error, Invalid):
        # Only the first complaint is reported: the others may follow from it.
        is_missing = next(iter(error.fields.values()), None) == _REQUIRED
        return "MISSING_PARAMETER" if is_missing else "INVALID_PARAMETER"
    if isinstance(error, PartsMissing | SizeMismatch):
        return "UPLOAD_FAILED"
    if isinstance(error, NotFound) and error.title == assets.NO_UPLOAD:
        return "INVALID_UPLOAD_ID"
    if isinstance(error, Unavailable) and error.title != Unavailable.title:
        return "S3_ERROR"
    return error.code.upper()


# -- the asset service ---------------------------------------------------------------------------


@bp.get("/start-upload")
@key(Scope.WRITE)
def start_upload(caller: Caller) -> Response:
    """Announce an asset, or with `assetId` a new version of one."""
    _refuse_head()
    with _asked("workspaceId", "fileType", "fileName", "tags", "assetId", whole=["fileSize"]) as q:
        _check_workspace(caller, q)
        spec = AssetSpec(
            content_type=_type(q, "fileType"),
            name=q.text("fileName", longest=LONGEST_NAME),
            size=q.optional_whole("fileSize", least=0, most=S3_MAX_OBJECT_SIZE),
            tags=_tags(q.text("tags", longest=MOST_TAGS * LONGEST_TAG)),
            asset_id=q.uuid("assetId") if q.has("assetId") else None,
        )
    version = asset_uploads.begin(caller, spec)
    shown = {"uploadId": version.upload.s3_upload_id, "assetId": str(version.asset_id)}
    return jsonify({**shown, "key": version.upload.key})


@bp.get("/get-upload-url")
@key(Scope.WRITE)
def show_upload_url(caller: Caller) -> Response:
    """Return a presigned URL to PUT one part to."""
    with _asked("UploadId", "assetId", "workspaceId", whole=["PartNumber"]) as q:
        _check_workspace(caller, q)
        q.needed("PartNumber")
        number = q.whole("PartNumber", least=1, most=S3_MAX_PARTS)
        upload_id, asset_id = q.needed_text("UploadId", longest=LONGEST_KEY), _needed_id(q)
    url = assets.sign_parts(caller, upload_id, [number], asset_id=asset_id)[number]
    return jsonify({"url": url, "expiresIn": settings.part_url_ttl_in_seconds})


@bp.post("/complete-upload")
@key(Scope.WRITE)
def complete_upload(caller: Caller) -> Response:
    """Complete the upload with the parts that were sent; repeatable."""
    body = json_body()
    version = _named_upload(caller, body)
    assets.complete(version, _parts(body))
    shown = {"success": True, "location": storage.urls.plain(version.upload.key)}
    return jsonify({**shown, "key": version.upload.key, "etag": version.upload.etag})


@bp.post("/abort-upload")
@key(Scope.WRITE)
def abort_upload(caller: Caller) -> Response:
    """Abort the upload."""
    assets.abort(_named_upload(caller, json_body()))
    return jsonify({"success": True})


@bp.get("/download-url")
@key(Scope.READ)
def show_download_url(caller: Caller) -> Response:
    """Return a presigned download URL of the asset, or of one `version`, under its name."""
    with _asked("workspaceId", "assetId", whole=["expiresIn", "version"]) as q:
        _check_workspace(caller, q)
        asset_id = _needed_id(q)
        ttl = q.whole(
            "expiresIn",
            least=1,
            most=LONGEST_DOWNLOAD,
            default=settings.download_url_ttl_in_seconds,
        )
        number = q.optional_whole("version", least=1, most=2**31 - 1)
    if caller.email is not None:
        # As with transfers: the URL works even if its owner may not send any more meanwhile.
        ttl = min(ttl, settings.download_url_ttl_in_seconds)
    url = assets.download_url(assets.by_id(caller, asset_id, number), ttl)
    return jsonify({"url": url, "expiresIn": ttl})


@bp.get("/download")
@key(Scope.READ)
def download(caller: Caller) -> AnyResponse:
    """Redirect to the file in storage, which is sent under its name."""
    with _asked("key", "workspaceId") as q:
        _check_workspace(caller, q)
        wanted = q.needed_text("key", longest=LONGEST_KEY)
    version = assets.by_key(caller, wanted)
    return redirect(assets.download_url(version, settings.download_url_ttl_in_seconds))


@bp.delete("/delete")
@key(Scope.WRITE)
def delete_asset(caller: Caller) -> Response:
    """Delete the asset with all its versions and their thumbnails."""
    with _asked("key", "assetId", "workspaceId") as q:
        _check_workspace(caller, q)
        by_id = q.has("assetId")
        asset_id = _needed_id(q) if by_id else None
        wanted = None if by_id else q.needed_text("key", longest=LONGEST_KEY)
    assets.remove(caller, asset_id or assets.by_key(caller, wanted or "").asset_id)
    return jsonify({"success": True})


@bp.get("/assets")
@key(Scope.READ)
def list_assets(caller: Caller) -> Response:
    """Search the workspace's assets, newest first."""
    words = ("workspaceId", "q", "type", "tag", "from", "to")
    with _asked(*words, whole=["limit", "offset"]) as q:
        _check_workspace(caller, q)
        wanted = Wanted(
            text=q.text("q", longest=LONGEST_NAME),
            content_type=q.text("type", longest=LONGEST_TYPE),
            tag=q.text("tag", longest=LONGEST_TAG),
            since=q.instant("from"),
            until=q.instant("to"),
        )
        limit = q.whole("limit", least=1, most=MOST_FOUND, default=50)
        offset = q.whole("offset", least=0, most=2**31 - 1, default=0)
    found = asset_search.search(caller, wanted, limit=limit, offset=offset)
    page = {"limit": limit, "offset": offset, "total_count": found.total_count}
    return jsonify({"items": [_asset_json(one) for one in found.versions], **page})


@bp.get("/assets/<asset_id>")
@key(Scope.READ)
def show_asset(caller: Caller, asset_id: str) -> Response:
    """Return one asset with its versions."""
    _check_named_workspace(caller)
    version = assets.by_id(caller, _id(asset_id))
    if not assets.confirm(version):
        raise NotFound(assets.NO_ASSET)
    return _shown(assets.by_id(caller, version.asset_id))


@bp.patch("/assets/<asset_id>")
@key(Scope.WRITE)
def edit_asset(caller: Caller, asset_id: str) -> Response:
    """Change the name or the tags; with If-Match, only if they have not changed since."""
    _check_named_workspace(caller)
    body = json_body()
    with Inputs(body) as given:
        name = given.needed_text("name", longest=LONGEST_NAME) if given.has("name") else None
        tags = given.texts("tags", longest=LONGEST_TAG, most=MOST_TAGS)
        has_tags = given.has("tags")
    edited = assets.edit(
        caller,
        _id(asset_id),
        name=name,
        tags=tuple(dict.fromkeys(tags)) if has_tags else None,
        is_seen=is_seen(),
    )
    return _shown(edited)


# -- the bucket, and sessions for uploads from a page --------------------------------------------


@bp.get("/getBucketConfig")
@key(Scope.ADMIN)
def show_bucket_config(caller: Caller) -> Response:
    """Return the bucket's CORS rules."""
    return jsonify({"CORSRules": bucket_rules.read()})


@bp.post("/updateBucketConfig")
@key(Scope.ADMIN)
def update_bucket_config(caller: Caller) -> Response:
    """Replace the CORS rules other than the one that our own pages need."""
    body = json_body()
    with Inputs(body) as given:
        # A missing or misspelt field must not be taken for an empty list, which removes rules.
        given.needed("CORSRules")
    bucket_rules.write(body["CORSRules"])
    return jsonify({"success": True})


@bp.get("/workspace")
@key(Scope.READ)
def show_workspace(caller: Caller) -> Response:
    """Return the id of the key's workspace, which other calls take as `workspaceId`."""
    return jsonify({"workspaceId": str(caller.workspace_id)})


@bp.post("/sessions")
@key(Scope.WRITE)
def open_session(caller: Caller) -> tuple[Response, int]:
    """Create a URL with which a page can upload into the workspace, for a while, without a key."""
    body = json_or_nothing()
    with Inputs({} if body is None else body) as given:
        ttl = given.whole("expiresIn", least=60, most=LONGEST_SESSION, default=SESSION_SECONDS)
    word = upload_sessions.open_session(caller, ttl)
    shown = {"workspaceId": str(caller.workspace_id), "expiresIn": ttl}
    return jsonify({"url": f"{settings.base_url}/s3/as/{word}", **shown}), 201


# -- Uppy's companion ----------------------------------------------------------------------------


def _companion(method: str, rule: str) -> Callable[[Route], Route]:
    """Register a route twice: for callers with a key, and below a session's URL."""

    def register(route: Route) -> Route:
        bp.add_url_rule(rule, route.__name__, route, methods=[method])
        within = f"{route.__name__}_in_session"
        bp.add_url_rule(f"{_IN_SESSION}{rule}", within, route, methods=[method])
        return route

    return register


def _is_with_key() -> bool:
    return "session" not in (request.view_args or {})


# Limits the uploads made with a session; programs with a key are counted by the key.
_limit_pages = limiter.shared_limit(creates_limit, scope="pages", exempt_when=_is_with_key)


@_companion("GET", "/params")
@_limit_pages
@uploader
def show_params(caller: Caller) -> Response:
    """Return a presigned form to upload a small file with in one POST."""
    _refuse_head()
    given = request.args
    metadata = {k[9:-1]: v for k, v in given.items() if re.fullmatch(r"metadata\[.*\]", k)}
    spec = _uppy_spec(given.get("filename"), given.get("type"), metadata)
    _, form = asset_uploads.begin_posted(caller, spec)
    # Uppy appends the key to this URL, to form the object's location.
    shown = {"url": f"{form.url.rstrip('/')}/", "fields": form.fields}
    return jsonify({"method": "POST", **shown, "expires": settings.part_url_ttl_in_seconds})


@_companion("POST", "/multipart")
@_limit_pages
@uploader
def create_multipart(caller: Caller) -> Response:
    """Start a multipart upload."""
    body = _body(json_body())
    spec = _uppy_spec(body.get("filename"), body.get("type"), body.get("metadata"))
    upload = asset_uploads.begin(caller, spec, once(caller.workspace_id)).upload
    shown = {"key": upload.key, "uploadId": upload.s3_upload_id}
    return jsonify({**shown, "bucket": storage.bucket})


@_companion("GET", "/multipart/<upload_id>/<int:number>")
@uploader
def sign_part(caller: Caller, upload_id: str, number: int) -> Response:
    """Return a presigned URL to PUT one part to."""
    url = assets.sign_parts(caller, upload_id, [number], key=_key_of(upload_id))[number]
    return jsonify({"url": url, "expires": settings.part_url_ttl_in_seconds})


@_companion("GET", "/multipart/<upload_id>/batch")
@uploader
def sign_parts(caller: Caller, upload_id: str) -> Response:
    """Return a presigned URL for each of several parts."""
    numbers = _numbers(request.args.get("partNumbers", ""))
    signed = assets.sign_parts(caller, upload_id, numbers, key=_key_of(upload_id))
    return jsonify({"presignedUrls": {str(number): url for number, url in signed.items()}})


@_companion("GET", "/multipart/<upload_id>")
@uploader
def list_parts(caller: Caller, upload_id: str) -> Response:
    """List the parts that storage holds, which need not be sent again."""
    parts = assets.held_parts(_with_key(caller, upload_id))
    return jsonify([{"PartNumber": p.number, "ETag": p.etag, "Size": p.size} for p in parts])


@_companion("POST", "/multipart/<upload_id>/complete")
@uploader
def complete_multipart(caller: Caller, upload_id: str) -> Response:
    """Complete the upload with the parts that were sent; repeatable."""
    version = _with_key(caller, upload_id)
    assets.complete(version, _parts(json_body()))
    shown = {"location": storage.urls.plain(version.upload.key), "key": version.upload.key}
    return jsonify({**shown, "bucket": storage.bucket})


@_companion("DELETE", "/multipart/<upload_id>")
@uploader
def abort_multipart(caller: Caller, upload_id: str) -> Response:
    """Abort the upload."""
    assets.abort(_with_key(caller, upload_id))
    return jsonify({})


@bp.after_app_request
def _answer_other_origins(answer: Response) -> Response:
    """Add CORS headers for any origin below a session's URL.

    The URL is the only credential there, and cookies are ignored, so no origin need be excluded.
    """
    if request.path.startswith("/s3/as/"):
        answer.headers["Access-Control-Allow-Origin"] = "*"
        if request.method == "OPTIONS":
            answer.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
            answer.headers["Access-Control-Allow-Headers"] = "*"
            answer.headers["Access-Control-Max-Age"] = "3600"
    return answer


# -- a small form --------------------------------------------------------------------------------


@form_bp.post("/upload")
@key(Scope.WRITE)
def upload_form(caller: Caller) -> tuple[Response, int]:
    """Upload a small file through this process, if the installation allows that."""
    most = settings.max_asset_form_size
    if most == 0:
        raise NotAllowed(
            "Forms are not taken here. Send straight to storage: /s3/params or /files."
        )
    request.max_content_length = most + FORM_OVERHEAD
    file = request.files.get("file")
    names = ("workspaceId", "name", "tags", "assetId")
    said = {one: request.form[one] for one in names if one in request.form}
    # Without a name of its own it has that of the file, which a client can choose just as freely.
    with Inputs({"name": file and file.filename} | said) as given:
        _check_workspace(caller, given)
        if file is None:
            given.complain("file", _REQUIRED)
        name = given.text("name", longest=LONGEST_NAME)
        tags = _tags(given.text("tags", longest=MOST_TAGS * LONGEST_TAG))
        asset_id = given.uuid("assetId") if given.has("assetId") else None
    body = file.read(most + 1) if file else b""
    if len(body) > most:
        raise Invalid({"file": f"must be at most {most} bytes"})
    kind = _known_type(file.content_type if file else "")
    spec = AssetSpec(kind, name, len(body), tags, asset_id)
    # Not the raw body: a form that is sent again has a different multipart boundary.
    same = once(caller.workspace_id, repr(spec).encode() + body)
    version = asset_uploads.take(caller, spec, body, same)
    return jsonify(_asset_json(assets.by_id(caller, version.asset_id))), 201


# -- reading -------------------------------------------------------------------------------------


def _refuse_head() -> None:
    """Refuse HEAD where GET creates something, because Flask would run the same route for it."""
    if request.method == "HEAD":
        raise MethodNotAllowed(allow="GET")


def _asked(*names: str, whole: Collection[str] = ()) -> Inputs:
    """Read these fields of the query string that are filled in."""
    return Inputs(filled(*names, whole=whole))


def _check_workspace(caller: Caller, given: Inputs) -> None:
    """Raise NotAllowed unless `workspaceId` is the key's; if it is missing, complain of that."""
    said = given.needed_text("workspaceId", longest=100)
    if said and said.lower() != str(caller.workspace_id):
        raise NotAllowed("This key is not of that workspace.")


def _check_named_workspace(caller: Caller) -> None:
    """Check `workspaceId` if it is given: an asset that is found by its id does not need it."""
    if "workspaceId" in request.args:
        with _asked("workspaceId") as q:
            _check_workspace(caller, q)


def _needed_id(given: Inputs) -> uuid.UUID:
    given.needed("assetId")
    return given.uuid("assetId")


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise NotFound(assets.NO_ASSET) from error


def _body(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Invalid({"body": "must be an object"})
    return given


def _named_upload(caller: Caller, body: Any) -> AssetVersion:
    names = ("uploadId", "assetId", "workspaceId")
    with Inputs({one: body[one] for one in names if one in _body(body)}) as given:
        _check_workspace(caller, given)
        upload_id = given.needed_text("uploadId", longest=LONGEST_KEY)
        asset_id = _needed_id(given)
    return assets.upload_of(caller, upload_id, asset_id=asset_id)


def _with_key(caller: Caller, upload_id: str) -> AssetVersion:
    return assets.upload_of(caller, upload_id, key=_key_of(upload_id))


def _key_of(upload_id: str) -> str:
    """Read the object key given for this upload; raises NotFound for an impossible upload id."""
    with _asked("key") as q:
        given = q.needed_text("key", longest=LONGEST_KEY)
    if "\0" in upload_id:
        raise NotFound(assets.NO_UPLOAD)
    return given


def _parts(body: Any) -> list[NamedPart]:
    """Read each part's number and ETag, ignoring any other fields; raises Invalid."""
    given = _body(body).get("parts")
    if given is None:
        raise Invalid({"parts": _REQUIRED})
    if not isinstance(given, list) or not 1 <= len(given) <= S3_MAX_PARTS:
        raise Invalid({"parts": f"must be a list of 1 to {S3_MAX_PARTS}"})
    read: dict[int, NamedPart] = {}
    for index, one in enumerate(given):
        known = {k: one.get(k) for k in ("PartNumber", "ETag")} if isinstance(one, dict) else one
        with Inputs(known, f"parts.{index}.") as part:
            number = part.whole("PartNumber", least=1, most=S3_MAX_PARTS)
            read[number] = NamedPart(number, part.needed_text("ETag", longest=200))
    if len(read) != len(given):
        raise Invalid({"parts": "must not repeat a number"})
    return list(read.values())


def _numbers(text: str) -> list[int]:
    pieces = text.split(",")
    if len(pieces) > MOST_AT_ONCE:
        raise Invalid({"partNumbers": f"must be at most {MOST_AT_ONCE}"})
    if not all(re.fullmatch(r"[0-9]{1,6}", one) for one in pieces):
        raise Invalid({"partNumbers": "must be part numbers"})
    return [int(one) for one in pieces]


def _type(given: Inputs, name: str) -> str:
    said = given.needed_text(name, longest=LONGEST_TYPE)
    if said and not _TYPE.fullmatch(said):
        given.complain(name, "must be a media type such as image/png")
    return said


def _known_type(said: Any) -> str:
    """Return a media type sent by a browser, or UNTYPED: it may be "", and worse from Uppy."""
    is_one = isinstance(said, str) and len(said) <= LONGEST_TYPE and _TYPE.fullmatch(said)
    return said if is_one else UNTYPED


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if len(tags) > MOST_TAGS or any(len(one) > LONGEST_TAG for one in tags):
        raise Invalid({"tags": f"must be at most {MOST_TAGS} of {LONGEST_TAG} characters"})
    return tags


def _uppy_spec(filename: Any, kind: Any, metadata: Any) -> AssetSpec:
    """Read Uppy's description of a file, and those of its metadata that we know."""
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise Invalid({"metadata": "must be an object"})
    given = {k: v for k, v in metadata.items() if k in ("tags", "assetId", "fileSize")}
    if "assetId" in given and not _is_with_key():
        # A page knows the ids of what was uploaded with it, and could replace these files.
        raise NotAllowed("A page only adds assets. Another version of one is sent with a key.")
    if isinstance(size := given.get("fileSize"), str) and size.isascii() and size.isdecimal():
        given["fileSize"] = int(size) if len(size) < 20 else size
    with Inputs({"filename": filename, **given}) as q:
        return AssetSpec(
            content_type=_known_type(kind),
            name=q.text("filename", longest=LONGEST_NAME),
            size=q.optional_whole("fileSize", least=0, most=S3_MAX_OBJECT_SIZE),
            tags=_tags(q.text("tags", longest=MOST_TAGS * LONGEST_TAG)),
            asset_id=q.uuid("assetId") if q.has("assetId") else None,
        )


# -- showing -------------------------------------------------------------------------------------


def _asset_json(version: AssetVersion) -> dict[str, Any]:
    asset = version.asset
    return {
        "assetId": str(asset.id),
        "workspaceId": str(asset.workspace_id),
        "name": asset.name,
        "tags": asset.tags,
        "thumbnailUrl": assets.thumbnail_url(version),
        "createdAt": _instant(asset.created_at),
        "updatedAt": _instant(asset.updated_at),
        **_version_json(version),
    }


def _shown(version: AssetVersion) -> Response:
    """Answer with an asset and its versions, and with the ETag that If-Match takes."""
    versions = [_version_json(one) for one in assets.versions_of(version.asset_id)]
    answer = jsonify({**_asset_json(version), "versions": versions})
    answer.set_etag(assets.edit_mark(version.asset))
    return answer


def _version_json(version: AssetVersion) -> dict[str, Any]:
    upload = version.upload
    return {
        "version": version.number,
        "key": upload.key,
        "fileType": version.content_type,
        "size": upload.size,
        "etag": upload.etag,
    }


def _instant(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
