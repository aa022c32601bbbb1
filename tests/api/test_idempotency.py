"""F20: the same create again, because its answer was lost, is the same transfer."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import config
from app.db import db
from app.models import Transfer
from tests.factories import Sender

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
