"""Every operation of openapi.yaml against thousands of requests made from it: right and wrong ones.

No request is answered by 5xx, by a status or a body that is not described, or by 2xx where the
description forbids it. What the description itself suggests is the same in every run, so that what has
passed passes again; more is made by a seed, a new one each time, which the run tells at its beginning.
CASES and SEED in the environment make it as long as one likes, and repeat it.
"""

import os
import uuid
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis import GenerationMode

from app import description
from app.models import Scope
from tests.factories import Machine, Program, Sender, Sent, put
from tests.hooks import Admin
from tests.keeper import Keeper

# One transaction for thousands of requests would end with the first query that is late.
pytestmark = pytest.mark.real_commits
# Of each operation, beside what the description suggests.
CASES = int(os.environ.get("CASES", "5"))


class _Application:
    """Stands for the application, which is made when the first test runs."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.real(environ, start_response)


application = _Application()
# What the requests of one test have in common.
_to_look_at: list[Any] = []
schema = schemathesis.openapi.from_dict(deepcopy(description.document()))
schema.app = application
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
# A wrong token is answered as an unknown transfer is, so that nobody learns which there are.
schema.config.checks.ignored_auth.enabled = False
# WeTransfer's API answers 403 where this expects 401; tests of each dialect look at that.
schema.config.checks.missing_required_header.enabled = False
# A date that is over, or a part that was not planned, is refused though its form is right.
schema.config.checks.positive_data_acceptance.enabled = False


@pytest.fixture(autouse=True)
def _made(app: Flask, configure: Callable[..., None]) -> None:
    application.real = app
    _to_look_at.clear()
    # Where there is none, most of what can be said of mail is refused before it is looked at.
    configure(mail_url="file:///nobody/sends/it")


@schema.parametrize()
@seed(int(os.environ["SEED"]))
@settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(
    case: schemathesis.Case, sender: Sender, machine: Machine, program: Program
) -> None:
    """Right cases ask for transfers that are there, in each stage, with their owner's token.

    Or, where a key is wanted, for a program's own things.
    """
    needed = {name for one in case.operation.definition.raw.get("security", []) for name in one}
    is_positive = case.meta.generation.mode.is_positive
    if is_positive and case.operation.path.startswith(("/s3/", "/api/assets")):
        _ask_of_assets(Keeper(machine.client), case)
        return
    if not needed or not is_positive:
        case.call_and_validate()
        return
    if case.path.startswith("/files"):
        _ask_of_files(program, case)
        return
    if "admin_key" in needed:
        _ask_as_admin(sender, case)
        return
    if "api_key" in needed:
        _ask_as(machine, case)
        return
    if "owner_token" not in needed:
        admin = Machine(machine.client, scope=Scope.ADMIN)
        admin.put_one()
        case.headers["Authorization"] = f"Bearer {admin.key}"
        case.call_and_validate()
        return
    is_of_one = case.operation.definition.raw["operationId"] in OF_ONE_PUT
    stages = (_of_one_put, _of_one_put_and_ready) if is_of_one else IN_PARTS
    for sent in _prepared(case, *(partial(stage, sender) for stage in stages)):
        case.path_parameters["transfer_id"] = str(sent.id)
        if "file_id" in case.path_parameters and sent.files:
            case.path_parameters["file_id"] = sent.files[0]["id"]
        case.headers["Authorization"] = sent.headers["Authorization"]
        case.call_and_validate()


def _prepared(case: schemathesis.Case, *makers: Callable[[], Any]) -> list[Any]:
    """What the makers make: anew for each request, or only once for all that just look at it."""
    if case.operation.method != "get":
        return [make() for make in makers]
    if not _to_look_at:
        _to_look_at.extend(make() for make in makers)
    return _to_look_at


def _ask_as_admin(sender: Sender, case: schemathesis.Case) -> None:
    """Of a webhook that was sent something, while it is on and while it is off."""

    def hook(is_on: bool) -> tuple[Admin, Any, str]:
        admin = Admin(sender.client, uuid.uuid4().hex)
        made = admin.add("https://hooks.example.org/")
        sent = admin.call("POST", f"/{made['id']}/test").json["id"]
        if not is_on:
            admin.call("PATCH", f"/{made['id']}", json={"enabled": False})
        return admin, made, sent

    for admin, made, sent in _prepared(case, partial(hook, True), partial(hook, False)):
        right = {"webhook_id": made["id"], "delivery_id": sent}
        for name in case.path_parameters:
            case.path_parameters[name] = right[name]
        if case.query.get("before"):
            case.query["before"] = sent
        case.headers["x-api-key"] = admin.key
        case.call_and_validate()


def _processing(sender: Sender) -> Sent:
    return sender.create().complete()


def _deleted(sender: Sender) -> Sent:
    sent = sender.create()
    sent.call("DELETE")
    return sent


def _of_one_put(sender: Sender) -> Sent:
    sent = Sent(sender.client, sender.client.post("/transfers", json={}).json)
    told = sent.call("POST", "/upload-url", json={"filename": "a"})
    put(told.json["upload_url"], b"1")
    return sent


def _of_one_put_and_ready(sender: Sender) -> Sent:
    sent = _of_one_put(sender)
    assert sent.call("POST", "/complete").status_code == 200
    return sent


IN_PARTS = (Sender.create, _processing, _deleted)
# What scripts do with a transfer that was made without files.
OF_ONE_PUT = {"show_upload_url", "show_download_url", "share_download"}


def _ask_as(machine: Machine, case: schemathesis.Case) -> None:
    """For a file that has arrived, and for one that never will."""
    case.headers.update(machine.headers)
    announced = [{"name": "a", "size": 5}]

    def boarded() -> tuple[str, Any]:
        board = machine.board()["id"]
        return board, machine.call("POST", f"/boards/{board}/files", json=announced).json[0]

    (board, on_board), *transfers = _prepared(case, boarded, machine.create, machine.ready)
    is_board = "board_id" in case.path_parameters
    for shown in transfers:
        file = on_board if is_board else shown["files"][0]
        right = {
            "transfer_id": shown["id"],
            "board_id": board,
            "file_id": file["id"],
            "part": "1",
            "multipart_id": file["multipart"].get("id"),
        }
        for name in case.path_parameters:
            case.path_parameters[name] = right[name]
        case.call_and_validate()


def _ask_of_files(program: Program, case: schemathesis.Case) -> None:
    """For a file that was confirmed, for one that has come, and for one that never will."""
    case.headers["x-api-key"] = program.key
    for made in _prepared(case, program.file, program.sent, program.offer):
        right = {"file_key": made["key"], "file_id": made.get("file_id", str(uuid.uuid4()))}
        case.path_parameters.update({name: right[name] for name in case.path_parameters})
        case.call_and_validate()


def _ask_of_assets(keeper: Keeper, case: schemathesis.Case) -> None:
    """With a key, or below a session's address, for an upload and for an asset that are there."""
    keeper, kept, started, opened = _prepared(
        case,
        lambda: keeper,
        keeper.keep,
        keeper.start,
        partial(keeper.call, "POST", "/s3/sessions"),
    )
    session = opened.json["url"].rpartition("/")[2]
    right = {
        "workspaceId": keeper.workspace,
        "session": session,
        "upload_id": started["uploadId"],
        "uploadId": started["uploadId"],
        "UploadId": started["uploadId"],
        "asset_id": kept["assetId"],
        "key": started["key"],
    }
    is_of_upload = "uploadId" in str(case.body) or "UploadId" in (case.query or {})
    right["assetId"] = (started if is_of_upload else kept)["assetId"]
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict):
            place.update({name: value for name, value in right.items() if name in place})
    if "session" not in (case.path_parameters or {}):
        case.headers["x-api-key"] = keeper.key
    case.call_and_validate()
