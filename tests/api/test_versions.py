"""ETag and If-Match: nobody writes over what somebody else has changed meanwhile."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from app.services import upkeep
from tests.factories import Machine, Sent, put
from tests.hooks import Admin
from tests.keeper import Keeper
from tests.lab.mailserver import MailServer
from tests.mail import addressed


def version(machine: Machine, made: Any) -> str:
    tag = machine.native("GET", f"/{made['id']}").headers["ETag"]
    assert tag.startswith('"'), "a weak one would never match"
    return tag


def edit(machine: Machine, made: Any, body: Any, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return machine.native("PATCH", f"/{made['id']}", json=body, headers=named)


# -- transfers -----------------------------------------------------------------------------------

CHANGES: list[Any] = [
    {"title": "x"},
    {"message": "x"},
    {"expires_at": None},
    {"max_downloads": 7},
    {"password": "open sesame"},
    {"status": "EXPIRED"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: next(iter(one)))
def test_what_was_changed_meanwhile_is_not_written_over(machine: Machine, change: Any) -> None:
    made = machine.put_one(title="before")
    seen = version(machine, made)
    changed = edit(machine, made, change, If_Match=seen)
    assert (changed.status_code, changed.headers["ETag"]) == (200, version(machine, made))
    assert changed.headers["ETag"] != seen
    late = edit(machine, made, {"title": "late"}, If_Match=seen)
    assert (late.status_code, late.json["error"]["code"]) == (412, "precondition_failed")
    assert machine.native("GET", f"/{made['id']}").json["title"] != "late"


def test_recipients_are_part_of_it(machine: Machine, mail: MailServer) -> None:
    """The list is sent whole: of two who add somebody one would drop the other's."""
    made = machine.make(files=[{"path": "a", "size": 1}])
    sent = Sent(machine.client, made)
    seen = version(machine, made)
    addressed(sent, "bo@example.org")
    second = version(machine, made)
    assert second != seen
    addressed(sent, "bo@example.org", "cy@example.org")
    late = edit(machine, made, {"recipients": ["di@example.org"]}, If_Match=second)
    assert late.status_code == 412
    assert [one["email"] for one in sent.show()["recipients"]] == [
        "bo@example.org",
        "cy@example.org",
    ]
    fresh = version(machine, made)
    assert edit(machine, made, {"recipients": []}, If_Match=fresh).status_code == 200


def test_downloads_and_arriving_files_leave_it_as_it_is(machine: Machine, inside: None) -> None:
    made = machine.make(files=[{"path": "a", "size": 1}])
    seen = version(machine, made)
    wanted = {"wanted": [{"file": made["files"][0]["id"], "numbers": [1]}]}
    (part,) = machine.native("POST", f"/{made['id']}/parts", json=wanted).json["parts"]
    put(part["url"], b"1", part["headers"])
    machine.native("POST", f"/{made['id']}/complete")
    machine.process(made["id"])
    assert machine.native("GET", f"/{made['id']}/download-url").status_code == 200
    upkeep.expire_due()
    assert version(machine, made) == seen
    assert edit(machine, made, {"title": "x"}, If_Match=seen).status_code == 200


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("*", 200),
        ('"another"', 412),
        ('"another", {}', 200),
        ("W/{}", 412),
        ("another", 412),
        ('"', 412),
        (", ,", 412),
        ("", 412),
    ],
)
def test_it_is_read_as_the_standard_says(machine: Machine, said: str, status: int) -> None:
    made = machine.put_one()
    header = said.format(version(machine, made))
    assert edit(machine, made, {"title": "x"}, If_Match=header).status_code == status


def test_without_it_whoever_comes_last_is_right(machine: Machine) -> None:
    made = machine.put_one()
    for title in ("one", "two"):
        assert edit(machine, made, {"title": title}).json["title"] == title


# -- assets and webhooks -------------------------------------------------------------------------


def hook(client: FlaskClient) -> tuple[Admin, str]:
    admin = Admin(client)
    return admin, f"/webhooks/{admin.add('https://hooks.example.org/')['id']}"


def asset(client: FlaskClient) -> tuple[Keeper, str]:
    keeper = Keeper(client)
    return keeper, f"/s3/assets/{keeper.keep(tags='a')['assetId']}"


@pytest.mark.parametrize(
    ("make", "change", "late"),
    [
        (asset, {"name": "x"}, {"tags": ["mine"]}),
        (asset, {"tags": ["a", "theirs"]}, {"tags": ["a", "mine"]}),
        (hook, {"url": "https://other.example.org/"}, {"enabled": False}),
        (hook, {"events": ["transfer.expired"]}, {"events": ["transfer.ready"]}),
        (hook, {"enabled": False}, {"enabled": True}),
    ],
)
def test_of_two_editors_of_an_asset_or_a_webhook_the_later_one_is_told(
    client: FlaskClient, make: Any, change: Any, late: Any
) -> None:
    program, at = make(client)
    ask = {"x-api-key": program.key}
    before = client.get(at, headers=ask)
    seen = before.headers["ETag"]
    mine = ask | {"If-Match": seen}
    for unreadable in ('"nope"', '"', ""):
        answer = client.patch(at, json=late, headers=ask | {"If-Match": unreadable})
        assert answer.status_code == 412
    assert client.get(at, headers=ask).json == before.json
    changed = client.patch(at, json=change, headers=mine)
    assert changed.status_code == 200
    now = client.get(at, headers=ask)
    assert now.headers["ETag"] == changed.headers["ETag"] != seen
    assert client.patch(at, json=late, headers=mine).status_code == 412
    assert client.get(at, headers=ask).json == now.json
    fresh = ask | {"If-Match": now.headers["ETag"]}
    assert client.patch(at, json=late, headers=fresh).status_code == 200
    # Whoever says nothing of what has been seen changes it as before.
    assert client.patch(at, json=change, headers=ask).status_code == 200


def test_a_new_webhook_is_answered_with_its_etag(client: FlaskClient) -> None:
    ask = {"x-api-key": Admin(client).key}
    body = {"url": "https://hooks.example.org/", "events": ["transfer.expired", "transfer.ready"]}
    made = client.post("/webhooks", json=body, headers=ask)
    at = f"/webhooks/{made.json['id']}"
    assert client.get(at, headers=ask).headers["ETag"] == made.headers["ETag"]
