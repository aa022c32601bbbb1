"""/v2: a compatible implementation of WeTransfer's Transfer API v2, for programs written for it.

Names, status codes and messages are WeTransfer's, because its clients compare them literally; the
work is done by the same services as everywhere.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify

from app import lifecycle, links
from app.api.auth import key, member
from app.api.bodies import idempotency_key, json_or_nothing, once
from app.config import MIB, S3_MAX_PARTS, settings
from app.errors import (
    AppError,
    Invalid,
    MethodNotAllowed,
    NotFound,
    PartsMissing,
    SizeMismatch,
    TooMany,
    TooManyWrongKeys,
    TransferExpired,
    Unauthorized,
    WrongType,
)
from app.inputs import bad_text, whole_of
from app.models import Board, BoardItem, File, Scope, State, Transfer
from app.problems import speaks
from app.services import accounts, boards, checking, delivery, planning, sending, transfers
from app.services.accounts import Caller
from app.services.boards import LinkSpec
from app.services.contents import FileSpec
from app.services.idempotency import Once

bp = Blueprint("wetransfer", __name__, url_prefix="/v2")

TRANSFER_CHUNK_SIZE = 5 * MIB
BOARD_CHUNK_SIZE = 6 * MIB
# The JavaScript client cannot send larger chunks.
LARGEST_CHUNK_SIZE = 10 * MIB
LARGEST_FILE_SIZE = S3_MAX_PARTS * LARGEST_CHUNK_SIZE
# Each is a transfer of its own, which takes some milliseconds to create.
MOST_BOARD_FILES_AT_ONCE = 500
MOST_NUMBERS_TOLD = 100
LONGEST_NAME = 255
LONGEST_MESSAGE = 5000
LONGEST_URL = 2000
LONGEST_TITLE = 2980

_STATES = {
    State.INIT: "uploading",
    State.PROCESSING: "processing",
    State.READY: "downloadable",
    State.EXPIRED: "expired",
}
# The messages for errors that have no more specific one.
_SENTENCES: dict[type[AppError], str] = {
    NotFound: "Resource not found",
    MethodNotAllowed: "The HTTP method or resources may not be supported.",
    Unauthorized: "Forbidden: invalid API Key",
    TooManyWrongKeys: "Forbidden: invalid API Key",
    TooMany: "Limit Exceeded Exception",
    WrongType: "Send this as application/json",
}
_STATUSES: dict[type[AppError], int] = {
    Unauthorized: 403,
    # Its clients retry a 429 forever, and a wrong key stays wrong.
    TooManyWrongKeys: 403,
    PartsMissing: 417,
    SizeMismatch: 400,
}


@speaks("/v2")
def problem(error: AppError) -> tuple[Response, int]:
    """Answer `{"success": false, "message"}`, with the status codes that its clients know."""
    message = error.title
    if message in (type(error).title, accounts.NO_KEY):
        message = _SENTENCES.get(type(error), message)
    if message == accounts.NO_TOKEN:
        message = "Forbidden: invalid or expired token"
    if isinstance(error, PartsMissing) and (missing := error.details.get("missing")):
        message = f"Chunks {_listed(missing)} are still missing"
    if isinstance(error, SizeMismatch):
        message = "Expected {found} to be {expected}".format(**error.details)
    body = jsonify({"success": False, "message": message})
    return body, _STATUSES.get(type(error), error.status)


def _listed(numbers: Sequence[int]) -> str:
    more = len(numbers) - MOST_NUMBERS_TOLD
    told = ", ".join(map(str, numbers[:MOST_NUMBERS_TOLD]))
    return f"{told} and {more} more" if more > 0 else told


# -- authentication ------------------------------------------------------------------------------


@bp.post("/authorize")
@key(Scope.READ)
def authorize(caller: Caller) -> Response:
    """Return a token for the key, and for one of that program's own users if it names one."""
    given = json_or_nothing()
    if given is not None and not isinstance(given, dict):
        raise _invalid("body", "must be an object")
    user = (given or {}).get("user_identifier")
    if user is not None:
        user = _text("user_identifier", user, longest=LONGEST_NAME)
    return jsonify({"success": True, "token": accounts.issue_token(caller, user)})


# -- transfers -----------------------------------------------------------------------------------


@bp.post("/transfers")
@member(Scope.WRITE)
def create_transfer(caller: Caller) -> tuple[Response, int]:
    """Create a transfer; the answer has the chunk size and chunk count of each file."""
    given = _object("transfer", json_or_nothing())
    message = _text(
        "transfer.message", given.get("message", ""), LONGEST_MESSAGE, may_be_empty=True
    )
    specs = _read_transfer_files(given.get("files", []))
    key = idempotency_key()
    made = delivery.create(specs, {}, message=message, caller=caller, idempotency_key=key)
    return jsonify({"success": True, **_transfer_json(made.transfer)}), 201


@bp.get("/transfers/<transfer_id>")
@member(Scope.READ)
def show_transfer(caller: Caller, transfer_id: str) -> Response:
    """Return the transfer as it is now."""
    return jsonify(_transfer_json(_transfer(transfer_id, caller)))


@bp.get("/transfers/<transfer_id>/files/<file_id>/upload-url/<part>")
@member(Scope.WRITE)
def show_upload_url(caller: Caller, transfer_id: str, file_id: str, part: str) -> Response:
    """Return a presigned URL to PUT one chunk to."""
    transfer = _still(_transfer(transfer_id, caller, _NO_FILE))
    file = _file_of(transfer, file_id)
    number = _part_number(part, file, _NO_FILE)
    return jsonify({"success": True, "url": sending.sign_part(transfer, file, number)})


@bp.put("/transfers/<transfer_id>/files/<file_id>/upload-complete")
@member(Scope.WRITE)
def complete_file(caller: Caller, transfer_id: str, file_id: str) -> Response:
    """Check that all chunks of one file have arrived; repeatable."""
    _read_part_numbers()
    transfer = _still(_transfer(transfer_id, caller, _NO_FILE))
    file = _file_of(transfer, file_id)
    if transfer.state is State.INIT:
        checking.check_arrived([file])
    shown = {"id": str(file.id), "retries": 0, "name": file.path, "size": file.size}
    return jsonify({**shown, "chunk_size": _chunk_size(file)})


@bp.put("/transfers/<transfer_id>/finalize")
@member(Scope.WRITE)
def finalize_transfer(caller: Caller, transfer_id: str) -> Response:
    """Finalize: no more chunks are accepted, and the files are checked; repeatable."""
    json_or_nothing()
    transfer = checking.finalize_arrived(_still(_transfer(transfer_id, caller)))
    return jsonify(_transfer_json(transfer))


# -- boards --------------------------------------------------------------------------------------


@bp.post("/boards")
@member(Scope.WRITE)
def create_board(caller: Caller) -> tuple[Response, int]:
    """Create an empty board."""
    given = _object("board", json_or_nothing())
    name = _text("board.name", given.get("name", _MISSING), LONGEST_NAME)
    description = given.get("description")
    if description is not None:
        description = _text("board.description", description, LONGEST_MESSAGE, may_be_empty=True)
    board = boards.create(caller, name, description, _once(caller))
    return jsonify(_board_json(board)), 201


@bp.get("/boards/<board_id>")
@member(Scope.READ)
def show_board(caller: Caller, board_id: str) -> Response:
    """Return the board with its items."""
    return jsonify(_board_json(_board(board_id, caller)))


@bp.post("/boards/<board_id>/links")
@member(Scope.WRITE)
def add_board_links(caller: Caller, board_id: str) -> tuple[Response, int]:
    """Append links."""
    board = _board(board_id, caller)
    given = _list("board.links", json_or_nothing())
    specs = [_read_link(_object("board.links", one)) for one in given]
    added = boards.add_links(board, specs, _once(caller))
    return jsonify([_link_json(item) for item in added]), 201


@bp.post("/boards/<board_id>/files")
@member(Scope.WRITE)
def add_board_files(caller: Caller, board_id: str) -> tuple[Response, int]:
    """Append files; the answer has the chunk size and chunk count of each."""
    board = _board(board_id, caller)
    given = _list("board.files", json_or_nothing(), most=MOST_BOARD_FILES_AT_ONCE)
    specs = [_read_file("board.files", one, BOARD_CHUNK_SIZE, least_size=1) for one in given]
    items = boards.add_files(board, caller, specs, _once(caller))
    return jsonify([_new_file_json(item.file) for item in items if item.file]), 201


@bp.get("/boards/<board_id>/files/<file_id>/upload-url/<part>/<multipart_id>")
@member(Scope.WRITE)
def show_board_upload_url(
    caller: Caller, board_id: str, file_id: str, part: str, multipart_id: str
) -> Response:
    """Return a presigned URL to PUT one chunk of a board's file to."""
    file = _board_file(board_id, file_id, caller)
    if multipart_id != file.id.hex:
        raise NotFound("File not found")
    number = _part_number(part, file, "File not found")
    return jsonify({"success": True, "url": boards.sign_part(file, number)})


@bp.put("/boards/<board_id>/files/<file_id>/upload-complete")
@member(Scope.WRITE)
def complete_board_file(caller: Caller, board_id: str, file_id: str) -> tuple[Response, int]:
    """Mark a file as completely sent: it is checked, and then shown; repeatable."""
    _read_part_numbers()
    file = _board_file(board_id, file_id, caller)
    try:
        boards.complete_file(file)
    except PartsMissing as error:
        raise Invalid({"file": "has not arrived"}, "expected at least 1 part") from error
    return jsonify({"success": True, "message": "File is marked as complete."}), 202


# -- finding -------------------------------------------------------------------------------------

_NO_FILE = "Invalid transfer or file id"


def _id(text: str, else_said: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise NotFound(else_said) from error


def _transfer(text: str, caller: Caller, else_said: str = "Couldn't find Transfer") -> Transfer:
    try:
        return transfers.of_caller(_id(text, else_said), caller)
    except NotFound as error:
        raise NotFound(else_said) from error


def _still(transfer: Transfer) -> Transfer:
    """Return the same transfer; raises TransferExpired if it has expired."""
    if lifecycle.state_of(transfer) is State.EXPIRED:
        raise TransferExpired
    return transfer


def _file_of(transfer: Transfer, text: str) -> File:
    found = transfers.files_of(transfer.id, File.id == _id(text, _NO_FILE))
    if not found:
        raise NotFound(_NO_FILE)
    return found[0]


def _board(text: str, caller: Caller) -> Board:
    return boards.of_caller(_id(text, "This board does not exist"), caller)


def _board_file(board_id: str, file_id: str, caller: Caller) -> File:
    return boards.file_of(_board(board_id, caller), _id(file_id, "File not found"))


def _part_number(text: str, file: File, else_said: str) -> int:
    """Parse a chunk number; raises PartsMissing if the file has no such chunk, else NotFound."""
    figures = text.removeprefix("-")
    if not (figures.isascii() and figures.isdecimal() and len(figures) < 10):
        raise NotFound(else_said)
    number, count = int(text), planning.part_count(file.upload)
    if number < 1:
        raise PartsMissing("Chunk numbers are 1-based")
    if number > count:
        raise PartsMissing(f"This file has no chunk {number}, its last is {count}")
    return number


def _once(caller: Caller) -> Once | None:
    return once(caller.actor)


# -- reading -------------------------------------------------------------------------------------

_MISSING = object()


def _invalid(field: str, reason: str) -> Invalid:
    return Invalid({field: reason}, f'"{field}" {reason}')


def _object(field: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _invalid(field, "must be an object")
    return given


def _list(field: str, given: Any, most: int | None = None) -> list[Any]:
    most = min(most or settings.max_files, settings.max_files)
    if not isinstance(given, list):
        raise _invalid(field, "must be an array")
    if not given:
        raise _invalid(field, "must contain at least 1 items")
    if len(given) > most:
        raise _invalid(field, f"must contain less than or equal to {most} items")
    return given


def _text(field: str, given: Any, longest: int, *, may_be_empty: bool = False) -> str:
    """Return the string unchanged; refuses only a wrong length and what no database can store."""
    if given is _MISSING:
        raise _invalid(field, "is required")
    if not isinstance(given, str):
        raise _invalid(field, "must be a string")
    if not given and not may_be_empty:
        raise _invalid(field, "is not allowed to be empty")
    if len(given) > longest:
        raise _invalid(field, f"length must be less than or equal to {longest} characters long")
    if reason := bad_text(given, lines=may_be_empty):
        raise _invalid(field, reason)
    return given


def _size(field: str, given: Any, least: int) -> int:
    if given is _MISSING:
        raise _invalid(field, "is required")
    size = whole_of(given)
    if size is None:
        raise _invalid(field, "must be a number")
    if size < least:
        # "greater than 1" is wrong for a minimum of 1, but that is WeTransfer's message.
        raise _invalid(field, f"must be greater than {least or -1}")
    if size > LARGEST_FILE_SIZE:
        raise _invalid(field, f"must be less than or equal to {LARGEST_FILE_SIZE}")
    return size


def _read_transfer_files(given: Any) -> list[FileSpec]:
    field = "transfer.files"
    specs = [
        _read_file(field, one, TRANSFER_CHUNK_SIZE, least_size=0) for one in _list(field, given)
    ]
    seen: set[str] = set()
    for position, spec in enumerate(specs):
        if spec.path in seen:
            raise _invalid(field, f"position {position} contains a duplicate value")
        seen.add(spec.path)
    return specs


def _read_file(field: str, given: Any, chunk_size: int, least_size: int) -> FileSpec:
    one = _object(field, given)
    size = _size(f"{field}.size", one.get("size", _MISSING), least_size)
    return FileSpec(
        path=_text(f"{field}.name", one.get("name", _MISSING), LONGEST_NAME),
        size=size,
        # Larger if the file would need more than S3_MAX_PARTS: whole MiB, up to LARGEST_CHUNK_SIZE.
        part_size=max(chunk_size, -(-size // (S3_MAX_PARTS * MIB)) * MIB),
    )


def _read_link(given: dict[str, Any]) -> LinkSpec:
    field = "board.links"
    url = _text(f"{field}.url", given.get("url", _MISSING), LONGEST_URL)
    if not _is_web_address(url):
        raise _invalid(f"{field}.url", "must be a valid uri with a scheme of http or https")
    title = given.get("title")
    if title is not None:
        title = _text(f"{field}.title", title, LONGEST_TITLE, may_be_empty=True)
    return LinkSpec(url, title or url)


def _is_web_address(url: str) -> bool:
    """Whether a page may link there: a URL with another scheme could run as script in the page."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in url
    except ValueError:
        return False


def _read_part_numbers() -> None:
    """Validate `part_numbers` in the body, which is otherwise ignored: storage knows the parts."""
    given = json_or_nothing()
    if given is None:
        return
    number = _object("body", given).get("part_numbers", 0)
    if whole_of(number) is None:
        raise _invalid("part_numbers", "must be a number")


# -- showing -------------------------------------------------------------------------------------


def _transfer_json(transfer: Transfer) -> dict[str, Any]:
    state = lifecycle.state_of(transfer)
    has_link = state in (State.PROCESSING, State.READY)
    return {
        "id": str(transfer.id),
        "message": transfer.message,
        "state": _STATES[state],
        "url": links.transfer_url(transfer.slug) if has_link else None,
        "expires_at": f"{transfer.expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "files": [_file_json(file) for file in transfers.files_of(transfer.id)],
    }


def _file_json(file: File) -> dict[str, Any]:
    count = planning.part_count(file.upload)
    return {
        "id": str(file.id),
        "type": "file",
        "name": file.path,
        "size": file.size,
        "multipart": {"part_numbers": count, "chunk_size": _chunk_size(file)},
    }


def _new_file_json(file: File) -> dict[str, Any]:
    shown = _file_json(file)
    # Not the upload's id, which changes if bytes are lost: this id is only sent once.
    shown["multipart"]["id"] = file.id.hex
    return shown


def _chunk_size(file: File) -> int:
    """Return the chunk size; that of a file in one chunk is the file's own size."""
    return min(file.size, file.upload.part_size)


def _board_json(board: Board) -> dict[str, Any]:
    items = boards.items_of(board.id)
    return {
        "id": str(board.id),
        "name": board.name,
        "description": board.description,
        "state": "processing" if boards.is_waiting(items) else "downloadable",
        "url": links.board_url(board.slug),
        "items": [_file_json(item.file) if item.file else _link_json(item) for item in items],
    }


def _link_json(item: BoardItem) -> dict[str, Any]:
    return {"id": str(item.id), "url": item.url, "meta": {"title": item.title}, "type": "link"}
