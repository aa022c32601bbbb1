"""S07: every route of the API, asked by a stranger with a good key for what another workspace has.

A route that this file does not know fails it: whoever writes one says here whether it is a
workspace's, and with what it is asked.
"""

import json
import uuid
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.models import Scope
from tests.factories import Machine, Sent
from tests.mail import addressed

Route = tuple[str, str]

# Open to everybody, and nobody's in particular.
OPEN: set[Route] = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/openapi.json"),
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
    """What another workspace has: a transfer on its way, one that is there, and a board."""
    made = machine.make(files=[{"path": "secret name", "size": 1}], title="secret")
    sent = Sent(machine.client, made)
    addressed(sent, "secret@example.org")
    board = machine.board("secret board")
    at = f"/boards/{board['id']}/files"
    (file,) = machine.call("POST", at, json=[{"name": "secret", "size": 1}]).json
    return {
        "moving": made["id"],
        "ready": machine.put_one(name="secret.txt", title="secret", max_downloads=5)["id"],
        "file": made["files"][0]["id"],
        "recipient": sent.show()["recipients"][0]["id"],
        "board": board["id"],
        "board file": file["id"],
        "multipart": file["multipart"]["id"],
    }


def filled(rule: str, theirs: dict[str, str], transfer: str) -> str:
    file = theirs["board file" if "<board_id>" in rule else "file"]
    for word, value in (
        ("<uuid:transfer_id>", theirs[transfer]),
        ("<transfer_id>", theirs[transfer]),
        ("<uuid:file_id>", file),
        ("<file_id>", file),
        ("<uuid:recipient_id>", theirs["recipient"]),
        ("<board_id>", theirs["board"]),
        ("<part>", "1"),
        ("<multipart_id>", theirs["multipart"]),
    ):
        rule = rule.replace(word, value)
    assert "<" not in rule, "tell this test how to fill it in"
    return rule


def ask(
    client: FlaskClient, route: Route, url: str, body: Any, headers: dict[str, str]
) -> tuple[int, str]:
    given = {} if body is None else {"json": body}
    answer = client.open(url, method=route[0], headers=headers, **given)
    return answer.status_code, answer.text


@pytest.mark.parametrize("scope", [Scope.WRITE, Scope.ADMIN])
def test_a_strangers_key_gets_at_nothing_by_any_route(
    machine: Machine, theirs: dict[str, str], scope: Scope
) -> None:
    stranger = Machine(machine.client, "Other", scope=scope)
    before = [machine.native("GET", f"/{theirs[one]}").json for one in ("moving", "ready")]
    board = machine.call("GET", f"/boards/{theirs['board']}").json
    for route, body in OF_ONE.items():
        body = json.loads(json.dumps(body).replace('"ID"', f'"{theirs["file"]}"'))
        for transfer in ("moving", "ready"):
            url = filled(route[1], theirs, transfer)
            status, text = ask(machine.client, route, url, body, stranger.headers)
            if route[1].startswith("/v2"):
                assert status in (403, 404), (route, text)
            else:
                assert status == 404, (route, text)
                by_key = {"Authorization": f"Bearer {stranger.key}"}
                assert ask(machine.client, route, url, body, by_key)[0] == 404, route
            assert "secret" not in text, route
    after = [machine.native("GET", f"/{theirs[one]}").json for one in ("moving", "ready")]
    assert (after, machine.call("GET", f"/boards/{theirs['board']}").json) == (before, board)


def test_what_a_stranger_is_shown_and_makes_is_its_own(
    machine: Machine, theirs: dict[str, str]
) -> None:
    stranger = Machine(machine.client, "Other", scope=Scope.ADMIN)
    bodies: dict[Route, Any] = {
        ("POST", "/transfers"): {},
        ("POST", "/v2/transfers"): {"files": [{"name": "x", "size": 1}]},
        ("POST", "/v2/boards"): {"name": "x"},
    }
    for route, right in OF_ITS_OWN.items():
        headers = stranger.headers
        if not route[1].startswith("/v2"):
            headers = {"Authorization": f"Bearer {stranger.key}"}
        status, text = ask(machine.client, route, route[1], bodies.get(route), headers)
        assert status == right, (route, text)
        assert "secret" not in text
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
