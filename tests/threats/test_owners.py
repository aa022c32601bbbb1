"""S07, S08, S09, S28: whose a transfer is, is known by its token alone, and nothing else leaks."""

import base64
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import db
from app.models import Transfer
from tests.factories import Sender, Sent, right_body

NOBODY = "00000000-0000-4000-8000-000000000000"

# What is wrong with the key that is sent instead of `right`; `other` is another transfer's.
KEYS: dict[str, Callable[[str, str], str | None]] = {
    "none": lambda right, other: None,
    "empty": lambda right, other: "",
    "no token": lambda right, other: "Bearer ",
    "another transfer's": lambda right, other: f"Bearer {other}",
    "cut short": lambda right, other: f"Bearer {right[:-1]}",
    "too long": lambda right, other: f"Bearer {right}A",
    "of other letters": lambda right, other: f"Bearer {right.swapcase()}",
    "the right one, as a name": lambda right, other: (
        "Basic " + base64.b64encode(f"{right}:{right}".encode()).decode()
    ),
    "twice": lambda right, other: f"Bearer {right}, Bearer {right}",
    "made up": lambda right, other: "Bearer " + "x" * 43,
    "not ASCII": lambda right, other: "Bearer ünïcode",
}


def owner_routes(app: Flask) -> list[tuple[str, str]]:
    """Every route that needs the owner's key: also those that are written tomorrow."""
    found = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", "").startswith("owner:")
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})
    ]
    assert len(found) >= 8
    return found


def ask(client: FlaskClient, method: str, rule: str, sent: Sent, key: str | None) -> Any:
    """One request to an owner route of this transfer."""
    url = rule.replace("<uuid:transfer_id>", str(sent.id))
    url = url.replace("<uuid:file_id>", sent.files[0]["id"])
    headers = {} if key is None else {"Authorization": key}
    return client.open(url, method=method, headers=headers, json=right_body(rule))


@pytest.mark.parametrize("wrong", KEYS)
def test_s07_no_wrong_key_opens_any_route_of_either_transfer(
    app: Flask, sender: Sender, configure: Callable[..., None], wrong: str
) -> None:
    configure(mail_url="file:///nobody/sends/it")
    one = sender.create({"one-secret.txt": b"1"}, title="title of one", message="message of one")
    two = sender.ready({"two-secret.txt": b"2"}, title="title of two", message="message of two")
    before = one.show(), two.show()
    for mine, other in ((one, two), (two, one)):
        key = KEYS[wrong](mine.json["owner_token"], other.json["owner_token"])
        for method, rule in owner_routes(app):
            answer = ask(sender.client, method, rule, mine, key)
            assert answer.status_code in (401, 404), (method, rule, answer.json)
            for told in ("secret", "title of", "message of", one.slug, two.slug):
                assert told not in answer.text
    assert (one.show(), two.show()) == before


def test_s07_a_file_is_looked_for_in_its_own_transfer_only(sender: Sender) -> None:
    mine, other = sender.create(), sender.ready()
    stolen = other.files[0]["id"]
    assert mine.call("DELETE", f"/files/{stolen}").status_code == 404
    wanted = {"wanted": [{"file": stolen, "numbers": [1]}]}
    assert mine.call("POST", "/parts", json=wanted).status_code == 404
    ready = sender.ready({"mine": b"x"})
    for method in ("GET", "POST"):
        plain = sender.client.application.test_client(use_cookies=False)
        url = f"/d/{ready.slug}/files/{stolen}"
        answer = plain.open(url, method=method, headers={"User-Agent": "curl/8"})
        assert answer.status_code == 404
    assert other.row().download_count == 0


def test_s09_an_unknown_transfer_and_a_wrong_key_are_told_alike(app: Flask, sender: Sender) -> None:
    """To the letter, but for the request's own number."""
    sent = sender.create()
    nowhere = Sent(sender.client, sent.json | {"id": NOBODY})
    for method, rule in owner_routes(app):
        for key in ("Bearer " + "x" * 43, None):
            answers = [ask(sender.client, method, rule, one, key) for one in (sent, nowhere)]
            told = {(a.status_code, re.sub(r'"request_id":"\w+"', "", a.text)) for a in answers}
            assert len(told) == 1, told
            kept = {
                frozenset((n, v) for n, v in a.headers if n not in ("X-Request-ID", "Date"))
                for a in answers
            }
            assert len(kept) == 1


def test_s09_ids_in_links_and_keys_cannot_be_guessed(sender: Sender) -> None:
    """At least 128 random bits: 22 letters of 6 bits, all different, nothing counted up."""
    made = [sender.create({}) for _ in range(20)]
    for letters, values in (
        (32, [one.slug for one in made]),
        (43, [one.json["owner_token"] for one in made]),
    ):
        assert {len(value) for value in values} == {letters}
        assert len(set(values)) == len(values)
        assert all(len({value[at] for value in values}) > 3 for at in range(letters - 1))
    assert letters * 6 >= 128


def test_s09_deleted_and_never_there_have_their_own_words_for_people(sender: Sender) -> None:
    """Whoever has a link has been told of it, and may know what became of it."""
    sent = sender.ready(title="not for everybody")
    sent.call("DELETE")
    deleted = sender.client.get(f"/d/{sent.slug}")
    never = sender.client.get("/d/" + "x" * 32)
    assert (deleted.status_code, never.status_code) == (410, 404)
    assert "not for everybody" not in deleted.text + never.text


@pytest.mark.parametrize(
    "field",
    [
        "id", "slug", "state", "status", "owner_token", "owner_token_hash", "download_count", "ready_at",
        "created_at", "address_hash", "lease_token", "__class__", "files.0.key", "files.0.upload",
        "files.0.part_size", "files.0.state", "files.0.etag", "files.0.id",
    ],
)  # fmt: skip
def test_s08_a_field_that_is_not_the_senders_is_refused_by_name(sender: Sender, field: str) -> None:
    sent = sender.create()
    before = sent.show()
    body: dict[str, Any] = {"files": [{"path": "b", "size": 1}]}
    (body["files"][0] if "." in field else body)[field.rpartition(".")[2]] = "x"
    calls = [("POST", "/transfers"), ("POST", f"{sent.url}/files")]
    if "." not in field:
        del body["files"]
        calls = [("POST", "/transfers"), ("PATCH", sent.url), ("POST", f"{sent.url}/parts")]
    for method, url in calls:
        answer = sender.client.open(url, method=method, headers=sent.headers, json=body)
        assert answer.status_code == 400
        assert field in [one["field"] for one in answer.json["error"]["fields"]]
    assert sent.show() == before


def test_s28_the_database_holds_no_key_that_opens_anything(sender: Sender, inside: None) -> None:
    """Neither the owner's token, nor the sender's own secret, nor who downloaded, nor from where."""
    key = uuid.uuid4().hex
    answer = sender.client.post(
        "/transfers",
        json={"files": [{"path": "a", "size": 0}]},
        headers={"Idempotency-Key": key},
        environ_base={"REMOTE_ADDR": "203.0.113.77"},
    )
    sent = Sent(sender.client, answer.json, {"a": b""}).upload().complete().process()
    page = sender.client.get(f"/d/{sent.slug}").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    url = f"/d/{sent.slug}/files/{sent.files[0]['id']}"
    assert sender.client.post(url, data={"csrf_token": token[1]}).status_code == 303
    with sender.client.session_transaction() as session:
        visitor = session["visitor"]
    dump = everything()
    assert sent.slug in dump  # the dump is one
    for secret in (sent.json["owner_token"], key, visitor, "203.0.113.77"):
        assert secret not in dump
        assert secret.encode().hex() not in dump
    assert db.session.get(Transfer, sent.id).owner_token_hash.hex() in dump


def everything() -> str:
    """Every row of every table, in words."""
    tables = db.session.scalars(
        text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    ).all()
    assert {"transfers", "files", "uploads", "downloads", "audit_events"} <= set(tables)
    rows = [str(db.session.scalar(text(f'SELECT json_agg(t)::text FROM "{n}" t'))) for n in tables]
    return "\n".join(rows)
