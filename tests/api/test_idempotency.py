"""F20: the same create again, because its answer was lost, is the same transfer."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, update

from app import config
from app.db import db
from app.models import Board, BoardItem, File, IdempotencyKey, Recipient, Transfer
from app.services import tombstones
from tests.factories import Machine, Program, Sender, Sent
from tests.hooks import Admin
from tests.keeper import Keeper, post_form
from tests.lab.mailserver import MailServer

KEY = "k" * 20 + "-unguessable"
BODY = {"files": [{"path": "a", "size": 1}], "title": "x"}


def create(client: FlaskClient, key: str | None = KEY, **changes: object):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/transfers", json=BODY | changes, headers=headers)


def test_the_same_request_again_has_the_same_answer(client: FlaskClient) -> None:
    first, second = create(client), create(client)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json == second.json
    token = {"Authorization": f"Bearer {second.json['owner_token']}"}
    assert client.get(f"/transfers/{second.json['id']}", headers=token).status_code == 200


def test_s34_after_the_secret_key_was_changed_too(client: FlaskClient, configure) -> None:
    first, former = create(client), config.settings.secret_key
    configure(secret_key="another-secret-key-0123456789-abcdef", secret_key_fallbacks=(former,))
    assert create(client).json["owner_token"] == first.json["owner_token"]
    configure(secret_key_fallbacks=())
    assert create(client).status_code == 404


def test_another_request_under_the_same_key_is_refused(client: FlaskClient) -> None:
    create(client)
    answer = create(client, title="y")
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "idempotency_key_reused")


def test_without_a_key_each_is_another(client: FlaskClient) -> None:
    assert create(client, None).json["id"] != create(client, None).json["id"]


def test_another_key_is_another_transfer_with_another_token(client: FlaskClient) -> None:
    one, other = create(client).json, create(client, KEY + "2").json
    assert one["id"] != other["id"]
    assert one["owner_token"] != other["owner_token"]


@pytest.mark.parametrize("key", ["short", "x" * 201, "with space in it, which is bad", "é" * 30])
def test_keys_that_could_be_guessed_or_are_none_are_refused(client: FlaskClient, key: str) -> None:
    answer = client.post("/transfers", json=BODY, headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 400
    assert answer.json["error"]["fields"][0]["field"] == "Idempotency-Key"


def test_a_deleted_one_is_gone_and_not_made_anew(sender: Sender) -> None:
    first = create(sender.client).json
    token = {"Authorization": f"Bearer {first['owner_token']}"}
    sender.client.delete(f"/transfers/{first['id']}", headers=token)
    assert create(sender.client).status_code == 410


@pytest.mark.real_commits
def test_twenty_at_once_make_one(app: Flask) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: create(app.test_client()), range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({json.dumps(answer.json, sort_keys=True) for answer in answers}) == 1
    with app.app_context():
        assert db.session.query(Transfer).count() == 1


def test_a_key_never_reaches_the_database(client: FlaskClient, inside: None) -> None:
    create(client)
    row = db.session.query(Transfer).one()
    assert KEY.encode() not in (row.idempotency_hash or b"")
    assert row.owner_token_hash != row.idempotency_hash


# -- what else is made ---------------------------------------------------------------------------


@dataclass
class Place:
    """Something that is made by a request, and how many of it there are."""

    path: str
    body: Any
    other: Any
    count: Callable[[], int]
    status: int = 201


@pytest.fixture(params=["files", "boards", "links", "board files", "share", "mail again"])
def place(request: pytest.FixtureRequest, machine: Machine, mail: MailServer) -> Place:
    def files(n: int) -> Any:
        return {"files": [{"path": f"f{n}", "size": n}, {"path": "b", "size": 1}]}

    def rows(kind: Any) -> Callable[[], int]:
        return lambda: db.session.query(kind).count()

    if request.param == "files":
        made = machine.make(files=[])
        return Place(f"/transfers/{made['id']}/files", files(1), files(2), rows(File))
    if request.param == "boards":
        return Place("/v2/boards", {"name": "a"}, {"name": "b"}, rows(Board))
    if request.param == "share":
        at = f"/transfers/{machine.put_one()['id']}/share-download"
        told = [{"emails": [f"{name}@example.org"]} for name in ("bo", "cy")]
        return Place(at, *told, rows(Recipient), 202)
    if request.param == "mail again":
        sent = Sent(machine.client, machine.put_one())
        machine.native("POST", f"/{sent.id}/share-download", json={"emails": ["bo@example.org"]})
        recipient = db.session.query(Recipient).one()
        recipient.asked_at -= timedelta(hours=2)
        db.session.commit()
        at = f"/transfers/{sent.id}/recipients/{recipient.id}/mail"
        return Place(at, {}, {"x": 1}, lambda: recipient.ask_count, 202)
    at = f"/v2/boards/{machine.board()['id']}"
    if request.param == "links":
        links = [[{"url": f"https://example.org/{n}"}] for n in range(2)]
        return Place(f"{at}/links", *links, rows(BoardItem))
    many = [[{"name": f"f{n}", "size": 1}, {"name": "z", "size": 1}] for n in range(2)]
    return Place(f"{at}/files", *many, rows(BoardItem))


def ask(machine: Machine, place: Place, body: Any, key: str) -> Any:
    headers = machine.headers | {"Idempotency-Key": key}
    if not place.path.startswith("/v2"):
        headers["Authorization"] = f"Bearer {machine.key}"
    return machine.client.post(place.path, json=body, headers=headers)


def test_whatever_is_made_is_made_once(machine: Machine, place: Place, inside: None) -> None:
    first = ask(machine, place, place.body, KEY)
    assert first.status_code == place.status, first.text
    count = place.count()
    again = ask(machine, place, place.body, KEY)
    assert (again.status_code, again.text, place.count()) == (place.status, first.text, count)
    other = ask(machine, place, place.other, KEY)
    assert other.status_code == 422
    assert place.count() == count
    assert ask(machine, place, place.body, "short").status_code == 400
    # A day later nobody sends it again.
    db.session.execute(
        update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=23, minutes=59))
    )
    tombstones.drop_tombstones()
    assert ask(machine, place, place.body, KEY).text == first.text
    db.session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(days=2)))
    tombstones.drop_tombstones()
    assert db.session.query(IdempotencyKey).count() == 0


def test_files_are_answered_again_after_all_have_arrived(machine: Machine, inside: None) -> None:
    made = machine.make(files=[])
    body, headers = {"files": [{"path": "a", "size": 0}]}, {"Idempotency-Key": KEY}
    first = machine.native("POST", f"/{made['id']}/files", json=body, headers=headers)
    assert machine.native("POST", f"/{made['id']}/complete").status_code == 202
    again = machine.native("POST", f"/{made['id']}/files", json=body, headers=headers)
    assert (again.status_code, again.json) == (201, first.json)


def test_neither_key_nor_request_can_be_read_from_its_row(
    machine: Machine, mail: MailServer, inside: None
) -> None:
    made, body = machine.put_one(), {"emails": ["secret@example.org"]}
    machine.native(
        "POST", f"/{made['id']}/share-download", json=body, headers={"Idempotency-Key": KEY}
    )
    row = db.session.query(IdempotencyKey).one()
    for said in (KEY, json.dumps(body)):
        assert hashlib.sha256(said.encode()).digest() not in (row.key_hash, row.request_hash)


def test_a_transfer_of_one_put_is_made_once_too(machine: Machine) -> None:
    """And another if it is downloaded as often as one likes."""
    headers = {"Idempotency-Key": KEY}
    made = [machine.native("POST", "", json={}, headers=headers).json for _ in range(2)]
    assert made[0] == made[1]
    other = machine.native("POST", "", json={"files": []}, headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize("again", [1, 3])
def test_what_else_programs_make_is_made_once_too(client: FlaskClient, again: int) -> None:
    """A form, a webhook with its secret, and an upload by Uppy's routes."""
    program, admin, keeper = Program(client), Admin(client), Keeper(client)
    hook = {"url": "https://hooks.example.org/", "events": ["transfer.ready"]}
    for key, path, body, other in (
        (program.key, "/files/upload-url", {"filename": "a"}, {"filename": "b"}),
        (admin.key, "/webhooks", hook, hook | {"events": ["transfer.expired"]}),
        (keeper.key, "/s3/multipart", {"filename": "a", "type": "x/y"}, {"filename": "b"}),
    ):
        ask = {"x-api-key": key}
        headers = ask | {"Idempotency-Key": KEY + path}
        first, *rest = (client.post(path, json=body, headers=headers) for _ in range(again))
        assert first.status_code in (200, 201), first.text
        named = ("key", "uploadId", "id", "secret")
        told = {name: first.json[name] for name in named if name in first.json}
        assert told
        for one in rest:
            assert (one.status_code, {name: one.json[name] for name in told}) == (
                first.status_code,
                told,
            )
        assert client.post(path, json=other, headers=headers).status_code == 422
        alone = client.post(path, json=body, headers=ask).json
        assert not told.items() <= alone.items()


def test_a_form_is_told_again_until_what_it_brought_is_confirmed(client: FlaskClient) -> None:
    program = Program(client)
    ask = {"x-api-key": program.key}
    headers = ask | {"Idempotency-Key": KEY}

    def offer() -> Any:
        return client.post("/files/upload-url", json={"filename": "a.txt"}, headers=headers)

    offer()
    form = offer().json
    assert post_form(form, b"hello").status == 201
    confirmed = client.post(f"/files/confirm/{form['key']}", headers=ask)
    assert confirmed.status_code == 200
    assert offer().status_code == 409
    assert program.fetch(confirmed.json["file_id"]).data == b"hello"
