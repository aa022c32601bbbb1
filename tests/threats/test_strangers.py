"""S07, S43: every route of the API, asked by a stranger with a good key for what another has.

A route that this file does not know fails it: whoever writes one says here whether it is a
workspace's, with what it is asked, and what people's own keys may do there.
"""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update

from app.db import db, transaction
from app.models import Scope, Workspace
from app.services import accounts, own_keys
from tests.factories import Machine, Program, Sent
from tests.hooks import Admin
from tests.keeper import Keeper
from tests.mail import ADA, addressed

Configure = Callable[..., None]
Route = tuple[str, str]
EVE = "eve@example.org"

# Open to everybody, and nobody's in particular.
OPEN: set[Route] = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/openapi.json"),
    ("GET", "/cli"),
    ("POST", "/senders/code"),
    ("POST", "/senders/confirm"),
    # Whoever has the link has the link.
    ("GET", "/d/<slug:slug>.json"),
    ("GET", "/d/<slug:slug>.sfv"),
}
# About all that the asking workspace has: these show it, or make something new.
OF_ITS_OWN: dict[Route, int] = {
    ("POST", "/transfers"): 201,
    ("GET", "/transfers"): 200,
    ("DELETE", "/trigger-delete"): 200,
    ("POST", "/v2/authorize"): 200,
    ("POST", "/v2/transfers"): 201,
    ("POST", "/v2/boards"): 201,
    ("GET", "/files"): 200,
    ("POST", "/files/upload-url"): 200,
    ("GET", "/webhooks"): 200,
    ("POST", "/webhooks"): 201,
    ("GET", "/s3/workspace"): 200,
    ("POST", "/s3/sessions"): 201,
    ("GET", "/s3/params"): 200,
    ("POST", "/s3/multipart"): 200,
    ("GET", "/s3/as/<session>/s3/params"): 200,
    ("POST", "/s3/as/<session>/s3/multipart"): 200,
    # The bucket is everybody's, and its rules are the admins'.
    ("GET", "/s3/getBucketConfig"): 200,
    ("POST", "/s3/updateBucketConfig"): 200,
}
# About one thing: what is sent to it.
OF_ONE: dict[Route, Any] = {
    ("GET", "/transfers/<uuid:transfer_id>"): None,
    ("PATCH", "/transfers/<uuid:transfer_id>"): {"title": "taken"},
    ("DELETE", "/transfers/<uuid:transfer_id>"): None,
    ("DELETE", "/transfers/<uuid:transfer_id>/recipients/<uuid:recipient_id>"): None,
    ("POST", "/transfers/<uuid:transfer_id>/recipients/<uuid:recipient_id>/mail"): None,
    ("POST", "/transfers/<uuid:transfer_id>/files"): {"files": [{"path": "x", "size": 1}]},
    ("DELETE", "/transfers/<uuid:transfer_id>/files/<uuid:file_id>"): None,
    ("POST", "/transfers/<uuid:transfer_id>/parts"): {"wanted": [{"file": "ID", "numbers": [1]}]},
    ("GET", "/transfers/<uuid:transfer_id>/parts"): None,
    ("GET", "/transfers/<uuid:transfer_id>/requests"): None,
    ("POST", "/transfers/<uuid:transfer_id>/complete"): None,
    ("POST", "/transfers/<uuid:transfer_id>/upload-url"): {"filename": "x"},
    ("GET", "/transfers/<uuid:transfer_id>/download-url"): None,
    ("POST", "/transfers/<uuid:transfer_id>/share-download"): {"emails": ["eve@example.org"]},
    ("GET", "/v2/transfers/<transfer_id>"): None,
    ("GET", "/v2/transfers/<transfer_id>/files/<file_id>/upload-url/<part>"): None,
    ("PUT", "/v2/transfers/<transfer_id>/files/<file_id>/upload-complete"): {"part_numbers": 1},
    ("PUT", "/v2/transfers/<transfer_id>/finalize"): {},
    ("GET", "/v2/boards/<board_id>"): None,
    ("POST", "/v2/boards/<board_id>/links"): [{"url": "https://example.org/"}],
    ("POST", "/v2/boards/<board_id>/files"): [{"name": "x", "size": 1}],
    ("GET", "/v2/boards/<board_id>/files/<file_id>/upload-url/<part>/<multipart_id>"): None,
    ("PUT", "/v2/boards/<board_id>/files/<file_id>/upload-complete"): {"part_numbers": 1},
    ("DELETE", "/transfers/<uuid:transfer_id>/batch"): None,
    ("POST", "/files/confirm/<path:file_key>"): None,
    ("GET", "/files/download/<uuid:file_id>"): None,
    ("DELETE", "/files/<uuid:file_id>"): None,
    ("GET", "/webhooks/<uuid:webhook_id>"): None,
    ("PATCH", "/webhooks/<uuid:webhook_id>"): {"enabled": False},
    ("DELETE", "/webhooks/<uuid:webhook_id>"): None,
    ("POST", "/webhooks/<uuid:webhook_id>/test"): None,
    ("GET", "/webhooks/<uuid:webhook_id>/deliveries"): None,
    ("POST", "/webhooks/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/retry"): None,
    ("GET", "/s3/start-upload"): None,
    ("GET", "/s3/get-upload-url"): None,
    ("POST", "/s3/complete-upload"): {"parts": [{"PartNumber": 1, "ETag": "x"}]},
    ("POST", "/s3/abort-upload"): {},
    ("GET", "/s3/assets"): None,
    ("GET", "/s3/assets/<asset_id>"): None,
    ("PATCH", "/s3/assets/<asset_id>"): {"name": "taken"},
    ("GET", "/s3/download-url"): None,
    ("GET", "/s3/download"): None,
    ("DELETE", "/s3/delete"): None,
    ("POST", "/api/assets/upload"): None,
    **{
        (method, f"{before}/s3/multipart/<upload_id>{after}"): body
        for before in ("", "/s3/as/<session>")
        for method, after, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/<int:number>", None),
            ("GET", "/batch", None),
            ("POST", "/complete", {"parts": [{"PartNumber": 1, "ETag": "x"}]}),
        )
    },
}


def routes(app: Flask) -> set[Route]:
    """All of the API, also those that are written tomorrow."""
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if app.view_functions[rule.endpoint].__module__.startswith("app.api.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_every_route_is_known_here(app: Flask) -> None:
    assert routes(app) == OPEN | OF_ITS_OWN.keys() | OF_ONE.keys()
    for method, rule in OPEN:
        (view,) = {
            app.view_functions[one.endpoint]
            for one in app.url_map.iter_rules()
            if one.rule == rule and method in (one.methods or set())
        }
        assert getattr(view, "guard", None) == "anyone", rule


@pytest.fixture
def theirs(machine: Machine, mail: Any) -> dict[str, str]:
    """What another workspace has, by the words that routes have for it."""
    made = machine.make(files=[{"path": "secret name", "size": 1}], title="secret")
    sent = Sent(machine.client, made)
    addressed(sent, "secret@example.org")
    board = machine.board("secret board")
    at = f"/boards/{board['id']}/files"
    (file,) = machine.call("POST", at, json=[{"name": "secret", "size": 1}]).json
    small = Program(machine.client).file(b"secret", "secret.txt")
    admin = Admin(machine.client)
    hook = admin.add("https://secret.example/")
    keeper = Keeper(machine.client)
    kept, started = keeper.keep(b"secret", fileName="secret.txt"), keeper.start()
    return {
        "moving": made["id"],
        "ready": machine.put_one(name="secret.txt", title="secret", max_downloads=5)["id"],
        "file_id": made["files"][0]["id"],
        "recipient_id": sent.show()["recipients"][0]["id"],
        "board_id": board["id"],
        "board file": file["id"],
        "multipart_id": file["multipart"]["id"],
        "file_key": small["key"],
        "small file": small["file_id"],
        "webhook_id": hook["id"],
        "delivery_id": admin.call("POST", f"/{hook['id']}/test").json["id"],
        "workspaceId": keeper.workspace,
        "asset_id": kept["assetId"],
        "key": kept["key"],
        "started": started["assetId"],
        "upload_id": started["uploadId"],
    }


def filled(rule: str, theirs: dict[str, str], transfer: str, session: str) -> str:
    kind = rule.split("/")[1] if "<board_id>" not in rule else "boards"
    words = theirs | {
        "transfer_id": theirs[transfer],
        "part": "1",
        "number": "1",
        "session": session,
        "file_id": theirs[{"boards": "board file", "files": "small file"}.get(kind, "file_id")],
    }
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda word: words[word[1]], rule)


def asked_of(rule: str, theirs: dict[str, str]) -> dict[str, str]:
    """What the asset service is told besides, in the address and in the body alike."""
    if not rule.startswith(("/s3", "/api")):
        return {}
    upload = {"uploadId": theirs["upload_id"], "UploadId": theirs["upload_id"], "PartNumber": "1"}
    is_upload = "upload" in rule
    asset = {"assetId": theirs["started" if is_upload else "asset_id"], "key": theirs["key"]}
    more = {"fileType": "text/plain", "partNumbers": "1", "workspaceId": theirs["workspaceId"]}
    return asset | more | (upload if is_upload else {})


def ask(
    client: FlaskClient, route: Route, url: str, body: Any, headers: dict[str, str]
) -> tuple[int, str]:
    given = {} if body is None else {"json": body}
    answer = client.open(url, method=route[0], headers=headers, **given)
    return answer.status_code, answer.text


def own_key(app: Flask, email: str, scope: Scope = Scope.WRITE) -> str:
    """A key that this person has made."""
    with app.app_context():
        made = own_keys.make(uuid.uuid4(), email, name="a script's", scope=scope)
    assert made
    return made.text


def give(app: Flask, workspace: str, email: str) -> None:
    """Make all that is in this workspace a person's own, as if sent with keys of theirs."""
    with app.app_context(), transaction():
        mine = update(Workspace).where(Workspace.name == workspace)
        db.session.execute(mine.values(email=email))


@pytest.fixture
def people(configure: Configure, mail: Any) -> None:
    """Ada and Eve may send, and so make keys."""
    configure(senders=(ADA, EVE), max_unknown_per_minute=10_000)


def session_of(client: FlaskClient, key: str) -> str:
    """A session's token."""
    told = client.post("/s3/sessions", headers={"x-api-key": key})
    assert told.status_code == 201, told.text
    return told.json["url"].rpartition("/")[2]


def question(route: Route, theirs: dict[str, str], transfer: str, session: str) -> tuple[str, Any]:
    """URL and body of a request about what they have."""
    body = json.loads(json.dumps(OF_ONE.get(route)).replace('"ID"', f'"{theirs["file_id"]}"'))
    more = asked_of(route[1], theirs)
    if route[1] in ("/s3/complete-upload", "/s3/abort-upload"):
        body |= more
    url = filled(route[1], theirs, transfer, session)
    return f"{url}?{urlencode(more)}" if more else url, body


@pytest.mark.parametrize("whose", ["a workspace's", "a person's"])
@pytest.mark.parametrize("who", ["a program", "an admin", "a person"])
def test_a_strangers_key_gets_at_nothing_by_any_route(
    app: Flask, people: None, machine: Machine, theirs: dict[str, str], who: str, whose: str
) -> None:
    """S43: nor does anybody's own key get at what an operator's has made, or the other way round."""
    stranger = {
        "a program": lambda: Machine(machine.client, "Other"),
        "an admin": lambda: Machine(machine.client, "Other", scope=Scope.ADMIN),
        "a person": lambda: Machine(machine.client, key=own_key(app, EVE)),
    }[who]()
    session = session_of(machine.client, stranger.key)
    keeper, admin, program = (kind(machine.client) for kind in (Keeper, Admin, Program))
    if whose == "a person's":
        give(app, "Acme", ADA)
    before = [machine.native("GET", f"/{theirs[one]}").json for one in ("moving", "ready")]
    board = machine.call("GET", f"/boards/{theirs['board_id']}").json
    for route in OF_ONE:
        for transfer in ("moving", "ready"):
            url, body = question(route, theirs, transfer, session)
            status, text = ask(machine.client, route, url, body, stranger.headers)
            if not route[1].startswith("/transfers"):
                # By its scope a key may be refused before anything is looked for.
                assert status in (403, 404), (route, text)
            else:
                assert status == 404, (route, text)
                by_key = {"Authorization": f"Bearer {stranger.key}"}
                assert ask(machine.client, route, url, body, by_key)[0] == 404, route
            assert "secret" not in text, route
    assert keeper.fetch(theirs["asset_id"]) == b"secret"
    assert admin.show({"id": theirs["webhook_id"]})["enabled"]
    assert program.fetch(theirs["small file"]).data == b"secret"
    after = [machine.native("GET", f"/{theirs[one]}").json for one in ("moving", "ready")]
    assert (after, machine.call("GET", f"/boards/{theirs['board_id']}").json) == (before, board)


def is_in_session(route: Route) -> bool:
    """Whether it takes a session instead of a key."""
    return "<session>" in route[1]


def is_of_admins(route: Route) -> bool:
    """Whether it is about the installation, or makes it call other servers."""
    return route[1].startswith("/webhooks") or route[1] in (
        "/trigger-delete",
        "/s3/getBucketConfig",
        "/s3/updateBucketConfig",
    )


def only_looks(route: Route) -> bool:
    """Whether a key that may only read is enough: for each GET, unless it begins an upload."""
    begins = re.search(r"upload-url|start-upload|/params|/s3/multipart", route[1])
    return route == ("POST", "/v2/authorize") or (route[0] == "GET" and not begins)


@pytest.mark.parametrize("scope", own_keys.SCOPES)
def test_s43_a_persons_key_does_what_its_scope_says_by_each_route_and_never_an_admins(
    app: Flask,
    people: None,
    machine: Machine,
    theirs: dict[str, str],
    configure: Configure,
    scope: Scope,
) -> None:
    configure(max_asset_form_size=1000)
    give(app, "Acme", ADA)
    own = Machine(machine.client, key=own_key(app, ADA, scope))
    for route in [*OF_ITS_OWN, *OF_ONE]:
        if is_in_session(route):
            continue
        may = not is_of_admins(route) and (scope is Scope.WRITE or only_looks(route))
        url, body = question(route, theirs, "ready", "")
        headers = own.headers
        if not route[1].startswith("/v2"):
            headers = {"Authorization": f"Bearer {own.key}"}
        status, text = ask(machine.client, route, url, body, headers)
        # What it may do may fail for another reason: it was deleted before, for example.
        assert (status == 403) is not may, (route, status, text)
        assert status not in (401, 500), (route, text)


@pytest.mark.parametrize("why", ["may not send", "revoked", "everybody may send", "no mail"])
def test_s43_a_persons_key_that_has_ended_is_told_by_no_route_from_one_that_never_was(
    app: Flask,
    people: None,
    machine: Machine,
    theirs: dict[str, str],
    configure: Configure,
    why: str,
) -> None:
    """With the tokens and sessions that were made with it."""
    give(app, "Acme", ADA)
    own = Machine(machine.client, key=own_key(app, ADA))
    session = session_of(machine.client, own.key)
    end: dict[str, Callable[[], object]] = {
        "may not send": lambda: configure(senders=(EVE, "@sub.example.org", "@xample.org")),
        "everybody may send": lambda: configure(senders=()),
        "no mail": lambda: configure(mail_url=""),
        "revoked": lambda: accounts.revoke_key(own.key[:16]),
    }
    with app.app_context():
        end[why]()
    unknown = f"bee_{'a' * 12}_{'b' * 43}"
    for route in [*OF_ITS_OWN, *OF_ONE]:
        url, body = question(route, theirs, "ready", session)
        told = set()
        for key in (own.key, unknown):
            headers = {"x-api-key": key, "Authorization": f"Bearer {own.token}"}
            status, text = ask(machine.client, route, url, body, headers)
            told.add((status, re.sub(r'"request_id":"\w+"', "", text)))
        ((status, text),) = told
        assert status == (403 if route[1].startswith("/v2") else 401), (route, text)
        assert "secret" not in text


def test_what_a_stranger_is_shown_and_makes_is_its_own(
    machine: Machine, theirs: dict[str, str]
) -> None:
    stranger = Machine(machine.client, "Other", scope=Scope.ADMIN)
    bodies: dict[Route, Any] = {
        ("POST", "/transfers"): {},
        ("POST", "/v2/transfers"): {"files": [{"name": "x", "size": 1}]},
        ("POST", "/v2/boards"): {"name": "x"},
        ("POST", "/files/upload-url"): {"filename": "x"},
        ("POST", "/webhooks"): {"url": "https://other.example/", "events": ["transfer.ready"]},
        ("POST", "/s3/multipart"): {"filename": "x", "type": "text/plain"},
        ("POST", "/s3/as/<session>/s3/multipart"): {"filename": "x", "type": "text/plain"},
        ("POST", "/s3/updateBucketConfig"): {"CORSRules": []},
    }
    session = Keeper(machine.client, "Other").call("POST", "/s3/sessions").json
    for route, right in OF_ITS_OWN.items():
        headers = stranger.headers
        if not route[1].startswith("/v2"):
            headers = {"Authorization": f"Bearer {stranger.key}"}
        url = route[1].replace("<session>", session["url"].rpartition("/")[2])
        url += "?filename=x&type=text/plain" if url.endswith("params") else ""
        status, text = ask(machine.client, route, url, bodies.get(route), headers)
        assert status == right, (route, text)
        # But for the secret of its own webhook.
        assert "secret" not in text.replace('"secret":"whsec_', ""), route
        assert not any(one in text for one in theirs.values()), route
    assert stranger.native("GET", "").json["total_count"] == 2


def test_the_same_idempotency_key_of_a_stranger_is_another(
    machine: Machine, theirs: dict[str, str]
) -> None:
    stranger, headers = Machine(machine.client, "Other"), {"Idempotency-Key": uuid.uuid4().hex}
    for path, body in (
        ("/transfers", {"files": [{"name": "a", "size": 1}]}),
        ("/boards", {"name": "b"}),
    ):
        mine, other = (
            one.call("POST", path, json=body, headers=headers).json["id"]
            for one in (machine, stranger)
        )
        assert mine != other
